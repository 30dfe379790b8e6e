//! What a task holds can change its thread, and a runtime may go before its ports.

use crate::on_each;
use messageport::{
    AsyncBroadcastChannel, AsyncListener, AsyncPort, AsyncReceiver, AsyncSender, AsyncTypedPort,
    AsyncTypedReceiver, AsyncTypedSender, BroadcastChannel, BufferPool, Canceller, CloseReason,
    Connect, Listener, Message, MessageChannel, Receiver, Sender, TypedMessage, TypedPort,
    TypedReceiver, TypedSender, Worker, WorkerProcess, connect_async,
};

const fn is_send<T: Send>() {}
const fn is_sync<T: Sync>() {}

/// Whatever the messages are of.
type Any = *const u8;

const _: () = {
    is_send::<AsyncPort>();
    is_send::<AsyncSender>();
    is_send::<AsyncReceiver>();
    is_send::<AsyncTypedPort<Any, u8>>();
    is_send::<AsyncTypedSender<u8>>();
    is_send::<AsyncTypedReceiver<Any>>();
    is_send::<AsyncListener>();
    is_send::<AsyncBroadcastChannel>();
    is_send::<(Worker, WorkerProcess)>();
    is_send::<(Sender, Receiver, TypedSender<Any>, TypedReceiver<Any>, TypedPort<Any, Any>)>();
    is_send::<(Listener, BroadcastChannel, Connect, BufferPool, Canceller)>();
    is_send::<(Message, TypedMessage<Any>)>();
    is_sync::<(Message, TypedMessage<Any>)>();
};

/// Every future is `Send`: this compiles. Nothing of it is run.
#[allow(dead_code, clippy::manual_async_fn)] // The bound is the test.
fn futures_are_send(
    mut port: AsyncPort,
    mut typed: AsyncTypedPort<u8, u8>,
    mut listener: AsyncListener,
    mut channel: AsyncBroadcastChannel,
    mut worker: Worker,
    process: WorkerProcess,
) -> impl Future<Output = ()> + Send {
    async move {
        let _ = (port.recv().await, port.post_message(&1u8).await, port.post_bytes(b"").await);
        let _ = (port.post_text("").await, port.wait_for_room(1).await);
        let _ = (port.post_message_with(&1u8, []).await, port.wait_for_peer_gone().await);
        let _ = (port.post_bytes_with(b"", []).await, port.post_text_with("", []).await);
        if let Ok(loan) = port.loan(1).await {
            let _ = loan.post();
        }
        let _ = (typed.recv().await, typed.post_message(&1).await);
        let _ = typed.post_message_with(&1, []).await;
        let _ = (listener.accept().await, channel.recv().await);
        let _ = (connect_async("").await, Connect::new().to_async("").await);
        let _ = (Connect::new().at_async("").await, worker.wait_async().await);
        let _ = process.terminate_async().await;
    }
}

/// A message is shared by threads, and one of them takes what came with it.
#[test]
fn one_thread_of_several_takes_what_came_with_a_shared_message() {
    let channel = MessageChannel::new().expect("a channel");
    let file = std::fs::File::open("/dev/null").expect("a file");
    channel.port1.post_text_with("a file", [file.into()]).expect("room");
    let message = channel.port2.recv().expect("a message").into_message();
    let taken = std::thread::scope(|scope| {
        let takers = [(); 4].map(|()| scope.spawn(|| message.take_descriptor().is_ok()));
        takers.map(|taker| taker.join().expect("no panic"))
    });
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
    assert_eq!(message.text().expect("a text"), "a file");
}

#[cfg(feature = "tokio")]
mod of_tokio {
    use super::*;
    use crate::common::watchdog::watch;
    use crate::into_async;
    use futures_lite::future::{block_on, poll_once};
    use futures_util::StreamExt;
    use messageport::{BroadcastError, ListenError, PostError, RecvError};
    use tokio::runtime::{Builder, Runtime};

