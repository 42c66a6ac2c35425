# Linux's own NVMe/TCP host. Sourced by the harness's scripts.

# connect OPTIONS: as for /dev/nvme-fabrics. Tells the controller's name.
connect() {
    modprobe -a nvme-tcp || exit 1
    # The kernel wants one write for all of it, and answers a read of the same open file by
    # `instance=N,cntlid=M`.
    exec 3<> /dev/nvme-fabrics || exit 1
    if ! printf %s "$1" >&3; then
        dmesg | tail -n 5
        exit 1
    fi
    head -n 1 <&3 | sed -n 's/^instance=\([0-9]*\),.*/nvme\1/p' | grep .
}

# find_device SUBNQN NSID: a device lies below its subsystem, or below its controller when there is
# no multipath; both tell the name. Paths of a multipath device are hidden.
find_device() {
    local dir name
    for dir in /sys/block/nvme*; do
        name=${dir##*/}
        [ "$(cat "$dir/hidden" 2> /dev/null)" = 0 ] || continue
        [ "$(cat "$dir/nsid")" = "$2" ] || continue
        [ "$(cat "$dir/device/subsysnqn")" = "$1" ] || continue
        [ -b "/dev/$name" ] && echo "/dev/$name" && return
    done
    echo "namespace $2 of $1 is not there, only:" /sys/block/nvme*
    exit 1
}

# said WHAT: ends with what the last program said.
said() { echo "$1:"; cat "$dir/said"; exit 1; }

# round READ_BLOCK BYTES WRITE_BLOCK: writes with one block size and reads with another.
round() {
    head -c "$2" /dev/urandom > "$dir/want" || exit 1
    dd if="$dir/want" of="$dev" bs="$3" oflag=direct conv=notrunc 2> "$dir/said" ||
        said "write, bs=$3"
    dd if="$dev" of="$dir/got" bs="$1" count=$(($2 / $1)) iflag=direct 2> "$dir/said" ||
        said "read, bs=$1"
    cmp "$dir/want" "$dir/got" || fail "data differ: written with bs=$3, read with bs=$1"
}

# stream NUMBER BYTES: writes and reads its part of the device.
stream() {
    local count=$(($2 / 32768)) first=$(($1 * $2 / 32768))
    head -c "$2" /dev/urandom > "$dir/want$1" || exit 1
    dd if="$dir/want$1" of="$dev" bs=32768 seek=$first oflag=direct conv=notrunc || exit 1
    dd if="$dev" of="$dir/got$1" bs=32768 skip=$first count=$count iflag=direct || exit 1
    cmp "$dir/want$1" "$dir/got$1" && : > "$dir/done$1"
}

# verify DEVICE MIB: every round writes new data, so that what an earlier round left is never right.
# Small blocks cover less: an emulated machine does about a thousand commands a second.
verify() {
    local own small=$((256 << 10)) all=$(($2 << 20)) at
    dev=$1
    dir=$(mktemp -d) || exit 1
    trap 'rm -rf "$dir"' EXIT
    own=$(cat "/sys/block/${dev##*/}/queue/logical_block_size") || exit 1
    round "$own" $small "$own"
    round 4096 $small 4096
    round 65536 $small "$own"
    round 65536 $all 65536
    round 1048576 $all 1048576
    round 65536 $all 1048576
    for at in 0 1 2 3; do
        stream $at $((all / 4)) 2> "$dir/said$at" &
    done
    wait
    for at in 0 1 2 3; do
        [ -e "$dir/done$at" ] || { cat "$dir/said$at"; fail "data differ: stream $at of four"; }
    done
}
