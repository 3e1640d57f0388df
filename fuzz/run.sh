#!/usr/bin/env bash
# Runs each fuzz target for so many executions, and enters what it came to in fuzz/last_run.txt.
#
#   fuzz/run.sh [EXECUTIONS [TARGET ...]]      10,000,000 of each target if nothing is said
#
#   FUZZ_JOBS       targets at a time; one for each processor if it is not set
#   FUZZ_SANITIZER  address (the default); or none, which is several times faster: without debug assertions
#                   and without comparisons as hints, but with checks for overflow
#   FUZZ_SECONDS    no target runs for longer: what it got to counts
#   FUZZ_GROW       a folder: what is new of the inputs is kept there, TARGET/*. By default it is thrown away
#
# Executions of several runs add up as long as the sources are the same that a target runs. Those have a
# hash (`fuzz/run.sh --sources TARGET` prints it): if it is another one than in fuzz/last_run.txt, that
# no longer stands for the target, and its next run begins anew.
#
# An input that breaks a promise is in fuzz/artifacts/TARGET/; `cargo +nightly fuzz run TARGET FILE`
# repeats it, and so do the tests of the library once it is in fuzz/corpus/TARGET/. Needs a nightly
# toolchain and a C++ compiler; cargo-fuzz is installed if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# The first digits of the hash of what a target runs, but for tests and for other targets.
sources() {
    local fuzz=src/flow/queue/fuzz files=(Cargo.lock src/fuzzing/choices.rs)
    local queue=src/flow/queue spool=(src/sys/mmap.rs) all=() part
    for part in layout.rs record.rs spool.rs spool; do spool+=("$queue/$part"); done
    for part in commit ends frame fuzz jobs lane position reader repair settle slot; do
        all+=("$queue/$part.rs")
    done
    case $1 in
        header) files+=("${spool[@]}") ;;
        lanes) files+=("${spool[@]}" $queue/{commit,ends,frame,fuzz,lane,reader,fuzz/lanes}.rs) ;;
        jobs) files+=("${spool[@]}" "${all[@]}" $fuzz/slots.rs) ;;
        commits)
            files+=("${spool[@]}" "${all[@]}" $fuzz/books.rs src/flow/buffer.rs src/flow/buffer)
            files+=(src/flow/sink src/flow/quarantine.rs)
            ;;
        configuration) files+=(src/config.rs src/config src/error.rs src/error src/cli/render.rs) ;;
        lines)
            files+=("${spool[@]}" $queue/{jobs,slot,position}.rs src/flow/source src/sys/spawn.rs)
            files+=(src/flow/worker/coprocess)
            ;;
        answers) files+=(src/flow/worker/coprocess.rs src/flow/worker/coprocess src/flow/worker/command.rs) ;;
        *) echo "there is no target $1" >&2 && return 1 ;;
    esac
    git ls-files -z -- "${files[@]}" ':!*tests*' |
        xargs -0 sha256sum | sha256sum | cut -c 1-12
}

if [ "${1:-}" = --sources ]; then
    sources "$2"
    exit
fi
executions=${1:-10000000}
shift || true
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | tail -n +2)
fi
sanitizer=${FUZZ_SANITIZER:-address}
target_dir=${CARGO_TARGET_DIR:-fuzz/target}/fuzz
seconds_max=${FUZZ_SECONDS:-0}
work=$(mktemp -d)
PROCSIG_FUZZ_SCRATCH=$(mktemp -d -p /dev/shm)
export PROCSIG_FUZZ_SCRATCH
trap 'rm -rf "$work" "$PROCSIG_FUZZ_SCRATCH"' EXIT

for target in "${targets[@]}"; do sources "$target" >"$work/$target.sources"; done
changed=$(git status --porcelain --untracked-files=no -- . ':!fuzz/last_run.txt')
commit=$(git rev-parse --short=12 HEAD)${changed:+, changed}
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
fast=()
if [ "$sanitizer" = none ]; then fast=(--release --no-trace-compares); fi
cargo +nightly fuzz build "${fast[@]}" --sanitizer "$sanitizer" --target-dir "$target_dir"
# Copies: somebody may build again meanwhile.
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do cp "$target_dir/$host/release/$target" "$work/$target"; done

one() {
    local target=$1 grown=${FUZZ_GROW:-$work/corpus}/$1 log=$work/$1.log
    mkdir -p "$grown" "fuzz/artifacts/$target"
    local result="every promise kept"
    if ! ASAN_OPTIONS=detect_odr_violation=0 "$work/$target" "$grown" "fuzz/corpus/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -runs="$executions" -max_total_time="$seconds_max" \
        -max_len=1024 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        result="BROKEN: $(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
    fi
    local done seconds coverage
    done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    seconds=$(sed -n 's/^Done .* in \(.*\) second.*/\1/p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    echo "| $target | $sanitizer | ${done:-0} | ${seconds:-0} | ${coverage:-0} | $commit |" \
        "$(cat "$work/$target.sources") | $result |" >"$work/$target.row"
    echo "$target: ${done:-0} executions in ${seconds:-0} s: $result"
}
export -f one
export work executions sanitizer seconds_max commit

printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I {} bash -c 'one {}'

# Rows of the same sources are added to, others of the same target replaced.
{
    grep '^| [a-z]* | [a-z]* | [0-9]' fuzz/last_run.txt 2>/dev/null || true
    for target in "${targets[@]}"; do cat "$work/$target.row"; done
} | awk -F ' *[|] *' '
    sources[$2] != $8 { for (key in done) { split(key, of, " "); if (of[1] == $2) delete done[key] } }
    {
        sources[$2] = $8
        key = $2 " " $3
        if (!(key in done)) { done[key] = seconds[key] = coverage[key] = 0; keys[++count] = key; bad[key] = "" }
        done[key] += $4
        seconds[key] += $5
        if ($6 > coverage[key]) coverage[key] = $6
        commit[key] = $7
        if (bad[key] == "" || bad[key] == "every promise kept") bad[key] = $9
    }
    END {
        for (at = 1; at <= count; at++) {
            key = keys[at]
            if (!(key in done) || key in said) continue
            said[key]
            split(key, of, " ")
            printf "| %s | %s | %d | %d | %d | %s | %s | %s |\n", of[1], of[2], done[key],
                seconds[key], coverage[key], commit[key], sources[of[1]], bad[key]
        }
    }' | sort >"$work/rows"
{
    echo "What the fuzz targets came to: fuzz/run.sh. Executions are added up as long as the sources are the"
    echo "same; \`fuzz/run.sh --sources TARGET\` says whether they still are. Sanitizer none: almost all of this"
    echo "code is safe Rust, with checks for bounds and overflow in it."
    echo
    echo "$(rustc +nightly --version), $(date -u +%Y-%m-%d)"
    echo
    echo "| target | sanitizer | executions | seconds | coverage | commit | sources | result |"
    echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
    cat "$work/rows"
} >fuzz/last_run.txt
cat fuzz/last_run.txt
! grep -q BROKEN fuzz/last_run.txt
