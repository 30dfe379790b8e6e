//! Names on disk: they last as long as their owners, belong to one owner, and leave nothing behind.

#![allow(unsafe_code)]

mod common;

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::role::{command, play, skip};
use common::trusted::trusted_channel;
use common::{DEADLINE, receive, receive_text};
use messageport::{
    BroadcastChannel, BroadcastError, BufferPool, Connect, ConnectError, ListenError, Listener,
    MessageChannel, connect,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recv, send,
    socket,
};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, fork, geteuid, seteuid};
use tempfile::TempDir;

/// A user that the tests act as where they may.
const OTHER_USER: u32 = 4711;

/// Runs a role with directories of its own: for temporary files, and as the runtime directory.
fn start(test: &str, role: &str, temporary: &Path, runtime: Option<&Path>) {
    let mut child = command(test, role);
    child.env("TMPDIR", temporary).env_remove("XDG_RUNTIME_DIR");
    if let Some(runtime) = runtime {
        child.env("XDG_RUNTIME_DIR", runtime);
    }
    let output = child.output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.starts_with("skipped: ")) {
        println!("\n{line}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}: {}\n{text}\n{errors}", output.status);
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn names_in(temporary: &Path) -> PathBuf {
    temporary.join(format!("messageport-{}", geteuid()))
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// An error's text, and those of its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

/// A client and the listener find each other.
fn meet(listener: &Listener, connect: impl FnOnce() -> Result<(), String> + Send) {
    thread::scope(|scope| {
        let client = scope.spawn(connect);
        let port = listener.accept_timeout(DEADLINE).expect("a client");
        port.post_text("welcome").expect("room");
        client.join().expect("no panic").expect("a listener");
    });
}

fn welcomed(port: Result<messageport::MessagePort, ConnectError>) -> Result<(), String> {
    let port = port.map_err(|error| error.to_string())?;
    assert_eq!(receive_text(&port), "welcome");
    Ok(())
}

fn connect_patiently(name: &str) -> Result<messageport::MessagePort, ConnectError> {
    Connect::new().timeout(DEADLINE).to(name)
}

/// Runs `systemd-tmpfiles --clean` over a directory, for files of any age. Whether it works here.
fn clean(directory: &Path) -> bool {
    let victim = directory.join("victim");
    fs::write(&victim, "").expect("a file");
    let config = directory.with_extension("conf");
    fs::write(&config, format!("d {} - - - 1us\n", directory.display())).expect("a file");
    thread::sleep(Duration::from_millis(5));
    let ran = Command::new("systemd-tmpfiles").arg("--clean").arg(&config).output();
    fs::remove_file(&config).expect("it is there");
    ran.is_ok() && !victim.exists()
}

#[test]
fn names_survive_the_cleaner_of_temporary_files() {
    const TEST: &str = "names_survive_the_cleaner_of_temporary_files";
    fn lives() {
        let temporary = env::temp_dir();
        let listener = Listener::bind("news").expect("a listener");
        let own = temporary.join("own");
        let at_own_path =
            Listener::bind_at(&own, MessageChannel::builder()).expect("a second listener");
        let member = BroadcastChannel::open("prices").expect("a member");
        if !clean(&temporary) {
            return skip("no systemd-tmpfiles that works here");
        }
        for listener in [&listener, &at_own_path] {
            assert!(listener.path().exists(), "{listener:?}");
            let again = Listener::bind_at(listener.path(), MessageChannel::builder());
            assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
        }
        meet(&listener, || welcomed(connect_patiently("news")));
        meet(&at_own_path, || welcomed(Connect::new().timeout(DEADLINE).at(&own)));
        let joiner = BroadcastChannel::open("prices").expect("a member");
        joiner.post_text("to all").expect("room");
        let message = member.recv_timeout(DEADLINE).expect("they know each other");
        assert_eq!(message.text().expect("a text"), "to all");
    }
    fn starts() {
        let temporary = directory();
        start(TEST, "lives", temporary.path(), None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn a_directory_with_names_is_locked_against_cleaning() {
    const TEST: &str = "a_directory_with_names_is_locked_against_cleaning";
    fn is_locked(path: &Path) -> bool {
        let file = fs::File::open(path).expect("a directory");
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_err()
    }
    fn lives() {
        let listener = Listener::bind("news").expect("a listener");
        let names = listener.path().parent().expect("a directory").to_owned();
        assert!(is_locked(&names));
        drop(listener);
        assert!(!is_locked(&names));
        let member = BroadcastChannel::open("prices").expect("a member");
        assert!(is_locked(&names.join("broadcast.prices")));
        drop(member);
    }
    fn starts() {
        let temporary = directory();
        start(TEST, "lives", temporary.path(), None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn a_listener_that_accepts_no_client_keeps_its_name() {
    let place = directory();
    let path = place.path().join("name");
    let _listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
    // Until no further client finds room.
    let address = UnixAddr::new(&path).expect("a short path");
    let mut waiting = Vec::new();
    loop {
        let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, kind, None).expect("one");
        match nix::sys::socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => waiting.push(socket),
            Err(errno) => break assert_eq!(errno, nix::errno::Errno::EAGAIN),
        }
    }
    let again = Listener::bind_at(&path, MessageChannel::builder());
    assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
    // A socket of another kind is a living one's as well.
    let stream = place.path().join("stream");
    let _other = std::os::unix::net::UnixListener::bind(&stream).expect("a socket");
    let again = Listener::bind_at(&stream, MessageChannel::builder());
    assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
    assert!(stream.exists());
}

/// Another process may remove a listener's file; then the name is the next listener's.
#[test]
fn a_listener_leaves_the_file_of_the_next_one_alone() {
    let place = directory();
    let path = place.path().join("name");
    let bind = || Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
    let robbed = bind();
    fs::remove_file(&path).expect("our own");
    let next = bind();
    drop(robbed);
    meet(&next, || welcomed(Connect::new().timeout(DEADLINE).at(&path)));
}

#[test]
fn a_relative_name_is_one_place_whatever_the_directory() {
    const TEST: &str = "a_relative_name_is_one_place_whatever_the_directory";
    fn moves() {
        let (here, there) = (directory(), directory());
        env::set_current_dir(here.path()).expect("a directory");
        let listener = Listener::bind_at("Cargo", MessageChannel::builder()).expect("a listener");
        assert_eq!(listener.path(), here.path().canonicalize().expect("it is there").join("Cargo"));
        let precious = ["Cargo", "Cargo.lock"].map(|name| there.path().join(name));
        for path in &precious {
            fs::write(path, "").expect("a file");
        }
        env::set_current_dir(there.path()).expect("a directory");
        drop(listener);
        assert!(precious.iter().all(|path| path.exists()));
        assert_eq!(entries(here.path()), Vec::<PathBuf>::new());
    }
    play(TEST, &[("moves", moves)]);
}

/// Runs `act` in a forked copy of this process.
fn in_a_copy(act: impl FnOnce()) {
    // SAFETY: the copy does what a test wants and ends; no other thread holds a lock that it needs.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let is_fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
            // SAFETY: the call ends this process.
            unsafe { libc::_exit(i32::from(!is_fine)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}

#[test]
fn a_forked_copy_that_is_dropped_leaves_the_names() {
    const TEST: &str = "a_forked_copy_that_is_dropped_leaves_the_names";
    fn lives() {
        let listener = Listener::bind("news").expect("a listener");
        let path = listener.path().to_owned();
        let member = BroadcastChannel::open("prices").expect("a member");
        let other = BroadcastChannel::open("prices").expect("a member");
        let channel = path.with_file_name("broadcast.prices");
        let mut all = Some((listener, member, other));
        in_a_copy(|| drop(all.take()));
        let (listener, member, other) = all.expect("the copy was dropped");
        assert!(path.exists());
        assert_eq!(entries(&channel).len(), 2);
        meet(&listener, || welcomed(connect_patiently("news")));
        member.post_text("well").expect("room");
        let message = other.recv_timeout(DEADLINE).expect("a message");
        assert_eq!(message.text().expect("a text"), "well");
        drop((listener, member, other));
        assert!(!path.exists() && !channel.exists());
    }
    fn starts() {
        let temporary = directory();
        start(TEST, "lives", temporary.path(), None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn the_directory_has_its_mode_whatever_the_umask() {
    const TEST: &str = "the_directory_has_its_mode_whatever_the_umask";
    fn lives() {
        for mask in [0o177, 0o777, 0o000] {
            umask(Mode::from_bits_truncate(mask));
            let listener = Listener::bind("news").expect("a listener");
            let member = BroadcastChannel::open("prices").expect("a member");
            let names = listener.path().parent().expect("a directory").to_owned();
            for path in [&names, &names.join("broadcast.prices")] {
                let mode = fs::metadata(path).expect("it is there").permissions().mode();
                assert_eq!(mode & 0o777, 0o700, "{mask:o} {}", path.display());
            }
            drop((listener, member));
            // As an older program left it.
            fs::set_permissions(&names, Permissions::from_mode(0o600)).expect("our own");
            drop(Listener::bind("news").expect("a listener"));
            fs::remove_dir(&names).expect("it is empty");
        }
    }
    fn starts() {
        let temporary = directory();
        start(TEST, "lives", temporary.path(), None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

/// A runtime directory of another user, or `None` where this process may not give one away.
fn foreign_runtime() -> Option<TempDir> {
    let runtime = directory();
    fs::set_permissions(runtime.path(), Permissions::from_mode(0o700)).expect("our own");
    match chown(runtime.path(), Some(OTHER_USER), Some(OTHER_USER)) {
        Ok(()) => Some(runtime),
        Err(error) => {
            skip(&format!("only root gives a directory to another user: {error}"));
            None
        }
    }
}

#[test]
fn nothing_is_made_in_the_runtime_directory_of_another_user() {
    const TEST: &str = "nothing_is_made_in_the_runtime_directory_of_another_user";
    fn lives() {
        let listener = Listener::bind("news").expect("a listener");
        let member = BroadcastChannel::open("prices").expect("a member");
        let runtime = PathBuf::from(env::var_os("XDG_RUNTIME_DIR").expect("it is set"));
        assert_eq!(entries(&runtime), Vec::<PathBuf>::new());
        assert_eq!(listener.path(), names_in(&env::temp_dir()).join("news"));
        drop(member);
    }
    fn starts() {
        let temporary = directory();
        if let Some(runtime) = foreign_runtime() {
            start(TEST, "lives", temporary.path(), Some(runtime.path()));
        }
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn the_effective_user_counts() {
    const TEST: &str = "the_effective_user_counts";
    fn lives() {
        seteuid(Uid::from_raw(OTHER_USER)).expect("root becomes any user");
        let listener = Listener::bind("news").expect("a listener");
        assert!(listener.path().ends_with(format!("messageport-{OTHER_USER}/news")));
        let path = listener.path().to_owned();
        meet(&listener, || welcomed(Connect::new().timeout(DEADLINE).at(path)));
    }
    fn starts() {
        if foreign_runtime().is_none() {
            return;
        }
        let temporary = directory();
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o1777)).expect("our own");
        start(TEST, "lives", temporary.path(), None);
        assert!(!names_in(temporary.path()).exists(), "nothing of root's is left");
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn the_longest_names_work_in_the_longest_directories() {
    const TEST: &str = "the_longest_names_work_in_the_longest_directories";
    fn lives() {
        let name = "n".repeat(64);
        let listener = Listener::bind(&name).expect("a listener");
        assert!(listener.path().exists());
        meet(&listener, || welcomed(connect_patiently(&name)));
        let again = Listener::bind(&name);
        assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
        let path = listener.path().to_owned();
        drop(listener);
        assert!(!path.exists());
        let answer = connect(&name);
        assert!(matches!(answer, Err(ConnectError::NoListener { .. })), "{answer:?}");
        let (one, other) = (BroadcastChannel::open(&name), BroadcastChannel::open(&name));
        one.expect("a member").post_text("well").expect("room");
        other.expect("a member").recv_timeout(DEADLINE).expect("a message");
    }
    fn starts() {
        let (temporary, above) = (directory(), directory());
        for len in [10, 50, 200] {
            let runtime = above.path().join("d".repeat(len));
            DirBuilder::new().mode(0o700).create(&runtime).expect("a directory");
            start(TEST, "lives", temporary.path(), Some(&runtime));
        }
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
    // What cannot be is said with the limit.
    let place = directory();
    let far = place.path().join("x".repeat(120));
    let error = Listener::bind_at(&far, MessageChannel::builder()).expect_err("too long");
    let error = error.to_string();
    assert!(error.contains("107") && error.contains(&*far.to_string_lossy()), "{error}");
}

/// A packet socket that listens at a path, as a program that this crate has no part in.
fn foreign_listener(path: &Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("one");
    bind(socket.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("it is free");
    listen(&socket, Backlog::new(8).expect("a number")).expect("a socket that listens");
    socket
}

fn take(listening: &OwnedFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    let number = nix::sys::socket::accept(listening.as_raw_fd()).expect("a client");
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn a_client_whose_listener_goes_is_told_so() {
    let place = directory();
    let path = place.path().join("name");
    let going = foreign_listener(&path);
    thread::scope(|scope| {
        let client = scope.spawn(|| Connect::new().timeout(DEADLINE).at(&path));
        let connection = take(&going);
        fs::remove_file(&path).expect("ours");
        drop((connection, going));
        let error = client.join().expect("no panic").expect_err("the listener has gone");
        assert!(matches!(error, ConnectError::HungUp { .. }), "{error}");
        assert!(error.to_string().contains("went away"), "{error}");
    });
}

#[test]
fn a_client_whose_listener_is_replaced_meets_the_next_one() {
    let place = directory();
    let path = place.path().join("name");
    let going = foreign_listener(&path);
    thread::scope(|scope| {
        let client = scope.spawn(|| Connect::new().timeout(DEADLINE).at(&path));
        let connection = take(&going);
        fs::remove_file(&path).expect("ours");
        let next = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
        drop((connection, going));
        let port = next.accept_timeout(DEADLINE).expect("the client comes again");
        port.post_text("welcome").expect("room");
        let port = client.join().expect("no panic").expect("a listener");
        assert_eq!(receive_text(&port), "welcome");
    });
}

#[test]
fn a_name_that_cannot_be_one_is_told_why() {
    let cases = [
        ("a.lock", ".lock"),
        ("broadcast.x", "broadcast channels"),
        ("", "empty"),
        ("..", "directory"),
        ("a/b", "'/'"),
        (&"x".repeat(65), "64 bytes"),
    ];
    for (name, why) in cases {
        let error = Listener::bind(name).expect_err("no name").to_string();
        assert!(error.contains(why), "{error}");
        let error = connect(name).expect_err("no name").to_string();
        assert!(error.contains(why), "{error}");
        if name != "broadcast.x" {
            let error = BroadcastChannel::open(name).expect_err("no name").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

#[test]
fn a_path_that_no_socket_can_have_is_told_why() {
    for (path, flaw) in [("", "is empty"), ("a\0b", "has a zero byte"), ("a\0b/c", "zero byte")] {
        let error = Listener::bind_at(path, MessageChannel::builder()).expect_err("no path");
        let is_file = matches!(&error, ListenError::File { path: given, .. }
            if given.as_os_str() == path);
        assert!(is_file && error.to_string().contains(flaw), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
        let error = Connect::new().at(path).expect_err("no path");
        let is_file = matches!(&error, ConnectError::File { path: given, .. }
            if given.as_os_str() == path);
        assert!(is_file && error.to_string().contains(flaw), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_directory_in_the_place_of_a_socket_is_told_and_left() {
    let place = directory();
    let inner = place.path().join("inner");
    fs::create_dir(&inner).expect("a directory");
    let [slash, none, above] = ["inner/", "none/", "inner/.."].map(|name| place.path().join(name));
    for path in [&*inner, &slash, &none, &above, Path::new("/"), Path::new(".")] {
        let error = Listener::bind_at(path, MessageChannel::builder()).expect_err("a directory");
        let (text, path) = (error.to_string(), std::path::absolute(path).expect("a path"));
        assert!(text.contains(&format!("at {}: bind failed", path.display())), "{text}");
        assert!(text.contains("is one of a directory; give another one"), "{text}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::IsADirectory);
    }
    assert_eq!(entries(place.path()), std::slice::from_ref(&inner));
    // A file in it is what the error advises.
    let listener = Listener::bind_at(inner.join("name"), MessageChannel::builder());
    drop(listener.expect("a listener"));
}

#[test]
fn a_file_in_the_place_of_a_lock_is_told_and_left() {
    let place = directory();
    let path = place.path().join("name");
    let lock = place.path().join("name.lock");
    let ways: [fn(&Path) -> std::io::Result<()>; 3] = [
        |lock| fs::create_dir(lock),
        |lock| fs::write(lock, "precious"),
        |lock| std::os::unix::fs::symlink("elsewhere", lock),
    ];
    for make in ways {
        make(&lock).expect("a file");
        let error = Listener::bind_at(&path, MessageChannel::builder()).expect_err("no lock");
        let text = error.to_string();
        assert!(text.contains("beside it that ends in .lock"), "{text}");
        assert!(text.contains("that file is no lock; remove it, or choose another"), "{text}");
        let found = fs::symlink_metadata(&lock).expect("it was left");
        match found.is_dir() {
            true => fs::remove_dir(&lock),
            false => fs::remove_file(&lock),
        }
        .expect("our own");
    }
}

#[test]
fn a_channel_without_proc_is_an_error_that_leaves_nothing() {
    const TEST: &str = "a_channel_without_proc_is_an_error_that_leaves_nothing";
    fn lives() {
        let (none, all) = (std::ptr::null::<libc::c_char>(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: the call takes an integer.
        let apart = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        // SAFETY: the strings are valid for the call; the others may be null.
        let private = unsafe { libc::mount(none, c"/".as_ptr(), none, all, none.cast()) };
        let kind = c"tmpfs".as_ptr();
        // SAFETY: as above.
        let hidden = unsafe { libc::mount(kind, c"/proc".as_ptr(), kind, 0, none.cast()) };
        if (apart, private, hidden) != (0, 0, 0) {
            return skip("only root hides /proc");
        }
        let error = BroadcastChannel::open("prices").expect_err("no /proc");
        assert!(matches!(error, BroadcastError::File { .. }), "{error}");
        assert!(error.to_string().contains("broadcast.prices: open(/proc/self/fd)"), "{error}");
        assert!(error.to_string().contains("mount /proc"), "{error}");
        assert_eq!(entries(&names_in(&env::temp_dir())), Vec::<PathBuf>::new());
        // A listener whose path is short needs none.
        let listener = Listener::bind("news").expect("a listener");
        meet(&listener, || welcomed(connect_patiently("news")));
        let error = Listener::bind(&"n".repeat(64)).expect_err("no way to so long a path");
        assert!(error.to_string().contains("107 bytes, or mount /proc"), "{error}");
        drop(listener);
        assert_eq!(entries(&names_in(&env::temp_dir())), Vec::<PathBuf>::new());
        let [first, second] = [(); 2].map(|()| trusted_channel());
        let pool = BufferPool::new(&first.port1, 1, 1).expect("a pool");
        let buffer = pool.take().expect("a free one");
        first.port1.post_message_pooled(&0u8, buffer).expect("room");
        let buffer = receive(&first.port2).take_pooled().expect("a buffer");
        let error = second.port1.post_message_pooled(&0u8, buffer).expect_err("no /proc");
        assert!(chain(&error).contains("mount /proc"), "{error}");
        // Whether this number is of one user is told in /proc.
        if seteuid(Uid::from_raw(65534)).is_ok() {
            let error = Listener::bind("news").expect_err("no map of users");
            assert!(chain(&error).contains("mount /proc"), "{error}");
        }
    }
    fn starts() {
        let above = directory();
        let temporary = above.path().join("d".repeat(40));
        fs::create_dir(&temporary).expect("a directory");
        start(TEST, "lives", &temporary, None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

#[test]
fn a_user_without_a_number_has_no_names() {
    const TEST: &str = "a_user_without_a_number_has_no_names";
    fn lives() {
        // A user namespace is for a process of one thread, which a copy is.
        in_a_copy(|| {
            // SAFETY: the call takes an integer.
            if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
                return skip("no user namespaces here");
            }
            assert_eq!(geteuid().as_raw(), 65534);
            let error = chain(&Listener::bind("news").expect_err("no user"));
            assert!(error.contains("65534") && error.contains("namespace"), "{error}");
            let error = chain(&connect("news").expect_err("no user"));
            assert!(error.contains("namespace"), "{error}");
            let error = chain(&BroadcastChannel::open("prices").expect_err("no user"));
            assert!(error.contains("namespace"), "{error}");
        });
        assert_eq!(entries(&env::temp_dir()), Vec::<PathBuf>::new());
    }
    fn starts() {
        let temporary = directory();
        start(TEST, "lives", temporary.path(), None);
    }
    play(TEST, &[("starts", starts), ("lives", lives)]);
}

// Others at a listener's socket.

fn stranger(path: &Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("one");
    let address = UnixAddr::new(path).expect("a short path");
    nix::sys::socket::connect(socket.as_raw_fd(), &address).expect("there is a listener");
    socket
}

/// A hello as this program's own client says it, heard by a listener that is none.
fn hello() -> Vec<u8> {
    let place = directory();
    let path = place.path().join("name");
    let listening = foreign_listener(&path);
    thread::scope(|scope| {
        scope.spawn(|| Connect::new().timeout(DEADLINE).at(&path));
        let connection = take(&listening);
        let mut bytes = [0; 256];
        let len = recv(connection.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a hello");
        fs::remove_file(&path).expect("ours");
        bytes[..len].to_vec()
    })
}

#[test]
fn another_user_s_client_and_listener_are_refused() {
    const TEST: &str = "another_user_s_client_and_listener_are_refused";
    fn lives() {
        let place = directory();
        fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("our own");
        let path = place.path().join("name");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("our own");
        let hello = hello();
        if seteuid(Uid::from_raw(OTHER_USER)).is_err() {
            return skip("only root becomes another user");
        }
        let foreign = stranger(&path);
        let error = Connect::new().at(&path).expect_err("another user's");
        let expected =
            matches!(error, ConnectError::ForeignUser { found: 0, expected: OTHER_USER });
        assert!(expected, "{error}");
        seteuid(Uid::from_raw(0)).expect("root again");
        send(foreign.as_raw_fd(), &hello, MsgFlags::MSG_NOSIGNAL).expect("it is connected");
        assert!(listener.try_accept().expect("a listener").is_none());
        assert!(format!("{listener:?}").contains("waiting: 0"), "{listener:?}");
        let refused = listener.refused();
        let last = refused.last.expect("both are foreign");
        // That one, and `connect` itself.
        assert_eq!((refused.count, last.credentials.uid), (2, OTHER_USER));
        assert_eq!((last.what, last.found, last.expected), ("user", OTHER_USER.into(), 0));
        // One of our own that says the same is let in.
        let own = stranger(&path);
        send(own.as_raw_fd(), &hello, MsgFlags::MSG_NOSIGNAL).expect("it is connected");
        listener.accept_timeout(DEADLINE).expect("a client");
    }
    play(TEST, &[("lives", lives)]);
}

#[test]
fn silent_clients_are_kept_up_to_a_bound() {
    let place = directory();
    let path = place.path().join("name");
    let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.extend((0..50).map(|_| stranger(&path)));
        assert!(listener.try_accept().expect("a listener").is_none());
    }
    assert!(format!("{listener:?}").contains("waiting: 128"), "{listener:?}");
    // The oldest ones made place.
    let mut byte = [0];
    assert_eq!(recv(silent[0].as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT), Ok(0));
    let last = silent.last().expect("one of them").as_raw_fd();
    let answer = recv(last, &mut byte, MsgFlags::MSG_DONTWAIT);
    assert_eq!(answer, Err(nix::errno::Errno::EAGAIN));
}

#[test]
fn clients_of_another_user_that_take_no_port_are_bounded() {
    const TEST: &str = "clients_of_another_user_that_take_no_port_are_bounded";
    const MOST: usize = 16;
    fn lives() {
        let place = directory();
        fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("our own");
        let path = place.path().join("name");
        let mut listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
        listener.allow_users([OTHER_USER]).expect("our own file");
        let hello = hello();
        let says_hello = || {
            let client = stranger(&path);
            send(client.as_raw_fd(), &hello, MsgFlags::MSG_NOSIGNAL).expect("it is connected");
            client
        };
        let as_another_user = || {
            seteuid(Uid::from_raw(OTHER_USER)).expect("root may");
            let client = says_hello();
            seteuid(Uid::from_raw(0)).expect("root again");
            client
        };
        // Receiving bytes alone takes the packet too, and drops its descriptors.
        let takes = |client: &OwnedFd| {
            let mut bytes = [0; 256];
            recv(client.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).expect("an answer")
        };
        if seteuid(Uid::from_raw(OTHER_USER)).is_err() {
            return skip("only root becomes another user");
        }
        seteuid(Uid::from_raw(0)).expect("root again");
        let accepts = |listener: &Listener| {
            listener.try_accept().expect("a listener").is_some_and(|port| !port.is_closed())
        };
        let mut clients = Vec::new();
        for _ in 0..MOST {
            clients.push(as_another_user());
            assert!(accepts(&listener));
        }
        let refused = as_another_user();
        assert!(!accepts(&listener));
        assert_eq!(takes(&refused), 0, "the listener has hung up");
        let last = listener.refused().last.expect("one was refused");
        let expected = ("untaken ports", MOST as u64, MOST as u64);
        assert_eq!((last.what, last.found, last.expected), expected);
        assert_eq!(last.credentials.uid, OTHER_USER);
        // Another user's clients have nothing to do with it.
        let own: Vec<_> = [(); 2 * MOST].map(|()| says_hello()).into();
        assert!(own.iter().all(|_| accepts(&listener)));
        // One that takes its port makes room for one, and so does one that has gone.
        assert!(takes(&clients[3]) > 0);
        clients.push(as_another_user());
        assert!(accepts(&listener));
        drop(clients.remove(0));
        clients.push(as_another_user());
        assert!(accepts(&listener));
        clients.push(as_another_user());
        assert!(!accepts(&listener));
    }
    play(TEST, &[("lives", lives)]);
}

#[test]
fn a_lack_of_descriptors_wakes_no_listener_again_and_again() {
    const TEST: &str = "a_lack_of_descriptors_wakes_no_listener_again_and_again";
    const TURNS: u32 = 5;
    // Less than the pause, by what a timer may be early.
    const LEAST_PAUSE: Duration = Duration::from_millis(40);
    fn lacks() {
        let place = directory();
        let path = place.path().join("name");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
        let hello = hello();
        let client = stranger(&path);
        send(client.as_raw_fd(), &hello, MsgFlags::MSG_NOSIGNAL).expect("it is connected");
        let (usual, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let next = fs::File::open("/dev/null").expect("room for one");
        let number = next.as_raw_fd() as u64;
        drop(next);
        setrlimit(Resource::RLIMIT_NOFILE, number, most).expect("a lower limit");
        let is_readable = || {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).expect("a poll") > 0
        };
        listener.try_accept().expect_err("no descriptor for it");
        let began = Instant::now();
        for _ in 0..TURNS {
            common::wait_until("the listener is to be looked at again", is_readable);
            listener.try_accept().expect_err("no descriptor for it");
        }
        assert!(began.elapsed() >= TURNS * LEAST_PAUSE, "{:?}", began.elapsed());
        for accept in [
            |listener: &Listener| listener.accept_timeout(LEAST_PAUSE),
            |listener: &Listener| listener.accept(),
        ] {
            let began = Instant::now();
            let error = accept(&listener).expect_err("no descriptor for it");
            assert!(matches!(error, ListenError::Io { .. }), "{error}");
            assert!(began.elapsed() >= LEAST_PAUSE);
        }
        setrlimit(Resource::RLIMIT_NOFILE, usual, most).expect("the usual limit");
        common::wait_until("the listener is to be looked at again", is_readable);
        listener.accept_timeout(DEADLINE).expect("the client is still there");
        drop(client);
        common::wait_until("nothing is left to do", || !is_readable());
    }
    play(TEST, &[("lacks", lacks)]);
}
