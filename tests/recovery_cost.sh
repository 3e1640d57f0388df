#!/usr/bin/env bash
# What it costs to recover a spool in which a million records are pending: everything is killed once
# they are published and none is written, and then it is started again. Prints time and memory.
#
#   bash tests/recovery_cost.sh [RECORDS]
set -euo pipefail
cd "$(dirname "$0")/.."
records=${1:-1000000}
cargo build --quiet --release --example test_pipelines
program=${CARGO_TARGET_DIR:-target}/release/examples/test_pipelines
program=$(realpath "$program")

place=$(mktemp -d)
main=
finish() {
    if [ -n "$main" ]; then kill -KILL -- "-$main" 2>/dev/null || true; fi
    rm -rf "$place"
}
trap finish EXIT
cd "$place"

processes() { pgrep -P "$main"; echo "$main"; }
# Sums up nothing: each process with its own peak.
memory() {
    for pid in $(processes | sort -n); do
        awk -v name="$(tr -d '\0' < "/proc/$pid/comm")" '
            /^VmHWM|^RssAnon|^RssFile|^RssShmem/ { printf "%s %s kB  ", $1, $2 }
            END { print " " name }' "/proc/$pid/status"
    done
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
fail() { echo "$1" >&2; cat run.log >&2; exit 1; }

# Publishes, and is killed with nothing written. A process group of its own, so that all die at once.
setsid "$program" pending $((records / 2)) $((1 << 60)) 2> run.log &
main=$!
until [ "$(find . -name 'published-*' | wc -l)" -eq 2 ]; do
    kill -0 "$main" || fail "it has ended"
    sleep 0.05
done
doomed=$(processes)
# shellcheck disable=SC2086
kill -KILL $doomed
wait "$main" 2>/dev/null || true
[ "$(stat -c %s out.jsonl)" -eq 0 ] || fail "something was written before the kill"

# Starts again; the first record is a reason to flush.
start=$(milliseconds)
setsid "$program" pending 0 1 2> run.log &
main=$!
lines=0
size=-1
while [ "$lines" -lt $((records / 2 * 2)) ]; do
    kill -0 "$main" || fail "it has ended"
    now=$(stat -c %s out.jsonl)
    if [ "$now" -eq "$size" ] && [ "$now" -gt 0 ]; then lines=$(wc -l < out.jsonl); fi
    size=$now
    sleep 0.01
done
written=$(milliseconds)
echo "$records records pending, $(stat -c %s out.jsonl) bytes of output:"
echo "written $((written - start)) ms after the start"
memory
kill -TERM "$main"
wait "$main" || fail "exit code $?"
main=
echo "ended $(($(milliseconds) - start)) ms after the start: $(grep -o 'done in.*' run.log)"
[ "$(sort out.jsonl | uniq -d | wc -l)" -eq 0 ] || fail "a record is there twice"
[ "$(wc -l < out.jsonl)" -eq $((records / 2 * 2)) ] || fail "records are missing"
echo "each record is there once"
