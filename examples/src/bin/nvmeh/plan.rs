//! The work that was asked for, made to fit a namespace.

use nvme_host_examples::size::human;
use nvme_host_examples::workload::Plan;
use nvme_mpath::Geometry;

use crate::Failure;
use crate::work::Work;

/// Largest region that is verified unless more is asked for: it is read back at the end, and every
/// block costs eight bytes of memory.
const VERIFIED: u64 = 256 << 20;

/// The plan of each channel.
pub fn plans(work: &Work, geometry: &Geometry) -> Result<Vec<Plan>, Failure> {
    let usage = |why: String| Err(Failure::Usage(why));
    let unit = u64::from(geometry.block_size);
    if geometry.read_only && (work.rw.pattern().writes() || work.verify) {
        return Err(Failure::Failed("the namespace is read-only".into()));
    }
    let total = geometry.blocks.saturating_mul(unit);
    for (name, value) in
        [("--bs", Some(work.bs)), ("--size", work.size), ("--offset", Some(work.offset))]
    {
        if let Some(value) = value.filter(|v| v % unit != 0) {
            return usage(format!("{name} {value} is no multiple of the block size, {unit} bytes"));
        }
    }
    if work.bs == 0 {
        return usage("--bs must not be 0".into());
    }
    // What is asked for counts data only; a buffer may have metadata in it.
    let most = geometry.max_transfer as u64 / u64::from(geometry.buffer_block()) * unit;
    if work.bs > most {
        let most = human(most);
        return usage(format!("--bs {}: one request can move {most} at most", human(work.bs)));
    }
    let Some(room) = total.checked_sub(work.offset).filter(|r| *r > 0) else {
        let (offset, end) = (human(work.offset), human(total));
        return usage(format!("--offset {offset} lies past the end of the namespace, {end}"));
    };
    let most = if work.verify { room.min(VERIFIED) } else { room };
    let bytes = work.size.unwrap_or(most);
    if bytes > room {
        let (bytes, offset, end) = (human(bytes), human(work.offset), human(total));
        return usage(format!("--size {bytes} from {offset} on reaches past the end, {end}"));
    }
    let plan = Plan {
        pattern: work.rw.pattern(),
        first: work.offset / unit,
        blocks: bytes / unit,
        block_size: geometry.buffer_block() as usize,
        metadata_size: match geometry.extended_metadata {
            true => 0,
            false => geometry.metadata_size.into(),
        },
        request_blocks: work.bs / unit,
        aligned: true,
        verify: work.verify,
        depth: work.qd.into(),
        seed: nvme_host_examples::host::seed(),
    };
    match plan.split(work.channels.into()) {
        Some(plans) => Ok(plans),
        None => usage(format!(
            "{} are too few for {} channels and requests of {}",
            human(bytes),
            work.channels,
            human(work.bs)
        )),
    }
}
