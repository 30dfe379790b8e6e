//! What people call channels and ends: it moves with the port, and is shown.

#![allow(unsafe_code)]

mod common;

use common::role::{command, play};
use common::{DEADLINE, receive_text};
use messageport::{Connect, Listener, MessageChannel, MessagePort, Worker, parent_port};
use std::thread;

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
