//! The system calls that `docs/safety.md` names are all that are made: every way to use this crate,
//! and every example, runs under a filter that is made from the document and kills at any other.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "seccomp/table.rs"]
mod table;

use std::env;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::role::{command, play, skip};
use common::watchdog::progress;
use common::{DEADLINE, kill_process, receive, receive_end, receive_text};
#[cfg(feature = "seccomp")]
use messageport::SyscallFilter;
use messageport::{
    BroadcastChannel, Buffer, BufferPool, CloseReason, Connect, EventLoop, Listener,
    MessageChannel, MessagePort, PortSet, RecvError, ResourceLimit, Worker, WorkerPool,
    parent_port,
};

/// Lets this thread, and what it starts, make the calls of the document and no others.
fn confine() -> bool {
    let calls = table::calls_in_the_document();
    match filter::kill_at_all_but(calls.iter().copied()) {
        Ok(()) => true,
        Err(error) => {
            skip(&format!("no seccomp filter here: {error}"));
            false
        }
    }
}

fn pair() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

/// Small and large messages, waits for messages and for room, and each kind of end.
fn blocking() {
    let (port1, port2) = pair();
    let far = thread::spawn(move || {
        for event in &port2 {
            port2.post_bytes_timeout(event.bytes(), DEADLINE).expect("room");
        }
        port2.close();
    });
    for len in [1, 100, 100_000, 5 << 20] {
        port1.post_bytes(&vec![7; len]).expect("room");
        assert_eq!(receive(&port1).bytes().len(), len);
        thread::sleep(Duration::from_millis(2));
    }
    port1.post_message(&("text".to_owned(), 7u32)).expect("room");
    receive(&port1);
    port1.close();
    far.join().expect("no panic");
    let MessageChannel { port1, port2 } =
        MessageChannel::builder().limit(1 << 16).build().expect("a channel");
    let fills = thread::spawn(move || {
        for _ in 0..64 {
            port1.post_bytes_timeout(&[0; 8192], DEADLINE).expect("room");
        }
        assert!(!port1.is_closed());
    });
    for _ in 0..64 {
        thread::sleep(Duration::from_millis(1));
        receive(&port2);
    }
    fills.join().expect("no panic");
    assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
}

/// Each side handles so many messages without a sleep that its waker omits its fences, and sleeps
/// afterwards.
fn streams() {
    const COUNT: u32 = 100_000;
    let (port1, port2) = pair();
    let far = thread::spawn(move || {
        for number in 0..COUNT {
            while port2.post_message(&number).is_err() {
                thread::yield_now();
            }
        }
        assert_eq!(receive_text(&port2), "all");
    });
    let mut received = 0;
    while received < COUNT {
        received += port1.try_iter().count() as u32;
    }
    thread::sleep(Duration::from_millis(5));
    port1.post_text("all").expect("room");
    assert_eq!(receive_end(&port1), CloseReason::PeerDropped);
    far.join().expect("no panic");
}

fn waits_and_cancels() {
    let (port1, port2) = pair();
    let canceller = port1.canceller().expect("a canceller");
    let cancels = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        canceller.cancel();
    });
    assert!(matches!(port1.recv(), Err(RecvError::Cancelled)));
    cancels.join().expect("no panic");
    assert!(matches!(port1.recv_timeout(Duration::from_millis(2)), Err(RecvError::Timeout)));
    port2.post_bytes(&[1; 1 << 20]).expect("room");
    receive(&port1);
    port2.trim().expect("a port of our own");
    println!("{port1:?} {:?}", port1.stats());
}

fn trusted() {
    let (port1, port2) = pair();
    // SAFETY: both ends are this program's own.
    unsafe { port1.trust_peer() };
    // SAFETY: as above.
    unsafe { port2.trust_peer() };
    for _ in 0..3 {
        port1.post_bytes(&vec![1; 4 << 20]).expect("room");
        receive(&port2);
        thread::sleep(Duration::from_millis(600));
        port1.post_text("a small one").expect("room");
        receive_text(&port2);
    }
    let pool = BufferPool::new(&port1, 2, 1 << 16).expect("a pool");
    for _ in 0..4 {
        let mut buffer = pool.take_timeout(DEADLINE).expect("a free one");
        buffer[0] = 1;
        port1.post_message_pooled(&7u32, buffer).map_err(|error| error.to_string()).expect("room");
        drop(receive(&port2).take_pooled());
    }
}

