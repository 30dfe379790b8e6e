use super::*;
use std::sync::mpsc;

/// Says when it is dropped, and by which thread; waits before that, if it has to.
struct Memory(mpsc::Sender<thread::ThreadId>, Option<mpsc::Receiver<()>>);

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(wait) = &self.1 {
            let _ = wait.recv();
        }
        let _ = self.0.send(thread::current().id());
    }
}

/// Otherwise a close that takes long would keep the memory of every message that comes.
#[test]
fn memory_is_freed_here_while_other_memory_waits_to_be_freed() {
    let (tell, told) = mpsc::channel();
    let (go_on, wait) = mpsc::channel();
    free_later(Box::new(Memory(tell.clone(), Some(wait))));
    free_later(Box::new(Memory(tell, None)));
    assert_eq!(told.recv().expect("it is freed"), thread::current().id());
    go_on.send(()).expect("the thread waits");
    assert_ne!(told.recv().expect("it is freed"), thread::current().id());
}

#[cfg(any(feature = "tokio", feature = "async-io"))]
#[test]
fn a_task_that_waits_for_two_ports_is_woken_for_each() {
    struct Task;
    impl std::task::Wake for Task {
        fn wake(self: Arc<Task>) {}
    }
    let waker = Waker::from(Arc::new(Task));
    let accounts = [(); 2].map(|()| Arc::new(Account::default()));
    // Otherwise the thread may wake the task before this test has counted.
    accounts.iter().for_each(|of| of.waiting.store(MOST_OF_ONE, Ordering::Relaxed));
    WAITING.fetch_add(1, Ordering::Relaxed);
    // Twice, as a task asks at each of its polls.
    for account in accounts.iter().chain(&accounts) {
        wake_for_room(account, &waker);
    }
    WAITING.fetch_sub(1, Ordering::Relaxed);
    let is_ours = |of: &Arc<Account>| accounts.iter().any(|account| Arc::ptr_eq(account, of));
    let ours = lock().wakers.extract_if(.., |(_, of, _)| is_ours(of)).count();
    assert_eq!(ours, 2);
}

/// What other ports have filled.
#[test]
fn a_port_without_waiting_descriptors_has_room() {
    let half = usize::try_from(most_descriptors() / 2).expect("a number of descriptors");
    for (all, expected) in [
        (MOST_WAITING.min(half / 4) - 1, [true, true]),
        (MOST_WAITING.min(half / 4), [true, false]),
        (half - 1, [true, false]),
        (half, [false, false]),
    ] {
        assert_eq!([0, 1].map(|own| may_receive(own, all)), expected, "{all} are waiting");
    }
}

/// However fast its descriptors are closed.
#[test]
fn a_port_has_a_share_of_each_pause() {
    let (account, mut share) = (Account::default(), Share::default());
    let mut queue = |count: usize| {
        account.queued.fetch_add(count, Ordering::Relaxed);
        share.is_used_up(&account)
    };
    // The first one began when the system started.
    assert_eq!([queue(MOST_OF_ONE - 1), queue(1), queue(MOST_OF_ONE - 1)], [false; 3]);
    // This one has just begun, unless the test was stopped in between.
    share.began = clock::coarse() + PAUSE;
    account.queued.fetch_add(1, Ordering::Relaxed);
    assert!(share.is_used_up(&account));
    share.began = Duration::ZERO;
    assert!(!share.is_used_up(&account));
}

/// One descriptor that is closed is no reason to receive sixty-four more.
#[test]
fn a_port_that_was_full_has_no_room_until_few_of_its_descriptors_wait() {
    let account = Account::default();
    for (waiting, has_room) in [
        (MOST_OF_ONE - 1, true),
        (MOST_OF_ONE, false),
        (MOST_OF_ONE / 4, false),
        (MOST_OF_ONE / 4 - 1, true),
        (MOST_OF_ONE - 1, true),
    ] {
        account.waiting.store(waiting, Ordering::Relaxed);
        assert_eq!(account.has_room(), has_room, "{waiting} are waiting");
    }
}
