//! A lock that its owner takes by plain stores, and that another thread takes from it.

use super::*;
use crate::ring::bias::{Bias, Entered, Entry};
use crate::sync::barrier;

/// The owner comes twice, while another thread, which has the ordinary lock, ends its bias.
pub(super) fn bias() {
    let shared = Arc::new((Bias::new(), Cell::default()));
    shared.0.hold(OWNER);
    shared.0.let_go(|| true);
    let owner = thread::spawn({
        let shared = shared.clone();
        move || {
            for _ in 0..2 {
                match shared.0.enter(OWNER) {
                    Entered::Yes => {
                        shared.1.write();
                        shared.0.leave();
                    }
                    Entered::Before => unreachable!("it has left"),
                    // From here on it takes the ordinary lock.
                    Entered::No => return,
                }
            }
        }
    });
    if shared.0.take() == Entry::Barrier {
        barrier();
    }
    while !shared.0.is_free() {
        thread::yield_now();
    }
    shared.1.write();
    owner.join().expect("the owner ends");
    assert_eq!(shared.0.take(), Entry::Nothing, "a lock has an owner at most once");
    assert_eq!(shared.0.enter(OWNER), Entered::No);
}

const OWNER: u64 = 1;

mod loom {
    use super::super::BIAS;

    #[test]
    fn a_lock_is_taken_from_its_owner_only_while_the_owner_is_outside() {
        BIAS.check();
    }
}
