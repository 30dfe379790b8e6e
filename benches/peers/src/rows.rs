//! The rows of the comparison: what is measured of every subject.

use std::time::Duration;

use crate::harness::port_streams;

/// What one operation of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A message and its answer.
    Trip { bytes: usize, is_asleep: bool },
    /// A value of several fields, sent back as it came.
    Typed { bytes: usize },
    /// A message one way, alone or in bursts of [`BURST`].
    OneWay { bytes: usize, is_burst: bool },
    /// A large payload and its acknowledgement, read in full or not at all.
    Handoff { bytes: usize, is_read: bool },
    /// From sending to having received, by a receiver that has slept for so long.
    Wake { slept: Duration },
    /// Both ends of a channel.
    Create,
    /// Memory of a channel that is not in use.
    Memory,
    /// Descriptors of such a channel, of both ends together.
    Descriptors,
    /// An end of a channel, posted through another channel and received.
    Transfer,
}

/// What the figures of a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Time,
    Bytes,
    Count,
}

/// One table of the report.
pub struct Row {
    /// What `--rows` chooses by.
    pub id: String,
    pub title: String,
    pub work: Work,
    /// What every figure is divided by; a subject of the same row.
    pub limit: &'static str,
    /// Whether it is a part of `--quick`.
    pub is_quick: bool,
}

impl Row {
    fn new(id: String, title: String, work: Work, limit: &'static str, is_quick: bool) -> Self {
        Self { id, title, work, limit, is_quick }
    }

    pub fn unit(&self) -> Unit {
        match self.work {
            Work::Memory => Unit::Bytes,
            Work::Descriptors => Unit::Count,
            _ => Unit::Time,
        }
    }

    pub fn is_throughput(&self) -> bool {
        matches!(self.work, Work::OneWay { .. })
    }
}

impl Work {
    /// Payload of a message.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Trip { bytes, .. }
            | Self::Typed { bytes }
            | Self::OneWay { bytes, .. }
            | Self::Handoff { bytes, .. } => *bytes,
            _ => SMALL,
        }
    }

    /// Bytes that a direction of the channel may hold, where that can be chosen.
    pub fn capacity(&self) -> usize {
        match self {
            Self::OneWay { bytes, .. } => port_streams::capacity(*bytes),
            _ => TRIP_CAPACITY,
        }
    }
}

/// Every row, in the order of the report.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for (bytes, is_quick) in [(64, true), (1 << 10, false)] {
        rows.push(Row::new(
            format!("trip-{}", short(bytes)),
            format!("round trip of {}, both sides spinning", long(bytes)),
            Work::Trip { bytes, is_asleep: false },
            "two-lines",
            is_quick,
        ));
    }
    for (bytes, what, is_quick) in
        [(64, "eight fields", true), (1 << 10, "strings and vectors, 1 KiB in all", true)]
    {
        rows.push(Row::new(
            format!("trip-{}-typed", short(bytes)),
            format!("typed round trip of {what}: sent back as they came, both sides spinning"),
            Work::Typed { bytes },
            "two-lines",
            is_quick,
        ));
    }
    rows.push(Row::new(
        "asleep-64".into(),
        "round trip of 64 B, both sides asleep between messages".into(),
        Work::Trip { bytes: 64, is_asleep: true },
        "futex",
        true,
    ));
    for bytes in ONE_WAY {
        for is_burst in [false, true] {
            let how = if is_burst { format!("in bursts of {BURST}") } else { "one by one".into() };
            let suffix = if is_burst { "-burst" } else { "" };
            rows.push(Row::new(
                format!("way-{}{suffix}", short(bytes)),
                format!("messages of {} one way, {how}", long(bytes)),
                Work::OneWay { bytes, is_burst },
                "slots",
                bytes == 64 || (bytes == 64 << 10 && !is_burst),
            ));
        }
    }
    for bytes in [1 << 20, 16 << 20, 256 << 20] {
        for is_read in [false, true] {
            let (suffix, how) =
                if is_read { ("-read", "read in full") } else { ("", "nothing read") };
            rows.push(Row::new(
                format!("handoff-{}{suffix}", short(bytes)),
                format!("hand-off of {} to its acknowledgement, {how}", long(bytes)),
                Work::Handoff { bytes, is_read },
                "mapped",
                bytes == 1 << 20,
            ));
        }
    }
    for (slept, name) in [(50, "50us"), (2_000, "2ms")] {
        let slept = Duration::from_micros(slept);
        rows.push(Row::new(
            format!("wake-{name}"),
            format!("from sending to having received, by a receiver that slept {slept:?}"),
            Work::Wake { slept },
            "futex",
            slept < Duration::from_millis(1),
        ));
    }
    rows.extend([
        Row::new("create".into(), "making both ends".into(), Work::Create, "bare-calls", true),
        Row::new(
            "memory".into(),
            "memory of an idle channel, both ends in one process, shared and private".into(),
            Work::Memory,
            "",
            true,
        ),
        Row::new(
            "descriptors".into(),
            "descriptors of an idle channel, both ends in one process".into(),
            Work::Descriptors,
            "",
            true,
        ),
        Row::new(
            "transfer".into(),
            "an end of a channel posted through another one and received, in one thread".into(),
            Work::Transfer,
            "bare-calls",
            true,
        ),
    ]);
    rows
}

/// A size as a part of an id.
pub fn short(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 => format!("{}M", bytes >> 20),
        _ if bytes >= 1 << 10 => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// A size with its unit.
pub fn long(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// Sizes of the throughput rows.
pub const ONE_WAY: [usize; 7] = [8, 64, 1 << 10, 4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Messages of a burst.
pub const BURST: u64 = port_streams::BURST;
/// Payload where a row is not about it.
const SMALL: usize = 64;
/// As long as the first segment of a channel of messageport.
const TRIP_CAPACITY: usize = 64 << 10;
