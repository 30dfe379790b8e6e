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
    // Not that of other tests, which free messages.
    static IS_FREEING: AtomicBool = AtomicBool::new(false);
    free_one_at_a_time(Box::new(Memory(tell.clone(), Some(wait))), &IS_FREEING);
    free_one_at_a_time(Box::new(Memory(tell, None)), &IS_FREEING);
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
    for (most, all, expected) in [
        (1024, 127, [true, true]),
        (1024, 128, [true, false]),
        (1024, 511, [true, false]),
        (1024, 512, [false, false]),
        (1 << 20, MOST_WAITING - 1, [true, true]),
        (1 << 20, MOST_WAITING, [true, false]),
        (16, LEAST_BOUND - 1, [true, true]),
        (16, LEAST_BOUND, [false, false]),
    ] {
        let answers = [0, 1].map(|own| may_receive(own, all, || most));
        assert_eq!(answers, expected, "{all} of {most} are waiting");
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
    // As if this one had just begun, however long the test has been stopped since.
    share.began = Duration::MAX;
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
