# Producers connect to a socket of rsyslogd, which writes lines to OUTPUT. It is told to end when they
# are all there: what stands in a socket then would be lost.
set -eu
output=$1 producers=$2 records=$3 program=$4 bytes=$5
folder=$(dirname "$output")
cat >"$folder/rsyslog.conf" <<EOF
module(load="imptcp")
main_queue(queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="4096")
template(name="line" type="string" string="%rawmsg%\n")
ruleset(name="lines") {
    action(type="omfile" file="$output" template="line" ioBufferSize="256k" flushOnTXEnd="off")
}
input(type="imptcp" path="$folder/socket" ruleset="lines")
EOF
rsyslogd -n -f "$folder/rsyslog.conf" -i "$folder/pid" >&2 &
logger=$!
trap 'kill "$logger" 2>/dev/null || true' EXIT
until [ -S "$folder/socket" ]; do
    kill -0 "$logger"
    sleep 0.01
done
for producer in $(seq 0 $((producers - 1))); do
    "$program" producer socket "$producer" "$records" "$folder/socket" &
    producing="${producing:-} $!"
done
# shellcheck disable=SC2086 # a list of numbers
wait $producing
# What is less than a buffer is written at the end.
while [ "$(stat -c %s "$output" 2>/dev/null || echo 0)" -lt $((bytes - 262144)) ]; do
    kill -0 "$logger"
    sleep 0.005
done
kill "$logger"
wait "$logger" || true
trap - EXIT
