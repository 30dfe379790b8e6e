//! The longest time of each call while a hostile process does its worst.

use crate::attacks;
use crate::play::start;
use messageport::{EventLoop, Listener, MessageEvent, MessagePort, connect};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What the peer does. The first is for comparison.
const ATTACKS: [&str; 9] = [
    "nothing",
    "burner",
    "bell",
    "scribbling",
    "ports",
    "lingering sockets",
    "lingering orphans",
    "holes",
    "a held lock",
];

/// A wait that ends at its deadline counts what is beyond it.
const WAIT: Duration = Duration::from_millis(1);

type Longest = BTreeMap<&'static str, Duration>;

/// Makes every call for `time` beside each attack, and prints the table.
pub fn run(time: Duration) {
    let columns: Vec<Longest> = ATTACKS.iter().map(|attack| beside(attack, time)).collect();
    println!("\n| call | {} |", ATTACKS.join(" | "));
    println!("|---|{}", "---|".repeat(ATTACKS.len()));
    let calls: BTreeSet<_> = columns.iter().flat_map(|column| column.keys()).collect();
    for call in calls {
        let cells = columns.iter().map(|column| match column.get(call) {
            Some(longest) => format!("{longest:.1?}"),
            None => "–".to_owned(),
        });
        println!("| `{call}` | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn beside(attack: &str, time: Duration) -> Longest {
    let mut longest = Longest::new();
    let start_of_all = Instant::now();
    // A port may end, and a drop is a call as well: several peers, one after the other.
    while start_of_all.elapsed() < time {
        let worker = start(&format!("attack:{attack}"), attacks::sizes(attack));
        wait_for_attack(worker.port(), attack);
        let begun = Instant::now();
        while begun.elapsed() < time / 4 {
            use_port(worker.port(), attack, &mut longest);
        }
        let (port, child) = worker.into_parts();
        let port = by_loop(port, time / 8, &mut longest);
        if let Some(port) = port {
            took(&mut longest, "drop(port)", || drop(port));
        }
        end(child);
        by_halves(attack, time / 8, &mut longest);
        let idle = start(&format!("attack:{attack}"), attacks::sizes(attack));
        wait_for_attack(idle.port(), attack);
        took(&mut longest, "drop(Worker)", || drop(idle));
        meet(&mut longest);
    }
    longest
}

fn took<T>(longest: &mut Longest, call: &'static str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = act();
    let entry = longest.entry(call).or_default();
    *entry = start.elapsed().max(*entry);
    answer
}

/// The greeting, and the word that an attack with a long beginning is under way.
fn wait_for_attack(port: &MessagePort, attack: &str) {
    let words = if matches!(attack, "holes" | "a held lock") { 2 } else { 1 };
    for _ in 0..words {
        drop(port.recv_timeout(Duration::from_secs(20)));
    }
}

fn use_port(port: &MessagePort, attack: &str, longest: &mut Longest) {
    let _ = took(longest, "post_bytes", || port.post_bytes(&[1; 100]));
    let _ = took(longest, "post_message", || port.post_message(&(7u64, "seven".to_owned())));
    let _ = took(longest, "is_closed", || port.is_closed());
    let _ = took(longest, "backlog", || port.backlog());
    if let Ok(Some(event)) = took(longest, "try_recv", || port.try_recv()) {
        take(event, longest);
    }
    let began = Instant::now();
    let event = port.recv_timeout(WAIT);
    let beyond = began.elapsed().saturating_sub(WAIT);
    let entry = longest.entry("recv_timeout, beyond its time").or_default();
    *entry = beyond.max(*entry);
    if let Ok(event) = event {
        take(event, longest);
    }
    // Documented as held up by a peer that holds the lock: it would not return.
    if attack != "a held lock" {
        let _ = took(longest, "trim", || port.trim());
    }
}

fn take(event: MessageEvent<'_>, longest: &mut Longest) {
    let (ports, ..) = event.transferred();
    if ports > 0
        && let Ok(port) = took(longest, "take_port", || event.take_port())
    {
        took(longest, "drop(port that came)", || drop(port));
    }
    took(longest, "drop(event)", || drop(event));
}

/// Has the port served by a loop for a while, and takes it out again.
fn by_loop(port: MessagePort, time: Duration, longest: &mut Longest) -> Option<MessagePort> {
    let (sender, receiver) = took(longest, "split", || port.split());
    let port = took(longest, "join", || MessagePort::join(sender, receiver)).expect("one port");
    port.on_message(|_| {});
    let mut events = EventLoop::new().expect("a loop");
    let id = events.add(port).expect("room for a port");
    let begun = Instant::now();
    while begun.elapsed() < time && !events.ids().all(|other| other != id) {
        let _ = took(longest, "EventLoop::poll_once", || events.poll_once(Duration::ZERO));
    }
    events.take(id)
}

/// Drops the receiving half of a port, and goes on with the other one.
fn by_halves(attack: &str, time: Duration, longest: &mut Longest) {
    let worker = start(&format!("attack:{attack}"), attacks::sizes(attack));
    wait_for_attack(worker.port(), attack);
    let (port, child) = worker.into_parts();
    let (sender, receiver) = port.split();
    took(longest, "drop(Receiver)", || drop(receiver));
    let begun = Instant::now();
    while begun.elapsed() < time {
        let posted = took(longest, "post_bytes, without receiver", || sender.post_bytes(&[1; 100]));
        let _ = took(longest, "is_closed, without receiver", || sender.is_closed());
        if posted.is_err() {
            break;
        }
    }
    took(longest, "drop(Sender)", || drop(sender));
    end(child);
}

fn end(mut child: std::process::Child) {
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
}

/// Two unrelated processes connect meanwhile.
fn meet(longest: &mut Longest) {
    let name = format!("hostile-calls-{}", std::process::id());
    let listener = Listener::bind(&name).expect("a name");
    let client = std::thread::spawn(move || connect(&name).expect("a listener"));
    let port = took(longest, "Listener::accept", || listener.accept()).expect("a client");
    drop((port, client.join().expect("the client does not panic")));
}
