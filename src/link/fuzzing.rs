//! What the fuzzer runs on this layer: ends and memory that another process made.

pub(crate) mod frames;
pub(crate) mod memory;

use crate::link::payload::PayloadHandle;
use crate::link::region::Region;
use crate::link::transfer::{self, PortParts};
use crate::os::reaper::Foreign;
use crate::os::socket;
use crate::wire::frame::{CAPSULE_LEN, Capsule, Place, TransferPolicy};
use crate::wire::label::PortLabels;
use crate::wire::layout::{AREA_OFFSET, MAX_SEGMENTS, RegionHeader, VERSION};
use crate::wire::record::Format;
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Takes over an end whose capsule, header and records were changed by `data`, and uses it.
///
/// Each eleven bytes are one change of an honest end: where (capsule, header or area), the offset,
/// and eight bytes that are written there. It receives from and posts to an end that is accepted:
/// whatever the end holds, there is no panic, no hang and no access outside of the region.
pub fn attach_region(data: &[u8]) {
    let region = Region::create(CAPACITY, LIMIT, 0).expect("a small region can be made");
    let memfd = region.memfd().try_clone_to_owned().expect("a descriptor is left");
    let file = File::from(memfd.try_clone().expect("a descriptor is left"));
    let mut capsule = honest_capsule().encode();
    for change in data.chunks_exact(11) {
        let offset = u64::from(u16::from_le_bytes([change[1], change[2]]));
        let bytes = &change[3..];
        match change[0] % 3 {
            0 => capsule[offset as usize % CAPSULE_LEN] = bytes[0],
            1 => write(&file, offset % size_of::<RegionHeader>() as u64, bytes),
            _ => write(&file, AREA_OFFSET + offset % (2 * LIMIT - 8), bytes),
        }
    }
    drop(region);
    let (doorbell, _peers_doorbell) = socket::stream_pair().expect("sockets are left");
    let (attachment_socket, _peers_attachments) = socket::packet_pair().expect("sockets are left");
    let parts = PortParts::new(
        capsule,
        [memfd, doorbell, attachment_socket].map(|fd| Foreign::new(fd, None)),
    );
    let Ok((mut sending, mut receiving)) = transfer::unpack(parts, false) else { return };
    for round in 0..64 {
        // No message is kept, so the memory for short ones is free each time.
        let short = match round % 4 {
            0 => {
                receiving.read_ahead(true);
                receiving.poll_next_in_copy()
            }
            3 => None,
            _ => receiving.poll_fast(&Cell::new(0)),
        };
        match short.map_or_else(|| receiving.poll(), |payload| Ok(Some(payload))) {
            Ok(Some(payload)) => {
                assert!(payload.bytes().len() as u64 <= LIMIT);
                if payload.handle() != PayloadHandle::Ahead {
                    receiving.give_back(payload.handle());
                }
            }
            Ok(None) => break,
            Err(_) => break,
        }
    }
    for len in [0, 100, 1000, 3000, 4000] {
        if sending.stage_bytes(&vec![7; len], Format::Bytes).is_ok() {
            sending.commit();
        }
    }
}

fn honest_capsule() -> Capsule {
    let place = Place { position: 0, entered: 0, segment: 0 };
    Capsule {
        side: 1,
        epoch: 1,
        capacity: CAPACITY,
        limit: LIMIT,
        schema: 0,
        outgoing: place,
        incoming: place,
        packets: 0,
        policy: TransferPolicy::default(),
        is_trusted: false,
        vacated_at: [0; MAX_SEGMENTS],
        labels: PortLabels::default(),
    }
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    file.write_all_at(bytes, offset).expect("the region is as long as it was made");
}

const CAPACITY: u64 = 4096;
const LIMIT: u64 = 16_384;
const _: () = assert!(VERSION == 12, "look at the honest capsule again");

/// The files of a target's corpus; the published crate has none.
/// The most slots of a pool: more than the number among which the first free one is taken.
const MOST_SLOTS: u64 = 40;
/// The most bytes of a slot or of a buffer.
const MOST_LEN: u64 = 9000;
/// The bits of a number that choose nothing.
const LOW: u64 = (1 << 56) - 1;

#[cfg(test)]
fn corpus(target: &str) -> impl Iterator<Item = Vec<u8>> {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a readable file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_end_is_accepted() {
        attach_region(&[]);
    }

    #[test]
    fn ends_of_the_corpus_do_no_harm() {
        corpus("attach_region").for_each(|data| attach_region(&data));
    }
}
