#!/usr/bin/env bash
# The soak of tests/soak: pipelines of all kinds, and everything that may happen to them.
#
#   tests/soak.sh [MINUTES]        60 if nothing else is said; as root, in a mount namespace
#
# PROCSIG_TEST_SEED draws the same numbers again. Takes about a quarter of a core. Leaves what it came to in
# tests/soak.txt, and exits with 1 if anything was wrong; it says then where the place of it is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-60}
result=tests/soak.txt
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

cargo build --quiet --bin procsig --example test_soak
binary=$(cargo test --test soak --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/soak-[^"]*\)".*/\1/p')
[ -x "$binary" ] || { echo "tests/soak was not built" >&2; exit 1; }
# Taken now: what is run is what was built.
commit="$(git rev-parse HEAD)$(git diff --quiet HEAD -- ':!'$result || echo ', changed')"

status=0
PROCSIG_TEST_SOAK_MINUTES=$minutes PROCSIG_TEST_SOAK_RESULT=$work/result \
    "$binary" an_hour --ignored --nocapture || status=1
[ -f "$work/result" ] || exit 1
{
    echo "command     tests/soak.sh $minutes"
    echo "commit      $commit"
    echo "date        $(date -u +%Y-%m-%d)"
    cat "$work/result"
} >"$result"
exit $status
