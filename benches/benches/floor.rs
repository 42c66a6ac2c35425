//! Bare sockets, and beside each the library's own I/O of the same shape: what part of what the sockets
//! can do is left when there is a protocol.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nvme_host_benches::{Rig, target};
use nvme_host_floor::{Floor, Shape};
use nvme_mpath::IoOp;

/// Bytes of data per iteration.
const BATCH: u64 = 16 << 20;

fn floor(c: &mut Criterion) {
    let target = target(1);
    let mut rig = Rig::on(&target, 1, "");
    for (write, op, name) in [(false, IoOp::Read, "read"), (true, IoOp::Write, "write")] {
        for (size, bytes, depths) in
            [("4k", 4096, &[1, 32, 128][..]), ("128k", 128 << 10, &[1, 32][..])]
        {
            for &depth in depths {
                let mut group = c.benchmark_group(format!("floor-{size}-{name}-qd{depth}"));
                let batch = BATCH / bytes as u64;
                group.throughput(Throughput::Elements(batch));
                let mut floor = Floor::new(Shape { write, bytes, depth, apart: false })
                    .expect("sockets on loopback");
                group.bench_function("sockets", |b| {
                    b.iter(|| floor.run(batch, |_| {}).expect("sockets on loopback"));
                });
                // Its other side polls: it is not to take a processor from the target.
                drop(floor);
                group.bench_function("nvme-tcp", |b| b.iter(|| rig.run(op, bytes, depth, batch)));
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = floor
}
criterion_main!(benches);
