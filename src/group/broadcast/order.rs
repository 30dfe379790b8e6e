//! The order in which messages come out: that of the posts, as far as one thread can tell, and for
//! each message that in which the members were opened.
//!
//! Each post takes a [`stamp`], which travels after the message. A member gives out the oldest
//! message of all its ports first. Members of one name that deliver events on one thread give way
//! to each other: [`sit`] names those that a call of `dispatch` has to look at.

use super::Shared;
use crate::os::monotonic_nanoseconds;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

/// The time of a post, in nanoseconds of a clock that all processes share. Later than every stamp
/// that this process took before.
pub(super) fn stamp() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = monotonic_nanoseconds();
    let next = |last: u64| now.max(last.saturating_add(1));
    // Relaxed: it is the only word, and all threads see its changes in one order.
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    next(last.unwrap_or_else(|last| last))
}

/// The next number of a counter.
fn count(counter: &AtomicU64) -> u64 {
    // Relaxed: as above.
    counter.fetch_add(1, Ordering::Relaxed)
}

/// In which order members of this process were opened.
pub(super) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    count(&NEXT)
}

/// How many members of this process have left their ports at all others. One that is not accepted
/// yet may have posted since.
static JOINED: AtomicU64 = AtomicU64::new(0);

pub(super) fn joined() -> u64 {
    // Relaxed: as above. A member that has joined on this thread is seen.
    JOINED.load(Ordering::Relaxed)
}

pub(super) fn has_joined() {
    count(&JOINED);
}

/// Marks a member as one of this process, for as long as this lives.
pub(super) struct Resident(u128);

impl Resident {
    pub(super) fn new(member: u128) -> Resident {
        residents().insert(member);
        Resident(member)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        residents().remove(&self.0);
    }
}

/// Whether a member is of this process.
pub(super) fn is_resident(member: u128) -> bool {
    residents().contains(&member)
}

fn residents() -> MutexGuard<'static, BTreeSet<u128>> {
    static RESIDENTS: Mutex<BTreeSet<u128>> = Mutex::new(BTreeSet::new());
    RESIDENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a member delivers its events.
#[derive(Default)]
pub(super) struct Seat {
    /// `None` for one that is read by calls.
    thread: Option<ThreadId>,
    /// How often others gave way to it since it last delivered anything.
    waited_for: u32,
}

thread_local! {
    /// Members that deliver their events on this thread, and perhaps some that no longer do.
    static SEATED: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Notes that a member delivers its events on this thread.
pub(super) fn sit(member: &Arc<Shared>) {
    let here = thread::current().id();
    let mut seat = member.seat();
    seat.waited_for = 0;
    if seat.thread == Some(here) {
        return;
    }
    seat.thread = Some(here);
    let new = Arc::downgrade(member);
    SEATED.with_borrow_mut(|seated| {
        seated.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&new));
        seated.push(new);
    });
}

/// The other members of that name on this thread.
pub(super) fn rivals(member: &Arc<Shared>) -> Vec<Arc<Shared>> {
    let here = thread::current().id();
    SEATED.with_borrow(|seated| {
        let others = seated.iter().filter_map(Weak::upgrade);
        let others = others.filter(|other| !Arc::ptr_eq(other, member));
        let others = others.filter(|other| other.name == member.name);
        others.filter(|other| other.seat().thread == Some(here)).collect()
    })
}

impl Seat {
    /// The member is read by calls, or delivers nothing: no other member waits for it.
    pub(super) fn leave(&mut self) {
        self.thread = None;
    }

    /// Gives way to the member once more, unless that has failed too often.
    pub(super) fn wait_for(&mut self, rivals: usize) -> bool {
        self.waited_for += 1;
        if self.waited_for as usize > PATIENCE * rivals {
            self.leave();
        }
        self.thread.is_some()
    }
}

/// Turns in which a member that has the oldest message may deliver nothing.
const PATIENCE: usize = 8;
/// Bytes behind each message that are its stamp.
pub(super) const STAMP_LEN: usize = size_of::<u64>();
/// Version of what members send each other behind a channel's own: that each message has a stamp.
pub(super) const FRAME_VERSION: u64 = 1;
