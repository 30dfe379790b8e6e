//! Makes the kernel answer a call as an older or a poorer one would, or end this process at it: a
//! seccomp filter. Each test uses a part of it.
#![allow(dead_code)]

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::common::role::skip;
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{c_int, c_long, c_ulong, sock_filter, sock_fprog};

/// Which calls of a kind are meant, by the low half of one argument.
#[derive(Clone, Copy)]
pub enum When {
    Always,
    /// The argument with this index is that value.
    Equals(u32, u32),
    /// The argument with this index has one of these bits.
    HasBits(u32, u32),
}

/// From here on, in this thread and in those that it starts, the kernel answers `number` with
/// `errno`. Nothing takes it back.
///
/// The processor's mode is not asked for, as filters for defence must: a test makes no calls of
/// another architecture.
pub fn answer(number: c_long, when: When, errno: c_int) -> io::Result<()> {
    act(number, when, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Runs `act` in a thread whose wake-ups are refused: rings of a doorbell, wakes of a word that
/// processes share, rings of a bell. The thread then keeps what `act` returned and does nothing
/// more until the returned handle is dropped. `None` where there is no filter.
pub fn refused<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<Sender<()>> {
    let (done, is_done) = channel();
    let (keep, end): (Sender<()>, Receiver<()>) = channel();
    thread::spawn(move || {
        let installed = refuse_wakes();
        let kept = installed.is_ok().then(act);
        done.send(installed).expect("the test waits for it");
        let _ = end.recv();
        drop(kept);
    });
    match is_done.recv().expect("the thread lives") {
        Ok(()) => Some(keep),
        Err(error) => {
            skip(&format!("no seccomp filter here: {error}"));
            None
        }
    }
}

fn refuse_wakes() -> io::Result<()> {
    answer(libc::SYS_sendto, When::Always, libc::ENOBUFS)?;
    // The standard library's own words are private to the process, which is another operation.
    answer(libc::SYS_futex, When::Equals(1, libc::FUTEX_WAKE as u32), libc::ENOMEM)?;
    // A bell is told by the eight bytes of its number.
    answer(libc::SYS_write, When::Equals(2, 8), libc::EAGAIN)
}

/// From here on the kernel kills this process, by SIGSYS, when this thread makes the call.
pub fn kill_at(number: c_long) -> io::Result<()> {
    act(number, When::Always, libc::SECCOMP_RET_KILL_PROCESS)
}

/// From here on the kernel kills this process, by SIGSYS, when this thread, or one that it starts,
/// makes any other call. The filter stays in programs that they run.
pub fn kill_at_all_but(numbers: impl Iterator<Item = c_long>) -> io::Result<()> {
    let mut program = vec![load(0)];
    for number in numbers {
        // Past the next step if it is another one.
        program.push(sock_filter { jf: 1, ..unless(BPF_JEQ, number as u32) });
        program.push(give(libc::SECCOMP_RET_ALLOW));
    }
    program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    install(&mut program)
}

fn act(number: c_long, when: When, action: u32) -> io::Result<()> {
    // Offsets in `struct seccomp_data`: the number, and the low half of each argument.
    let mut program = vec![load(0), unless(BPF_JEQ, number as u32)];
    match when {
        When::Always => {}
        When::Equals(index, value) => {
            program.extend([load(16 + 8 * index), unless(BPF_JEQ, value)]);
        }
        When::HasBits(index, bits) => {
            program.extend([load(16 + 8 * index), unless(BPF_JSET, bits)]);
        }
    }
    program.push(give(action));
    program.push(give(libc::SECCOMP_RET_ALLOW));
    let last = program.len() - 1;
    for (at, step) in program.iter_mut().enumerate() {
        if step.code as u32 & 7 == BPF_JMP {
            step.jf = (last - at - 1) as u8;
        }
    }
    install(&mut program)
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Goes on if the test holds, else to the last step; how far that is, is filled in later.
fn unless(test: u32, value: u32) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt: 0, jf: 0, k: value }
}

fn give(answer: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: answer }
}

fn install(program: &mut [sock_filter]) -> io::Result<()> {
    let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // Without this only root may install a filter.
    // SAFETY: this call takes numbers only.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, 0, 0, 0) };
    if promised != 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `filter` points to `program`, which outlives the call; the kernel copies it.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
