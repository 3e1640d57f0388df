# Producers write lines into a pipe, s6-log writes them to OUTPUT/current.
# It gives back no block of a file by itself below its largest size, 256 MiB.
set -eu
output=$1 producers=$2 records=$3 program=$4
{
    for producer in $(seq 0 $((producers - 1))); do
        "$program" producer lines "$producer" "$records" &
    done
    wait
} | s6-log -b n100 s268435455 "$output"
