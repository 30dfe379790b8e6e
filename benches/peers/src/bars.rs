//! The table of bars (`docs/performance-notes.md#targets`): what each is judged by.

/// One bar of the table.
pub struct Bar {
    pub number: u32,
    pub title: &'static str,
    /// What this comparison judges of it.
    pub judged: &'static [Judged],
    /// Where the rest is judged; empty if there is no rest.
    pub elsewhere: &'static str,
}

/// A ratio, or a figure, and what it may be at most.
pub struct Judged {
    pub row: &'static str,
    /// The subject, or several of which the fastest is judged.
    pub subjects: &'static [&'static str],
    pub base: Base,
    pub most: f64,
    /// What would be better still.
    pub stretch: Option<f64>,
    pub grade: Grade,
}

impl Judged {
    const fn or(mut self, stretch: f64) -> Self {
        self.stretch = Some(stretch);
        self
    }
}

/// What a figure is divided by.
#[derive(Clone, Copy)]
pub enum Base {
    /// A subject of the same row.
    Subject(&'static str),
    /// The fastest peer between processes, of any kind.
    BestPeer,
    /// The fastest of those that take messages of any length.
    BestVariable,
    /// Nothing: the figure itself is judged, in the row's unit.
    Absolute,
}

/// How much a bar counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    Bar,
    /// A stretch with a base of its own.
    Stretch,
    /// A bar where shared memory has huge pages; elsewhere only printed.
    WithHugePages,
}

use Base::{Absolute, BestPeer, BestVariable, Subject};

const fn bar(
    row: &'static str,
    subjects: &'static [&'static str],
    base: Base,
    most: f64,
) -> Judged {
    Judged { row, subjects, base, most, stretch: None, grade: Grade::Bar }
}

const fn stretch(
    row: &'static str,
    subjects: &'static [&'static str],
    base: Base,
    most: f64,
) -> Judged {
    Judged { row, subjects, base, most, stretch: None, grade: Grade::Stretch }
}

const fn with_huge_pages(row: &'static str) -> Judged {
    let base = Subject("messageport-copied");
    let subjects = &["messageport-fresh"];
    Judged { row, subjects, base, most: 1.0, stretch: None, grade: Grade::WithHugePages }
}

const OURS: &[&str] = &["messageport"];
const TRUSTED: &[&str] = &["messageport-trusted"];
const TYPED: &[&str] = &["messageport-typed"];
const BATCH: &[&str] = &["messageport-batch"];
const POOLED: &[&str] = &["messageport-pooled"];
const LOAN: &[&str] = &["messageport-loan"];
/// Our ways of receiving with default trust.
const BEST: &[&str] = &["messageport", "messageport-batch"];
const BY_TRUSTED: Base = Subject("messageport-trusted");
const BY_TRUSTED_BATCH: Base = Subject("messageport-trusted-batch");
const BY_TRUSTED_TYPED: Base = Subject("messageport-trusted-typed");
const BY_FUTEX: Base = Subject("futex");
const BY_MAPPED: Base = Subject("mapped");
const BY_TOUCHED: Base = Subject("bare-calls-touched");

