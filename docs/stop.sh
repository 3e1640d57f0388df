#!/bin/sh
# Makes docs/stop.svg again, from a real run: of four jobs in hand three end in time, and one hangs.
# usage: docs/stop.sh [procsig]
set -eu
docs=$(cd "$(dirname "$0")" && pwd)
procsig=${1:-$docs/../target/release/procsig}
case $procsig in /*) ;; *) procsig=$(pwd)/$procsig ;; esac
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
printf '%s\n' 2 3.4 5.2 600 1.5 2.7 1.9 > hosts.txt
cat > checks.toml <<'CONFIG'
[jobs]
lines = "hosts.txt"
[workers.check]
command = ["sleep", "{}"]
processes = 4
threads = 1
[output]
file = "checks.jsonl"
[log]
file = "checks.log"
CONFIG
"$procsig" run checks.toml &
# In the middle of the first jobs.
sleep 1
"$procsig" stop checks.toml --quiet || true
wait || true
"$procsig" timeline checks.toml -o "$docs/stop.svg"
"$procsig" timeline checks.toml
