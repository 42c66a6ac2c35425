#!/usr/bin/env bash
# nvme-core and the TCP connection core are state machines: they must not read a clock, open a
# socket, start a thread or call the operating system. This looks for the words that would.
set -euo pipefail
cd "$(dirname "$0")/.."

words='std::net|std::thread|std::fs|std::process|SystemTime|std::time::Instant|Instant::now\(|libc::|rustix::|mio::|socket2::'
found=$(grep -rnE "$words" nvme-core/src nvme-tcp/src/conn nvme-mpath/src/lifecycle.rs nvme-mpath/src/pin.rs || true)
if [ -n "$found" ]; then
    echo "these parts are to be free of I/O and clocks:"
    echo "$found"
    exit 1
fi
echo "nvme-core, the TCP connection core and the removal states: no I/O, no clock"
