//! messageport itself, and the limits of the hardware and the kernel.

use crate::handoffs::{self, Carrying};
use crate::harness::handoff::{self, Way};
use crate::harness::local::{Timed, memcpy};
use crate::harness::port_streams::{self, Posting};
use crate::harness::ports::{self, Mode};
use crate::harness::workload::Subject;
use crate::harness::{calls, kernel, lines, moves, pages, plain_subjects};
use crate::rows::{BURST, Work};
use crate::subjects::{self, Answer, Entry, Kind, Promises, Site};

/// What the hardware and the kernel take at least, and the plain ring.
pub fn limits() -> Vec<Entry> {
    let promises = Promises::NONE;
    let limit = |name, about, answer| Entry { name, kind: Kind::Limit, promises, about, answer };
    vec![
        limit("one-line", "one cache line bounced by plain atomics", |work, site| {
            line(work, site, lines::ONE_LINE)
        }),
        limit("two-lines", "two cache lines, one per direction", |work, site| {
            line(work, site, lines::TWO_LINES)
        }),
        limit(
            "slots",
            "messages copied into slots whose first word is their number, and read there: no \
             ring that copies can do with less",
            |work, site| match work {
                Work::OneWay { is_burst: false, .. } => subjects::slots(work, site),
                // Nothing is gained by a burst where nothing is published beside the message.
                Work::OneWay { bytes, .. } => {
                    subjects::slots(Work::OneWay { bytes, is_burst: false }, site)
                }
                _ => Answer::Absent,
            },
        ),
        limit("memcpy", "a copy inside one core's cache", |work, _| match work {
            Work::OneWay { bytes, .. } => Answer::Runs(memcpy(bytes, 0)),
            _ => Answer::Absent,
        }),
        limit("futex", "a futex word a direction, nothing carried", |work, site| match work {
            Work::Trip { is_asleep: true, .. } => wake_up(site, kernel::FUTEX),
            Work::Wake { .. } => subjects::futex(work, site),
            _ => Answer::Absent,
        }),
        limit("stream-doorbell", "a byte through a stream socket, with `poll`", |work, site| {
            wake_up_if_asleep(work, site, kernel::STREAM)
        }),
        limit("eventfd", "a counter a direction", |work, site| {
            wake_up_if_asleep(work, site, kernel::EVENTFD)
        }),
        limit(
            "mapped",
            "memory that both sides mapped before, and one word that says whose it is",
            |work, site| match work {
                Work::Handoff { bytes, is_read } => {
                    Answer::Runs(handoffs::mapped(bytes, is_read, site))
                }
                _ => Answer::Absent,
            },
        ),
        limit(
            "bare-memfd",
            "a fresh memfd, filled, sealed and sent by `SCM_RIGHTS`",
            |work, site| match work {
                Work::Handoff { bytes, is_read } => {
                    Answer::Runs(handoffs::bare_memfd(bytes, is_read, site))
                }
                _ => Answer::Absent,
            },
        ),
        limit(
            "bare-calls",
            "the system calls for the same kernel objects as messageport's",
            |work, _| match work {
                Work::Create => Answer::Runs(Subject::new("bare-calls", 0, 0, || {
                    Timed(|| pages::bare_pair().0)
                })),
                Work::Transfer => {
                    Answer::Runs(Subject::new("bare-calls", 0, 0, || moves::bare_calls(false)))
                }
                _ => Answer::Absent,
            },
        ),
        limit(
            "bare-calls-touched",
            "the same, and one word of the memory read and written: no end works without it",
            |work, _| match work {
                Work::Transfer => {
                    let start = || moves::bare_calls(true);
                    Answer::Runs(Subject::new("bare-calls-touched", 0, 0, start))
                }
                _ => Answer::Absent,
            },
        ),
        Entry {
            name: "plain-ring",
            kind: Kind::Reference,
            promises: Promises::ANY,
            about: "a byte ring written for comparison: no growth, no wake-ups, no checks",
            answer: plain_ring,
        },
    ]
}

fn line(work: Work, site: &Site, variant: &str) -> Answer {
    match work {
        Work::Trip { is_asleep: false, .. } | Work::Typed { .. } => {
            pick(lines::subjects(site.core, 0), variant)
        }
        _ => Answer::Absent,
    }
}

fn wake_up(site: &Site, variant: &str) -> Answer {
    pick(kernel::round_trips(site.core, &[], 0), variant)
}

fn wake_up_if_asleep(work: Work, site: &Site, variant: &str) -> Answer {
    match work {
        Work::Trip { is_asleep: true, .. } => wake_up(site, variant),
        _ => Answer::Absent,
    }
}

fn pick(subjects: Vec<Subject>, variant: &str) -> Answer {
    let found = subjects.into_iter().find(|subject| subject.variant == variant);
    Answer::Runs(found.expect("a subject of the harness"))
}

fn plain_ring(work: Work, site: &Site) -> Answer {
    match work {
        Work::Trip { bytes, is_asleep: false } => {
            Answer::Runs(plain_subjects::round_trip(site.core, bytes, 0))
        }
        Work::OneWay { bytes, is_burst } => {
            let burst = if is_burst { BURST } else { 1 };
            let name = plain_subjects::PLAIN_RING;
            Answer::Runs(plain_subjects::one_way(name, site.core, bytes, 0, burst))
        }
        _ => Answer::Absent,
    }
}

