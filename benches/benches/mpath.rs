//! What the head costs: the same I/O over one, two and eight paths.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nvme_host_benches::{Rig, target};
use nvme_mpath::IoOp;

const BATCH: u64 = 4096;

fn paths(c: &mut Criterion) {
    let target = target(8);
    let mut group = c.benchmark_group("mpath-4k-read-qd32");
    group.throughput(Throughput::Elements(BATCH));
    for paths in [1, 2, 8] {
        let mut rig = Rig::on(&target, paths, "");
        group.bench_function(format!("{paths}-paths"), |b| {
            b.iter(|| rig.run(IoOp::Read, 4096, 32, BATCH));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = paths
}
criterion_main!(benches);