fn transfers() {
    let (port1, port2) = pair();
    let (moving, stays) = pair();
    stays.post_text("inside").expect("room");
    let file = File::open("/dev/null").expect("it is there");
    let list = vec![
        moving.into(),
        Buffer::from_slice(&[1; 100_000]).expect("memory").into(),
        std::os::fd::OwnedFd::from(file).into(),
    ];
    port1.post_text_with("with", list).map_err(|error| error.to_string()).expect("room");
    let event = port2.recv_timeout(DEADLINE).expect("a message");
    let port = event.take_port().expect("a port");
    assert_eq!(receive_text(&port), "inside");
    let buffer = event.take_buffer().expect("a buffer");
    assert_eq!(buffer.len(), 100_000);
    let mut copy = buffer.into_mut().expect("memory");
    copy[0] = 2;
    event.take_descriptor().expect("a descriptor");
    // As parts of its own.
    let descriptor = stays.into_fd().map_err(|error| error.to_string()).expect("an open port");
    let stays = MessagePort::from_fd(descriptor).expect("a port");
    stays.post_text("again").expect("room");
    assert_eq!(receive_text(&port), "again");
}

fn loops() {
    let (port1, port2) = pair();
    port2.on_message(|event| {
        let text = event.message().expect("a message").text().expect("a text").to_owned();
        event.port().post_text(&text)
    });
    let asks = thread::spawn(move || {
        for _ in 0..3 {
            port1.post_text("echo").expect("room");
            assert_eq!(receive_text(&port1), "echo");
            thread::sleep(Duration::from_millis(2));
        }
    });
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port2).map_err(|error| error.to_string()).expect("a port");
    event_loop.run().expect("it ends with its port");
    asks.join().expect("no panic");

    let (port1, port2) = pair();
    let mut set = PortSet::new().expect("a set");
    let id = set.add(port2).map_err(|error| error.to_string()).expect("a port");
    let posts = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2));
        port1.post_text("one").expect("room");
    });
    drop(set.recv().expect("a message"));
    posts.join().expect("no panic");
    drop(set.recv_timeout(DEADLINE).expect("its end"));
    drop(set.remove(id));
}

fn names() {
    let name = format!("confined-{}", std::process::id());
    let listener = Listener::bind(&name).expect("a listener");
    let path = listener.path().to_owned();
    let client = thread::spawn({
        let name = name.clone();
        move || Connect::new().timeout(DEADLINE).to(&name).expect("a listener")
    });
    let port = listener.accept_timeout(DEADLINE).expect("a client");
    port.post_text("welcome").expect("room");
    assert_eq!(receive_text(&client.join().expect("no panic")), "welcome");
    Listener::bind(&name).expect_err("it is taken");
    drop(listener);
    assert!(!path.exists());
    drop(Listener::bind_at(path, MessageChannel::builder()).expect("a listener"));

    let one = BroadcastChannel::open(&name).expect("a member");
    let other = BroadcastChannel::open(&name).expect("a member");
    one.post_text("to all").expect("room");
    other.recv_timeout(DEADLINE).expect("a message");
    let waits = thread::spawn(move || {
        one.recv_timeout(DEADLINE).expect("a message");
        drop(one);
    });
    thread::sleep(Duration::from_millis(5));
    other.post_text("to one who sleeps").expect("room");
    waits.join().expect("no panic");
    other.dispatch().expect("a member");
    assert_eq!(other.others().expect("a member"), 0);
}

