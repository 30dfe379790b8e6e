//! A process that is led through an operation by ptrace(2): from system call to system call, or
//! from instruction to instruction. Its thread stands still at each of them.
#![allow(unsafe_code)]

use crate::common::proc;
use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::mem::offset_of;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// First argument of the call that marks the begin and the end of an operation.
const MARK: u64 = 0x6d70_7374_6570_7321;
const BEGIN: u64 = 1;
const END: u64 = 2;

/// The bytes of the instruction.
const SYSCALL: i64 = 0x050f;

/// How a process exits that may not be traced.
pub const NOT_TRACED: i32 = 77;

/// Has the processes that this one starts find everything at the same addresses each time.
pub fn fix_addresses() {
    // SAFETY: it takes a number, and changes how this process starts others.
    let old = unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    assert!(old >= 0, "a process chooses its personality");
}

/// Asks the parent, which started this process, to trace it, and stands still until it does.
pub fn ask_to_be_traced() -> nix::Result<()> {
    ptrace::traceme()?;
    raise(Signal::SIGSTOP)
}

/// Runs `act` as the operation that the parent leads this process through.
pub fn operation<T>(act: impl FnOnce() -> T) -> T {
    // A walk by instructions meets the end at the first one of this function.
    mark(BEGIN, end_of_operation as fn() as usize as u64);
    let done = act();
    end_of_operation();
    done
}

#[inline(never)]
fn end_of_operation() {
    mark(END, 0);
}

#[inline(never)]
fn mark(which: u64, place: u64) {
    // SAFETY: getpid takes no arguments; what stands in the registers is for the tracer.
    unsafe { libc::syscall(libc::SYS_getpid, MARK, which, place) };
}

/// Where a traced process stands.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Before a system call, or behind it.
    Call(user_regs_struct),
    /// Behind an instruction.
    Step,
    /// At the end of its operation.
    End,
    /// It has ended.
    Gone(WaitStatus),
}

/// How a traced process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// To the next begin or end of a system call.
    Calls,
    /// By one instruction.
    Steps,
}

pub struct Tracee {
    process: Pid,
    /// Its thread that is traced: the one in which the harness runs the role.
    thread: Pid,
    /// First instruction of `end_of_operation` in the process.
    end: u64,
    /// Where its next instruction is, if it went by instructions.
    next: u64,
    /// A signal that it gets as it goes on.
    signal: Option<Signal>,
    is_gone: bool,
}

impl Tracee {
    /// Takes up a child that asks for it, and leads it to the begin of its operation. `None` if it
    /// may not be traced, and has ended therefore.
    pub fn adopt(id: u32) -> Option<Tracee> {
        let process = Pid::from_raw(id as i32);
        let thread = match wait(None, &mut || {}) {
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => thread,
            WaitStatus::Exited(_, NOT_TRACED) => return None,
            other => panic!("the process did not ask to be traced: {other:?}"),
        };
        let mut tracee = Tracee { process, thread, end: 0, next: 0, signal: None, is_gone: false };
        // It does not outlive its tracer.
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(thread, options).expect("the process is traced");
        loop {
            let Place::Call(registers) = tracee.go(Pace::Calls, &mut || {}) else {
                panic!("the process ended before its operation began");
            };
            if is_mark(&registers, BEGIN) {
                tracee.end = registers.rdx;
                // Behind the mark, which is no part of the operation.
                assert!(matches!(tracee.go(Pace::Calls, &mut || {}), Place::Call(_)));
                return Some(tracee);
            }
        }
    }

