//! What a child applies to itself between fork and exec: its cgroup, its limits, its parent-death
//! signal, its filter. And the same filter for this process.
//!
//! Everything that allocates or opens is done before the fork: between fork and exec only
//! async-signal-safe calls are made (signal-safety(7)).
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::{named, uninterrupted};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// One instruction of a filter, as seccomp(2) takes it.
pub(crate) type Instruction = libc::sock_filter;

/// What a child applies to itself. Nothing by default.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// Whether the child is killed when the thread ends that starts it.
    pub ends_with_parent: bool,
    /// `RLIMIT_*` and the value of both the soft and the hard limit.
    pub limits: Vec<(Resource, u64)>,
    /// An open `cgroup.procs`.
    pub cgroup: Option<File>,
    pub filter: Vec<Instruction>,
}

/// The number of a resource, as setrlimit(2) takes it.
pub(crate) type Resource = libc::__rlimit_resource_t;

/// Which call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    PidfdOpen,
    Cgroup,
    Limit,
    ParentDeath,
    Filter,
}

impl Step {
    const ALL: [Step; 5] =
        [Step::PidfdOpen, Step::Cgroup, Step::Limit, Step::ParentDeath, Step::Filter];

    pub(super) fn of_byte(byte: u8) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u8 == byte)
    }

    pub(super) fn call(self) -> &'static str {
        match self {
            Step::PidfdOpen => "pidfd_open",
            Step::Cgroup => WRITE_CGROUP,
            Step::Limit => "setrlimit",
            Step::ParentDeath => "prctl(PR_SET_PDEATHSIG)",
            Step::Filter => "seccomp",
        }
    }
}

/// The call by which a child joins a cgroup.
pub(crate) const WRITE_CGROUP: &str = "write";

impl Confinement {
    /// In the forked child. `parent` is the process id of the process that forked it.
    pub(super) fn apply(&mut self, parent: u32) -> Result<(), (Step, Errno)> {
        if let Some(cgroup) = &self.cgroup {
            join(cgroup.as_raw_fd()).map_err(|errno| (Step::Cgroup, errno))?;
        }
        for (resource, value) in &self.limits {
            let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
            // SAFETY: the struct is valid for the call.
            let answer = unsafe { libc::setrlimit(*resource, &raw const limit) };
            Errno::result(answer).map_err(|errno| (Step::Limit, errno))?;
        }
        if self.ends_with_parent {
            end_with(parent).map_err(|errno| (Step::ParentDeath, errno))?;
        }
        if !self.filter.is_empty() {
            fill_in_own_id(&mut self.filter);
            install(&self.filter, 0).map_err(|errno| (Step::Filter, errno))?;
        }
        Ok(())
    }
}

/// Moves this process into the cgroup.
fn join(procs: RawFd) -> Result<(), Errno> {
    // Zero stands for the process that writes.
    let text = b"0";
    // SAFETY: the buffer is valid for the call.
    Errno::result(unsafe { libc::write(procs, text.as_ptr().cast(), text.len()) }).map(drop)
}

/// Has the kernel kill this process when the thread ends that forked it.
fn end_with(parent: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // The parent may have ended before: then no signal comes. Zero says that it is in another
    // namespace of processes, where it cannot be asked for.
    // SAFETY: the call takes nothing.
    let now = unsafe { libc::getppid() };
    if now != 0 && now as u32 != parent {
        // SAFETY: the call ends this process, and nothing of it is used any more.
        unsafe { libc::_exit(1) }
    }
    Ok(())
}

/// Installs a filter for this thread, or with `SECCOMP_FILTER_FLAG_TSYNC` for all of this process.
fn install(filter: &[Instruction], flags: libc::c_ulong) -> Result<(), Errno> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // Without this only a privileged process may install a filter.
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` points to `filter`, which the kernel reads during the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    match Errno::result(answer)? {
        0 => Ok(()),
        // The id of a thread that has another filter.
        _ => Err(Errno::EBUSY),
    }
}

/// What a filter has in place of the id of its process, which is not known before the fork. No
/// process has this one: the kernel's ids end at 2²².
pub(crate) const OWN_ID: u32 = 0x7fff_1d00;

/// Puts the id of this process there. Async-signal-safe.
fn fill_in_own_id(filter: &mut [Instruction]) {
    let compares = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    for instruction in filter.iter_mut().filter(|it| it.code == compares && it.k == OWN_ID) {
        instruction.k = std::process::id();
    }
}

/// Installs a filter for all threads of this process. Nothing takes it back.
#[cfg(feature = "seccomp")]
pub(crate) fn filter_this_process(mut filter: Vec<Instruction>) -> Result<(), SystemError> {
    fill_in_own_id(&mut filter);
    install(&filter, libc::SECCOMP_FILTER_FLAG_TSYNC).map_err(named("seccomp"))
}

/// Opens the file by which a process joins a cgroup. `None` if it is in no cgroup of version 2.
pub(crate) fn open_cgroup(procs: &Path) -> Result<Option<File>, SystemError> {
    let opened = OpenOptions::new().write(true).open(procs);
    let file = opened.map_err(|source| SystemError { call: "open", source })?;
    let system = uninterrupted(|| fstatfs(&file)).map_err(named("fstatfs"))?;
    Ok((system.filesystem_type() == CGROUP2_SUPER_MAGIC).then_some(file))
}

#[cfg(test)]
pub(in crate::os) mod tests {
    use super::*;
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    use std::thread;

    /// Runs `act` in a thread in which the kernel answers a call with an error. `None` where a
    /// process cannot install a filter.
    pub(in crate::os) fn refusing<T: Send>(
        call: libc::c_long,
        errno: Errno,
        act: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        let step = |code, k, jf| Instruction { code: code as u16, jt: 0, jf, k };
        let filter = [
            step(BPF_LD | BPF_W | BPF_ABS, 0, 0),
            // Past the next step if it is another call.
            step(BPF_JMP | BPF_JEQ | BPF_K, call as u32, 1),
            step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
            step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let filtered = || install(&filter, 0).ok().map(|()| act());
        thread::scope(|scope| scope.spawn(filtered).join().expect("no panic"))
    }

    #[test]
    fn each_step_has_a_byte_and_names_its_call() {
        for step in Step::ALL {
            assert_eq!(Step::of_byte(step as u8), Some(step));
        }
        assert_eq!(Step::of_byte(Step::ALL.len() as u8), None);
        let calls = ["pidfd_open", "write", "setrlimit", "prctl(PR_SET_PDEATHSIG)", "seccomp"];
        assert_eq!(Step::ALL.map(Step::call), calls);
    }
}
