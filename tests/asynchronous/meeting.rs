//! Clients and listeners in tasks: those that are silent, hostile or gone do not keep the others
//! apart.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors,
};
use crate::common::role::{command, play};
use crate::{into_async, on_each};
use futures_lite::future::{poll_once, zip};
use futures_util::StreamExt;
use messageport::{
    AsyncListener, ChannelError, CloseReason, Connect, ConnectError, ListenError, Listener,
    MessageChannel, RecvError, connect_async,
};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, connect, listen,
    send, socket,
};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("name");
    (directory, path)
}

fn listener(path: &Path) -> AsyncListener {
    let listener = Listener::bind_at(path, MessageChannel::builder()).expect("a listener");
    listener.into_async().expect("a reactor")
}

fn client() -> Connect {
    Connect::new().timeout(crate::common::DEADLINE)
}

fn packet_socket() -> OwnedFd {
    let kind = SockType::SeqPacket;
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

/// A client that this crate has no part in.
fn stranger(path: &Path) -> OwnedFd {
    let socket = packet_socket();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("a listener");
    socket
}

/// A listener that this crate has no part in.
fn foreign_listener(path: &Path) -> OwnedFd {
    let socket = packet_socket();
    bind(socket.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("a free name");
    listen(&socket, Backlog::new(5).expect("a number")).expect("a listener");
    socket
}

#[test]
fn clients_and_a_listener_meet_in_tasks() {
    on_each("meeting::clients_and_a_listener_meet_in_tasks", async || {
        let (_directory, path) = place();
        let mut listener = listener(&path);
        assert!(listener.try_accept().expect("a listener").is_none());
        assert_eq!(listener.get_ref().path(), path);
        let greeting = async {
            for number in 0..100u64 {
                let port = listener.accept().await.expect("a client");
                port.post_message(&number).expect("room");
            }
            listener
        };
        let calling = async {
            for number in 0..100u64 {
                let port = client().at_async(&path).await.expect("a listener");
                let peer = port.peer_credentials().expect("met by a name");
                assert_eq!(peer.pid, std::process::id());
                let message = into_async(port).recv().await.expect("a message");
                assert_eq!(*message.data::<u64>().expect("a number"), number);
            }
        };
        let (listener, ()) = zip(greeting, calling).await;
        drop(listener);
        let error = client().at_async(&path).await.expect_err("the name is free");
        assert!(matches!(error, ConnectError::NoListener { .. }), "{error}");
    });
}

#[test]
fn names_of_the_user_are_found_and_names_that_are_none_are_refused() {
    on_each(
        "meeting::names_of_the_user_are_found_and_names_that_are_none_are_refused",
        async || {
            let name = format!("test-async-{}", std::process::id());
            let mut listener =
                Listener::bind(&name).expect("a free name").into_async().expect("a reactor");
            let (port, met) = zip(connect_async(&name), listener.next()).await;
            let met = met.expect("it does not end").expect("a client");
            met.post_text("here").expect("room");
            assert_eq!(crate::common::receive_text(&port.expect("a listener")), "here");
            let error = connect_async("no/name").await.expect_err("no name");
            assert!(matches!(error, ConnectError::BadName { .. }), "{error}");
            let error = Connect::new().schema(3).to_async(&name);
            let (error, refused) = zip(error, poll_once(listener.accept())).await;
            assert!(matches!(error, Err(ConnectError::Attach(_))), "{error:?}");
            assert!(refused.is_none(), "that is no client");
            assert_eq!(listener.get_ref().refused().count, 1);
            let listener = listener.into_inner();
            assert!(listener.try_accept().expect("a listener").is_none());
        },
    );
}

#[test]
fn strangers_delay_no_client_of_a_task() {
    on_each("meeting::strangers_delay_no_client_of_a_task", async || {
        let (_directory, path) = place();
        let mut listener = listener(&path);
        // The listener waits before any of them comes.
        assert!(poll_once(listener.accept()).await.is_none());
        let silent = [(); 10].map(|()| stranger(&path));
        let rude = stranger(&path);
        send(rude.as_raw_fd(), b"GET / HTTP/1.1", MsgFlags::empty()).expect("room");
        drop(stranger(&path));
        let (port, met) = zip(client().at_async(&path), listener.accept()).await;
        met.expect("a client").post_text("you are").expect("room");
        assert_eq!(crate::common::receive_text(&port.expect("a listener")), "you are");
        drop(silent);
        assert!(poll_once(listener.accept()).await.is_none());
    });
}

#[test]
fn listeners_that_are_silent_rude_or_go_are_each_an_error() {
    on_each("meeting::listeners_that_are_silent_rude_or_go_are_each_an_error", async || {
        let (_directory, path) = place();
        let quick = Connect::new().timeout(Duration::from_millis(20));
        {
            let _silent = Listener::bind_at(&path, MessageChannel::builder()).expect("a listener");
            let error = quick.at_async(&path).await.expect_err("silence");
            assert!(matches!(error, ConnectError::Timeout), "{error}");
            let error = quick.timeout(Duration::ZERO).at_async(&path).await.expect_err("silence");
            assert!(matches!(error, ConnectError::Timeout), "{error}");
        }
        let foreign = foreign_listener(&path);
        let rude = foreign.try_clone().expect("a descriptor");
        let thread = std::thread::spawn(move || {
            let socket = accept(rude.as_raw_fd()).expect("a client");
            send(socket, &[0xff; 100], MsgFlags::empty()).expect("room");
            nix::unistd::close(socket).expect("a descriptor");
        });
        let error = client().at_async(&path).await.expect_err("no capsule");
        assert!(matches!(error, ConnectError::Attach(_)), "{error}");
        thread.join().expect("no panic");
        // It hangs up on the first call, and is gone at the second one.
        let thread = std::thread::spawn(move || {
            let socket = accept(foreign.as_raw_fd()).expect("a client");
            drop(foreign);
            nix::unistd::close(socket).expect("a descriptor");
        });
        let error = client().at_async(&path).await.expect_err("it hangs up");
        assert!(matches!(error, ConnectError::HungUp { .. }), "{error}");
        thread.join().expect("no panic");
    });
}

/// A future that is dropped hangs up; a client that was greeted by then is one whose port ends.
#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    on_each("meeting::calls_that_are_dropped_leave_nothing_behind", async || {
        let (_directory, path) = place();
        let mut listener = listener(&path);
        assert!(poll_once(client().at_async(&path)).await.is_none());
        assert!(poll_once(listener.accept()).await.is_none(), "the client has hung up");
        {
            let mut calling = std::pin::pin!(client().at_async(&path));
            assert!(poll_once(calling.as_mut()).await.is_none());
            let port = listener.accept().await.expect("it has spoken");
            port.post_text("hello?").expect("it is not known yet");
        }
        // An accept that is dropped takes no client away.
        let calling = async { client().at_async(&path).await.expect("a listener") };
        let accepting = async {
            loop {
                if let Some(port) = poll_once(listener.accept()).await {
                    break port.expect("a client");
                }
                futures_lite::future::yield_now().await;
            }
        };
        let (port, met) = zip(calling, accepting).await;
        met.post_text("you").expect("room");
        assert_eq!(crate::common::receive_text(&port), "you");
    });
}

