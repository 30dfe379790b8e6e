//! Limits of this process.
#![allow(unsafe_code)]

use super::proc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;

/// Sets the soft limit; the hard one stays.
pub fn limit_to(resource: Resource, value: u64) {
    let (_, hard) = getrlimit(resource).expect("limits can be read");
    setrlimit(resource, value.min(hard), hard).expect("a soft limit can be lowered");
}

/// Bytes of address space that this process has mapped, and of memory that it has.
pub fn sizes() -> [u64; 2] {
    let statm = fs::read_to_string(proc("self/statm")).expect("a process has sizes");
    let mut pages = statm.split(' ').map(|word| word.parse::<u64>().expect("a number"));
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page = page.ok().flatten().expect("pages have a size") as u64;
    [(); 2].map(|()| pages.next().expect("two sizes and more") * page)
}

/// Waits until the other threads of this process sleep, a second at most: one that is just being
/// started needs address space, and std aborts the process if there is none.
fn wait_for_starting_threads() {
    let own = nix::unistd::gettid().to_string();
    let is_asleep =
        |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"));
    let mut quiet = 0;
    for _ in 0..200 {
        let tasks = fs::read_dir(proc("self/task")).expect("a process has threads");
        let mut others = tasks.flatten().filter(|task| task.file_name() != *own);
        // One that has ended meanwhile is no trouble.
        let sleeps =
            others.all(|task| fs::read_to_string(task.path().join("stat")).map_or(true, is_asleep));
        quiet = if sleeps { quiet + 1 } else { 0 };
        if quiet == 3 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Lets this process map no more than `more` bytes more.
pub fn allow_more_address_space(more: u64) {
    wait_for_starting_threads();
    let [mapped, _] = sizes();
    limit_to(Resource::RLIMIT_AS, mapped + more);
}

/// Lets it map as much as it may ask for.
pub fn allow_all_address_space() {
    limit_to(Resource::RLIMIT_AS, u64::MAX);
}

/// Lets this process have no more than `more` descriptors more.
pub fn allow_more_descriptors(more: usize) {
    let is_free = |number: &i32| fcntl_of(*number).is_err();
    let last = (0..).filter(is_free).take(more).last();
    let limit = last.map_or(3, |number| number as u64 + 1);
    limit_to(Resource::RLIMIT_NOFILE, limit);
}

/// The flags of a descriptor by its number, if there is one.
fn fcntl_of(number: i32) -> nix::Result<i32> {
    // SAFETY: this call takes and gives numbers only, whatever the first one is.
    nix::errno::Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })
}

/// Lets it have as many as it may ask for.
pub fn allow_all_descriptors() {
    limit_to(Resource::RLIMIT_NOFILE, u64::MAX);
}

/// Whether this kernel lets a socket refuse descriptors: `SO_PASSRIGHTS`, from Linux 6.16 on.
pub fn sockets_can_refuse_descriptors() -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let (mut value, mut len) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    let (socket, level) = (std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SOL_SOCKET);
    // SAFETY: the kernel writes an integer and its length.
    let answer = unsafe {
        libc::getsockopt(socket, level, SO_PASSRIGHTS, (&raw mut value).cast(), &raw mut len)
    };
    answer == 0
}
