#!/bin/sh
# A worker in POSIX shell: the checksum and the size of each job's text, as JSON writes it. The
# request is one line, {"job":"TEXT","seq":1,"attempt":1}. Quotes in TEXT are escaped by backslashes,
# so it ends at the first quote, comma, quote, seq.
while IFS= read -r line; do
    text=${line#\{\"job\":\"}
    text=${text%%\",\"seq\":*}
    sum=$(printf %s "$text" | cksum)
    printf '{"cksum":%s,"bytes":%s}\n' "${sum% *}" "${sum#* }"
done
