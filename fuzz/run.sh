#!/usr/bin/env bash
# Runs each fuzz target for so many executions, and leaves what it came to in fuzz/last_run.txt.
#
#   fuzz/run.sh [EXECUTIONS [TARGET ...]]      10,000,000 of each target if nothing is said
#
#   FUZZ_JOBS       targets at a time; one for each processor if it is not set
#   FUZZ_SANITIZER  address (the default), or none, which is faster
#   FUZZ_GROW       a folder: what is new of the inputs is kept there, TARGET/*. By default it is thrown away
#
# An input that breaks a promise is in fuzz/artifacts/TARGET/; `cargo +nightly fuzz run TARGET FILE`
# repeats it, and so do the tests of the library once it is in fuzz/corpus/TARGET/. Needs a nightly
# toolchain and a C++ compiler; cargo-fuzz is installed if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
executions=${1:-10000000}
shift || true
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | tail -n +2)
fi
sanitizer=${FUZZ_SANITIZER:-address}
target_dir=${CARGO_TARGET_DIR:-fuzz/target}/fuzz
work=$(mktemp -d)
PROCSIG_FUZZ_SCRATCH=$(mktemp -d -p /dev/shm)
export PROCSIG_FUZZ_SCRATCH
trap 'rm -rf "$work" "$PROCSIG_FUZZ_SCRATCH"' EXIT

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
cargo +nightly fuzz build --sanitizer "$sanitizer" --target-dir "$target_dir"

one() {
    local target=$1 grown=${FUZZ_GROW:-$work/corpus}/$1 log=$work/$1.log
    mkdir -p "$grown"
    if cargo +nightly fuzz run --sanitizer "$sanitizer" --target-dir "$target_dir" "$target" \
        "$grown" "fuzz/corpus/$target" -- -runs="$executions" -max_len=1024 -timeout=20 \
        -rss_limit_mb=4096 -print_final_stats=1 >"$log" 2>&1; then
        local done seconds coverage
        done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        seconds=$(sed -n 's/^Done .* in \(.*\) second.*/\1/p' "$log")
        coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
        echo "| $target | $done | $seconds | $coverage | every promise kept |"
    else
        tail -n 40 "$log" >&2
        echo "| $target | | | | BROKEN: $(sed -n 's/^Test unit written to //p' "$log" | tail -n 1) |"
    fi >"$work/$target.row"
    echo "$target: $(cut -d '|' -f 6 "$work/$target.row")"
}
export -f one
export work executions sanitizer target_dir

printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I {} bash -c 'one {}'

changed=$(git status --porcelain --untracked-files=no -- . ':!fuzz/last_run.txt')
{
    echo "fuzz/run.sh $executions ${*}"
    echo "commit $(git rev-parse HEAD)${changed:+, with changes that are not committed}"
    echo "$(rustc +nightly --version), sanitizer: $sanitizer"
    echo
    echo "| target | executions | seconds | coverage | result |"
    echo "| --- | --- | --- | --- | --- |"
    for target in "${targets[@]}"; do cat "$work/$target.row"; done
} >fuzz/last_run.txt
cat fuzz/last_run.txt
! grep -q BROKEN fuzz/last_run.txt
