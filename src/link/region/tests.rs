//! Regions without a port.

use super::*;
use crate::link::payload::remove_free;
use crate::os::mapping::page_size;
use nix::unistd::{Whence, lseek};
use std::panic::{AssertUnwindSafe, catch_unwind};

const CAPACITY: u64 = 4096;
const SCHEMA: u64 = 7;

/// Of 16 pages a lane.
fn limit() -> u64 {
    16 * page_size()
}

fn region() -> Arc<Region> {
    Region::create(CAPACITY, limit(), SCHEMA).expect("a small region")
}

fn attach_as(
    region: &Region,
    [capacity, limit, schema]: [u64; 3],
) -> Result<Arc<Region>, AttachError> {
    let memfd = region.memfd().try_clone_to_owned().expect("a descriptor");
    Region::attach(Foreign::new(memfd, None), capacity, limit, schema).map_err(|(error, _)| error)
}

fn attach(region: &Region) -> Result<Arc<Region>, AttachError> {
    attach_as(region, [CAPACITY, limit(), SCHEMA])
}

#[track_caller]
fn refusal(attached: Result<Arc<Region>, AttachError>) -> AttachError {
    attached.err().expect("it is refused")
}

#[test]
fn lanes_are_where_the_layout_has_them() {
    let region = region();
    let place = |address: NonNull<u8>| address.addr().get() - region.mapping.start().addr().get();
    for (lane, header, area) in [(0, 0x80, 0x10000), (1, 0x300, 0x10000 + limit() as usize)] {
        let memory = region.lane(lane);
        assert_eq!(place(NonNull::from(memory.lane()).cast()), header);
        assert_eq!(place(memory.bytes(0, limit())), area);
        let beyond = catch_unwind(AssertUnwindSafe(|| memory.bytes(limit(), 1)));
        assert!(beyond.is_err(), "the lane {lane} is longer than its area");
    }
    assert_eq!(region.mapping.len(), 0x10000 + 2 * limit());
}

/// Where a file has memory, in pages.
fn pages_of(region: &Region) -> Vec<i64> {
    let (file, page) = (region.memfd(), page_size() as i64);
    let end = region.mapping.len() as i64 / page;
    (0..end).filter(|at| lseek(file, at * page, Whence::SeekData) == Ok(at * page)).collect()
}

#[test]
fn pages_are_made_and_freed_where_the_lane_has_them() {
    let page = page_size();
    for lane in [0, 1] {
        let region = region();
        assert_eq!(pages_of(&region), [0], "the header has a page");
        region.populate(lane, 2 * page..4 * page).expect("two pages");
        let first = ((AREA_OFFSET + lane as u64 * limit()) / page) as i64;
        assert_eq!(pages_of(&region), [0, first + 2, first + 3]);
        let freed = |bytes| remove_free(&region, lane, bytes).expect("a mapping to be written");
        assert_eq!(freed(2 * page..2 * page), 0);
        assert_eq!(freed(page..3 * page), 2 * page);
        assert_eq!(pages_of(&region), [0, first + 3]);
    }
}

#[test]
fn an_attached_region_is_the_same_pair() {
    let region = region();
    let attached = attach(&region).expect("it is one");
    assert_eq!([region.schema(), attached.schema()], [SCHEMA; 2]);
    assert_eq!(attached.pair_id(), region.pair_id());
    let memfd = memfd::identity(region.memfd()).expect("its file");
    for region in [&region, &attached] {
        let geometry = region.geometry();
        assert_eq!((geometry.capacity(), geometry.limit()), (CAPACITY, limit()));
        assert_eq!(region.object().expect("its file"), memfd);
        assert_eq!(region.object().expect("it is known"), memfd);
    }
    assert!(attached.is_shared() && !region.is_shared());
    region.mark_shared();
    assert!(region.is_shared());
    // Its number is in the header, both halves.
    let [low, high] = [0, 1].map(|half| region.identity().pair_id[half].load(Relaxed));
    assert_eq!((u128::from(high) << 64) + u128::from(low), region.pair_id());
    assert_ne!(Region::create(CAPACITY, limit(), 0).expect("another").pair_id(), region.pair_id());
}

#[test]
fn a_header_that_says_something_else_is_refused_and_the_word_is_named() {
    let region = region();
    let identity = region.identity();
    let halves = [("layout version", &identity.version), ("set of features", &identity.features)];
    let words = [
        ("payload format", &identity.format),
        ("schema", &identity.schema),
        ("capacity", &identity.capacity),
        ("limit", &identity.limit),
    ];
    let is_named = |name| {
        let error = refusal(attach(&region));
        assert!(
            matches!(error, AttachError::Incompatible { what, .. } if what == name),
            "{name}: {error}"
        );
    };
    for (name, word) in halves {
        word.fetch_xor(1 << 31, Relaxed);
        is_named(name);
        word.fetch_xor(1 << 31, Relaxed);
    }
    for (name, word) in words {
        word.fetch_xor(1 << 63, Relaxed);
        is_named(name);
        word.fetch_xor(1 << 63, Relaxed);
    }
    assert!(attach(&region).is_ok());
    identity.magic.store(0, Relaxed);
    assert!(matches!(refusal(attach(&region)), AttachError::NotAPort { .. }));
}

