#!/usr/bin/env bash
# Breaks the library on purpose, one rule at a time, in a copy of the source tree, and has the
# simulation find it. Usage: tests/sim/mutations.sh [NAME...]; without names, all of them.
# Environment: LAST, the last seed to try (10000); SCRATCH, where the copy and its build go.
# Each prints the seed that found it.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=${SCRATCH:-${TMPDIR:-/tmp}/nvme-sim-mutations}
last=${LAST:-10000}

# NAME, FILE, and a Perl expression that must change the file.
mutations() {
    cat <<'LIST'
pin-forgotten-on-cancel|nvme-mpath/src/control/heads.rs|s/drop\(pin\);/std::mem::forget(pin);/
pin-forgotten-at-removal|nvme-mpath/src/control/removal.rs|s/drop\(pin\);/std::mem::forget(pin);/
timer-generation-unchecked|nvme-mpath/src/lifecycle.rs|s/Phase::Pending\(p\) if p\.generation == generation => \{\n(\s+)if now < p\.deadline \{/Phase::Pending(p) => {\n$1if false \&\& now < p.deadline {/
removal-at-once|nvme-mpath/src/lifecycle.rs|s/if now < p\.deadline \{/if now > p.deadline {/
fence-skipped|nvme-mpath/src/fence.rs|s/let Self::Needed \{ mode, reported \} = self else \{ return false \};/let Self::Needed { mode, reported: _ } = self else { return false };\n        let reported = false;\n        let mode = match mode { Fence::Strict => Fence::Off, mode => mode };/
ana-pending-not-cleared|nvme-mpath/src/control/heads.rs|s/path\.ana_pending = false;//
parked-not-kicked|nvme-mpath/src/channel/letters.rs|s/self\.unpark_all\(\);//
stale-view-used|nvme-mpath/src/channel/heads.rs|s/if self\.head\.view\.generation\(\) == self\.generation \{/if self.generation != 0 || self.head.view.generation() == self.generation {/
identity-unchecked-on-return|nvme-mpath/src/control/heads.rs|s/if head\.ids != info\.ids \{/if false {/
command-generation-unchecked|nvme-tcp/src/conn/slots.rs|s/Some\(slot\) if slot\.generation != generation =>/Some(slot) if false \&\& slot.generation != generation =>/
keep-alive-not-sent|nvme-core/src/controller/keep_alive.rs|s/if alive \|\| timer\.outstanding \{/if true || alive || timer.outstanding {/
error-taken-for-success|nvme-mpath/src/channel/mod.rs|s/if !status\.is_success\(\) \{/if !status.is_success() \&\& !status.is(Status::ABORTED_BY_HOST) {/
retry-lost|nvme-mpath/src/channel/outcome.rs|s/self\.delayed\.pop\(\);\n(\s+)self\.slab\[at\]\.place = Place::Waiting;\n\s+self\.send\(at\);/self.delayed.pop();\n$1self.slab[at].place = Place::Waiting;/
waiting-for-room-forgotten|nvme-mpath/src/channel/route.rs|s/if self\.try_send\(at\) == Sent::Full \{\n(\s+)self\.heads\[place\]\.waiting\.push_front\(at\);/if self.try_send(at) == Sent::Full {/
paths-of-dead-association-stay|nvme-mpath/src/control/heads.rs|s/\|_, path\| path\.ready = false\)/|_, path| path.ready = path.ready)/
LIST
}

mkdir -p "$scratch"
export CARGO_TARGET_DIR="$scratch/target"
missed=0
while IFS='|' read -r name file change; do
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    # Files that have not changed keep their time, so that little is built anew.
    mkdir -p "$scratch/tree"
    (cd "$root" && tar cf - --exclude=./target --exclude=./.git .) | tar xf - -C "$scratch/tree"
    perl -0pi -e "$change" "$scratch/tree/$file"
    touch "$scratch/tree/$file"
    [ -z "${before:-}" ] || touch "$scratch/tree/$before"
    before=$file
    if cmp -s "$root/$file" "$scratch/tree/$file"; then
        echo "$name: the source has changed, and the mutation does not fit any more"; missed=1; continue
    fi
    if ! (cd "$scratch/tree" && cargo build -q --release -p sim 2> "$scratch/$name.log"); then
        echo "$name: does not compile"; tail -n 5 "$scratch/$name.log"; missed=1; continue
    fi
    found=$("$scratch/target/release/sim" --seeds "1..$last" --jobs "${JOBS:-1}" --stop-after 1 |
        grep -m1 '^seed ' | cut -c1-160 || true)
    if [ -n "$found" ]; then echo "$name: $found"; else echo "$name: NOT FOUND"; missed=1; fi
done < <(mutations)
exit $missed