/// Every bar, in the order of the table.
pub const BARS: [Bar; 18] = [
    Bar {
        number: 1,
        title: "round trip of 64 B, spinning: bytes; typed and checked",
        judged: &[
            bar("trip-64", OURS, BestPeer, 1.0),
            bar("trip-64-typed", TYPED, BestPeer, 1.05),
            stretch("trip-64", OURS, Subject("two-lines"), 1.4),
            stretch("trip-64-typed", TYPED, Subject("two-lines"), 1.4),
        ],
        elsewhere: "",
    },
    Bar {
        number: 2,
        title: "round trip of 1 KiB, spinning: trusted; default",
        judged: &[
            bar("trip-1K", TRUSTED, BestPeer, 1.0).or(0.9),
            bar("trip-1K", OURS, BestPeer, 1.15).or(0.9),
        ],
        elsewhere: "",
    },
    Bar {
        number: 3,
        title: "one way 8 B, one by one; bursts",
        judged: &[
            bar("way-8", BEST, BestVariable, 1.0),
            bar("way-8-burst", BEST, BestVariable, 1.0),
            stretch("way-8", BEST, BestPeer, 1.0),
            stretch("way-8-burst", BEST, BestPeer, 1.0),
        ],
        elsewhere: "",
    },
    Bar {
        number: 4,
        title: "one way 64 B, one by one; bursts",
        judged: &[
            bar("way-64", BEST, BestVariable, 1.0),
            bar("way-64-burst", BEST, BestVariable, 1.0),
            stretch("way-64", BEST, BestPeer, 1.0),
            stretch("way-64-burst", BEST, BestPeer, 1.0),
        ],
        elsewhere: "",
    },
    Bar {
        number: 5,
        title: "one way 1 KiB, 4 KiB, one by one",
        judged: &[
            bar("way-1K", BEST, BestPeer, 1.0).or(0.8),
            bar("way-4K", BEST, BestPeer, 1.0).or(0.8),
        ],
        elsewhere: "",
    },
    Bar {
        number: 6,
        title: "one way 64 KiB, 1 MiB, one by one",
        judged: &[
            bar("way-64K", OURS, BestPeer, 1.05).or(0.9),
            bar("way-1M", OURS, BestPeer, 1.05).or(0.9),
        ],
        elsewhere: "",
    },
    Bar {
        number: 7,
        title: "both asleep, 64 B; wake after 50 µs, 2 ms",
        judged: &[
            bar("asleep-64", OURS, BestPeer, 1.0),
            bar("asleep-64", OURS, BY_FUTEX, 1.0),
            bar("wake-50us", OURS, BestPeer, 1.0),
            bar("wake-50us", OURS, BY_FUTEX, 1.0),
            bar("wake-2ms", OURS, BestPeer, 1.0),
            bar("wake-2ms", OURS, BY_FUTEX, 1.0),
        ],
        elsewhere: "",
    },
    Bar {
        number: 8,
        title: "hand-off, nothing read: pooled, loan",
        judged: &[
            bar("handoff-1M", POOLED, BestPeer, 1.1),
            bar("handoff-1M", LOAN, BestPeer, 1.1),
            bar("handoff-16M", POOLED, BestPeer, 1.1),
            bar("handoff-16M", LOAN, BestPeer, 1.1),
            bar("handoff-256M", POOLED, BestPeer, 1.1),
            bar("handoff-256M", LOAN, BestPeer, 1.1),
            stretch("handoff-1M", POOLED, BY_MAPPED, 1.1),
            stretch("handoff-1M", LOAN, BY_MAPPED, 1.1),
            stretch("handoff-16M", POOLED, BY_MAPPED, 1.1),
            stretch("handoff-16M", LOAN, BY_MAPPED, 1.1),
            stretch("handoff-256M", POOLED, BY_MAPPED, 1.1),
            stretch("handoff-256M", LOAN, BY_MAPPED, 1.1),
        ],
        elsewhere: "",
    },
    Bar {
        number: 9,
        title: "fresh buffer of 1, 16 MiB, written, moved, read",
        judged: &[with_huge_pages("handoff-1M-read"), with_huge_pages("handoff-16M-read")],
        elsewhere: "",
    },
    Bar {
        number: 10,
        title: "moving an end",
        judged: &[bar("transfer", OURS, BY_TOUCHED, 1.5).or(1.2)],
        elsewhere: "",
    },
    Bar {
        number: 11,
        title: "making a channel; dropping it",
        judged: &[bar("create", OURS, Subject("bare-calls"), 1.15)],
        elsewhere: "cargo bench --bench growth (dropping)",
    },
    Bar {
        number: 12,
        title: "growth, second and third burst, default and trusted",
        judged: &[],
        elsewhere: "cargo bench --bench growth",
    },
    Bar {
        number: 13,
        title: "system calls for a message while both sides keep up",
        judged: &[],
        elsewhere: "cargo test --test syscalls",
    },
    Bar {
        number: 14,
        title: "default compared with trusted, up to 1 KiB",
        judged: &[
            bar("trip-64", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("trip-1K", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("trip-64-typed", TYPED, BY_TRUSTED_TYPED, 1.3).or(1.1),
            bar("trip-1K-typed", TYPED, BY_TRUSTED_TYPED, 1.3).or(1.1),
            bar("way-8", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-8", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
            bar("way-8-burst", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-8-burst", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
            bar("way-64", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-64", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
            bar("way-64-burst", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-64-burst", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
            bar("way-1K", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-1K", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
            bar("way-1K-burst", OURS, BY_TRUSTED, 1.3).or(1.1),
            bar("way-1K-burst", BATCH, BY_TRUSTED_BATCH, 1.3).or(1.1),
        ],
        elsewhere: "",
    },
    Bar {
        number: 15,
        title: "cargo's default profile compared with thin LTO, every row",
        // Judged with `--against`, by every one of our rows.
        judged: &[],
        elsewhere: "this command with --only messageport --against lto",
    },
    Bar {
        number: 16,
        title: "instructions of a post and a receipt of 8 B in one thread",
        judged: &[],
        elsewhere: "benches/instructions/run",
    },
    Bar {
        number: 17,
        title: "an idle pair: memory in all, descriptors",
        // Both ends in one process share the memory's descriptor.
        judged: &[bar("descriptors", OURS, Absolute, 6.0)],
        elsewhere: "cargo bench --bench growth (memory)",
    },
    Bar {
        number: 18,
        title: "round trip, loop turn among 6,000 other ports; after 1,000 moves",
        judged: &[],
        elsewhere: "cargo bench --bench transfer --bench fronts",
    },
];

/// What a row in the default profile may take of its time with thin LTO.
pub const MOST_OF_LTO: f64 = 1.1;
