//! A kernel that ends this process at one certain call: a seccomp filter.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, c_ulong};
use libc::{sock_filter, sock_fprog};
use std::io;

/// From here on the kernel kills this process, by SIGSYS, when this thread makes the call.
pub fn kill_at(number: c_long) -> io::Result<()> {
    let step = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    let mut program = [
        // The number is the first word of `struct seccomp_data`.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, number as u32),
        step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
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
