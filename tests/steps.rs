//! Death, stops and refusals of the kernel at each step of an operation.
//!
//! A process is led through one operation by ptrace(2), from system call to system call or from
//! instruction to instruction. At one point it is killed, or stopped while the other side carries
//! on, or the kernel refuses its call. Then everything that must hold is checked.
//!
//! `MESSAGEPORT_STEPS=100` makes a hundred runs, with other messages each time: before and behind
//! each call, and where shared bytes change. The first of them also has every instruction of short
//! operations, and every refusal. The short form has some of all points. A failure prints the line
//! that replays it. On other processors there are no such tests.

#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]

#[path = "steps/calls.rs"]
mod calls;
mod common;
#[path = "steps/meetings.rs"]
mod meetings;
#[path = "steps/posts.rs"]
mod posts;
#[path = "steps/receipts.rs"]
mod receipts;
#[path = "steps/subject.rs"]
mod subject;
#[path = "steps/tracer.rs"]
mod tracer;
#[path = "steps/transfers.rs"]
mod transfers;
#[path = "steps/walk.rs"]
mod walk;

/// A test of one operation at each of its points.
macro_rules! at_each_step {
    ($(fn $name:ident() = $operation:path;)*) => {$(
        #[test]
        fn $name() {
            const TEST: &str = stringify!($name);
            fn tracer() {
                walk::lead(TEST, &$operation);
            }
            fn subject() {
                subject::Subject::play($operation.subject);
            }
            let grandchild = meetings::grandchild;
            let roles =
                [("tracer", tracer as fn()), ("subject", subject), ("grandchild", grandchild)];
            common::role::play(TEST, &roles);
        }
    )*};
}

at_each_step! {
    fn a_post() = posts::TEXT;
    fn a_post_that_grows() = posts::GROWING;
    fn a_burst() = posts::BURST;
    fn a_loan() = posts::LOAN;
    fn a_post_that_wakes() = posts::WAKING;
    fn a_receipt() = receipts::PLAIN;
    fn a_receipt_in_place() = receipts::IN_PLACE;
    fn a_receipt_of_a_sleeper() = receipts::ASLEEP;
    fn a_receipt_that_makes_room() = receipts::MAKING_ROOM;
    fn a_transfer_by_its_sender() = transfers::SENDING;
    fn a_transfer_by_its_receiver() = transfers::RECEIVING;
    fn a_transfer_by_a_process_in_the_middle() = transfers::RELAYING;
    fn a_new_channel() = meetings::CREATING;
    fn memory_of_another_library() = meetings::ADOPTING;
    fn a_close() = meetings::CLOSING;
    fn a_drop() = meetings::DROPPING;
    fn a_listener() = meetings::LISTENING;
    fn an_accept() = meetings::ACCEPTING;
    fn a_connect() = meetings::CONNECTING;
    fn a_join() = meetings::JOINING;
    fn a_leave() = meetings::LEAVING;
    fn a_start_of_a_worker() = meetings::SPAWNING;
}
