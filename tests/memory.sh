#!/usr/bin/env bash
# Is memory used as it may be? Tests of what is built on unsafe code, run under what this machine has:
#
#   miri       the queue on memory of its own: mapping, futexes, records, lanes, jobs, settling
#   address    AddressSanitizer, also on real files and real processes
#   valgrind   if there is no nightly toolchain
#
# MEMORY_TOOLS="valgrind" tests/memory.sh names some of them. Says which it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
host=$(rustc -vV | sed -n 's/^host: //p')

tools() {
    cargo +nightly miri --version >/dev/null 2>&1 && echo miri
    local runtime
    runtime=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/$host/lib/librustc-nightly_rt.asan.a
    if [ -e "$runtime" ]; then echo address; else echo valgrind; fi
}

for tool in ${MEMORY_TOOLS:-$(tools)}; do
    echo "== memory, with $tool"
    case $tool in
    miri)
        # Time and temporary directories are the system's; rustix passes a number as a pointer.
        MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance" \
            CARGO_TARGET_DIR="$target/miri" \
            cargo +nightly miri test --locked --lib -- \
            sys::mmap sys::futex queue::bell queue::record queue::frame queue::tests
        ;;
    address)
        RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR="$target/address" \
            cargo +nightly test --locked --lib --target "$host" -- \
            sys:: queue:: --skip queue::model
        ;;
    valgrind)
        # rustix reads the kernel's own page itself, unless told to go through libc; valgrind hides
        # that page. It can't follow an exec that fails, so commands are left out.
        program=$(RUSTFLAGS="--cfg rustix_use_libc" CARGO_TARGET_DIR="$target/valgrind" \
            cargo test --locked --lib --no-run --message-format=json |
            grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)
        valgrind --quiet --error-exitcode=1 "$program" --test-threads 1 \
            sys::mmap sys::futex sys::fork queue::record queue::frame queue::spool queue::tests
        ;;
    *)
        echo "no such tool: $tool" >&2
        exit 2
        ;;
    esac
done
