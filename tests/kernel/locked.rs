//! A peer that holds the region's lock for as long as it likes.
//!
//! A `pwrite` takes the inode's lock and then reads what it is to write. When that page is one
//! whose faults no process answers (userfaultfd), the lock stays taken. A thread that calls
//! `fallocate`, `MADV_REMOVE` or the like on the same memory then sleeps, and not even SIGKILL
//! ends it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::pwrite;
use nix::unistd::gettid;

use crate::common::{DEADLINE, proc};

/// After this long a wait here is given up, in time to say which one it was.
pub const PATIENCE: Duration = Duration::from_secs(DEADLINE.as_secs() / 3);

/// A whole number of pages on every machine.
pub const PAGES: usize = 64 << 10;

/// The lock of one region, held until this is dropped or released.
pub struct Lock {
    faults: File,
    writer: JoinHandle<()>,
    control: JoinHandle<()>,
}

impl Lock {
    /// Takes the lock, and returns when it is certain that it holds: another thread that made a
    /// call of the forbidden kind is stuck.
    pub fn take(region: File, faults: File) -> Lock {
        let page = MmapMut::map_anon(PAGES).expect("fresh pages");
        register(&faults, &page).expect("pages of our own can be watched");
        let last = region.metadata().expect("a region has a size").len() - 1;
        let same_region = region.try_clone().expect("a second descriptor");
        let writer = thread::spawn(move || {
            // Once released it writes its zero over the last byte of the last segment.
            pwrite(&region, &page[..1], last as i64).expect("a released write succeeds");
        });
        wait_for_fault(&faults);
        let (send, receive) = mpsc::channel();
        let control = thread::spawn(move || {
            send.send(gettid()).expect("the other thread listens");
            fallocate(&same_region, FallocateFlags::empty(), last as i64, 1)
                .expect("a released fallocate succeeds");
        });
        let control_id = receive.recv().expect("the other thread tells its id");
        wait_for_sleep(&proc(format_args!("self/task/{control_id}/stat")));
        Lock { faults, writer, control }
    }

    /// Whether both threads are still where they were.
    pub fn is_held(&self) -> bool {
        !self.writer.is_finished() && !self.control.is_finished()
    }

    pub fn release(self) {
        // A fault that no process watches any more is answered by the kernel: a page of zeroes.
        drop(self.faults);
        self.writer.join().expect("the writer ends");
        self.control.join().expect("the control ends");
    }
}

/// A descriptor of the region that this process, or the one with the given id, holds.
pub fn region_of(process: u32) -> File {
    for holder in ["self".to_owned(), process.to_string()] {
        let directory = proc(format_args!("{holder}/fd"));
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.to_string_lossy().contains("memfd:messageport") {
                let region = OpenOptions::new().read(true).write(true).open(entry.path());
                return region.expect("a region opens again through its link");
            }
        }
    }
    panic!("no memfd:messageport in this process or in {process}");
}

/// A userfaultfd that also watches faults of the kernel's own, or why there is none.
pub fn user_faults() -> io::Result<File> {
    #[repr(C)]
    #[derive(Default)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }
    const UFFDIO_API: u64 = 0xc018_aa3f;

    // SAFETY: this call takes a number only.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and no other code has it.
    let faults = File::from(unsafe { OwnedFd::from_raw_fd(raw as i32) });
    let mut api = Api { api: 0xaa, ..Api::default() };
    ioctl(&faults, UFFDIO_API, &mut api)?;
    Ok(faults)
}

/// Asks for the first fault on each of these pages.
pub fn register(faults: &File, pages: &MmapMut) -> io::Result<()> {
    #[repr(C)]
    struct Register {
        start: u64,
        len: u64,
        mode: u64,
        ioctls: u64,
    }
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    const MODE_MISSING: u64 = 1;

    let start = pages.as_ptr().addr() as u64;
    let mut register = Register { start, len: PAGES as u64, mode: MODE_MISSING, ioctls: 0 };
    ioctl(faults, UFFDIO_REGISTER, &mut register)
}

/// `request` must be one that reads and writes a `T`: its number holds the size of it.
fn ioctl<T>(file: &File, request: u64, argument: &mut T) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    assert_eq!(request >> 16 & 0x3fff, size_of::<T>() as u64, "the request is for another type");
    // SAFETY: `argument` is valid for reads and writes of the size that the request names.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, argument as *mut T) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn wait_for_fault(faults: &File) {
    const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
    let timeout = PollTimeout::try_from(PATIENCE).expect("the deadline fits");
    let mut descriptors = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut descriptors, timeout).expect("poll takes a descriptor");
    assert_eq!(ready, 1, "the write did not read its page");
    let mut message = [0; 32];
    let mut reader = faults;
    reader.read_exact(&mut message).expect("a message is there");
    assert_eq!(message[0], UFFD_EVENT_PAGEFAULT);
}

/// Waits until a thread of ours sleeps in a way that no signal ends.
fn wait_for_sleep(stat: &Path) {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(stat).expect("a thread has a state");
        // The name before it stands in parentheses and may hold anything.
        let state = text.rsplit_once(") ").map_or("", |(_, state)| state);
        if state.starts_with('D') {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "a forbidden call did not block: {text}");
        thread::yield_now();
    }
}