#[cfg(feature = "tokio")]
fn tasks() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (port1, port2) = pair();
        let mut port2 = port2.into_async().map_err(|error| error.to_string()).expect("a port");
        let posts = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            port1.post_text("to a task").expect("room");
            receive(&port1).bytes().to_vec()
        });
        port2.recv().await.expect("a message");
        port2.post_bytes(b"from a task").await.expect("room");
        assert_eq!(posts.join().expect("no panic"), b"from a task");
        meet_in_tasks().await;
    });
}

#[cfg(feature = "tokio")]
async fn meet_in_tasks() {
    let name = format!("test-calls-of-tasks-{}", std::process::id());
    let mut listener = Listener::bind(&name).expect("a name").into_async().expect("a reactor");
    let quick = Connect::new().timeout(Duration::from_millis(2));
    quick.to_async(&name).await.expect_err("the listener does not accept");
    let calling = tokio::spawn(async move { messageport::connect_async(&name).await });
    let port = listener.accept().await.expect("a client");
    drop((port, calling.await.expect("no panic").expect("a listener")));
    let name = format!("test-calls-of-tasks-{}", std::process::id());
    let member = || BroadcastChannel::open(&name).expect("a member").into_async();
    let (one, mut other) = (member().expect("a reactor"), member().expect("a reactor"));
    let hears = tokio::spawn(async move { other.recv().await.map(drop) });
    tokio::task::yield_now().await;
    one.post_text("to a task").expect("room");
    hears.await.expect("no panic").expect("a message");
    let mut worker = Worker::spawn(Command::new("true")).expect("a worker");
    assert!(worker.wait_async().await.expect("a child").success());
    let sleeps = || {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Worker::spawn(command).expect("a worker")
    };
    sleeps().split().1.terminate_async().await.expect("a child");
    // A thread of the crate ends it.
    drop(sleeps());
}

#[cfg(not(feature = "tokio"))]
fn tasks() {}

fn child() {
    let port = parent_port().expect("a port to the parent");
    for event in &port {
        port.post_bytes(event.bytes()).expect("room");
    }
}

const TEST: &str = "every_front_makes_the_calls_of_the_document_only";

fn workers() {
    let mut polite = Worker::spawn(command(TEST, "child")).expect("a worker");
    polite.port().post_text("echo").expect("room");
    assert_eq!(receive(polite.port()).bytes(), b"echo");
    polite.port().close();
    assert!(polite.wait().expect("a child").success());
    let mut sleeps = Command::new("sleep");
    sleeps.arg("1000");
    drop(Worker::spawn(sleeps).expect("a worker"));
    let mut sleeps = Command::new("sleep");
    sleeps.arg("1000");
    Worker::spawn(sleeps).expect("a worker").terminate().expect("a child");
    options();
    pools();
}

fn options() {
    let builder = Worker::builder(Command::new("true")).end_with_parent();
    let builder = builder.limit(ResourceLimit::OpenFiles, 64);
    #[cfg(feature = "seccomp")]
    let builder = builder.filter(&SyscallFilter::program());
    let end = builder.spawn().expect("a worker").shutdown(DEADLINE).expect("a child");
    assert!(end.status().success(), "{end:?}");
}

fn pools() {
    let launch = || command(TEST, "answers");
    let pool: WorkerPool<u64, u64> =
        WorkerPool::builder(launch).workers(2).build().expect("a pool");
    assert_eq!(pool.call(&1).expect("a reply"), 2);
    kill_process(pool.ids()[1]);
    for number in 0..4 {
        assert_eq!(pool.call(&number).expect("a reply"), 2 * number);
    }
    pool.shutdown(DEADLINE);
}

/// A worker of a pool.
fn answers() {
    let responder = parent_port().expect("a port to the parent").responder::<u64, u64>();
    while let Ok(request) = responder.recv() {
        request.reply(&(2 * request.data().to_native())).expect("a parent");
    }
}

