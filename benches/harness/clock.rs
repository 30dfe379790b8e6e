//! The clock that times single round trips.
//!
//! A spinning round trip takes about 100 ns and reading the system's clock a quarter of that, so
//! the processor's time stamp counter is read instead where the kernel says that it is steady.

use std::time::Instant;

/// A source of ticks.
pub enum Clock {
    /// The processor's counter, with the length of its tick measured at the start.
    Counter { ns_per_tick: f64 },
    /// The system's monotonic clock; a tick is a nanosecond.
    Monotonic { origin: Instant },
}

impl Clock {
    /// Takes the cheapest steady clock of this machine.
    pub fn new() -> Self {
        if counter_is_steady() {
            Self::Counter { ns_per_tick: calibrate() }
        } else {
            Self::Monotonic { origin: Instant::now() }
        }
    }

    /// Reads the clock, after everything that the program does before.
    #[inline]
    pub fn now(&self) -> u64 {
        match self {
            Self::Counter { .. } => counter(),
            Self::Monotonic { origin } => {
                u64::try_from(origin.elapsed().as_nanos()).expect("less than 500 years")
            }
        }
    }

    /// Converts a difference of ticks.
    pub fn ns(&self, ticks: u64) -> f64 {
        match self {
            Self::Counter { ns_per_tick } => ticks as f64 * ns_per_tick,
            Self::Monotonic { .. } => ticks as f64,
        }
    }

    /// Cost of one reading in nanoseconds: every sample contains about one.
    pub fn cost_ns(&self) -> f64 {
        let readings = 10_000;
        let start = self.now();
        for _ in 1..readings {
            std::hint::black_box(self.now());
        }
        self.ns(self.now() - start) / f64::from(readings)
    }
}

/// Measures the tick against the system's clock, long enough that one late reading is a
/// ten-thousandth of it.
fn calibrate() -> f64 {
    let (start, ticks) = (Instant::now(), counter());
    while start.elapsed().as_millis() < CALIBRATION_MS {}
    let (elapsed, ticks) = (start.elapsed(), counter() - ticks);
    elapsed.as_nanos() as f64 / ticks as f64
}

#[cfg(target_arch = "x86_64")]
fn counter_is_steady() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo.contains(" constant_tsc") && cpuinfo.contains(" nonstop_tsc")
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_steady() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    // The fence keeps the reading from passing the load that ended a spin.
    // SAFETY: every x86_64 processor has SSE2, which this instruction belongs to.
    unsafe { std::arch::x86_64::_mm_lfence() };
    // SAFETY: Linux leaves the counter readable for user programs.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn counter() -> u64 {
    unreachable!("`counter_is_steady` said that there is none")
}

const CALIBRATION_MS: u128 = 20;
