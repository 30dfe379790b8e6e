//! What two ends do to each other: between two threads, and between two processes.

#![allow(unused_macros, unused_imports)]

use super::role::command;
use messageport::{MessageChannel, MessagePort, Worker};
use std::thread;

/// A test of two ends: between two threads, and then between two processes. `near` runs where the
/// channel is made. The module's name comes first, if the test is not at the root of its program.
macro_rules! between_two_ends {
    ($module:literal, $name:ident, $near:ident, $far:ident) => {
        crate::common::ends::between_two_ends!(
            @ $name, concat!($module, "::", stringify!($name)), $near, $far
        );
    };
    ($name:ident, $near:ident, $far:ident) => {
        crate::common::ends::between_two_ends!(@ $name, stringify!($name), $near, $far);
    };
    (@ $name:ident, $path:expr, $near:ident, $far:ident) => {
        #[test]
        fn $name() {
            const TEST: &str = $path;
            fn near_role() {
                crate::common::ends::between_threads($near, $far);
                crate::common::ends::between_processes(TEST, $near);
            }
            fn far_role() {
                $far(messageport::parent_port().expect("a port to the parent"));
            }
            crate::common::role::play(TEST, &[("near", near_role), ("far", far_role)]);
        }
    };
}
pub(crate) use between_two_ends;

/// What one end does.
pub type Act = fn(MessagePort);

pub fn between_threads(near: Act, far: Act) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let other = thread::spawn(move || far(port2));
    near(port1);
    other.join().expect("the other thread does not panic");
}

/// The test has a role named `far`.
pub fn between_processes(test: &str, near: Act) {
    let worker = Worker::spawn(command(test, "far")).expect("a worker");
    let (port, mut child) = worker.into_parts();
    near(port);
    assert!(child.wait().expect("a child").success());
}