    /// Goes on to the next place. Calls `idle` once and again while the process sleeps in the
    /// kernel.
    pub fn go(&mut self, pace: Pace, idle: &mut dyn FnMut()) -> Place {
        loop {
            let signal = self.signal.take();
            // Any other instruction ends by itself.
            let may_sleep = pace == Pace::Calls || self.is_at_a_call();
            let gone_on = match pace {
                Pace::Calls => ptrace::syscall(self.thread, signal),
                Pace::Steps => ptrace::step(self.thread, signal),
            };
            gone_on.expect("the process stands still");
            let status = match may_sleep {
                true => wait(Some(self.thread), idle),
                false => waitpid(self.thread, Some(WaitPidFlag::__WALL)).expect("it is ours"),
            };
            match status {
                WaitStatus::PtraceSyscall(_) => {
                    let registers = self.registers();
                    let is_end = is_mark(&registers, END);
                    return if is_end { Place::End } else { Place::Call(registers) };
                }
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                    self.next = self.instruction();
                    let is_end = pace == Pace::Steps && self.next == self.end;
                    return if is_end { Place::End } else { Place::Step };
                }
                WaitStatus::Stopped(_, other) => self.signal = Some(other),
                status => {
                    self.is_gone = true;
                    return Place::Gone(status);
                }
            }
        }
    }

    /// Goes on until it has come to this instruction so many times, where it stands now included.
    /// Returns `false` if its operation ends before.
    pub fn run_to(&mut self, place: u64, mut times: u32, idle: &mut dyn FnMut()) -> bool {
        loop {
            if self.instruction() == place {
                times -= 1;
                if times == 0 {
                    return true;
                }
                if !matches!(self.go(Pace::Steps, idle), Place::Step) {
                    return false;
                }
                continue;
            }
            self.set_breakpoint(Some(place));
            let met = loop {
                match self.go(Pace::Calls, idle) {
                    Place::Call(_) => {}
                    other => break other,
                }
            };
            if let Place::Gone(_) = met {
                return false;
            }
            self.set_breakpoint(None);
            if let Place::End = met {
                return false;
            }
        }
    }

    /// Has this thread stop before an instruction, by a register of the processor: a breakpoint in
    /// the code would stop other threads of the process as well.
    fn set_breakpoint(&self, place: Option<u64>) {
        let write = |register: usize, value: u64| {
            let at = offset_of!(libc::user, u_debugreg) + 8 * register;
            ptrace::write_user(self.thread, at as ptrace::AddressType, value as libc::c_long)
                .expect("the process stands still");
        };
        if let Some(place) = place {
            write(0, place);
        }
        // The lowest bit turns the first one on.
        write(7, u64::from(place.is_some()));
    }

    /// Where the next instruction is.
    pub fn instruction(&self) -> u64 {
        let place = offset_of!(libc::user, regs) + offset_of!(user_regs_struct, rip);
        let word = ptrace::read_user(self.thread, place as ptrace::AddressType);
        word.expect("the process stands still") as u64
    }

    /// Whether the next instruction is a system call.
    fn is_at_a_call(&self) -> bool {
        let bytes = ptrace::read(self.thread, self.next as ptrace::AddressType);
        self.next == 0 || bytes.is_ok_and(|bytes| bytes & 0xffff == SYSCALL)
    }

    /// Binds this thread and the traced one to one processor, where one instruction takes much less
    /// time than across two; or undoes that.
    pub fn bind(&self, yes: bool) {
        let mut all = sched_getaffinity(self.process).expect("it lives");
        if yes {
            let (mut one, cpu) = (CpuSet::new(), sched_getcpu().expect("this thread runs"));
            one.set(cpu).expect("one of this machine");
            all = one;
        }
        for thread in [Pid::from_raw(0), self.thread] {
            sched_setaffinity(thread, &all).expect("a thread that lives");
        }
    }

    fn registers(&self) -> user_regs_struct {
        ptrace::getregs(self.thread).expect("the process stands still")
    }

    /// Before a system call: has the kernel do nothing instead.
    pub fn skip_call(&self) {
        let mut registers = self.registers();
        // The kernel takes a number that no call has for one that was refused.
        registers.orig_rax = u64::MAX;
        ptrace::setregs(self.thread, registers).expect("the process stands still");
    }

    /// Behind a system call: what it returned was this error.
    pub fn answer(&self, errno: Errno) {
        let mut registers = self.registers();
        registers.rax = -i64::from(errno as i32) as u64;
        ptrace::setregs(self.thread, registers).expect("the process stands still");
    }

    /// Before a system call: for how long it sleeps at most, if it does.
    pub fn sleep_before(&self, registers: &user_regs_struct) -> Option<Duration> {
        if registers.orig_rax != libc::SYS_ppoll as u64 || registers.rdx == 0 {
            return None;
        }
        let word = |at| ptrace::read(self.thread, at as ptrace::AddressType).unwrap_or(0) as u64;
        let time = Duration::new(word(registers.rdx), word(registers.rdx + 8) as u32);
        (!time.is_zero()).then_some(time)
    }

    /// Kills it where it stands.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.is_gone = true;
        kill(self.process, Signal::SIGKILL).expect("the process is not reaped yet");
        for id in [self.thread, self.process] {
            let status = wait(Some(id), &mut || {});
            assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
        }
    }

    /// Lets it run to its own end, and fails if it fails.
    pub fn finish(mut self, idle: &mut dyn FnMut()) {
        ptrace::detach(self.thread, self.signal.take()).expect("the process stands still");
        self.is_gone = true;
        let status = wait(Some(self.process), idle);
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "the subject has failed: {status:?}");
    }
}

impl Drop for Tracee {
    /// A test that has failed leaves no process behind.
    fn drop(&mut self) {
        if !self.is_gone {
            let _ = kill(self.process, Signal::SIGKILL);
        }
    }
}

/// Waits for a child, or a thread of one, and calls `idle` while it sleeps in the kernel.
fn wait(child: Option<Pid>, idle: &mut dyn FnMut()) -> WaitStatus {
    let start = Instant::now();
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(status) => return status,
            Err(errno) => panic!("the process cannot be waited for: {errno}"),
        }
        // A single step takes a few microseconds.
        if start.elapsed() < Duration::from_micros(50) {
            std::hint::spin_loop();
            continue;
        }
        if child.is_none_or(sleeps) {
            idle();
        }
        thread::yield_now();
    }
}

/// Whether a thread sleeps in the kernel.
fn sleeps(thread: Pid) -> bool {
    let stat = fs::read_to_string(proc(format_args!("{thread}/stat"))).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
}

fn is_mark(registers: &user_regs_struct, which: u64) -> bool {
    let is_call = registers.orig_rax == libc::SYS_getpid as u64;
    is_call && registers.rdi == MARK && registers.rsi == which
}