#[test]
fn the_port_of_a_call_that_is_dropped_ends() {
    on_each("meeting::the_port_of_a_call_that_is_dropped_ends", async || {
        let (_directory, path) = place();
        let mut listener = listener(&path);
        let port = {
            let mut calling = std::pin::pin!(client().at_async(&path));
            assert!(poll_once(calling.as_mut()).await.is_none());
            listener.accept().await.expect("it has spoken")
        };
        let end = into_async(port).recv().await.expect_err("the peer has left");
        let is_end = matches!(
            end,
            RecvError::Closed { reason: CloseReason::PeerDied | CloseReason::PeerDropped }
        );
        assert!(is_end, "{end}");
    });
}

#[test]
fn a_task_that_lacks_descriptors_says_so_and_meets_later() {
    const TEST: &str = "meeting::a_task_that_lacks_descriptors_says_so_and_meets_later";
    fn meets() {
        on_each(TEST, async || {
            let (_directory, path) = place();
            let mut listener = listener(&path);
            // Whatever is opened once is open.
            let (port, met) = zip(client().at_async(&path), listener.accept()).await;
            drop((port, met));
            let waiting = stranger(&path);
            for more in 0..2 {
                allow_more_descriptors(more);
                let error = client().at_async(&path).await.expect_err("no descriptor is left");
                assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
            }
            allow_more_descriptors(0);
            let tries = poll_once(listener.accept()).await;
            assert!(tries.is_none(), "it tries again for a moment: {tries:?}");
            let error = listener.accept().await.expect_err("no descriptor is left");
            let is_lack =
                matches!(&error, ListenError::Io(it) if it.source.raw_os_error() == Some(24));
            assert!(is_lack, "{error}");
            allow_all_descriptors();
            drop(waiting);
            let (port, met) = zip(client().at_async(&path), listener.accept()).await;
            met.expect("a client").post_text("now").expect("room");
            assert_eq!(crate::common::receive_text(&port.expect("a listener")), "now");
            drop(File::open("/dev/null").expect("descriptors are left"));
        });
    }
    play(TEST, &[("meets", meets)]);
}

