# For scripts that break the sources on purpose; to be sourced. A copy of the source tree is what they break.

# fresh_copy ROOT SCRATCH: copies the tree at ROOT to SCRATCH/tree, and has cargo build below SCRATCH. What is
# built is built anew after each change: quickly rather than to the last cycle.
fresh_copy() {
    mkdir -p "$2"
    export CARGO_TARGET_DIR="$2/target" CARGO_INCREMENTAL=1
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0
    # All files are new, so that nothing of an earlier run's last mutation stays in what was built.
    rm -rf "$2/tree"
    mkdir "$2/tree"
    (cd "$1" && tar cf - --exclude=./target --exclude=./.git .) | tar xmf - -C "$2/tree"
}
