# Producers write lines into a pipe, multilog writes them to OUTPUT/current, and sets a file aside at
# 16 MB, its largest size.
set -eu
output=$1 producers=$2 records=$3 program=$4
{
    for producer in $(seq 0 $((producers - 1))); do
        "$program" producer lines "$producer" "$records" &
    done
    wait
} | multilog s16777215 n1000 "$output"
