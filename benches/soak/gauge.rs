//! What was done in a slice, how long it took, and what processes hold.

use std::fs;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::words::MOST_NANOS;

/// Counts of one slice.
pub struct Gauge {
    pub actions: u64,
    pub messages: u64,
    pub bytes: u64,
    pub moves: u64,
    pub calls: u64,
    pub kills: u64,
    /// Most processes at the same time.
    pub processes: usize,
    /// Round trips of the driver with any partner, in nanoseconds.
    pub echoes: Histogram<u64>,
    /// Of all partners, the longest: from the post of a message until it was received, as median,
    /// and in 99 and in 99.9 of 100.
    pub one_way: [u64; 3],
    /// Of all partners, the most.
    pub most_kib: u64,
    pub most_descriptors: usize,
    start: Instant,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub descriptors: usize,
    /// Mappings of regions, buffers and pools.
    pub mappings: usize,
    pub kib: u64,
}

/// What the driver holds, and the partner that lives as long as the driver.
#[derive(Clone, Copy, Debug)]
pub struct Held(pub [Share; 2]);

impl Gauge {
    pub fn new() -> Gauge {
        Gauge {
            actions: 0,
            messages: 0,
            bytes: 0,
            moves: 0,
            calls: 0,
            kills: 0,
            processes: 0,
            echoes: Histogram::new_with_max(MOST_NANOS, 3).expect("three digits"),
            one_way: [0; 3],
            most_kib: 0,
            most_descriptors: 0,
            start: Instant::now(),
        }
    }

    pub fn print(&self, slice: u32, held: &Held) {
        let [ours, eldest] = held.0;
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = |count: u64| (count as f64 / seconds) as u64;
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let echo = |quantile| micros(self.echoes.value_at_quantile(quantile));
        let [median, most, outlier] = self.one_way.map(micros);
        println!(
            "{slice:5} {:5} {:9} {:8} {:6.1} {:7} {:6} {:5} | {:7.1} {:7.1} {:8.1} | {median:7.1} \
             {most:8.1} {outlier:9.1} | {:6} {:6} {:6} | {:4} {:4} {:4} | {:3} {:3}",
            self.processes,
            rate(self.actions),
            rate(self.messages),
            self.bytes as f64 / seconds / f64::from(1 << 20),
            rate(self.moves),
            rate(self.calls),
            self.kills,
            echo(0.5),
            echo(0.99),
            echo(0.999),
            ours.kib,
            eldest.kib,
            self.most_kib,
            ours.descriptors,
            eldest.descriptors,
            self.most_descriptors,
            ours.mappings,
            eldest.mappings,
        );
    }
}

pub fn print_heading() {
    println!("Rates a second; µs; ours is the driver, eldest the partner that is never killed.");
    println!(
        "slice procs actions/s messages  MiB/s   moves  calls kills | echo: 50 %    99 %   99.9 % \
         | one way     99 %    99.9 % | KiB: ours eldest most | fds: ours eldest most | mappings"
    );
}

impl Share {
    /// What `process` holds; `None` if it has ended.
    pub fn of(process: u32) -> Option<Share> {
        let folder = format!("/proc/{process}");
        let maps = fs::read_to_string(format!("{folder}/maps")).ok()?;
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Share {
            descriptors: fs::read_dir(format!("{folder}/fd")).ok()?.count(),
            mappings: maps.lines().filter(|line| line.contains("memfd:messageport")).count(),
            kib: kib("RssAnon:")? + kib("RssShmem:")?,
        })
    }
}

impl Held {
    /// Whether neither process has more mappings, or more descriptors but for `slack`.
    pub fn is_at_most(&self, other: &Held, slack: usize) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| {
            one.descriptors <= other.descriptors + slack && one.mappings <= other.mappings
        })
    }

    pub fn expect_no_growth(&self, earlier: &Held) {
        for ((now, earlier), name) in self.0.iter().zip(&earlier.0).zip(["driver", "eldest"]) {
            let grown = now.kib.saturating_sub(earlier.kib);
            assert!(grown <= MOST_KIB, "memory of the {name} has grown by {grown} KiB");
        }
    }
}

/// Growth that is the allocator's, or pages of a lane that is in use, and not a leak.
const MOST_KIB: u64 = 8 << 10;
