//! Workers in tasks: waiting for them and dropping them blocks no thread of the runtime.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use crate::common::census::{Census, has_no_children};
use crate::common::limits::{allow_all_descriptors, allow_more_descriptors};
use crate::common::role::{command, end_with_parent, play};
use crate::common::{DEADLINE, receive_text, wait_until};
use crate::{into_async, on_each};
use futures_lite::future::poll_once;
use messageport::{MessageChannel, MessagePort, RecvError, Worker, WorkerEnd, parent_port};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

fn parent() -> MessagePort {
    parent_port().expect("a port to the parent")
}

/// Reads until the parent leaves.
fn polite() {
    let port = parent();
    port.post_text("ready").expect("room");
    assert_eq!(port.iter().count(), 0);
}

/// Takes no notice of anything.
fn deaf() {
    let port = parent();
    port.post_text("ready").expect("room");
    loop {
        std::thread::park();
    }
}

fn is_gone(id: u32) -> bool {
    kill(Pid::from_raw(id as i32), None) == Err(Errno::ESRCH)
}

fn start(test: &str, role: &str) -> Worker {
    let worker = Worker::spawn(command(test, role)).expect("a worker");
    assert_eq!(receive_text(worker.port()), "ready");
    worker
}

#[test]
fn a_task_waits_for_the_end_of_a_worker() {
    const TEST: &str = "children::a_task_waits_for_the_end_of_a_worker";
    fn waits() {
        on_each(TEST, async || {
            let mut worker = start(TEST, "polite");
            assert!(poll_once(worker.wait_async()).await.is_none(), "it reads");
            worker.port().close();
            assert!(worker.wait_async().await.expect("a child").success());
            // The status is known from now on.
            assert!(worker.wait_async().await.expect("a child").success());
            assert!(worker.try_wait().expect("a child").expect("a status").success());

            let (port, mut process) = start(TEST, "deaf").split();
            assert!(poll_once(process.wait_async()).await.is_none(), "it is deaf");
            let id = process.id();
            let status = process.terminate_async().await.expect("a child");
            assert_eq!(status.signal(), Some(9));
            assert!(is_gone(id));
            let end = into_async(port).recv().await;
            assert!(matches!(end, Err(RecvError::Closed { .. })), "{end:?}");

            // One that ends by itself, before it is waited for and while it is waited for.
            let mut quick = Worker::spawn(Command::new("true")).expect("a worker");
            assert!(quick.wait_async().await.expect("a child").success());
            let mut command = Command::new("cat");
            command.stdin(std::process::Stdio::piped());
            let mut reader = Worker::spawn(command).expect("a worker");
            assert!(reader.wait_async().await.expect("its input has ended").success());
            let terminated = Worker::spawn(Command::new("false")).expect("a worker").split().1;
            let status = terminated.terminate_async().await.expect("a child");
            assert!(status.code() == Some(1) || status.signal() == Some(9), "{status}");
        });
        assert!(has_no_children());
    }
    play(TEST, &[("waits", waits), ("polite", polite), ("deaf", deaf)]);
}

/// The other task has its turns while a deaf child has its grace: nothing waits in the drop.
#[test]
fn a_worker_that_is_dropped_in_a_task_ends_in_the_background() {
    const TEST: &str = "children::a_worker_that_is_dropped_in_a_task_ends_in_the_background";
    fn drops() {
        on_each(TEST, async || {
            let workers: Vec<_> = (0..20).map(|_| start(TEST, "deaf")).collect();
            let ids: Vec<_> = workers.iter().map(Worker::id).collect();
            let (port, mut process) = start(TEST, "polite").split();
            process.background();
            let polite = process.id();
            drop((port, process));
            for mut worker in workers {
                // Elsewhere than in tokio this tells that the drop must not block.
                assert!(poll_once(worker.wait_async()).await.is_none());
            }
            // Had the drops waited, none would be left by now: not even the one dropped last.
            assert!(!ids.last().is_some_and(|id| is_gone(*id)), "a drop has waited");
            wait_until("all are gone", || ids.iter().chain([&polite]).all(|id| is_gone(*id)));
            wait_until("all are reaped", has_no_children);
        });
    }
    play(TEST, &[("drops", drops), ("polite", polite), ("deaf", deaf)]);
}

/// A termination that is dropped is finished by a thread of the crate.
#[test]
fn a_termination_that_is_dropped_happens_nevertheless() {
    const TEST: &str = "children::a_termination_that_is_dropped_happens_nevertheless";
    fn drops() {
        on_each(TEST, async || {
            // The first time, the reactor opens descriptors of its own.
            let channel = MessageChannel::new().expect("a channel");
            assert!(poll_once(into_async(channel.port1).recv()).await.is_none());
            drop(channel.port2);
            let before = Census::take();
            let (port, process) = start(TEST, "deaf").split();
            let _ = poll_once(process.terminate_async()).await;
            drop(port);
            wait_until("it is reaped", has_no_children);
            before.wait_for("at the end");
        });
    }
    play(TEST, &[("drops", drops), ("deaf", deaf)]);
}

