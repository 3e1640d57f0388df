#!/usr/bin/env bash
# Builds the program and what a package has beside it: the manual page and completions, which the
# program prints itself. With `deb`, a Debian package as well, which needs cargo-deb.
#
#   packaging/build.sh          target/package-files/
#   packaging/build.sh deb      and target/debian/procsig_*.deb
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
cargo build --profile "$profile" --locked --bin procsig
program="$target/${profile/#dev/debug}/procsig"
files="$target/package-files"
mkdir -p "$files"
"$program" man | gzip -9n >"$files/procsig.1.gz"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$files/procsig.$shell"
done
echo "$files"
if [ "${1:-}" = deb ]; then
    # Where the metadata in Cargo.toml looks for them.
    if [ "$target" != target ]; then
        mkdir -p target/package-files
        cp "$files"/* target/package-files/
    fi
    cargo deb --no-build --locked --profile "$profile"
fi
