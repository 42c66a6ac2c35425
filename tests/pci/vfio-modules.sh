#!/usr/bin/env bash
# Builds the vfio and iommufd modules of the guest's kernel with what Debian leaves out: VFIO's
# no-IOMMU mode, iommufd, and the device character files. Takes a minute or two and 170 MB of
# downloads; the result stays in the harness's cache. Needs no root, nothing is installed.
#
# usage: vfio-modules.sh CACHE     (with the kernel's package in CACHE/debs)
set -euo pipefail

cache=$(cd "$1" && pwd)
deb=$(ls -t "$cache"/debs/linux-image-6.12*_amd64.deb | head -n 1)
name=$(basename "$deb" .deb)
name=${name#linux-image-}
release=${name%%_*}
version=$(dpkg-deb -f "$deb" Version)
common=${release%-amd64}
out=$cache/vfio-modules-$release
if [[ -d $out ]]; then
    exit 0
fi

work=$(mktemp -d "$cache/vfio-modules.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
packages=("linux-headers-$release" "linux-headers-$common-common" "linux-kbuild-$common" linux-source-6.12)
download() { apt-get -o APT::Sandbox::User=root download "${packages[@]/%/=$version}"; }
download || { ((EUID == 0)) && apt-get update && download; }

for package in linux-headers-*.deb linux-kbuild-*.deb; do
    dpkg-deb -x "$package" root
done
headers=$work/root/usr/src/linux-headers-$release
sed -i "s|/usr/src/|$work/root/usr/src/|" "$headers/Makefile"
dpkg-deb --fsys-tarfile linux-source-6.12_*.deb |
    tar -xO ./usr/src/linux-source-6.12.tar.xz | xz -dc |
    tar -x --strip-components=1 --wildcards \
        'linux-source-6.12/drivers/vfio/*' \
        'linux-source-6.12/drivers/iommu/iommufd/*' \
        linux-source-6.12/drivers/iommu/iommu-priv.h \
        linux-source-6.12/lib/interval_tree.c

# The kernel itself has interval trees, but not the part of them that only iommufd uses.
iommufd=drivers/iommu/iommufd
{
    echo '#include <linux/interval_tree.h>'
    echo '#include <linux/export.h>'
    sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,$p' lib/interval_tree.c
} >$iommufd/span.c
echo 'iommufd-y += span.o' >>$iommufd/Makefile
echo 'obj-m += drivers/vfio/ drivers/iommu/iommufd/' >Kbuild
# Without BTF, which needs a tool of its own.
make -j2 -C "$headers" "M=$work" CONFIG_VFIO_NOIOMMU=y CONFIG_IOMMUFD=m CONFIG_VFIO_DEVICE_CDEV=y \
    CONFIG_DEBUG_INFO_BTF_MODULES= \
    KCFLAGS="-DCONFIG_VFIO_NOIOMMU=1 -DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_VFIO_DEVICE_CDEV=1
        -DCONFIG_INTERVAL_TREE_SPAN_ITER=1" modules >make.log 2>&1 || {
    tail -n 30 make.log >&2
    exit 1
}

mkdir made
for module in $iommufd/iommufd drivers/vfio/vfio drivers/vfio/vfio_iommu_type1 \
    drivers/vfio/pci/vfio-pci-core drivers/vfio/pci/vfio-pci; do
    strip --strip-debug -o "made/$(basename $module).ko" $module.ko
done
# Several may have been at it at once; the first one wins.
mv -T made "$out" 2>/dev/null || [[ -d $out ]]
