#!/usr/bin/env bash
# Gets the headers of the fio that is installed, which no Debian package has: downloads the Debian source
# package of exactly that version and runs fio's configure in it. Needs no root; nothing is installed, and
# nothing of fio is kept in this repository (GPL-2.0, see README.md).
#
# usage: fio-headers.sh DIRECTORY     (made, or left as it is when it is there)
set -euo pipefail

out=$1
[[ ! -e $out/config-host.h ]] || exit 0
version=$(dpkg-query -W -f '${source:Version}' fio 2>/dev/null) || {
    echo "fio is not installed: apt-get install fio" >&2
    exit 1
}
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/fio.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial"

# The machine's own sources, as those of source packages: most machines have the others only.
shopt -s nullglob
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ ! -f $file ]] || sed -n 's/^deb \(.*debian\)/deb-src \1/p' "$file" >>"$work/src.list"
done
for file in /etc/apt/sources.list.d/debian*.sources; do
    sed 's/^Types:.*/Types: deb-src/' "$file" >>"$work/src.sources"
    echo >>"$work/src.sources"
done
mkdir "$work/parts"
for kind in list sources; do
    [[ ! -e $work/src.$kind ]] || mv "$work/src.$kind" "$work/parts/debian.$kind"
done
options=(-q -o APT::Sandbox::User=root -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/parts"
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=")
cd "$work"
{ apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only "fio=$version"; } >log 2>&1 || {
    tail -n 20 log >&2
    echo "the source of fio $version cannot be had: its headers are needed for the engine" >&2
    exit 1
}
mkdir made
tar -x --strip-components=1 -C made -f fio_*.orig.tar.*z
# What Debian builds in or leaves out changes no structure that an engine sees: the widest member of the
# union in io_u is POSIX's aiocb in any case. Without libnuma, whose header may not be there.
(cd made && ./configure --disable-native --disable-numa >../log 2>&1) || {
    tail -n 20 log >&2
    exit 1
}
[[ -e made/config-host.h ]]
mv -T made "$out" 2>/dev/null || [[ -e $out/config-host.h ]]
