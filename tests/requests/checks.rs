//! A type whose check is the program's own code, which receives again or panics.

use crate::common::receive;
use crate::hostile::{CALL, CANCEL, REPLY, UNANSWERED, read_trailer, trailer};
use messageport::rkyv::rancor::BoxedError;
use messageport::{ArchiveCheck, MessageChannel, MessagePort, Responder, SafeArchive, rkyv};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[derive(rkyv::Archive, rkyv::Serialize)]
#[rkyv(crate = messageport::rkyv)]
struct Checked(u32);

thread_local! {
    /// What the next check does first.
    static ACT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

fn at_next_check(act: impl FnOnce() + 'static) {
    ACT.set(Some(Box::new(act)));
}

// SAFETY: it is a number, which any bytes are.
unsafe impl SafeArchive for ArchivedChecked {
    const CHECKS: bool = true;
    const LEVELS: u32 = 0;

    fn check(&self, _: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        if let Some(act) = ACT.take() {
            act();
        }
        Ok(())
    }
}

fn post(port: &MessagePort, number: u32) {
    let trailer = trailer(u64::from(number), number, CALL);
    port.post_message(&(Checked(number), trailer)).expect("room");
}

/// Receives and answers a request, which is `number`.
fn answer(responder: &Responder<Checked, u32>, number: u32) {
    let request = responder.try_recv().expect("an open port").expect("a request");
    assert_eq!(request.data().0, number);
    request.reply(&number).expect("room");
}

fn expect_reply(port: &MessagePort, number: u32) {
    let expected = trailer(u64::from(number), number, REPLY);
    assert_eq!(receive(port).bytes(), [&number.to_le_bytes()[..], &expected].concat());
}

#[test]
fn a_check_that_receives_gets_the_next_request() {
    for is_trusted in [false, true] {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        if is_trusted {
            // SAFETY: the other end is in this test.
            unsafe { port1.trust_peer() };
        }
        let responder = Rc::new(port1.responder::<Checked, u32>());
        let port = Rc::new(port2);
        for number in (1..200).step_by(2) {
            post(&port, number);
            let (inner, inner_port) = (responder.clone(), port.clone());
            at_next_check(move || {
                post(&inner_port, number + 1);
                answer(&inner, number + 1);
            });
            answer(&responder, number);
            expect_reply(&port, number + 1);
            expect_reply(&port, number);
        }
        assert!(responder.try_recv().expect("an open port").is_none());
    }
}

#[test]
fn a_request_whose_check_has_panicked_is_checked_again_unless_it_is_cancelled() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    // The fast path takes several at a time then.
    // SAFETY: the other end is in this test.
    unsafe { port1.trust_peer() };
    let responder = port1.responder::<Checked, u32>();
    let panics = || {
        at_next_check(|| panic!("on purpose"));
        let received = catch_unwind(AssertUnwindSafe(|| responder.try_recv().map(drop)));
        assert!(received.is_err(), "the panic is the program's");
    };
    // The first message is one for the slow path.
    post(&port2, 0);
    answer(&responder, 0);
    expect_reply(&port2, 0);
    post(&port2, 1);
    panics();
    answer(&responder, 1);
    post(&port2, 2);
    let lent = responder.try_recv().expect("an open port").expect("a request");
    assert_eq!(lent.data().0, 2);
    post(&port2, 3);
    panics();
    port2.post_message(&((), trailer(3, 3, CANCEL))).expect("room");
    post(&port2, 4);
    assert!(!lent.is_cancelled());
    drop(lent);
    answer(&responder, 4);
    assert!(responder.try_recv().expect("an open port").is_none());
    // One that panics each time ends at last.
    post(&port2, 5);
    panics();
    panics();
    assert!(responder.try_recv().expect("an open port").is_none());
    expect_reply(&port2, 1);
    assert_eq!(read_trailer(&port2), trailer(2, 2, UNANSWERED));
    expect_reply(&port2, 4);
    assert_eq!(read_trailer(&port2), trailer(5, 5, UNANSWERED));
}
