#!/usr/bin/env bash
# Measures procsig beside others, all workloads in one run. Installs nothing.
#
#   benches/run.sh [--docs] [--small] [--no-iceoryx2] [--results FOLDER] [ROUNDS [WORKLOAD ...]]
#
# ROUNDS        of each contest, both in turns; 5 if nothing is said. Five take about a quarter of an hour
# WORKLOAD      memory disk commands stop recovery idle latency growth; all if nothing is said
# --docs        the tables and the picture go to docs/performance.md and docs/performance.svg as well
# --small       tiny numbers, in seconds: shows that all of it works, and nothing else
# --no-iceoryx2 leaves it out, which takes longer to build than all else together
# --results     where results.md, results.svg and results.tsv are written, and the disk that is measured;
#               benches/target/results if nothing is said
#
# The machine should have nothing else to do; what counts are the ratios within the run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

results=$here/target/results features=(--features iceoryx2) options=()
while [ $# -gt 0 ]; do
    case $1 in
    --docs) options+=(--page "$here/../docs/performance.md") ;;
    --small) options+=(--small) ;;
    --no-iceoryx2) features=() ;;
    --results) results=$2 && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
    -*) echo "run.sh: no option $1; see run.sh --help" >&2 && exit 2 ;;
    *) break ;;
    esac
    shift
done
if [ $# -gt 0 ]; then
    options+=(--rounds "$1") && shift
fi

for peer in s6-log:s6 s6-svscan:s6 svlogd:runit runsvdir:runit multilog:daemontools rsyslogd:rsyslog \
    parallel:parallel xargs:findutils python3:python3; do
    command -v "${peer%%:*}" >/dev/null ||
        echo "${peer%%:*} is not here, and is skipped; Debian has it in ${peer##*:}" >&2
done

cargo build --manifest-path "$here/Cargo.toml" --release --locked "${features[@]}"
target=${CARGO_TARGET_DIR:-$here/target}

mkdir -p "$results"
disk=$(mktemp -d "$results/disk.XXXXXX")
trap 'rm -rf "$disk" "${memory:-$disk}"' EXIT
if [ "$(stat -f -c %T "$disk")" = tmpfs ]; then
    echo "$results is in memory; name a folder on a disk with --results" >&2
    exit 2
fi
if [ "$(stat -f -c %T /dev/shm)" != tmpfs ]; then
    echo "/dev/shm is no tmpfs, which is where records are carried without a disk" >&2
    exit 2
fi
memory=$(mktemp -d /dev/shm/procsig-benches.XXXXXX)

commit=$(git -C "$here" describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)
"$target/release/procsig-benches" all "$results" --memory "$memory" --disk "$disk" \
    --of "Of commit $commit." "${options[@]}" "$@"
echo "written: $results/results.md, results.svg, results.tsv" >&2
