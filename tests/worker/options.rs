//! What a worker is started with: limits, a cgroup, the death of its parent, a filter.

use crate::common::board::Board;
use crate::common::census::{Census, has_no_children};
use crate::common::role::{command, play, skip};
use crate::common::{DEADLINE, die, proc, receive, receive_text, wait_until};
use crate::{is_gone, parent};
use messageport::{ResourceLimit, SpawnError, Worker};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::gettid;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

const LIMITS: [(ResourceLimit, Resource, u64); 9] = [
    (ResourceLimit::AddressSpace, Resource::RLIMIT_AS, 1 << 32),
    (ResourceLimit::Data, Resource::RLIMIT_DATA, 1 << 31),
    (ResourceLimit::Stack, Resource::RLIMIT_STACK, 4 << 20),
    (ResourceLimit::CpuTime, Resource::RLIMIT_CPU, 1000),
    (ResourceLimit::OpenFiles, Resource::RLIMIT_NOFILE, 40),
    (ResourceLimit::FileSize, Resource::RLIMIT_FSIZE, 1 << 30),
    (ResourceLimit::CoreSize, Resource::RLIMIT_CORE, 0),
    (ResourceLimit::Processes, Resource::RLIMIT_NPROC, 500),
    (ResourceLimit::LockedMemory, Resource::RLIMIT_MEMLOCK, 1 << 16),
];

#[test]
fn a_worker_has_the_limits_that_its_parent_chose() {
    const TEST: &str = "options::a_worker_has_the_limits_that_its_parent_chose";
    fn tells() {
        let port = parent();
        for (_, resource, _) in LIMITS {
            port.post_message(&getrlimit(resource).expect("limits can be read")).expect("room");
        }
    }
    fn asks() {
        let mut builder = Worker::builder(command(TEST, "tells"));
        for (limit, _, value) in LIMITS {
            builder = builder.limit(limit, value);
        }
        let worker = builder.spawn().expect("a worker");
        for (limit, _, value) in LIMITS {
            let told = receive(worker.port()).deserialize::<(u64, u64)>().expect("two numbers");
            assert_eq!(told, (value, value), "{limit:?}");
        }
        assert!(worker.shutdown(DEADLINE).expect("a child").status().success());
        // More than the kernel allows anyone: the error names the call, and nothing is left.
        let before = Census::take();
        let builder = Worker::builder(Command::new("true"));
        let error =
            builder.limit(ResourceLimit::OpenFiles, u64::MAX).spawn().expect_err("too many");
        assert!(matches!(&error, SpawnError::Io(error) if error.call == "setrlimit"), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::PermissionDenied);
        assert!(has_no_children());
        before.wait_for("after a failed start");
    }
    play(TEST, &[("asks", asks), ("tells", tells)]);
}

/// A program that knows nothing of this crate, and takes no notice of its port.
fn sleeps() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

#[test]
fn a_worker_ends_with_the_process_that_started_it_and_not_with_the_thread() {
    const TEST: &str =
        "options::a_worker_ends_with_the_process_that_started_it_and_not_with_the_thread";
    fn dies() {
        let board = Board::given();
        let start = || {
            let worker = Worker::builder(sleeps()).end_with_parent().spawn().expect("a worker");
            (worker, gettid())
        };
        let (mut worker, thread) = thread::spawn(start).join().expect("no panic");
        let thread = proc(format_args!("self/task/{thread}"));
        wait_until("the thread is gone", || !thread.exists());
        let waited = worker.wait_timeout(Duration::from_millis(50)).expect("a child");
        assert!(waited.is_none(), "{waited:?}");
        // A program that is not there is told in the same way as without the thread.
        let missing = Worker::builder(Command::new("/nonexistent/program")).end_with_parent();
        let error = missing.spawn().expect_err("no program");
        assert!(matches!(error, SpawnError::Program { .. }), "{error}");
        board.word(0).store(worker.id().into(), SeqCst);
        die();
    }
    fn watches() {
        let board = Board::new();
        let mut command = command(TEST, "dies");
        board.give(&mut command);
        let status = command.status().expect("a child");
        assert_eq!(status.signal(), Some(9), "{status}");
        let id = board.word(0).load(SeqCst) as u32;
        assert_ne!(id, 0);
        wait_until("the worker is gone", || is_gone(id));
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

/// A directory of a cgroup of our own, if this machine lets us make one.
fn new_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string(proc("mounts")).expect("a process has mounts");
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    };
    let path = mounts.lines().find_map(mount)?;
    let path = path.join(format!("messageport-test-{}", std::process::id()));
    fs::create_dir(&path).ok().map(|()| path)
}

#[test]
fn a_worker_joins_a_cgroup() {
    const TEST: &str = "options::a_worker_joins_a_cgroup";
    fn tells() {
        let port = parent();
        let groups = fs::read_to_string(proc("self/cgroup")).expect("a process has cgroups");
        port.post_text(&groups).expect("room");
    }
    fn asks() {
        let Some(directory) = new_cgroup() else {
            return skip("this machine lets us make no cgroup of version 2");
        };
        let spawned = Worker::builder(command(TEST, "tells")).cgroup(&directory).spawn();
        let told = spawned.map(|worker| {
            let text = receive_text(worker.port());
            worker.shutdown(DEADLINE).expect("a child");
            text
        });
        wait_until("the group is empty again", || fs::remove_dir(&directory).is_ok());
        let told = told.expect("a worker");
        let name = directory.file_name().expect("it has a name").to_string_lossy();
        assert!(
            told.lines().any(|line| line.starts_with("0::") && line.ends_with(&*name)),
            "{told}"
        );
    }
    play(TEST, &[("asks", asks), ("tells", tells)]);
}

#[test]
fn a_directory_that_is_no_cgroup_starts_no_worker() {
    const TEST: &str = "options::a_directory_that_is_no_cgroup_starts_no_worker";
    fn tries() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let before = Census::take();
        let start = |path: &Path| {
            let spawned = Worker::builder(Command::new("true")).cgroup(path).spawn();
            spawned.map(drop).expect_err("no cgroup").to_string()
        };
        let missing = start(Path::new("/nonexistent"));
        assert!(
            missing.contains("/nonexistent/cgroup.procs") && missing.contains("open"),
            "{missing}"
        );
        fs::write(directory.path().join("cgroup.procs"), "").expect("a file");
        let other = start(directory.path());
        assert!(other.contains("cgroup2"), "{other}");
        assert!(has_no_children());
        before.wait_for("at the end");
    }
    play(TEST, &[("tries", tries)]);
}
