//! A process that serves an honest client and, by the same front, a hostile one from which it takes
//! nothing.

use crate::attacks;
use crate::play::start;
use messageport::{BroadcastChannel, EventLoop, MessagePort, PortSet, parent_port};

/// How the two ports are served.
pub const FRONTS: &[&str] = &[
    "EventLoop",
    "PortSet",
    #[cfg(feature = "tokio")]
    "AsyncPort",
    "BroadcastChannel",
];

/// Plays `front/attack/name of the channel`.
pub fn serve(role: &str) {
    let mut words = role.split('/');
    let mut word = || words.next().expect("a role of three words");
    let (front, attack, name) = (word(), word(), word());
    let client = parent_port().expect("a port to the parent");
    if front == "BroadcastChannel" {
        return by_channel(&client, attack, name);
    }
    // Killed with this process.
    let (hostile, _child) = start(&format!("attack:{attack}"), attacks::sizes(attack)).into_parts();
    match front {
        "EventLoop" => by_loop(client, hostile),
        "PortSet" => by_set(client, hostile),
        #[cfg(feature = "tokio")]
        "AsyncPort" => by_tasks(client, hostile),
        other => panic!("no front is called {other}"),
    }
}

fn by_loop(client: MessagePort, hostile: MessagePort) {
    let mut events = EventLoop::new().expect("a loop");
    hostile.on_message(|_| {});
    client.on_message(|event| {
        let _ = event.port().post_text("pong");
    });
    let handle = events.handle();
    client.on_close(move |_| handle.stop());
    events.add(hostile).expect("room for a port");
    events.add(client).expect("room for a port");
    events.run().expect("the loop waits");
}

fn by_set(client: MessagePort, hostile: MessagePort) {
    let mut set = PortSet::new().expect("a set");
    set.add(hostile).expect("room for a port");
    let client = set.add(client).expect("room for a port");
    loop {
        match set.recv().expect("the set waits") {
            (id, Ok(_)) if id == client => {
                let _ = set.get(id).expect("a member").post_text("pong");
            }
            (id, Err(_)) if id == client => return,
            _ => {}
        }
    }
}

#[cfg(feature = "tokio")]
fn by_tasks(client: MessagePort, hostile: MessagePort) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut hostile = hostile.into_async().expect("a reactor");
        tokio::spawn(async move { while hostile.recv().await.is_ok() {} });
        let mut client = client.into_async().expect("a reactor");
        while client.recv().await.is_ok() {
            let _ = client.post_bytes(b"pong").await;
        }
    });
}

/// The honest client and the hostile one are members of one channel.
fn by_channel(client: &MessagePort, attack: &str, name: &str) {
    let channel = BroadcastChannel::open(name).expect("a channel");
    let (_hostile, _child) = start(
        &format!("attack:{attack}, as a member/{name}"),
        messageport::MessageChannel::builder(),
    )
    .into_parts();
    client.post_text("joined").expect("room");
    while !client.is_closed() {
        let received = channel.recv_timeout(std::time::Duration::from_millis(100));
        if received.is_ok_and(|message| message.text().is_ok_and(|text| text == "ping")) {
            let _ = channel.post_text("pong");
        }
    }
}
