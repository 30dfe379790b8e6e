//! Wake-ups that the kernel refuses, for each wait that `refused` does not cover: it ends all the
//! same. How long that takes is printed.

use crate::common::role::{play, say, skip};
use crate::common::{DEADLINE, receive, wait_until_asleep};
use crate::filter::{When, answer, refused};
use crate::{bounded, fill, sleeper};
use messageport::{
    BroadcastChannel, BroadcastError, BufferPool, Connect, EventLoop, ListenError, Listener,
    MessageChannel, MessagePort, PostError, RecvError, Worker,
};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The waits here last for ever. The watchdog of the role ends one that nothing else does.
pub const FOR_EVER: Duration = Duration::MAX;

/// Has `sleep` wait in a thread. Once it is asleep, `wake` tries to wake it in another one, and
/// does nothing more. `sleep` says whether it ended well.
pub fn comes_back<T: Send + 'static>(
    what: &str,
    sleep: impl FnOnce() -> bool + Send + 'static,
    wake: impl FnOnce() -> T + Send + 'static,
) {
    let (sleeping, id) = sleeper(sleep);
    wait_until_asleep(id);
    let start = Instant::now();
    let Some(_waker) = refused(wake) else { return };
    assert!(sleeping.join().expect("no panic"), "{what}: it ended otherwise");
    say(&format!("{what}: back {:?} after a wake-up that was refused", start.elapsed()));
}

/// Until there is no more, or the waiting end has come back and gone.
fn take_all(port: MessagePort) -> MessagePort {
    while let Ok(Some(_)) = port.try_recv() {}
    port
}

#[test]
fn a_refused_wake_ends_every_wait_for_room() {
    const TEST: &str = "lost::a_refused_wake_ends_every_wait_for_room";
    type Wait = fn(&MessagePort) -> Result<(), PostError>;
    fn waits() {
        let waits: [(&str, Wait); 2] = [
            ("a post that waits for room", |port| port.post_bytes_timeout(&[2; 500], FOR_EVER)),
            ("a wait for room", |port| port.wait_for_room(500, FOR_EVER)),
        ];
        for (what, wait) in waits {
            let MessageChannel { port1, port2 } = bounded();
            fill(&port1);
            comes_back(what, move || wait(&port1).is_ok(), move || take_all(port2));
        }
        let MessageChannel { port1, port2 } = bounded();
        fill(&port1);
        let (sender, receiver) = port1.split();
        comes_back(
            "a half that waits for room",
            move || {
                let _receiver = receiver;
                sender.post_bytes_timeout(&[2; 500], FOR_EVER).is_ok()
            },
            move || take_all(port2),
        );
    }
    play(TEST, &[("waits", waits)]);
}

#[test]
fn a_refused_wake_ends_the_wait_for_a_slot_of_a_pool() {
    const TEST: &str = "lost::a_refused_wake_ends_the_wait_for_a_slot_of_a_pool";
    fn waits() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for port in [&port1, &port2] {
            // SAFETY: both ends stay in this program.
            unsafe { port.trust_peer() };
        }
        let pool = BufferPool::new(&port1, 1, 100).expect("a pool");
        let buffer = pool.take().expect("a free one");
        port1.post_message_pooled(&1u8, buffer).expect("room");
        let buffer = receive(&port2).take_pooled().expect("a buffer");
        comes_back(
            "a wait for a slot",
            move || pool.take_timeout(FOR_EVER).is_ok(),
            move || drop(buffer),
        );
        drop((port1, port2));
    }
    play(TEST, &[("waits", waits)]);
}

#[test]
fn a_canceller_whose_rings_are_refused_ends_a_call_all_the_same() {
    const TEST: &str = "lost::a_canceller_whose_rings_are_refused_ends_a_call_all_the_same";
    fn waits() {
        let MessageChannel { port1, port2 } = bounded();
        let canceller = port2.canceller().expect("a canceller");
        comes_back(
            "a receive that is cancelled",
            move || matches!(port2.recv_timeout(FOR_EVER), Err(RecvError::Cancelled)),
            move || canceller.cancel(),
        );
        drop(port1);
        let MessageChannel { port1, port2 } = bounded();
        fill(&port1);
        let canceller = port1.canceller().expect("a canceller");
        comes_back(
            "a post that is cancelled",
            move || {
                let posted = port1.post_bytes_timeout(&[2; 500], FOR_EVER);
                matches!(posted, Err(PostError::Cancelled))
            },
            move || canceller.cancel(),
        );
        drop(port2);
    }
    play(TEST, &[("waits", waits)]);
}