/// This crate: default and trusted, bytes and typed, loans and the ways of handing over.
pub fn ours() -> Vec<Entry> {
    let promises = Promises::ANY;
    let ours = |name, about, answer| Entry { name, kind: Kind::Ours, promises, about, answer };
    vec![
        ours("messageport", "bytes, default trust: the peer may be hostile", |work, site| {
            ports_of(false, work, site)
        }),
        ours("messageport-trusted", "bytes, both ends trust each other", |work, site| {
            ports_of(true, work, site)
        }),
        ours("messageport-batch", "bytes, received with `try_iter`", |work, site| {
            batches(false, work, site)
        }),
        ours("messageport-trusted-batch", "the same on trusted ports", |work, site| {
            batches(true, work, site)
        }),
        ours("messageport-typed", "rkyv messages, checked by the receiver", |work, site| {
            typed(false, work, site)
        }),
        ours("messageport-trusted-typed", "the same on trusted ports", |work, site| {
            typed(true, work, site)
        }),
        ours("messageport-requests", "a request and its reply, typed and checked", requests),
        ours("messageport-loan", "written in the ring and read there, trusted", |work, site| {
            match work {
                Work::OneWay { bytes, is_burst: false } => stream(site, bytes, true, Posting::Loan),
                Work::OneWay { .. } => Answer::Lacks("a loan is one message"),
                _ => hand_over(work, site, Carrying::Loan),
            }
        }),
        ours("messageport-pooled", "buffers of a pool, trusted", |work, site| {
            hand_over(work, site, Carrying::Pooled)
        }),
        ours(
            "messageport-pooled-answered",
            "the same, answered by a typed message rather than by a stored word",
            |work, site| hand_back(work, site, Way::Pooled),
        ),
        ours(
            "messageport-sealed",
            "one sealed buffer sent back and forth, trusted: the answer carries it back",
            |work, site| hand_back(work, site, Way::Sealed),
        ),
        ours("messageport-fresh", "a buffer made and filled each time, trusted", |work, site| {
            hand_over(work, site, Carrying::Fresh)
        }),
        ours("messageport-copied", "copied into the ring, trusted", |work, site| match work {
            Work::Handoff { is_read: false, .. } => Answer::Lacks("copying is reading"),
            _ => hand_over(work, site, Carrying::Copied),
        }),
    ]
}

fn ports_of(is_trusted: bool, work: Work, site: &Site) -> Answer {
    match work {
        Work::Trip { bytes, is_asleep } => {
            trip(site, bytes, Mode { is_trusted, is_asleep, is_typed: false, ..TYPED })
        }
        Work::Typed { .. } => Answer::Absent,
        Work::OneWay { bytes, is_burst } => {
            let posting = if is_burst { Posting::Burst } else { Posting::Single };
            stream(site, bytes, is_trusted, posting)
        }
        Work::Handoff { .. } => Answer::Absent,
        Work::Transfer if is_trusted => Answer::Absent,
        Work::Transfer => Answer::Runs(Subject::new("messageport", 0, 0, || moves::move_port(0))),
        Work::Create | Work::Memory | Work::Descriptors if is_trusted => Answer::Absent,
        _ => subjects::ports(is_trusted, work, site),
    }
}

fn batches(is_trusted: bool, work: Work, site: &Site) -> Answer {
    match work {
        Work::OneWay { bytes, is_burst } => {
            let posting = if is_burst { Posting::BurstBatch } else { Posting::SingleBatch };
            stream(site, bytes, is_trusted, posting)
        }
        _ => Answer::Absent,
    }
}

fn typed(is_trusted: bool, work: Work, site: &Site) -> Answer {
    match work {
        Work::Typed { bytes } => trip(site, bytes, Mode { is_trusted, ..TYPED }),
        _ => Answer::Absent,
    }
}

/// Beside the typed messages, and beside the requests of others.
fn requests(work: Work, site: &Site) -> Answer {
    match work {
        Work::Typed { bytes: 64 } | Work::Trip { bytes: 64, is_asleep: false } => {
            Answer::Runs(calls::returned(site.core))
        }
        _ => Answer::Absent,
    }
}

fn trip(site: &Site, bytes: usize, mode: Mode) -> Answer {
    Answer::Runs(ports::round_trips(site.core, mode, &[bytes], 0).remove(0))
}

fn stream(site: &Site, bytes: usize, is_trusted: bool, posting: Posting) -> Answer {
    Answer::Runs(port_streams::one_way(site.core, bytes, 0, is_trusted, posting))
}

fn hand_over(work: Work, site: &Site, carrying: Carrying) -> Answer {
    match work {
        Work::Handoff { bytes, is_read } => {
            Answer::Runs(handoffs::own(carrying, bytes, is_read, site))
        }
        _ => Answer::Absent,
    }
}

/// By the crate's own benchmark, whose other side answers by a message.
fn hand_back(work: Work, site: &Site, way: Way) -> Answer {
    match work {
        Work::Handoff { bytes, is_read } => {
            Answer::Runs(handoff::handoff(site.core, way, bytes, is_read, 0))
        }
        _ => Answer::Absent,
    }
}

/// Typed trips whose other side sends back what came, as that of the peers does.
const TYPED: Mode = Mode { is_trusted: false, is_asleep: false, is_typed: true, is_returned: true };