/// Whatever number of descriptors is left, from the client's connection to the last one of its port.
#[test]
fn a_listener_that_runs_out_of_descriptors_halfway_meets_the_client_later() {
    const TEST: &str =
        "meeting::a_listener_that_runs_out_of_descriptors_halfway_meets_the_client_later";
    fn meets() {
        on_each(TEST, async || {
            let (_directory, path) = place();
            let mut listener = listener(&path);
            let mut lacks = 0;
            for (more, blocks) in (0..12).flat_map(|more| [(more, false), (more, true)]) {
                let mut calling = std::pin::pin!(client().at_async(&path));
                assert!(poll_once(calling.as_mut()).await.is_none(), "it has spoken");
                allow_more_descriptors(more);
                let accepted = match blocks {
                    false => listener.accept().await,
                    true => listener.get_ref().accept(),
                };
                allow_all_descriptors();
                let (port, met) = match accepted {
                    Ok(port) => (calling.await, port),
                    Err(error) => {
                        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{more}: {error}");
                        lacks += 1;
                        zip(calling, async { listener.accept().await.expect("a client") }).await
                    }
                };
                met.post_text("now").expect("room");
                assert_eq!(crate::common::receive_text(&port.expect("a listener")), "now");
            }
            assert!((4..24).contains(&lacks), "{lacks} of the numbers were too few");
        });
    }
    play(TEST, &[("meets", meets)]);
}

/// The port of a client is mapped at both ends.
#[test]
fn a_listener_and_a_client_without_memory_for_a_port_say_so_and_meet_later() {
    const TEST: &str =
        "meeting::a_listener_and_a_client_without_memory_for_a_port_say_so_and_meet_later";
    const LIMIT: u64 = 256 << 20;
    fn meets() {
        on_each(TEST, async || {
            let (_directory, path) = place();
            let builder = MessageChannel::builder().limit(LIMIT as usize);
            let listener = Listener::bind_at(&path, builder).expect("a listener");
            let mut listener = listener.into_async().expect("a reactor");
            let mut calling = std::pin::pin!(client().at_async(&path));
            assert!(poll_once(calling.as_mut()).await.is_none(), "it has spoken");
            allow_more_address_space(LIMIT / 4);
            let error = listener.accept().await.map(drop).expect_err("no memory");
            allow_all_address_space();
            let is_lack = matches!(
                &error,
                ListenError::Channel(ChannelError::ResourceLimit { resource: "RLIMIT_AS", .. })
            );
            assert!(is_lack, "{error}");
            let (port, met) = zip(calling, listener.accept()).await;
            met.expect("a client").post_text("now").expect("room");
            assert_eq!(crate::common::receive_text(&port.expect("a listener")), "now");

            let mut calling = std::pin::pin!(client().at_async(&path));
            assert!(poll_once(calling.as_mut()).await.is_none(), "it has spoken");
            let met = listener.accept().await.expect("a client");
            allow_more_address_space(LIMIT / 4);
            let error = calling.await.map(drop).expect_err("no memory");
            allow_all_address_space();
            assert!(matches!(error, ConnectError::Attach(_)), "{error}");
            let end = into_async(met).recv().await.expect_err("the client has none of it");
            assert!(matches!(end, RecvError::Closed { .. }), "{end}");
            let (port, met) = zip(client().at_async(&path), listener.accept()).await;
            assert!(port.is_ok() && met.is_ok());
        });
    }
    play(TEST, &[("meets", meets)]);
}

/// Clients in other processes, of which some are killed at some point.
#[test]
fn killed_clients_delay_no_other_one() {
    const TEST: &str = "meeting::killed_clients_delay_no_other_one";
    fn calls() {
        let path = PathBuf::from(std::env::var_os("PLACE").expect("a place"));
        on_each(TEST, async || {
            loop {
                let Ok(port) = client().at_async(&path).await else { return };
                let mut port = into_async(port);
                let _ = port.recv().await;
            }
        });
    }
    fn accepts() {
        on_each(TEST, async || {
            let (_directory, path) = place();
            let mut listener = listener(&path);
            let spawn = || {
                let mut child = command(TEST, "calls");
                child.env("PLACE", &path).spawn().expect("a child")
            };
            let mut children: Vec<_> = (0..3).map(|_| spawn()).collect();
            for round in 0..60 {
                let port = listener.accept().await.expect("a client");
                let _ = port.post_text("next");
                if round % 20 == 10 {
                    let mut child = children.pop().expect("one is left");
                    child.kill().expect("a child of our own");
                    child.wait().expect("a child of our own");
                    children.push(spawn());
                }
            }
            for mut child in children {
                child.kill().expect("a child of our own");
                child.wait().expect("a child of our own");
            }
        });
    }
    play(TEST, &[("accepts", accepts), ("calls", calls)]);
}
