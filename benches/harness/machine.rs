//! The machine: its name, its cores, pinning, and how often the kernel took a core away.

use std::fmt;
use std::fs;

use nix::sys::resource::{UsageWho, getrusage};

/// What stands above every table.
pub struct Machine {
    cpu: String,
    kernel: String,
    /// Cores this process may use.
    cores: Vec<usize>,
    /// The two cores that the two sides are pinned to, ours first.
    pub pair: Option<(usize, usize)>,
}

impl Machine {
    /// Asks the kernel. Call it before anything is pinned.
    pub fn detect() -> Self {
        let cores = allowed_cores();
        let pair = chosen_pair().or_else(|| first_pair(&cores));
        Self { cpu: cpu_model(), kernel: kernel_release(), cores, pair }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Linux {}, {} cores", self.cpu, self.kernel, self.cores.len())?;
        match self.pair {
            Some((ours, peers)) => write!(f, ", processes on cores {ours} and {peers}"),
            None => write!(f, ", one core for everything"),
        }
    }
}

/// Round trips that tell how far two cores are from each other, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Of one cache line.
    pub line: f64,
    /// Of a record of two lines and the tail behind it. It tells hyper-threads of one core, which
    /// share its first cache, from cores that share the last one; a single line does not.
    pub record: f64,
}

/// How far two cores are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// They are threads of one core: a record goes back and forth in 50 to 100 ns.
    Core,
    /// They share the last cache: about 200 ns.
    Near,
    /// They do not: from 800 ns on.
    Far,
    /// The host moved a virtual core between the two probes around a measurement.
    Moved,
    /// There are no two cores.
    Unknown,
}

impl Distance {
    /// Classifies a measurement by what was probed before and after it.
    pub fn of(before: Option<Probe>, after: Option<Probe>) -> Self {
        let (Some(before), Some(after)) = (before, after) else { return Self::Unknown };
        let (before, after) = (Self::at(before.record), Self::at(after.record));
        if before == after { before } else { Self::Moved }
    }

    fn at(record_ns: f64) -> Self {
        match record_ns {
            _ if record_ns < CORE_BELOW_NS => Self::Core,
            _ if record_ns < NEAR_BELOW_NS => Self::Near,
            _ => Self::Far,
        }
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Core => "one-core",
            Self::Near => "near",
            Self::Far => "far",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
        })
    }
}

/// Context switches since the start of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Switches {
    /// The process went to sleep.
    pub voluntary: u64,
    /// The kernel gave its core to another process: the figure is disturbed.
    pub involuntary: u64,
}

impl Switches {
    /// Reads the counters of this process and, if there is one, of its peer, added up.
    pub fn of_both(peer: Option<u32>) -> Self {
        let ours = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of this process");
        let peers = peer.map(Self::of_process).unwrap_or_default();
        Self {
            voluntary: ours.voluntary_context_switches() as u64 + peers.voluntary,
            involuntary: ours.involuntary_context_switches() as u64 + peers.involuntary,
        }
    }

    pub fn since(self, earlier: Self) -> Self {
        Self {
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }

    /// `getrusage` only knows children that have ended, so a living one is read from `/proc`.
    fn of_process(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
        };
        Self {
            voluntary: field("voluntary_ctxt_switches:"),
            involuntary: field("nonvoluntary_ctxt_switches:"),
        }
    }
}

/// Pins the calling thread, and with it the processes it starts, to one core.
pub fn pin(core: usize) {
    assert!(core < CORES_IN_SET, "core {core} is past the {CORES_IN_SET} of a fixed-size set");
    // SAFETY: an all-zero bit set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is inside the set, as asserted above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads `size_of` bytes of a set that lives on this stack.
    let answer = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    assert_eq!(answer, 0, "pinning to core {core}: {}", std::io::Error::last_os_error());
}

fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero bit set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size_of` bytes into a set that lives on this stack.
    let answer = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if answer != 0 {
        return vec![0];
    }
    (0..CORES_IN_SET)
        .filter(|&core| {
            // SAFETY: `core` is inside the set.
            unsafe { libc::CPU_ISSET(core, &set) }
        })
        .collect()
}

/// Two cores that the user named, as `2,6`.
fn chosen_pair() -> Option<(usize, usize)> {
    let text = std::env::var(PAIR).ok()?;
    let (ours, peers) = text.split_once(',').expect("two core numbers with a comma between");
    let number = |text: &str| text.trim().parse().expect("a core number");
    Some((number(ours), number(peers)))
}

/// The first core and the next one that is not its hyper-thread, if there is such a one.
fn first_pair(cores: &[usize]) -> Option<(usize, usize)> {
    let (&first, others) = cores.split_first()?;
    let siblings = siblings(first);
    let other = others.iter().find(|core| !siblings.contains(core)).or_else(|| others.first())?;
    Some((first, *other))
}

/// Reads a list such as `0,4` or `0-1` of the threads that share the core of `core`.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
        })
        .flatten()
        .collect()
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
    model.unwrap_or(std::env::consts::ARCH).to_owned()
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

const CORES_IN_SET: usize = libc::CPU_SETSIZE as usize;
/// Between the three clusters that were seen: 50 to 100 ns, 150 to 250 ns, and from 800 ns on.
const CORE_BELOW_NS: f64 = 125.0;
const NEAR_BELOW_NS: f64 = 450.0;
/// Environment variable that names the two cores to use.
const PAIR: &str = "MESSAGEPORT_BENCH_CORES";
