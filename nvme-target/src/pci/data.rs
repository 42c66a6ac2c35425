//! Where a command's data is: PRPs and SGLs, read as a controller reads them (NVMe 2.1 §4.3).

use nvme_core::spec::command::{Psdt, SUBTYPE_ADDRESS, SglType};
use nvme_core::spec::{SglDescriptor, Sqe, Status};
use zerocopy::IntoBytes;

use super::memory::HostMemory;

const PAGE: u64 = 4096;
/// Entries of a page of a PRP list.
const PRPS: u64 = PAGE / 8;
/// Descriptors of one command at most, so that a list that turns in a circle ends.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// A piece of host memory: bus address and length.
pub(crate) type Piece = (u64, usize);

/// Finds the `len` bytes that a command's data pointer names, into `pieces`.
pub(crate) fn find(
    memory: &dyn HostMemory,
    sqe: &Sqe,
    len: usize,
    admin: bool,
    pieces: &mut Vec<Piece>,
) -> Result<(), Status> {
    pieces.clear();
    if len == 0 {
        return Ok(());
    }
    match sqe.psdt() {
        Psdt::Prp => prps(memory, sqe.prp(), len, pieces),
        // Admin commands of this transport use PRPs (NVMe 2.1 §4.1).
        Psdt::Sgl if !admin => sgl(memory, sqe.sgl(), len, pieces),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

fn load(memory: &dyn HostMemory, at: u64) -> Result<u64, Status> {
    let mut word = [0; 8];
    if memory.read(at, &mut word) {
        Ok(u64::from_le_bytes(word))
    } else {
        Err(Status::DATA_TRANSFER_ERROR)
    }
}

fn prps(
    memory: &dyn HostMemory,
    (first, second): (u64, u64),
    len: usize,
    pieces: &mut Vec<Piece>,
) -> Result<(), Status> {
    let bad_offset = Status::PRP_INVALID_OFFSET.with_dnr();
    if !first.is_multiple_of(4) {
        return Err(bad_offset);
    }
    let piece = len.min((PAGE - first % PAGE) as usize);
    pieces.push((first, piece));
    let mut left = len - piece;
    if left == 0 {
        return Ok(());
    }
    if left <= PAGE as usize {
        return if second.is_multiple_of(PAGE) {
            pieces.push((second, left));
            Ok(())
        } else {
            Err(bad_offset)
        };
    }
    // The second entry is a list, which may begin anywhere in its page.
    if !second.is_multiple_of(8) {
        return Err(bad_offset);
    }
    let mut at = second;
    while left > 0 {
        let entry = load(memory, at)?;
        let last_of_page = at % PAGE / 8 == PRPS - 1;
        if !entry.is_multiple_of(PAGE) {
            return Err(bad_offset);
        }
        if last_of_page && left > PAGE as usize {
            at = entry;
            continue;
        }
        let piece = left.min(PAGE as usize);
        pieces.push((entry, piece));
        left -= piece;
        at += 8;
    }
    Ok(())
}

fn sgl(
    memory: &dyn HostMemory,
    first: SglDescriptor,
    len: usize,
    pieces: &mut Vec<Piece>,
) -> Result<(), Status> {
    let mut left = len;
    let mut segment = first;
    let mut seen = 0;
    loop {
        let (kind, address) = (segment.sgl_type(), segment.address.get());
        let bytes = segment.length.get() as usize;
        if segment.subtype() != SUBTYPE_ADDRESS {
            return Err(Status::SGL_INVALID_TYPE.with_dnr());
        }
        if kind == SglType::DATA_BLOCK {
            block(&segment, &mut left, pieces)?;
            break;
        }
        let last = kind == SglType::LAST_SEGMENT;
        if !last && kind != SglType::SEGMENT {
            return Err(Status::SGL_INVALID_TYPE.with_dnr());
        }
        if bytes == 0 || !bytes.is_multiple_of(16) {
            return Err(Status::SGL_INVALID_SEGMENT.with_dnr());
        }
        let count = bytes / 16;
        seen += count;
        if seen > DESCRIPTORS_MAX {
            return Err(Status::SGL_INVALID_COUNT.with_dnr());
        }
        let mut next = None;
        for i in 0..count {
            let mut descriptor = SglDescriptor::default();
            if !memory.read(address.wrapping_add(i as u64 * 16), descriptor.as_mut_bytes()) {
                return Err(Status::DATA_TRANSFER_ERROR);
            }
            if descriptor.sgl_type() == SglType::DATA_BLOCK {
                block(&descriptor, &mut left, pieces)?;
            } else if i + 1 == count && !last {
                next = Some(descriptor);
            } else {
                return Err(Status::SGL_INVALID_SEGMENT.with_dnr());
            }
        }
        match next {
            Some(descriptor) => segment = descriptor,
            None => break,
        }
    }
    if left == 0 { Ok(()) } else { Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr()) }
}

fn block(
    descriptor: &SglDescriptor,
    left: &mut usize,
    pieces: &mut Vec<Piece>,
) -> Result<(), Status> {
    if descriptor.subtype() != SUBTYPE_ADDRESS {
        return Err(Status::SGL_INVALID_TYPE.with_dnr());
    }
    let bytes = descriptor.length.get() as usize;
    *left = left.checked_sub(bytes).ok_or(Status::SGL_INVALID_DATA_LENGTH.with_dnr())?;
    pieces.push((descriptor.address.get(), bytes));
    Ok(())
}

/// Reads the data at `pieces` into `to`, which is as long as they are together.
pub(crate) fn gather(
    memory: &dyn HostMemory,
    pieces: &[Piece],
    mut to: &mut [u8],
) -> Result<(), Status> {
    for (address, len) in pieces {
        let (piece, rest) = to.split_at_mut((*len).min(to.len()));
        if !memory.read(*address, piece) {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        to = rest;
    }
    Ok(())
}

/// Writes `from` to `pieces`, as far as it goes.
pub(crate) fn scatter(
    memory: &dyn HostMemory,
    pieces: &[Piece],
    mut from: &[u8],
) -> Result<(), Status> {
    for (address, len) in pieces {
        let (piece, rest) = from.split_at((*len).min(from.len()));
        if !memory.write(*address, piece) {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        from = rest;
    }
    Ok(())
}
