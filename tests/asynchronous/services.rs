//! Services of four typed workers whose runtime goes first: with their tasks go the workers.

use crate::common::census::has_no_children;
use crate::common::role::{command, play};
use crate::common::wait_until;
use messageport::{Worker, parent_port};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const WORKERS: u32 = 4;
/// How many workers have answered so far.
static SERVED: AtomicU32 = AtomicU32::new(0);

/// Doubles numbers until the parent leaves.
fn doubles() {
    let port = parent_port().expect("a port to the parent").typed::<u64, u64>();
    for number in &port {
        let number = number.expect("a number").data().to_native();
        if port.post_message(&(2 * number)).is_err() {
            break;
        }
    }
}

/// Asks a worker again and again. The task ends with its runtime only.
async fn asks(test: &str) {
    let (port, mut process) = Worker::spawn(command(test, "doubles")).expect("a worker").split();
    process.background();
    let mut port = port.typed::<u64, u64>().into_async().expect("a reactor");
    for number in 0.. {
        port.post_message(&number).await.expect("room");
        assert_eq!(port.recv().await.expect("an answer").data().to_native(), 2 * number);
        if number == 10 {
            SERVED.fetch_add(1, SeqCst);
        }
    }
}

async fn until_all_have_answered() {
    while SERVED.load(SeqCst) < WORKERS {
        futures_lite::future::yield_now().await;
    }
    SERVED.store(0, SeqCst);
}

#[cfg(feature = "tokio")]
#[test]
fn workers_of_a_tokio_runtime_that_goes_first_are_ended() {
    const TEST: &str = "services::workers_of_a_tokio_runtime_that_goes_first_are_ended";
    fn goes_first() {
        use tokio::runtime::{Builder, Runtime};
        let ends: [fn(Runtime); 2] = [drop, Runtime::shutdown_background];
        for end in ends {
            for mut flavour in [Builder::new_current_thread(), Builder::new_multi_thread()] {
                let runtime = flavour.enable_all().build().expect("a runtime");
                for _ in 0..WORKERS {
                    runtime.spawn(asks(TEST));
                }
                runtime.block_on(until_all_have_answered());
                end(runtime);
                wait_until("no worker is left", has_no_children);
            }
        }
    }
    play(TEST, &[("goes_first", goes_first), ("doubles", doubles)]);
}

#[cfg(feature = "async-io")]
#[test]
fn workers_of_a_smol_executor_that_goes_first_are_ended() {
    const TEST: &str = "services::workers_of_a_smol_executor_that_goes_first_are_ended";
    fn goes_first() {
        let executor = smol::Executor::new();
        for _ in 0..WORKERS {
            executor.spawn(asks(TEST)).detach();
        }
        smol::block_on(executor.run(until_all_have_answered()));
        drop(executor);
        wait_until("no worker is left", has_no_children);
    }
    play(TEST, &[("goes_first", goes_first), ("doubles", doubles)]);
}
