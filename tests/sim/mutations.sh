#!/usr/bin/env bash
# Breaks the library on purpose, one rule at a time, in a copy of the source tree, and has the
# simulation find it. Usage: tests/sim/mutations.sh [NAME...]; without names, all of them.
# Environment: LAST, the last seed to try (10000); CONTROL, the last one to try without a mutation
# (1000); JOBS, threads (1); SCRATCH, where the copy and its build go.
# Prints a table: the seed that found it, in which time, and what it saw. Fails if one is not found.
# With --fit alone, only whether each of them changes the source that it names; nothing is built.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/broken-copy.sh
. "$root/tests/broken-copy.sh"
scratch=${SCRATCH:-${TMPDIR:-/tmp}/nvme-sim-mutations}
last=${LAST:-10000}

# NAME, FILE, and a Perl expression that must change the file.
mutations() {
    cat <<'LIST'
pin-forgotten-on-cancel|nvme-mpath/src/control/heads.rs|s/drop\(pin\);/std::mem::forget(pin);/
pin-forgotten-at-removal|nvme-mpath/src/control/removal.rs|s/drop\(pin\);/std::mem::forget(pin);/
timer-generation-unchecked|nvme-mpath/src/lifecycle.rs|s/Phase::Pending\(p\) if p\.generation == generation => \{\n(\s+)if now < p\.deadline \{/Phase::Pending(p) => {\n$1if false \&\& now < p.deadline {/
removal-timer-turned-round|nvme-mpath/src/lifecycle.rs|s/if now < p\.deadline \{/if now > p.deadline {/
removal-at-once|nvme-mpath/src/lifecycle.rs|s/inner\.windows\.window\(cause\)\.deadline\(now\)\.and_then\(\|deadline\| \{/inner.windows.window(cause).deadline(now).map(|_| now).and_then(|deadline| {/
window-counted-from-its-change|nvme-mpath/src/lifecycle.rs|s/\.deadline\(p\.lost_at\)\.filter/.deadline(now).filter/
fence-skipped|nvme-mpath/src/fence.rs|s/let Self::Needed \{ mode, reported \} = self else \{ return false \};/let Self::Needed { mode, reported: _ } = self else { return false };\n        let reported = false;\n        let mode = match mode { Fence::Strict => Fence::Off, mode => mode };/
ana-pending-not-cleared|nvme-mpath/src/control/heads.rs|s/path\.ana_pending = false;//
parked-not-kicked|nvme-mpath/src/channel/letters.rs|s/self\.unpark_all\(\);//
stale-view-used|nvme-mpath/src/channel/heads.rs|s/if self\.head\.view\.generation\(\) == self\.generation \{/if self.generation != 0 || self.head.view.generation() == self.generation {/
identity-unchecked-on-return|nvme-mpath/src/control/heads.rs|s/if head\.ids != info\.ids \{/if false {/
command-generation-unchecked|nvme-tcp/src/conn/slots.rs|s/slot\.cid == cid && slot\.phase/slot.phase/; s/Some\(slot\) if slot\.cid != cid =>/Some(slot) if false \&\& slot.cid != cid =>/
keep-alive-not-sent|nvme-core/src/controller/keep_alive.rs|s/if alive \|\| timer\.outstanding \{/if true || alive || timer.outstanding {/
error-taken-for-success|nvme-mpath/src/channel/slab.rs|s/if !cqe\.status\(\)\.is_success\(\) \|\|/if cqe.status().is(nvme_core::spec::Status::ABORTED_BY_HOST) ||/
retry-lost|nvme-mpath/src/channel/outcome.rs|s/self\.delayed\.pop\(\);\n(\s+)self\.slab\[at\]\.place = Place::Waiting;\n\s+self\.send\(at\);/self.delayed.pop();\n$1self.slab[at].place = Place::Waiting;/
waiting-for-room-forgotten|nvme-mpath/src/channel/route.rs|s/self\.heads\[place\]\.waiting\.push_front\(at\);\n(\s+turn \+= 1;)/$1/
outcome-not-told|nvme-mpath/src/channel/outcome.rs|s/self\.slab\[at\]\.flags\.set\(Flags::UNCERTAIN\);//
retry-of-a-completed-request|nvme-mpath/src/channel/mod.rs|s/(self\.done\.push\(self\.slab\.succeed\()/if self.slab[at].op == IoOp::Flush { self.troubled.push(Trouble { at, status, lost: true, fencing: Fencing::Needless }); }\n$1/
fence-waits-for-nothing|nvme-mpath/src/channel/held.rs|s/self\.fence_needless\(association\);//
paths-of-dead-association-stay|nvme-mpath/src/control/heads.rs|s/\|_, path\| path\.ready = false\)/|_, path| path.ready = path.ready)/
LIST
}

if [ "${1:-}" = --fit ]; then
    unfit=0
    while IFS='|' read -r name file change; do
        changed=$(perl -0pe "$change" "$root/$file") || changed=
        if [ -z "$changed" ] || [ "$changed" = "$(cat "$root/$file")" ]; then
            echo "$name does not fit $file any more"
            unfit=1
        fi
    done < <(mutations)
    exit $unfit
fi

fresh_copy "$root" "$scratch"

# Builds the copy, runs seeds up to $2, and tells what was found first.
try() {
    local name=$1 to=$2
    if ! (cd "$scratch/tree" && cargo build -q --release -p sim 2> "$scratch/$name.log"); then
        tail -n 20 "$scratch/$name.log" >&2
        echo "does not compile"
        return 2
    fi
    "$scratch/target/release/sim" --seeds "1..$to" --jobs "${JOBS:-1}" --stop-after 1 \
        > "$scratch/$name.log" 2>&1 || true
    grep -m1 '^seed ' "$scratch/$name.log" | cut -c1-200 || true
}

missed=0
found=$(try unbroken "${CONTROL:-1000}") || { echo "the library as it is: $found"; exit 1; }
[ -z "$found" ] || { echo "the library as it is breaks a rule already: $found"; exit 1; }
cp "$scratch/target/release/sim" "$scratch/unbroken"
echo "| mutation | found by | seconds | what was seen |"
echo "| --- | --- | --- | --- |"
while IFS='|' read -r name file change; do
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    copy=$scratch/tree/$file
    perl -0pi -e "$change" "$copy"
    if cmp -s "$root/$file" "$copy"; then
        echo "| $name | | | the source has changed, and the mutation does not fit any more |"
        missed=1
        continue
    fi
    touch "$copy"
    if found=$(try "$name" "$last"); then
        took=$(sed -n 's/.* seeds in \([0-9.]*\) s.*/\1/p' "$scratch/$name.log")
        seed=$(sed -n 's/^seed \([0-9]*\):.*/\1/p' <<< "$found")
        [ -n "$seed" ] || { missed=1; seed="NOT FOUND"; }
        # What the library does as it is, too, is not the mutation's.
        if [ "$seed" != "NOT FOUND" ] && ! "$scratch/unbroken" --seeds "$seed" > /dev/null; then
            missed=1
            seed="NOT FOUND before $seed, which breaks a rule without it, too"
        fi
        echo "| $name | $seed | $took | $(sed 's/^seed [0-9]*: //; s/|/\\|/g' <<< "$found") |"
    else
        echo "| $name | | | $found |"
        missed=1
    fi
    cp "$root/$file" "$copy"
    touch "$copy"
done < <(mutations)
exit $missed
