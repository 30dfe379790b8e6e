//! Ends of channels that move through other channels.

use ipc_channel::ipc::{IpcReceiver, channel};

use crate::harness::local::Local;
use crate::harness::workload::Subject;

/// A receiver of ipc-channel, sent through a channel that carries receivers.
pub fn ipc_receiver() -> Subject {
    Subject::new("ipc-channel", 0, 0, || {
        let (carrier, arrivals) = channel::<IpcReceiver<u64>>().expect("a channel");
        let (sender, receiver) = channel::<u64>().expect("a channel");
        let mut moving = Some(receiver);
        let operation = move || {
            carrier.send(moving.take().expect("it comes back")).expect("an open carrier");
            moving = Some(arrivals.recv().expect("a receiver"));
            // What was moved belongs to a channel that is still open.
            std::hint::black_box(&sender);
        };
        Local::new(check, operation)
    })
}

/// The queue survives a few moves.
fn check() {
    let (carrier, arrivals) = channel::<IpcReceiver<u64>>().expect("a channel");
    let (sender, mut receiver) = channel::<u64>().expect("a channel");
    for number in 0..10 {
        sender.send(number).expect("room");
        carrier.send(receiver).expect("an open carrier");
        receiver = arrivals.recv().expect("a receiver");
    }
    for number in 0..10 {
        assert_eq!(receiver.recv().expect("a message"), number);
    }
}
