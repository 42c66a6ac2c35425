#!/usr/bin/env bash
# Compares what `cargo cinstall` installs with what `make install` does: name and symbols of the shared object,
# header, and what pkg-config tells programs. Needs cargo-c, which takes long to build and is therefore in no
# other test:
#
#   cargo install cargo-c --version 0.10.20 --locked        # newer ones want a newer rustc
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$here" && cargo cinstall --locked --prefix=/usr --libdir=/usr/lib --destdir="$work/cargo-c")
make -s -C "$here" install PREFIX=/usr DESTDIR="$work/make"

soname() { readelf -d "$1/usr/lib/libnvmehost.so" | sed -n 's/.*soname: \[\(.*\)\]/\1/p'; }
symbols() { nm -D --defined-only --format=posix "$1/usr/lib/libnvmehost.so" | cut -d ' ' -f 1 | LC_ALL=C sort; }
# A flag for the linker may be named in another order.
told() {
    PKG_CONFIG_LIBDIR=$1/usr/lib/pkgconfig pkg-config --define-variable=prefix=/usr --modversion --cflags --libs \
        --static nvmehost | tr ' ' '\n' | sort -u
}
for what in soname symbols told; do
    diff -u --label "$what: make install" --label "$what: cargo cinstall" \
        <($what "$work/make") <($what "$work/cargo-c")
done
diff -u <(symbols "$work/cargo-c") "$here/symbols.txt"
cmp "$work"/{make,cargo-c}/usr/include/nvmehost.h
test -e "$work/cargo-c/usr/lib/libnvmehost.a" -a -e "$work/cargo-c/usr/lib/libnvmehost.so.0"
echo "cargo cinstall and make install give the same library"
