//! One buffer for many readers, and buffers of memory that was made elsewhere.

use crate::channel;
use crate::common::census::Census;
use crate::common::role::{command, play, skip};
use crate::common::{proc, receive};
use messageport::{Buffer, BufferError, Worker, parent_port};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

fn memfd(bytes: &[u8]) -> File {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(memfd_create("made elsewhere", flags).expect("a memfd"));
    file.write_all(bytes).expect("memory");
    file
}

fn unsuitable(made: Result<Buffer, BufferError>) -> &'static str {
    match made {
        Err(BufferError::Unsuitable { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_clone_of_a_sealed_buffer_is_the_same_memory() {
    fn cloner() {
        let before = Census::take();
        let mut frame = Buffer::archive(&vec![1u32, 2, 3]).expect("a buffer");
        frame.seal().expect("the kernel seals it");
        let with_one = Census::take();
        let clones = vec![frame.clone(); 100];
        assert_eq!(Census::take(), with_one, "a clone takes nothing");
        assert!(clones.iter().all(|clone| clone.as_ptr() == frame.as_ptr()));
        let mut last = clones.into_iter().next_back().expect("a hundred");
        assert!(matches!(last.bytes_mut(), Err(BufferError::Sealed)));
        last.seal().expect("it is");
        // A private copy of one is no copy of the others.
        let mut private = frame.clone().into_mut().expect("memory");
        private.fill(0xff);
        drop(frame);
        assert_eq!(last.access::<Vec<u32>>().expect("an archive").len(), 3);
        drop((private, last));
        before.wait_for("at the end");
    }
    play("clones::a_clone_of_a_sealed_buffer_is_the_same_memory", &[("cloner", cloner)]);
}

#[test]
fn a_clone_of_a_fresh_buffer_is_a_copy() {
    let mut buffer = Buffer::from_slice(b"one").expect("a buffer");
    let mut copy = buffer.clone();
    copy.bytes_mut().expect("a fresh one").copy_from_slice(b"two");
    buffer.bytes_mut().expect("it is still alone")[0] = b'O';
    assert_eq!((&*buffer, &*copy), (&b"One"[..], &b"two"[..]));
    let nothing = Buffer::new(0).expect("a buffer").clone();
    assert!(nothing.is_empty() && !nothing.is_sealed());
}

#[test]
fn one_frame_goes_to_several_workers_and_stays_here() {
    fn reader() {
        let port = parent_port().expect("a parent");
        let event = receive(&port);
        let frame = event.take_buffer().expect("a buffer");
        let sum: u64 = frame.iter().map(|byte| u64::from(*byte)).sum();
        port.post_message(&sum).expect("room");
        assert!(port.recv().is_err(), "the parent ends it");
    }
    fn parent() {
        let mut frame = Buffer::from_slice(&[3; 100_000]).expect("a buffer");
        frame.seal().expect("the kernel seals it");
        let reader = || {
            Worker::spawn(command(
                "clones::one_frame_goes_to_several_workers_and_stays_here",
                "reader",
            ))
            .expect("a worker")
        };
        let workers: Vec<_> = (0..3).map(|_| reader()).collect();
        for worker in &workers {
            worker.port().post_text_with("sum it", [frame.clone().into()]).expect("room");
        }
        for worker in &workers {
            assert_eq!(*receive(worker.port()).data::<u64>().expect("a sum"), 300_000);
        }
        assert_eq!(frame[99_999], 3);
    }
    play(
        "clones::one_frame_goes_to_several_workers_and_stays_here",
        &[("parent", parent), ("reader", reader)],
    );
}

/// One list may have the same memory twice.
#[test]
fn clones_travel_in_one_list() {
    let carrier = channel();
    let mut frame = Buffer::from_slice(b"twice").expect("a buffer");
    frame.seal().expect("the kernel seals it");
    let list = [frame.clone().into(), frame.into()];
    carrier.port1.post_text_with("both", list).expect("room");
    let event = receive(&carrier.port2);
    let [first, second] = [0, 1].map(|_| event.take_buffer().expect("a buffer"));
    assert_eq!((&*first, &*second), (&b"twice"[..], &b"twice"[..]));
}

#[test]
fn memory_of_another_library_is_adopted_sealed_and_passed_on() {
    let mut file = memfd(b"a frame");
    let buffer = Buffer::from_fd(&file).expect("a buffer");
    assert!(buffer.is_sealed());
    assert_eq!(&*buffer, b"a frame");
    assert!(file.write_all(b"more").is_err() && file.write_at(b"A", 0).is_err());
    // It is sealed by now, and adopted once more.
    let again = Buffer::from_fd(&file).expect("a buffer");
    let carrier = channel();
    carrier.port1.post_text_with("adopted", [buffer.into(), again.into()]).expect("room");
    let event = receive(&carrier.port2);
    for _ in 0..2 {
        assert_eq!(&*event.take_buffer().expect("a buffer"), b"a frame");
    }
    let empty = Buffer::from_fd(memfd(b"")).expect("a buffer");
    assert!(empty.is_empty() && empty.is_sealed());
}

/// As much as the receiver of a buffer demands.
#[test]
fn what_has_holes_is_filled_before_it_is_sealed() {
    let file = memfd(b"");
    ftruncate(&file, 1 << 20).expect("a longer one");
    let buffer = Buffer::from_fd(&file).expect("a buffer");
    assert!(buffer.iter().all(|byte| *byte == 0));
    let carrier = channel();
    carrier.port1.post_text_with("filled", [buffer.into()]).expect("room");
    assert_eq!(receive(&carrier.port2).take_buffer().expect("a buffer").len(), 1 << 20);
    // Too late for this one.
    let file = memfd(b"");
    ftruncate(&file, 1 << 20).expect("a longer one");
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("the kernel seals it");
    assert!(unsuitable(Buffer::from_fd(&file)).contains("holes"));
}

#[test]
fn what_cannot_be_final_is_no_buffer() {
    let path = std::env::temp_dir().join(format!("messageport-no-memfd-{}", std::process::id()));
    std::fs::write(&path, b"a file on a disk").expect("a file");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("it is there");
    // A file of a tmpfs looks like a memfd without leave to be sealed.
    let texts = ["it is no memfd", "its seals are final, and do not keep it from being changed"];
    assert!(texts.contains(&unsuitable(Buffer::from_fd(&file))));
    let (pipe, _end) = std::io::pipe().expect("a pipe");
    assert_eq!(unsuitable(Buffer::from_fd(&pipe)), "it is no memfd");

    let own = memfd(b"read only");
    let path = proc(format_args!("self/fd/{}", own.as_raw_fd()));
    let file = File::open(path).expect("another descriptor of it");
    assert_eq!(unsuitable(Buffer::from_fd(&file)), "it is open for reading only");
    // And the memory is as it was.
    own.write_at(b"R", 0).expect("no seal was added");

    let file = memfd(b"its seals are final");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL)).expect("the kernel seals it");
    assert!(unsuitable(Buffer::from_fd(&file)).starts_with("its seals are final"));

    let flags = MFdFlags::MFD_CLOEXEC;
    let unsealable = memfd_create("made elsewhere", flags).expect("a memfd");
    assert!(unsuitable(Buffer::from_fd(&unsealable)).starts_with("its seals are final"));
}

/// As a hostile peer would keep it that has handed the descriptor over.
#[test]
fn memory_that_another_can_write_is_no_buffer() {
    let file = memfd(&[1; 4096]);
    // SAFETY: its bytes are never borrowed; the mapping is only there.
    let mapping = unsafe { memmap2::MmapOptions::new().map_mut(&file) }.expect("a mapping");
    assert_eq!(unsuitable(Buffer::from_fd(&file)), "a process has it mapped for writing");
    drop(mapping);
    assert_eq!(Buffer::from_fd(&file).expect("no mapping is left")[0], 1);
}

#[test]
fn adopting_without_descriptors_leaves_the_file_to_its_owner() {
    fn poor() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let file = memfd(b"kept");
        let before = Census::take();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let next = file.try_clone().expect("a descriptor").as_raw_fd() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, next, hard).expect("a lower limit");
        let Err(BufferError::Io(error)) = Buffer::from_fd(&file) else { panic!("no descriptor") };
        assert!(error.to_string().contains("fcntl"), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("the old limit");
        file.write_at(b"K", 0).expect("it is as it was");
        before.wait_for("after the failure");
        assert_eq!(&*Buffer::from_fd(&file).expect("a buffer"), b"Kept");
        before.wait_for("at the end");
    }
    play("clones::adopting_without_descriptors_leaves_the_file_to_its_owner", &[("poor", poor)]);
}

/// What is refused is as it was.
#[test]
fn memory_of_huge_pages_is_refused_before_it_is_sealed() {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB;
    let Ok(file) = memfd_create("huge", flags) else { return skip("no huge pages here") };
    let seals = || fcntl(&file, FcntlArg::F_GET_SEALS).expect("a memfd");
    let before = seals();
    for len in [0, 2 << 20] {
        ftruncate(&file, len).expect("a longer one");
        assert_eq!(unsuitable(Buffer::from_fd(&file)), "it is not on tmpfs");
        assert_eq!(seals(), before, "{len}");
    }
}
