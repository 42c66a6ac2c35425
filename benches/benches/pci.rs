//! I/O through the head on a device in the process that answers within the doorbell, and the rings
//! alone.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nvme_host_benches::{Rig, ring, target};
use nvme_mpath::IoOp;

/// Requests per iteration.
const BATCH: u64 = 16_384;

fn rings(c: &mut Criterion) {
    let target = target(0);
    let mut rig = Rig::ring(&target);
    for (name, op) in [("read", IoOp::Read), ("write", IoOp::Write)] {
        let mut group = c.benchmark_group(format!("pci-4k-{name}"));
        group.throughput(Throughput::Elements(BATCH));
        for depth in [1, 32, 128] {
            group.bench_function(format!("qd{depth}"), |b| {
                b.iter(|| rig.run(op, 4096, depth, BATCH));
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("pci-floor");
    group.throughput(Throughput::Elements(BATCH));
    for depth in [1, 32, 128] {
        group.bench_function(format!("qd{depth}"), |b| b.iter(|| ring::floor(depth, BATCH)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = rings
}
criterion_main!(benches);
