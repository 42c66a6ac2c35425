#!/usr/bin/env bash
# Prepares a Debian machine for the virtual-machine tests: the packages the harness uses, and the
# guest's kernel package in the harness's cache, so that the tests themselves need neither root nor
# a network. Safe to run again; when everything is there it changes nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${NVME_VM_CACHE:-$(cd "$here/../.." && pwd)/target/vm-cache}
kernel_meta=linux-image-6.12-amd64

# Package and the file of it that is used. Keep in step with src/prereq.rs, which names the same
# packages.
needed=(
    qemu-system-x86:/usr/bin/qemu-system-x86_64
    busybox-static:/bin/busybox
    cpio:/usr/bin/cpio
    xz-utils:/usr/bin/xz
    zstd:/usr/bin/zstd
    kmod:/sbin/depmod
    nvme-cli:/usr/sbin/nvme
    iproute2:/bin/ss
    nftables:/usr/sbin/nft
    dmsetup:/sbin/dmsetup
    util-linux:/usr/bin/setpriv
    libc-bin:/usr/bin/ldd
    libc6-dev:/usr/include/stdlib.h
    gcc:/usr/bin/gcc
    # The vfio modules with what Debian leaves out.
    make:/usr/bin/make
    # The fuzz targets link libFuzzer, which is C++.
    g++:/usr/bin/g++
    # The C library: compilers, checkers, its binary interface.
    clang:/usr/bin/clang
    valgrind:/usr/bin/valgrind
    abigail-tools:/usr/bin/abidiff
    pkg-config:/usr/bin/pkg-config
    binutils:/usr/bin/nm
    # Programs that its examples plug into, and their clients.
    nbdkit:/usr/bin/nbdkit
    nbdkit-plugin-dev:/usr/include/nbdkit-plugin.h
    libnbd-bin:/usr/bin/nbdcopy
    qemu-utils:/usr/bin/qemu-img
    fio:/usr/bin/fio
    # A terminal for docs/screenshots.py.
    tmux:/usr/bin/tmux
    python3:/usr/bin/python3
)

# The plain `busybox` package owns the same path, so the file alone says nothing.
have_static_busybox() {
    dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q ' installed$'
}

missing=()
for entry in "${needed[@]}"; do
    package=${entry%%:*}
    if [[ ! -e ${entry#*:} ]] || { [[ $package == busybox-static ]] && ! have_static_busybox; }; then
        missing+=("$package")
    fi
done

if ((${#missing[@]})); then
    install="apt-get install -y --no-install-recommends ${missing[*]}"
    if ((EUID != 0)); then
        echo "these packages are missing; run as root:" >&2
        echo "    apt-get update && $install" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Stale package lists are the usual reason for a failure, so they are refreshed only then.
    $install || { apt-get update && $install; }
fi

mkdir -p "$cache/debs"
shopt -s nullglob
# What counts is a package file of the right series; the harness takes the newest one.
have=("$cache"/debs/linux-image-6.12*_amd64.deb)
if ((${#have[@]} == 0)); then
    # The package of the newest point release; nothing when apt does not know it.
    resolve() {
        apt-cache depends "$kernel_meta" 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-6\.12.*\)$/\1/p' | head -n 1 || true
    }
    package=$(resolve)
    # apt-get download looks at the package lists; without any (a fresh container) they must be had
    # first.
    if [[ -z $package ]] || ! apt-get download --print-uris "$package" >/dev/null 2>&1; then
        if ((EUID != 0)); then
            echo "no package lists for $kernel_meta; run as root: apt-get update" >&2
            exit 1
        fi
        apt-get update
        package=$(resolve)
    fi
    [[ -n $package ]] || { echo "apt knows no $kernel_meta" >&2; exit 1; }
    # Downloaded aside and moved, so that a cut download is never taken for a package.
    fetch=$(mktemp -d "$cache/debs/fetch.XXXXXX")
    trap 'rm -rf "$fetch"' EXIT
    chmod 755 "$fetch"
    fetch_one() { (cd "$fetch" && apt-get -o APT::Sandbox::User=root download "$package"); }
    if ! fetch_one; then
        ((EUID == 0)) || exit 1
        apt-get update
        package=$(resolve)
        fetch_one
    fi
    mv "$fetch"/*.deb "$cache/debs/"
fi
"$here/../pci/vfio-modules.sh" "$cache"
# The headers of the fio that is installed, for the engine in examples/c.
"$here/../../examples/c/fio-headers.sh" "$cache/fio-$(dpkg-query -W -f '${source:Version}' fio)"
# Tests seldom run as root: what root has made belongs to whoever owns the sources.
((EUID != 0)) || chown -R --reference="$here" "$cache"
echo "virtual-machine tests: packages installed, kernel package in $cache/debs"