/// Several workers share one timeout, and the end of each is told in its place.
#[test]
fn a_task_shuts_workers_down() {
    const TEST: &str = "children::a_task_shuts_workers_down";
    const SHORT: Duration = Duration::from_millis(20);
    fn shuts_down() {
        on_each(TEST, async || {
            let end = start(TEST, "polite").shutdown_async(DEADLINE).await.expect("a child");
            assert!(matches!(end, WorkerEnd::Exited(status) if status.success()), "{end:?}");
            let mut worker = start(TEST, "deaf");
            assert!(worker.wait_timeout_async(SHORT).await.expect("a child").is_none());
            let end = worker.shutdown_async(SHORT).await.expect("a child");
            assert!(matches!(end, WorkerEnd::Killed(_)), "{end:?}");

            let mut workers: Vec<_> =
                ["deaf", "polite", "deaf"].iter().map(|role| start(TEST, role)).collect();
            workers[1].port().close();
            let status = workers[1].wait_timeout_async(DEADLINE).await.expect("a child");
            assert!(status.expect("it has exited").success());
            let ends = Worker::shutdown_all_async(workers, SHORT).await;
            let killed = |end: std::io::Result<WorkerEnd>| match end.expect("a child") {
                WorkerEnd::Killed(status) => status.signal() == Some(9),
                WorkerEnd::Exited(_) => false,
            };
            let killed: Vec<_> = ends.into_iter().map(killed).collect();
            assert_eq!(killed, [true, false, true]);
            assert!(has_no_children());

            // A future that is dropped leaves the rest to a thread of the crate.
            let workers = [start(TEST, "deaf"), start(TEST, "deaf")];
            let mut shutdown = Box::pin(Worker::shutdown_all_async(workers, DEADLINE));
            assert!(poll_once(&mut shutdown).await.is_none(), "they are deaf");
            drop(shutdown);
            wait_until("all are reaped", has_no_children);
        });
    }
    play(TEST, &[("shuts_down", shuts_down), ("polite", polite), ("deaf", deaf)]);
}

/// Not even killed with its parent, as other roles are.
fn deaf_orphan() {
    end_with_parent(false);
    deaf();
}

/// The process exits right after a drop in the background: the child does not outlive it.
#[test]
fn a_child_that_is_ended_in_the_background_does_not_outlive_the_process() {
    const TEST: &str =
        "children::a_child_that_is_ended_in_the_background_does_not_outlive_the_process";
    fn exits() {
        let (port, mut process) = start(TEST, "deaf_orphan").split();
        process.background();
        println!("child {}", process.id());
        drop((port, process));
        std::process::exit(7);
    }
    fn looks() {
        let child = command(TEST, "exits").output().expect("a child");
        assert_eq!(child.status.code(), Some(7));
        let text = String::from_utf8(child.stdout).expect("text");
        let number = text.split("child ").nth(1).expect("it is said").lines().next();
        let id: u32 = number.expect("a line").parse().expect("a number");
        wait_until("the grandchild is gone", || is_gone(id));
    }
    play(TEST, &[("looks", looks), ("exits", exits), ("deaf_orphan", deaf_orphan)]);
}

#[test]
fn a_lack_of_descriptors_is_an_error_of_a_wait_and_not_its_end() {
    const TEST: &str = "children::a_lack_of_descriptors_is_an_error_of_a_wait_and_not_its_end";
    fn waits() {
        on_each(TEST, async || {
            let mut worker = start(TEST, "polite");
            allow_more_descriptors(1);
            let last = File::open("/dev/null").expect("the last one");
            let error = worker.wait_async().await.expect_err("no descriptor is left");
            assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
            drop(last);
            allow_all_descriptors();
            worker.port().close();
            assert!(worker.wait_async().await.expect("a child").success());
        });
    }
    play(TEST, &[("waits", waits), ("polite", polite)]);
}

#[test]
fn a_termination_that_lacks_descriptors_happens_nevertheless() {
    const TEST: &str = "children::a_termination_that_lacks_descriptors_happens_nevertheless";
    fn ends() {
        on_each(TEST, async || {
            // Whatever is opened once is open, also the reactor.
            let MessageChannel { port1, .. } = MessageChannel::new().expect("a channel");
            let _reactor = port1.into_async().expect("a reactor");
            let (port, process) = start(TEST, "deaf").split();
            process.terminate_async().await.expect("a child");
            drop(port);
            // One for the child's end, and one for the time.
            for more in 0..2 {
                let (port, process) = start(TEST, "deaf").split();
                let id = process.id();
                allow_more_descriptors(more);
                let ended = process.terminate_async().await;
                allow_all_descriptors();
                // What the child before has left is closed in the background, so that there may be
                // enough of them after all.
                if let Err(error) = ended {
                    assert!(error.to_string().starts_with("the kernel refused"), "{error}");
                }
                wait_until("the child is gone", || is_gone(id));
                drop(port);
            }
        });
    }
    play(TEST, &[("ends", ends), ("deaf", deaf)]);
}
