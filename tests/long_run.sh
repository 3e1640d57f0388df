#!/usr/bin/env bash
# The long run of tests/kill.rs: very many random kills, over several seeds, at the same time.
#
#   tests/long_run.sh [KILLS [SEED]]        100,000 kills from seed 1, if nothing else is said
#
# Prints how far it is, and leaves what it came to in tests/long_run.txt. Exits with 1 if anything
# was violated; then the output of each run that failed is in the directory that it names.
set -euo pipefail
cd "$(dirname "$0")/.."

kills=${1:-100000}
first=${2:-1}
# A round: so many kills, by both tests at the same time, with a seed of its own. A story takes one
# number, so rounds are that far apart.
round=4000
apart=1000000
result=tests/long_run.txt
work=$(mktemp -d)

cargo build --quiet --examples
binary=$(cargo test --test kill --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/kill-[^"]*\)".*/\1/p')
[ -x "$binary" ] || { echo "tests/kill.rs was not built" >&2; exit 1; }

began=$SECONDS
made=0 runs=0 violations=0 seeds=() failed=()
# Rounds at the same time: they wait for processes more than they compute.
at_once=2
run_round() {
    PROCSIG_TEST_SEED=$1 PROCSIG_TEST_KILLS=$round \
        "$binary" whoever_is_killed_whenever --nocapture --test-threads=2 >"$2" 2>&1
}
while [ "$made" -lt "$kills" ]; do
    outputs=() pids=()
    for _ in $(seq $at_once); do
        seed=$((first + runs * apart))
        runs=$((runs + 1))
        seeds+=("$seed")
        outputs+=("$work/seed-$seed.txt")
        run_round "$seed" "$work/seed-$seed.txt" &
        pids+=($!)
    done
    for index in "${!pids[@]}"; do
        output=${outputs[$index]}
        if ! wait "${pids[$index]}"; then
            violations=$((violations + $(grep -c "^thread .* panicked" "$output" || echo 1)))
            failed+=("$output")
            grep -h "repeats this" "$output" || true
        fi
        more=$(awk -F': ' '/^kills: / { sum += $4 } END { print sum + 0 }' "$output")
        # A run that makes none would go on for ever.
        [ "$more" -gt 0 ] || { cat "$output"; exit 1; }
        made=$((made + more))
    done
    echo "$runs rounds, $made kills, $violations violations, $((SECONDS - began)) s"
done

{
    echo "command     tests/long_run.sh $kills $first"
    echo "commit      $(git rev-parse HEAD)$(git diff --quiet HEAD -- ':!'$result || echo ', changed')"
    echo "seeds       ${seeds[0]} to ${seeds[-1]}, each $apart behind the one before"
    echo "rounds      $runs, of two tests each"
    echo "kills       $made"
    echo "violations  $violations"
    echo "seconds     $((SECONDS - began))"
    echo
    echo "Kills by the test, by what was going on, and by who was killed:"
    echo
    awk -F': ' '/^kills: / { sum[$2 ": " $3] += $4 }
        END { for (what in sum) printf "%8d  %s\n", sum[what], what }' "$work"/seed-*.txt | sort -k2
    echo
    echo "What else was counted:"
    echo
    awk -F': ' '/^count: / { sum[$2 ": " $3] += $4 }
        END { for (what in sum) printf "%8d  %s\n", sum[what], what }' "$work"/seed-*.txt | sort -k2
} | tee "$result"

if [ "$violations" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
rm -r "$work"
