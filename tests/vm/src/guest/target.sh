# The guest's NVMe/TCP target by configfs. Sourced by the harness's scripts; needs nothing but
# busybox and dmsetup.
#
# A namespace is a memory-backed null_blk device below a device-mapper table. null_blk cannot change
# its size while in use; the table can be made longer or shorter, suspended (commands hang) or
# turned into errors at any time.
export DM_DISABLE_UDEV=1
NVMET=/sys/kernel/config/nvmet
NULLB=/sys/kernel/config/nullb
# null_blk takes memory only for what is written, so every device gets room to grow.
BACKING_MIB=4096

fail() { echo "$*" >&2; exit 1; }

# write VALUE FILE: a refused attribute names itself.
write() { echo "$1" > "$2" || fail "cannot write $1 to $2"; }

# table KIND NSID BLOCK_SIZE BLOCKS: device-mapper counts in sectors of 512 bytes.
table() {
    case $1 in
        linear) echo "0 $(($3 / 512 * $4)) linear /dev/ns$2 0" ;;
        error) echo "0 $(($3 / 512 * $4)) error" ;;
    esac
}

# reload NSID TABLE
reload() {
    dmsetup reload "ns$1" --table "$2" && dmsetup resume "ns$1" ||
        fail "cannot change the table of namespace $1"
}

# block_size NSID; blocks NSID: as they are now.
block_size() { cat "/sys/block/ns$1/queue/logical_block_size"; }
blocks() { echo $(($(blockdev --getsize64 "/dev/mapper/ns$1") / $(block_size "$1"))); }

# make_subsystem NQN SERIAL
make_subsystem() {
    mkdir "$NVMET/subsystems/$1" || fail "cannot make subsystem $1"
    write 1 "$NVMET/subsystems/$1/attr_allow_any_host"
    write "$2" "$NVMET/subsystems/$1/attr_serial"
}

# add_namespace NQN NSID BLOCK_SIZE BLOCKS GROUP UUID
add_namespace() {
    local dev=$NULLB/ns$2 ns=$NVMET/subsystems/$1/namespaces/$2
    mkdir "$dev" "$ns" || fail "namespace $2 is there already"
    write $BACKING_MIB "$dev/size"
    write "$3" "$dev/blocksize"
    write 1 "$dev/memory_backed"
    write 1 "$dev/discard"
    write 1 "$dev/power"
    dmsetup create "ns$2" --table "$(table linear "$2" "$3" "$4")" ||
        fail "cannot make the device of namespace $2"
    write "/dev/mapper/ns$2" "$ns/device_path"
    write "$6" "$ns/device_uuid"
    write "$5" "$ns/ana_grpid"
    write 1 "$ns/enable"
}

# remove_namespace NQN NSID
remove_namespace() {
    local ns=$NVMET/subsystems/$1/namespaces/$2
    write 0 "$ns/enable"
    rmdir "$ns"
    remove_device "$2"
}

remove_device() {
    dmsetup resume "ns$1" 2>/dev/null
    dmsetup remove --retry "ns$1" || fail "cannot remove the device of namespace $1"
    write 0 "$NULLB/ns$1/power"
    rmdir "$NULLB/ns$1"
}

# make_port ID SERVICE GROUPS: groups 1 to GROUPS, all optimized.
make_port() {
    local port=$NVMET/ports/$1 group
    mkdir "$port" || fail "cannot make port $1"
    write tcp "$port/addr_trtype"
    write ipv4 "$port/addr_adrfam"
    write 0.0.0.0 "$port/addr_traddr"
    write "$2" "$port/addr_trsvcid"
    for group in $(seq 1 "$3"); do
        [ -d "$port/ana_groups/$group" ] || mkdir "$port/ana_groups/$group"
        write optimized "$port/ana_groups/$group/ana_state"
    done
}

# link_port ID NQN: the port listens from its first subsystem on.
link_port() {
    [ -e "$NVMET/ports/$1/subsystems/$2" ] ||
        ln -s "$NVMET/subsystems/$2" "$NVMET/ports/$1/subsystems/" ||
        fail "cannot link port $1"
}

# unlink_port ID NQN: closes the subsystem's connections at that port.
unlink_port() { rm -f "$NVMET/ports/$1/subsystems/$2"; }

# Takes everything away, whatever a test has made of it.
teardown() {
    local f
    [ -e /run/nft-used ] && nft flush ruleset
    rm -f /run/nft-used
    /bin/tc qdisc del dev eth0 root 2> /dev/null
    # Suspended devices hold commands, and those would hold the namespaces.
    for f in /sys/block/dm-*/dm; do
        [ -e "$f" ] && [ "$(cat "$f/suspended")" = 1 ] && dmsetup resume "$(cat "$f/name")"
    done
    for f in $NVMET/ports/*/subsystems/*; do rm -f "$f"; done
    # Linux's host goes after its connections: it would wait a minute for a silent target to shut
    # down.
    set -- /sys/class/nvme/*/delete_controller
    [ -e "$1" ] && modprobe -a tcp_diag inet_diag && ss -H -n -K '( dst 10.0.2.2 )' > /dev/null
    for f; do
        [ -e "$f" ] && echo 1 > "$f"
    done
    for f in $NVMET/ports/*/referrals/* $NVMET/ports/*/ana_groups/*; do
        case $f in *'*' | */ana_groups/1) ;; *) rmdir "$f" ;; esac
    done
    for f in $NVMET/ports/*; do [ -d "$f" ] && rmdir "$f"; done
    for f in $NVMET/subsystems/*/namespaces/*; do
        [ -d "$f" ] && write 0 "$f/enable" && rmdir "$f"
    done
    for f in $NVMET/subsystems/*/allowed_hosts/*; do rm -f "$f"; done
    for f in $NVMET/subsystems/*; do [ -d "$f" ] && rmdir "$f"; done
    for f in $NVMET/hosts/*; do [ -d "$f" ] && rmdir "$f"; done
    for f in $NULLB/ns*; do [ -d "$f" ] && remove_device "${f##*/ns}"; done
    return 0
}