#[test]
fn every_front_makes_the_calls_of_the_document_only() {
    macro_rules! confined {
        ($($front:ident),*) => {
            [$((concat!("confined ", stringify!($front)), || if confine() { $front() })),*]
        };
    }
    let fronts: [(&str, fn()); 9] = confined!(
        blocking,
        streams,
        waits_and_cancels,
        trusted,
        transfers,
        loops,
        names,
        tasks,
        workers
    );
    fn all() {
        for front in FRONTS {
            let mut child = command(TEST, &format!("confined {front}"));
            let output = child.output().expect("a child");
            let text = String::from_utf8_lossy(&output.stdout);
            if let Some(line) = text.lines().find(|line| line.starts_with("skipped: ")) {
                return println!("\n{line}");
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{front}: {}\n{text}\n{errors}", output.status);
            progress();
        }
    }
    const FRONTS: [&str; 9] = [
        "blocking",
        "streams",
        "waits_and_cancels",
        "trusted",
        "transfers",
        "loops",
        "names",
        "tasks",
        "workers",
    ];
    let mut roles: Vec<(&str, fn())> = vec![("all", all), ("child", child), ("answers", answers)];
    roles.extend(fronts);
    play(TEST, &roles);
}

/// Runs the examples beside this test's own program. `cargo test` builds them, but
/// `cargo test --test seccomp` does not: then this test fails, and names the command that does.
#[test]
fn every_example_makes_the_calls_of_the_document_only() {
    const TEST: &str = "every_example_makes_the_calls_of_the_document_only";
    fn all() {
        let program = common::program();
        let built = program.ancestors().nth(2).expect("a directory").join("examples");
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut count = 0;
        for source in sources.read_dir().expect("the examples are there") {
            let source = source.expect("an entry").path();
            if source.join("Cargo.toml").exists() {
                // A package of its own, with another crate's system calls.
                continue;
            }
            let example = built.join(source.file_stem().expect("a name"));
            if (example.ends_with("tokio_service") && !cfg!(feature = "tokio"))
                || (example.ends_with("smol_service") && !cfg!(feature = "async-io"))
                || (example.ends_with("plugin_host") && !cfg!(feature = "seccomp"))
            {
                skip(&format!("{} needs a feature", example.display()));
                continue;
            }
            if example.ends_with("loop_io_uring") {
                // Its ring is not this crate's, and a filter has to refuse it: see the document.
                continue;
            }
            assert!(
                example.exists(),
                "the example {} is not built: run `cargo build --examples --all-features` first, \
                 with the profile and the target of this test",
                example.display()
            );
            let mut child = command(TEST, "confined");
            child.env(EXAMPLE, &example).stdin(Stdio::null());
            let output = child.output().expect("a child");
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            let status = output.status;
            assert!(status.success(), "{}: {status}\n{text}\n{errors}", example.display());
            count += 1;
            progress();
        }
        println!("{count} examples ran under the filter");
    }
    fn confined() {
        let example = PathBuf::from(env::var_os(EXAMPLE).expect("the parent names an example"));
        let mut program = Command::new(&example);
        if example.ends_with("frame_pipeline") {
            // Without optimisation, its usual ten frames take a processor ten seconds.
            program.arg("4");
        }
        if confine() {
            panic!("{}", program.exec());
        }
    }
    play(TEST, &[("all", all), ("confined", confined)]);
}

const EXAMPLE: &str = "MESSAGEPORT_TEST_EXAMPLE";

/// What the crate's own filter allows stands in the document.
#[cfg(feature = "seccomp")]
#[test]
fn the_filter_of_the_crate_allows_calls_of_the_document_only() {
    let documented = table::calls_in_the_document();
    let (port, program) = (SyscallFilter::port(), SyscallFilter::program());
    let unknown = |call: &i64| program.allows(*call) && !documented.contains(call);
    assert_eq!((0..1000).filter(unknown).collect::<Vec<_>>(), [] as [i64; 0]);
    assert!((0..1000).all(|call| program.allows(call) || !port.allows(call)));
    for refused in [libc::SYS_execve, libc::SYS_fallocate, libc::SYS_socket, libc::SYS_ptrace] {
        assert!(!port.allows(refused), "{refused}");
    }
}