    fn runtimes() -> [Runtime; 2] {
        [Builder::new_current_thread(), Builder::new_multi_thread()]
            .map(|mut builder| builder.enable_all().build().expect("a runtime"))
    }

    /// A call that would wait says that the runtime has ended; the port is as good as before.
    #[test]
    fn a_port_that_outlives_its_runtime_comes_back() {
        let _watch = watch("gone::of_tokio::a_port_that_outlives_its_runtime_comes_back");
        for runtime in runtimes() {
            let builder = MessageChannel::builder().capacity(4096).bounded();
            let MessageChannel { port1, port2 } = builder.build().expect("a channel");
            let mut port1 = runtime.block_on(async { into_async(port1) });
            // One waits when the runtime ends.
            assert!(runtime.block_on(poll_once(port1.recv())).is_none());
            drop(runtime);
            port2.post_text("there").expect("room");
            let message = block_on(port1.recv()).expect("what is there needs no reactor");
            assert_eq!(message.text().expect("a text"), "there");
            let error = block_on(port1.recv()).expect_err("no reactor");
            assert!(matches!(&error, RecvError::Io(error) if error.call == "reactor"), "{error}");
            let error = block_on(async {
                loop {
                    if let Err(error) = port1.post_bytes(&[1; 700]).await {
                        break error;
                    }
                }
            });
            assert!(matches!(&error, PostError::Io(error) if error.call == "reactor"), "{error}");
            assert!(block_on(port1.next()).is_none());
            let port1 = port1.into_inner();
            while port2.try_recv().expect("an open port").is_some() {}
            port1.post_text("on").expect("room");
            assert_eq!(crate::common::receive_text(&port2), "on");
            port2.post_text("on").expect("room");
            assert_eq!(crate::common::receive_text(&port1), "on");
        }
    }

    #[test]
    fn a_listener_and_a_member_that_outlive_their_runtime_come_back() {
        const TEST: &str =
            "gone::of_tokio::a_listener_and_a_member_that_outlive_their_runtime_come_back";
        let _watch = watch(TEST);
        for runtime in runtimes() {
            let name = format!("test-gone-{}", std::process::id());
            let _inside = runtime.enter();
            let mut listener =
                Listener::bind(&name).expect("a name").into_async().expect("a reactor");
            let member = || BroadcastChannel::open(&name).expect("a member");
            let (mut member, other) = (member().into_async().expect("a reactor"), member());
            drop(_inside);
            drop(runtime);
            let error = block_on(listener.accept()).expect_err("no reactor");
            assert!(matches!(&error, ListenError::Io(error) if error.call == "reactor"), "{error}");
            assert!(block_on(listener.next()).is_none(), "it would be the same error for ever");
            let error = block_on(member.recv()).expect_err("no reactor");
            let is_reactor = matches!(&error, BroadcastError::Io(error) if error.call == "reactor");
            assert!(is_reactor, "{error}");
            assert!(block_on(member.next()).is_none());
            other.post_text("still").expect("room");
            let message = member.into_inner().recv_timeout(crate::common::DEADLINE);
            assert_eq!(message.expect("a message").text().expect("a text"), "still");
            let client = std::thread::spawn(move || Connect::new().to(&name).expect("a listener"));
            let port = listener.into_inner().accept_timeout(crate::common::DEADLINE);
            drop((port.expect("a client"), client.join().expect("no panic")));
        }
    }

    /// Tasks are dropped with their runtime, and what they hold ends as if it had been dropped.
    #[test]
    fn tasks_that_go_with_their_runtime_close_their_ports() {
        let _watch = watch("gone::of_tokio::tasks_that_go_with_their_runtime_close_their_ports");
        for runtime in runtimes() {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let (started, is_started) = std::sync::mpsc::channel();
            runtime.spawn(async move {
                let mut port1 = into_async(port1);
                port1.post_text("begun").await.expect("room");
                started.send(()).expect("the test waits");
                let _ = port1.recv().await;
            });
            runtime.block_on(async { tokio::task::yield_now().await });
            is_started.recv().expect("the task has begun");
            drop(runtime);
            assert_eq!(crate::common::receive_text(&port2), "begun");
            let end = crate::common::receive_end(&port2);
            assert_eq!(end, messageport::CloseReason::PeerDropped);
        }
    }
}

