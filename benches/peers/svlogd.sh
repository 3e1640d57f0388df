# Producers write lines into a pipe, svlogd writes them to OUTPUT/current, which is never set aside.
set -eu
output=$1 producers=$2 records=$3 program=$4
mkdir "$output"
printf 's0\nn0\n' >"$output/config"
{
    for producer in $(seq 0 $((producers - 1))); do
        "$program" producer lines "$producer" "$records" &
    done
    wait
} | svlogd -b 65536 "$output"
