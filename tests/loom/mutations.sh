#!/usr/bin/env bash
# Breaks one rule of the concurrent parts at a time, in a copy of the source tree, and has a loom model
# find it. Usage: tests/loom/mutations.sh [NAME...]; without names, all of them.
# Environment: SCRATCH, where the copy and its build go. Prints a table: the models that failed, and what
# the first of them saw. Fails if no model fails, or others than those that are about the rule.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/broken-copy.sh
. "$root/tests/broken-copy.sh"
scratch=${SCRATCH:-${TMPDIR:-/tmp}/nvme-loom-mutations}

# NAME, FILE, MODULE of the models that must find it, and a Perl expression that must change the file.
mutations() {
    cat <<'LIST'
scheduled-outside-the-lock|nvme-mpath/src/lifecycle.rs|removal|s/(inner\.paths\.remove\(at\);\n\s+if !inner\.paths\.is_empty\(\) \{\n\s+return Detached::Remaining;\n\s+\})/$1\n        drop(inner);\n        let mut inner = self.inner.lock();/
timer-generation-unchecked|nvme-mpath/src/lifecycle.rs|removal|s/Phase::Pending\(p\) if p\.generation == generation => \{/Phase::Pending(p) => {/
pin-given-after-the-close|nvme-mpath/src/pin.rs|removal|s/if inner\.closed \{\n\s+return Err\(PinsClosed\);\n\s+\}//
count-read-before-the-close|nvme-mpath/src/pin.rs|removal|s/let mut inner = self\.inner\.lock\(\);\n(\s+)if inner\.holders\.is_empty\(\) \{/let empty = self.inner.lock().holders.is_empty();\n$1let mut inner = self.inner.lock();\n$1if empty {/
generation-before-the-value|nvme-mpath/src/published.rs|table|s/let mut current = self\.value\.lock\(\);\n(\s+)\*current = Arc::new\(value\);\n(.*\n)?\s+self\.generation\.fetch_add\(1, Ordering::Release\);/self.generation.fetch_add(1, Ordering::Release);\n$1*self.value.lock() = Arc::new(value);/
generation-read-outside-the-lock|nvme-mpath/src/published.rs|table|s/let current = self\.value\.lock\(\);\n(\s+)\(self\.generation\.load\(Ordering::Acquire\), Arc::clone\(&current\)\)/let value = Arc::clone(&self.value.lock());\n$1(self.generation.load(Ordering::Acquire), value)/
letters-taken-before-the-flag|nvme-mpath/src/letterbox.rs|letters|s/self\.bell\.clear\(\);((?:\n\s+\/\/.*)*\n\s+self\.pending\.swap\(false, Ordering::AcqRel\);)\n\s+std::mem::take\(&mut self\.letters\.lock\(\)\)/let letters = std::mem::take(&mut *self.letters.lock());\n        self.bell.clear();$1\n        letters/
flag-stored-and-not-swapped|nvme-mpath/src/letterbox.rs|letters|s/self\.pending\.swap\(false, Ordering::AcqRel\);/self.pending.store(false, Ordering::Relaxed);/
completions-counted-anew|nvme-mpath/src/load.rs|counts|s/let seen = self\.completions\.load\(Ordering::Relaxed\);/let seen = 0_u64;/
own-count-taken-for-others|nvme-mpath/src/load.rs|counts|s/(let others = self\.given\(\)\.filter\(\|\(other, _\)\| \*other )!= qid\);/$1== qid);/
LIST
}

fresh_copy "$root" "$scratch"

# Runs the models of the copy. Returns 0 if all hold, 1 if one does not, 2 if it does not compile.
models() {
    local name=$1
    (cd "$scratch/tree" && cargo test -q --release -p nvme-loom --no-run 2> "$scratch/$name.log") || return 2
    (cd "$scratch/tree" && RUST_BACKTRACE=0 cargo test -q --release -p nvme-loom -- --test-threads 1) \
        > "$scratch/$name.log" 2>&1 || return 1
}

models unbroken || { tail -n 30 "$scratch/unbroken.log" >&2; echo "the sources as they are break a model"; exit 1; }
missed=0
echo "| mutation | models that fail | what the first of them sees |"
echo "| --- | --- | --- |"
while IFS='|' read -r name file module change; do
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    copy=$scratch/tree/$file
    perl -0pi -e "$change" "$copy"
    if cmp -s "$root/$file" "$copy"; then
        echo "| $name | | the source has changed, and the mutation does not fit any more |"
        missed=1
        continue
    fi
    touch "$copy"
    result=0
    models "$name" || result=$?
    # By name in the summary, or, where a panic in a panic ended the process before it, by the thread.
    failed=$(sed -n "s/^    \([a-z_:]*\)\$/\1/p; s/^thread '\([a-z_]*::[a-z_]*\)'.* panicked.*/\1/p" \
        "$scratch/$name.log" | sort -u | paste -sd, | sed 's/,/, /g')
    # The first message of the panic, which stands on the line after where it was.
    seen=$(grep -m1 -A1 'panicked at' "$scratch/$name.log" | tail -n 1 | cut -c1-120 | sed 's/|/\\|/g' || true)
    case $result in
        1) grep -q "$module::" <<< "$failed" || { missed=1; seen="NOT FOUND by $module: $seen"; } ;;
        2) missed=1; failed=""; seen="does not compile"; tail -n 20 "$scratch/$name.log" >&2 ;;
        *) missed=1; failed="NOT FOUND"; seen="" ;;
    esac
    echo "| $name | $failed | $seen |"
    cp "$root/$file" "$copy"
    touch "$copy"
done < <(mutations)
exit $missed
