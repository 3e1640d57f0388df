# Not a contestant: what those have in common that read a pipe. Sets `output` from the arguments OUTPUT
# PRODUCERS RECORDS PROGRAM; `produce` has producers write lines to standard output, and waits for them.
set -eu
output=$1 producers=$2 records=$3 program=$4

produce() {
    for producer in $(seq 0 $((producers - 1))); do
        "$program" producer lines "$producer" "$records" &
    done
    wait
}