#[test]
fn a_loop_hears_its_handle_although_the_rings_are_refused() {
    const TEST: &str = "lost::a_loop_hears_its_handle_although_the_rings_are_refused";
    fn waits() {
        let (give, given) = std::sync::mpsc::channel();
        let runs = move || {
            let mut event_loop = EventLoop::new().expect("a loop");
            // It runs for as long as it has a port.
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            event_loop.add(port2).expect("room for a port");
            give.send(event_loop.handle()).expect("the test waits for it");
            let ran = event_loop.run().is_ok();
            drop(port1);
            ran
        };
        comes_back("a loop that is stopped", runs, move || {
            given.recv().expect("a handle").stop();
        });
    }
    play(TEST, &[("waits", waits)]);
}

/// The listener's answer is refused for a lack of memory. The client asks again.
#[test]
fn a_client_whose_answer_was_refused_asks_again() {
    const TEST: &str = "lost::a_client_whose_answer_was_refused_asks_again";
    fn waits() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
        let (client, id) = sleeper(move || Connect::new().timeout(DEADLINE).at(&path).map(drop));
        wait_until_asleep(id);
        let start = Instant::now();
        let refusing = thread::spawn(move || {
            let installed = answer(libc::SYS_sendmsg, When::Always, libc::ENOBUFS);
            let accepted = listener.accept_timeout(DEADLINE);
            (installed, accepted.map(drop), listener)
        });
        let (installed, accepted, listener) = refusing.join().expect("no panic");
        if let Err(error) = installed {
            return skip(&format!("no seccomp filter here: {error}"));
        }
        assert!(matches!(accepted, Err(ListenError::Io { .. })), "{accepted:?}");
        let port = listener.accept_timeout(DEADLINE).expect("it asks again");
        client.join().expect("no panic").expect("it was answered");
        say(&format!("a client: met {:?} after its answer was refused", start.elapsed()));
        drop(port);
    }
    play(TEST, &[("waits", waits)]);
}

/// A member whose socket takes no connection is waited for in turns, and then given up.
#[test]
fn joining_a_channel_ends_although_a_member_accepts_no_joiner() {
    const TEST: &str = "lost::joining_a_channel_ends_although_a_member_accepts_no_joiner";
    fn waits() {
        let name = format!("lost-{}", std::process::id());
        let _member = BroadcastChannel::open(&name).expect("a member");
        let start = Instant::now();
        let joining = thread::spawn(move || {
            answer(libc::SYS_connect, When::Always, libc::EAGAIN)
                .map(|()| BroadcastChannel::open(&name).map(drop))
        });
        match joining.join().expect("no panic") {
            Err(error) => skip(&format!("no seccomp filter here: {error}")),
            Ok(joined) => {
                assert!(matches!(joined, Err(BroadcastError::Busy { .. })), "{joined:?}");
                say(&format!("joining: given up after {:?}", start.elapsed()));
            }
        }
    }
    play(TEST, &[("waits", waits)]);
}

/// The kernel refuses to wait for a child: the calls say so, or kill it, and none hangs.
#[test]
fn a_worker_cannot_be_waited_for_and_no_call_hangs() {
    const TEST: &str = "lost::a_worker_cannot_be_waited_for_and_no_call_hangs";
    fn waits() {
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("1000");
            Worker::spawn(command).expect("a worker")
        };
        let (mut waited, terminated, dropped) = (start(), start(), start());
        let calls = thread::spawn(move || {
            answer(libc::SYS_ppoll, When::Always, libc::ENOMEM)?;
            let began = Instant::now();
            let error = waited.wait().expect_err("it lives, and the kernel refuses to wait");
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
            let error = terminated.terminate().expect_err("no call can tell that it has ended");
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
            drop((dropped, waited));
            Ok::<_, std::io::Error>(began.elapsed())
        });
        match calls.join().expect("no panic") {
            Err(error) => skip(&format!("no seccomp filter here: {error}")),
            Ok(took) => say(&format!("a worker: four calls that cannot wait took {took:?}")),
        }
    }
    play(TEST, &[("waits", waits)]);
}
