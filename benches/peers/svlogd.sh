# Producers write lines into a pipe, svlogd writes them to OUTPUT/current, which is never set aside.
. "$(dirname "$0")/producers.sh"
mkdir "$output"
printf 's0\nn0\n' >"$output/config"
produce | svlogd -b 65536 "$output"