#[test]
fn into_async_gives_back_what_no_reactor_takes() {
    on_each("gone::into_async_gives_back_what_no_reactor_takes", async || {
        let name = format!("test-back-{}", std::process::id());
        let listener = Listener::bind(&name).expect("a name");
        let member = BroadcastChannel::open(&name).expect("a member");
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        #[cfg(feature = "tokio")]
        let runtime = tokio::runtime::Handle::try_current().ok();
        let attempt = std::thread::spawn(move || {
            #[cfg(feature = "tokio")]
            let _inside = runtime.as_ref().map(|runtime| runtime.enter());
            let duplicates = crate::filter::When::Equals(1, libc::F_DUPFD_CLOEXEC as u32);
            crate::filter::answer(libc::SYS_fcntl, duplicates, libc::EMFILE).expect("a filter");
            let listener = listener.into_async().expect_err("no descriptor is left");
            let member = member.into_async().expect_err("no descriptor is left");
            let port = port2.typed::<u32, ()>().into_async().expect_err("no descriptor is left");
            for error in [listener.to_string(), member.to_string(), port.to_string()] {
                assert!(error.contains("RLIMIT_NOFILE"), "{error}");
            }
            (listener.into_inner(), member.into_inner(), port.into_inner())
        });
        let (listener, member, port2) = attempt.join().expect("no panic");
        assert!(listener.try_accept().expect("a listener").is_none());
        assert_eq!(member.others().expect("a member"), 0);
        port1.post_message(&7u32).expect("room");
        assert_eq!(port2.recv().expect("a number").data().to_native(), 7);
    });
}

/// Without a runtime there is no reactor, unless async-io brings its own.
#[cfg(all(feature = "tokio", not(feature = "async-io")))]
#[test]
fn a_port_outside_of_a_runtime_comes_back_with_the_reason() {
    let channel = MessageChannel::new().expect("a channel");
    let error = channel.port1.into_async().expect_err("no runtime");
    let text = error.to_string();
    assert!(text.contains("no tokio runtime on this thread"), "{text}");
    let (_, port) = error.into_parts();
    port.post_text("on").expect("the port is as it was");
}

/// The end of a peer behind what is unread, while a task waits for that alone.
#[test]
fn a_task_waits_for_the_end_of_its_peer() {
    on_each("gone::a_task_waits_for_the_end_of_its_peer", async || {
        for keeps in [false, true] {
            let MessageChannel { port1: peer, port2 } = MessageChannel::new().expect("a channel");
            let mut port = port2.into_async().expect("a reactor");
            peer.post_text("unread").expect("room");
            let (send, begins) = std::sync::mpsc::channel();
            let ends = std::thread::spawn(move || {
                begins.recv().expect("the task waits");
                // A message does not end the wait.
                peer.post_text("another").expect("room");
                if keeps {
                    peer.close();
                }
                keeps.then_some(peer)
            });
            send.send(()).expect("a thread");
            let reason = port.wait_for_peer_gone().await.expect("the end of the peer");
            let expected = if keeps { CloseReason::PeerClosed } else { CloseReason::PeerDropped };
            assert_eq!(reason, expected);
            for text in ["unread", "another"] {
                let message = port.recv().await.expect("what came before");
                assert_eq!(message.text().expect("text"), text);
            }
            assert_eq!(port.wait_for_peer_gone().await.expect("it has gone"), expected);
            drop(ends.join().expect("no panic"));
        }
        let mut port = MessageChannel::new().expect("a channel").port1.into_async().expect("one");
        port.close();
        let reason = port.wait_for_peer_gone().await.expect("its own end");
        assert_eq!(reason, CloseReason::Local);
    });
}
