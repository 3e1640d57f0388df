# Producers write lines into a pipe, multilog writes them to OUTPUT/current, and sets a file aside at
# 16 MB, its largest size.
. "$(dirname "$0")/producers.sh"
produce | multilog s16777215 n1000 "$output"