#[test]
fn what_was_said_about_a_region_is_what_it_has() {
    let region = region();
    for (capacity, limit) in [(2 * CAPACITY, limit()), (CAPACITY, 2 * limit())] {
        assert!(attach_as(&region, [capacity, limit, SCHEMA]).is_err());
    }
    assert!(attach_as(&region, [CAPACITY, limit(), SCHEMA + 1]).is_err());
    let unsealed = memfd::create(region_len(limit())).expect("a memfd");
    let refused = Region::attach(Foreign::new(unsealed, None), CAPACITY, limit(), 0);
    let (error, _) = refused.err().expect("its length can change");
    assert!(error.to_string().contains("lacks seals"), "{error}");
}

#[test]
fn numbers_that_are_no_geometry_are_refused_by_the_one_that_is_wrong() {
    let accepted = [
        (MIN_CAPACITY, MIN_CAPACITY),
        (MIN_CAPACITY, MAX_LIMIT),
        (MAX_LIMIT, MAX_LIMIT),
        (MIN_CAPACITY, 2 * MIN_CAPACITY),
    ];
    for (capacity, limit) in accepted {
        let geometry = check_geometry(capacity, limit).expect("it is one");
        assert_eq!((geometry.capacity(), geometry.limit()), (capacity, limit));
    }
    let refused = [
        (0, MAX_LIMIT, "capacity"),
        (MIN_CAPACITY / 2, MAX_LIMIT, "capacity"),
        (MIN_CAPACITY + 1, MAX_LIMIT, "capacity"),
        (MIN_CAPACITY, MAX_LIMIT + 1, "limit"),
        (MIN_CAPACITY, 2 * MAX_LIMIT, "limit"),
        (MIN_CAPACITY, 0, "limit"),
        (2 * MIN_CAPACITY, MIN_CAPACITY, "limit"),
        (MIN_CAPACITY, MIN_CAPACITY + 1, "limit"),
    ];
    for (capacity, limit, what) in refused {
        let error = check_geometry(capacity, limit).expect_err("it is none").to_string();
        assert!(error.contains(what), "{capacity}, {limit}: {error}");
    }
}

#[test]
fn each_side_declares_two_types_at_places_of_its_own() {
    let region = region();
    let start = region.mapping.start().addr().get();
    let all = [(0, true, 0x580), (1, false, 0x800), (1, true, 0xa80), (0, false, 0xd00)];
    for (fingerprint, (side, posts, place)) in (1..).zip(all) {
        let declared = Declared::new(side, posts);
        let at = region.declared(declared);
        assert_eq!(std::ptr::from_ref(at).addr() - start, place);
        at.declare(fingerprint, "text");
        assert_eq!(declared.other(), Declared::new(1 - side, !posts));
    }
    let fingerprints =
        || all.map(|(side, posts, _)| region.declared(Declared::new(side, posts)).fingerprint());
    assert_eq!(fingerprints(), [1, 2, 3, 4]);
    region.withdraw_types(0);
    assert_eq!(fingerprints(), [0, 2, 3, 0]);
}

#[test]
fn a_text_is_there_as_far_as_there_is_room() {
    let region = region();
    let declared = region.declared(Declared::new(0, true));
    let long = "A text of many words. ".repeat(40);
    for (len, is_all) in [(0, true), (7, true), (9, true), (624, true), (625, false), (700, false)]
    {
        declared.declare(5, &long[..len]);
        assert_eq!(declared.text(), (long.as_bytes()[..len.min(624)].to_vec(), is_all));
        assert_eq!(declared.fingerprint(), 5);
    }
    // As a hostile peer may write it.
    declared.shape_len.store(u64::MAX, Relaxed);
    assert_eq!(declared.text().0.len(), 624);
}

#[test]
fn only_what_lies_in_a_mapping_has_a_place_in_it() {
    let region = region();
    let (mapping, len) = (&region.mapping, region.mapping.len());
    let place = |offset, bytes| mapped(mapping, offset, bytes).addr().get() as u64;
    let start = place(0, len);
    assert_eq!([place(len, 0), place(len - 1, 1)], [start + len, start + len - 1]);
    for (offset, bytes) in [(0, len + 1), (len, 1), (len + 1, 0), (u64::MAX, 2), (1, u64::MAX)] {
        let outside = catch_unwind(AssertUnwindSafe(|| place(offset, bytes)));
        assert!(outside.is_err(), "{bytes} bytes from {offset}");
    }
}
