#!/usr/bin/env bash
# How many instructions do the steps of a record's way take? Counts them under callgrind and compares with
# tests/instructions.txt: unlike a time, a count is the same each time, on a busy machine as well.
#
#   tests/instructions.sh                    fails if a step has grown by more than 5 %
#   tests/instructions.sh --record REASON    notes what is counted now, and why it has changed
#   tests/instructions.sh --profile STEP     shows which functions a step is spent in
#
# What is counted stands in src/flow/costs.rs. Instructions that the kernel runs are not. Needs valgrind,
# and takes about a minute, most of it to compile.
set -euo pipefail
cd "$(dirname "$0")/.."
numbers=$PWD/tests/instructions.txt
limit=5
# A run of so many, and one of twice as many: the difference has no start in it.
times=2000

mode=${1:-}
case $mode in
"" | --record | --profile) ;;
*) sed -n '5,7s/^# *//p' "$0" >&2; exit 2 ;;
esac
argument=${2:-}
if [ -n "$mode" ] && [ -z "$argument" ]; then
    echo "$mode needs a word more, see the head of this file" >&2
    exit 2
fi

echo "== instructions, with callgrind"
if ! command -v valgrind >/dev/null; then
    echo "skipped: there is no valgrind; install the package of that name"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
fi

# What else decides about a count: the compiler, and what the C library chooses for this processor.
extensions=none
for extension in avx2 sse4_2; do
    if grep -qw "$extension" /proc/cpuinfo; then extensions=$extension; break; fi
done
with="$(rustc -V), $(uname -m) with $extensions, $(getconf GNU_LIBC_VERSION)"

# rustix would read the kernel's own page itself, which valgrind hides. With lines of the source, what is
# inlined would be told apart from the function that it has become a part of.
target=${CARGO_TARGET_DIR:-target}/instructions
RUSTFLAGS="--cfg costs --cfg rustix_use_libc" CARGO_TARGET_DIR=$target CARGO_PROFILE_RELEASE_DEBUG=0 \
    cargo build --quiet --locked --release --no-default-features --example test_costs
program=$(realpath "$target/release/examples/test_costs")

# In memory if possible: nothing of what is counted depends on the disk.
memory=/dev/shm
if ! [ -w "$memory" ]; then memory=${TMPDIR:-/tmp}; fi
place=$(mktemp -d -p "$memory")
trap 'rm -rf "$place"' EXIT
cd "$place"
# The length of its path is a length of strings that it allocates, and with them other blocks are found free
# later: 10 % of a step were seen to come from that.
cp "$program" program
program=./program

# Instructions of so many steps. No variable of this shell gets in, nor anybody's options for valgrind.
count() {
    local step=$1 times=$2
    rm -rf files
    mkdir files
    if ! env -i "$(command -v valgrind)" --tool=callgrind --callgrind-out-file="$step.$times" \
        --toggle-collect=procsig::flow::costs::counted \
        --toggle-collect=procsig::flow::costs::uncounted \
        "$program" "$step" "$times" files >"$step.log" 2>&1; then
        cat "$step.log" >&2
        echo "the step $step could not be counted" >&2
        return 1
    fi
    sed -n 's/^totals: //p' "$step.$times"
}

if [ "$mode" = --profile ]; then
    count "$argument" $((2 * times)) >/dev/null
    for inclusive in no yes; do
        printf '%12s %7s  %s\n' each share \
            "$(if [ $inclusive = no ]; then echo function by itself; else echo with what it calls; fi)"
        callgrind_annotate --auto=no --threshold=100 --inclusive=$inclusive "$argument.$((2 * times))" |
            awk -v times=$((2 * times)) '
                /PROGRAM TOTALS/ { gsub(",", "", $1); total = $1 + 0 }
                /file:function/ { begun = 1; next }
                begun && /^ *[0-9].*:/ {
                    count = $1
                    gsub(",", "", count)
                    count += 0
                    # Behind the file, before the program or library.
                    sub(/^ *[0-9,]+ \( *[0-9.]+%\) +[^:]*:/, "")
                    sub(/ \[[^]]*\]$/, "")
                    # What is around what is counted.
                    if (count >= times / 2 && count < total && ++shown <= 25)
                        printf "%12.1f %6.1f%%  %s\n", count / times, 100 * count / total, $0
                }'
    done
    exit 0
fi

for step in $("$program"); do
    one=$(count "$step" "$times")
    two=$(count "$step" $((2 * times)))
    each=$(((two - one + times / 2) / times))
    if [ "$each" -le 0 ]; then
        echo "$step: nothing was counted; are counted and uncounted functions of their own?" >&2
        exit 1
    fi
    echo "$step $each"
done >now

if [ "$mode" = --record ]; then
    awk -v with="$with" -v reason="$argument" '
        FILENAME == "now" { now[$1] = $2; order[++steps] = $1; next }
        /^#/ { if ($0 !~ /^# counted with: /) print; next }
        NF { step = $1; then[step] = $2; $1 = $2 = ""; sub(/^ +/, ""); why[step] = $0 }
        END {
            print "# counted with: " with
            for (i = 1; i <= steps; i++) {
                step = order[i]
                if (!(step in then) || then[step] != now[step]) why[step] = reason
                printf "%-12s %6d  %s\n", step, now[step], why[step]
            }
        }' now "$numbers" >new
    cp new "$numbers"
    cat "$numbers"
    exit 0
fi

# Another compiler makes another program of the same lines: then growth is said, and is no failure.
counted_with=$(sed -n 's/^# counted with: //p' "$numbers")
comparable=1
if [ "$counted_with" != "$with" ]; then
    comparable=0
    echo "The numbers were counted with $counted_with,"
    echo "and this is $with: what has grown is only said."
fi
awk -v limit="$limit" -v comparable="$comparable" '
    FILENAME == "now" { now[$1] = $2; next }
    /^#/ || !NF { next }
    !heading++ { printf "%-12s %8s %8s %9s\n", "step", "before", "now", "change" }
    {
        seen[$1] = 1
        if (NF < 3) { print $1 ": its line in tests/instructions.txt gives no reason"; wrong = 1 }
        if (!($1 in now)) { print $1 ": there is no such step"; wrong = 1; next }
        change = 100 * (now[$1] - $2) / $2
        note = ""
        if (change > limit) { note = "  grown"; grown = 1 }
        if (change < -limit) { note = "  fallen"; fallen = 1 }
        printf "%-12s %8d %8d %+8.1f%%%s\n", $1, $2, now[$1], change, note
    }
    END {
        for (step in now) if (!(step in seen)) {
            print step ": takes " now[step] " and is not in tests/instructions.txt"
            wrong = 1
        }
        if (grown) print "A step takes over " limit " % more instructions. " \
            "tests/instructions.sh --profile STEP shows what for;\n" \
            "if it has a reason: tests/instructions.sh --record \"the reason\", and commit that."
        if (fallen) print "A step takes fewer by over " limit " %. Hold on to it: " \
            "tests/instructions.sh --record \"the reason\""
        exit wrong || (grown && comparable)
    }' now "$numbers"
