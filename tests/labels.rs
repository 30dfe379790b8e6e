//! What people call channels and ends: it moves with the port, and is shown.

#![allow(unsafe_code)]

mod common;

use common::role::{command, play};
use common::{DEADLINE, receive_text};
use messageport::{
    Connect, EventLoop, Listener, MessageChannel, MessagePort, PostError, TaskError, Worker,
    WorkerPool, parent_port,
};
use std::thread;
use std::time::Duration;

fn labels(port: &MessagePort) -> [String; 2] {
    [port.channel_label(), port.label()]
}

#[test]
fn each_end_has_a_label_beside_that_of_the_channel() {
    let channel = MessageChannel::builder().label("prices").build().expect("a channel");
    channel.port1.set_label("shop");
    assert_eq!(labels(&channel.port1), ["prices", "shop"]);
    assert_eq!(labels(&channel.port2), ["prices", ""], "the peer does not see it");
    let shown = format!("{:?}", channel.port1);
    assert!(shown.contains(r#"labels: ("prices", "shop")"#), "{shown}");
    channel.port1.set_label("");
    assert_eq!(labels(&channel.port1), ["prices", ""]);
    let plain = MessageChannel::new().expect("a channel").port1;
    assert_eq!(labels(&plain), ["", ""]);
}

#[test]
fn a_long_label_is_cut_and_loses_its_control_characters() {
    let port = MessageChannel::new().expect("a channel").port1;
    port.set_label(&"ü".repeat(17));
    assert_eq!(port.label(), "ü".repeat(16));
    port.set_label("a\n\u{1b}[31mb\0c");
    assert_eq!(port.label(), "a[31mbc");
}

#[test]
fn labels_move_with_a_port() {
    let carrier = MessageChannel::new().expect("a channel");
    let moving = MessageChannel::builder().label("prices").build().expect("a channel").port1;
    moving.set_label("shop");
    carrier.port1.post_text_with("take it", [moving.into()]).expect("room");
    let moved = carrier.port2.recv().expect("a message").take_port().expect("a port");
    assert_eq!(labels(&moved), ["prices", "shop"]);
    let moved = MessagePort::from_fd(moved.into_fd().expect("a descriptor")).expect("a port");
    assert_eq!(labels(&moved), ["prices", "shop"]);
    let requester = moved.requester::<u8, u8>();
    let shown = format!("{requester:?}");
    assert!(shown.contains(r#"labels: ("prices", "shop")"#), "{shown}");
}

#[test]
fn a_worker_and_a_client_have_labels() {
    const TEST: &str = "a_worker_and_a_client_have_labels";
    fn child() {
        let port = parent_port().expect("a port to the parent");
        let [channel, end] = labels(&port);
        port.post_text(&format!("{channel}/{end}")).expect("room");
    }
    fn parent() {
        let builder = Worker::builder(command(TEST, "child"))
            .channel(MessageChannel::builder().label("pictures"))
            .label("resizer 3");
        let (port, mut child) = builder.spawn().expect("a worker").into_parts();
        assert_eq!(labels(&port), ["pictures", "resizer 3"]);
        assert_eq!(receive_text(&port), "pictures/");
        child.wait().expect("a child");
    }
    play(TEST, &[("parent", parent), ("child", child)]);

    let name = format!("labels-{}", std::process::id());
    let listener = Listener::bind_with(&name, MessageChannel::builder().label("prices"));
    let listener = listener.expect("a listener");
    let client = thread::spawn(move || {
        Connect::new().label("client").timeout(DEADLINE).to(&name).expect("the listener")
    });
    let served = listener.accept_timeout(DEADLINE).expect("a client");
    assert_eq!(labels(&served), ["prices", ""]);
    assert_eq!(labels(&client.join().expect("no panic")), ["prices", "client"]);
}

#[test]
fn errors_and_counters_of_a_labelled_port_name_it() {
    let MessageChannel { port1, port2 } =
        MessageChannel::builder().label("prices").build().expect("a channel");
    port1.set_label("shop");
    assert_eq!((port1.labels().channel(), port1.labels().end()), ("prices", "shop"));
    assert!(format!("{:?}", port1.stats()).contains(r#"labels: ("prices", "shop")"#));
    assert_eq!(port1.stats().labels, port1.labels());
    port1.labeled(port1.post_text("first")).expect("room");
    drop(port2);
    let error = port1.labeled(port1.post_text("late")).expect_err("no peer");
    let named = r#"port "shop" of the channel "prices": the port is closed"#;
    assert!(error.to_string().starts_with(named), "{error}");
    assert_eq!(error.labels(), port1.labels());
    assert!(std::error::Error::source(&error).is_none());
    let plain = error.into_error();
    assert!(matches!(plain, PostError::Closed { .. }));
    // The others of the same port.
    let (labels, (sender, receiver)) = (port1.labels(), port1.split());
    assert_eq!((sender.labels(), receiver.labels()), (labels, labels));
    assert_eq!(sender.into_shared().labels(), labels);
    let port = MessageChannel::builder().label("prices").build().expect("a channel").port1;
    let labels = port.labels();
    assert_eq!(labels.to_string(), r#"a port of the channel "prices""#);
    assert_eq!(port.requester::<u8, u8>().labels(), labels);
    let port = MessageChannel::new().expect("a channel").port1;
    port.set_label("stock \"7\"");
    assert_eq!(port.labels().to_string(), r#"port "stock \"7\"""#);
    let labels = port.labels();
    assert_eq!(port.responder::<u8, u8>().labels(), labels);
    // Without a label the error is as it was.
    let port = MessageChannel::new().expect("a channel").port1;
    assert!(port.labels().is_empty());
    let error = port.labeled(port.recv_timeout(Duration::ZERO)).expect_err("no message");
    assert_eq!(error.to_string(), error.error().to_string());
}

/// A listener that fails without a hook, and a worker that a pool has lost.
#[test]
fn reports_and_pools_name_their_ports() {
    const TEST: &str = "reports_and_pools_name_their_ports";
    fn fails() {
        let MessageChannel { port1, port2 } =
            MessageChannel::builder().label("prices").build().expect("a channel");
        port1.post_text("one").expect("room");
        port2.set_label("shop");
        port2.on_message(|_| Err::<(), _>("no lamp"));
        port2.dispatch(1).expect("a message");
        port2.clear_handler("message");
        let mut event_loop = EventLoop::new().expect("a loop");
        event_loop.add_with(port2, |_, _, _| Err::<(), _>("no chair")).expect("a port");
        port1.post_text("two").expect("room");
        event_loop.run_until_idle().expect("a turn");
    }
    fn quits() {
        parent_port().expect("a port to the parent").recv().expect("a request");
        std::process::exit(3);
    }
    fn asks() {
        let output = command(TEST, "fails").output().expect("a child");
        let errors = String::from_utf8_lossy(&output.stderr);
        let listener = r#"a listener of port "shop" of the channel "prices" has failed: no lamp"#;
        assert!(errors.contains(listener), "{errors}");
        let handler = r#"a handler of port "shop" of the channel "prices" has failed: no chair"#;
        assert!(errors.contains(handler), "{errors}");
        let launch = || Worker::builder(command(TEST, "quits")).end_with_parent().label("resizer");
        let pool: WorkerPool<u8, u8> =
            WorkerPool::builder(launch).workers(1).attempts(1).build().expect("a pool");
        match pool.call(&1) {
            Err(TaskError::Lost { last, .. }) => {
                assert_eq!(last.label(), "resizer");
                let text = format!("worker {} (\"resizer\") ended: exit status: 3", last.id());
                assert_eq!(last.to_string(), text);
            }
            other => panic!("{other:?}"),
        }
    }
    play(TEST, &[("asks", asks), ("fails", fails), ("quits", quits)]);
}
