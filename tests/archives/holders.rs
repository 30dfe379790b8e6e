//! A broken table is found in whatever holds it.

use super::crafted::rkyv_accepts;
use super::read;
use messageport::{Receive, rkyv};
use rkyv::Serialize;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::niche::niching::Null;
use rkyv::rancor::{Error, Failure};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::with::{Niche, NicheInto};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};

type Set = HashSet<u32>;

#[messageport::message]
struct InBox {
    #[rkyv(with = Niche)]
    set: Option<Box<Set>>,
}

#[messageport::message]
struct InNiche {
    #[rkyv(with = NicheInto<Null>)]
    set: Option<Box<Set>>,
}

/// Serialises `holder`, whose first bytes are those of the table or tree `inner`, and breaks these
/// bytes one at a time: one result at least that rkyv accepts must be refused. If the holder did not
/// look into what it holds, none would be.
#[track_caller]
fn looks_inside<I, T>(inner: &I, holder: &T)
where
    I: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>> + Receive,
    T::Archived: rkyv::Portable + for<'a> CheckBytes<HighValidator<'a, Failure>>,
{
    let name = std::any::type_name::<T>();
    let inner = rkyv::to_bytes::<Error>(inner).expect("an archive");
    let end = inner.len() - size_of::<I::Archived>();
    let honest = rkyv::to_bytes::<Error>(holder).expect("an archive");
    read::<T>(&honest).unwrap_or_else(|error| panic!("{name}: {error}"));
    let is_refused = |at: usize, change: u8| {
        let mut bytes = honest.to_vec();
        bytes[at] ^= change;
        rkyv_accepts::<T::Archived>(&bytes) && read::<T>(&bytes).is_err()
    };
    let is_found = (0..end).any(|at| [0x80, 0xff, 1].iter().any(|by| is_refused(at, *by)));
    assert!(is_found, "{name} accepts what it holds, whatever that is");
}

#[test]
fn whatever_holds_a_table_looks_into_it() {
    let set = || Set::from_iter(0..5);
    looks_inside(&set(), &set());
    looks_inside(&set(), &Some(set()));
    looks_inside(&set(), &Box::new(set()));
    looks_inside(&set(), &Some(Box::new(set())));
    looks_inside(&set(), &InBox { set: Some(Box::new(set())) });
    looks_inside(&set(), &InNiche { set: Some(Box::new(set())) });
    looks_inside(&set(), &Ok::<Set, u32>(set()));
    looks_inside(&set(), &Err::<u32, Set>(set()));
    looks_inside(&set(), &Bound::Included(set()));
    looks_inside(&set(), &Bound::Excluded(set()));
    looks_inside(&set(), &vec![set()]);
    looks_inside(&set(), &[set()]);
    looks_inside(&set(), &(set(),));
    looks_inside(&set(), &(set(), 1_u32));
    looks_inside(&set(), &(1_u32, set()));
    looks_inside(&set(), &(1_u32, 2_u32, set()));
    looks_inside(&set(), &(1_u32, 2_u32, 3_u32, set(), 4_u32));
}

#[test]
fn a_range_looks_at_its_ends() {
    let set = || Set::from_iter(0..5);
    let none = Set::new;
    looks_inside(&set(), &Range { start: set(), end: none() });
    looks_inside(&set(), &Range { start: none(), end: set() });
    looks_inside(&set(), &RangeInclusive::new(set(), none()));
    looks_inside(&set(), &RangeInclusive::new(none(), set()));
    looks_inside(&set(), &RangeFrom { start: set() });
    looks_inside(&set(), &RangeTo { end: set() });
    looks_inside(&set(), &RangeToInclusive { end: set() });
}

#[test]
fn tables_and_trees_look_into_their_values() {
    let set = || Set::from_iter(0..5);
    looks_inside(&set(), &HashMap::from([(1_u32, set())]));
    looks_inside(&set(), &BTreeMap::from([(1_u32, set())]));
}
