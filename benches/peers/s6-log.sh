# Producers write lines into a pipe, s6-log writes them to OUTPUT/current.
# It gives back no block of a file by itself below its largest size, 256 MiB.
. "$(dirname "$0")/producers.sh"
produce | s6-log -b n100 s268435455 "$output"
