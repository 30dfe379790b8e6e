//! The models with one ordering, or one step, removed: each must fail, for the right reason.

use super::*;
use crate::sync::{ALL_SITES, with_weakened};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What loom reports when one end reads a unit that the other may be writing.
const RACE: &str = "Causality violation";
/// What loom reports when all threads sleep.
const LOST_WAKE: &str = "deadlock";

/// Asserts that each model fails without `site`, for the reason it is there.
fn fail_without(site: Site, reason: &str, models: &[Model]) {
    for (index, model) in models.iter().enumerate() {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            with_weakened(site, || model.check());
        }));
        let panic = outcome.expect_err(&format!("model {index} holds without {site:?}"));
        let said = match panic.downcast::<String>() {
            Ok(said) => *said,
            Err(_) => "a panic without a text".to_owned(),
        };
        assert!(said.contains(reason), "model {index} without {site:?} says: {said}");
    }
}

#[test]
fn without_publish_tail_release_the_ring_model_fails() {
    fail_without(Site::PublishTail, RACE, &[RING, QUICK, GROWTH, MESSAGES, END]);
}

#[test]
fn without_read_tail_acquire_the_ring_model_fails() {
    fail_without(Site::ReadTail, RACE, &[RING, QUICK, GROWTH, MESSAGES, END, AHEAD]);
}

#[test]
fn without_publish_head_release_the_ring_and_growth_models_fail() {
    fail_without(Site::PublishHead, RACE, &[RING, GROWTH, CAPPED, RESUMED, AHEAD]);
}

#[test]
fn without_read_head_acquire_the_ring_and_growth_models_fail() {
    fail_without(Site::ReadHead, RACE, &[RING, GROWTH, CAPPED]);
}

#[test]
fn without_resume_head_acquire_the_resumed_model_fails() {
    fail_without(Site::ResumeHead, RACE, &[RESUMED]);
}

#[test]
fn without_the_acquire_before_a_shrink_that_model_fails() {
    fail_without(Site::HeadAtShrink, RACE, &[SHRINK]);
}

#[test]
fn without_the_wakers_fence_the_message_and_room_models_fail() {
    fail_without(
        Site::FenceBeforeLook,
        LOST_WAKE,
        &[MESSAGES, ROOM, BATCH, HOP, SLOT, END, END_ALONE],
    );
}

#[test]
fn without_the_sleepers_fence_the_message_and_room_models_fail() {
    let models = [MESSAGES, ROOM, HOP, READER_GONE, SLOT, END, END_ALONE];
    fail_without(Site::FenceBeforeSleep, LOST_WAKE, &models);
}

#[test]
fn without_either_part_of_a_barrier_the_models_of_an_awake_side_fail() {
    for site in [Site::LightFence, Site::Barrier] {
        fail_without(site, LOST_WAKE, &[AWAKE_FOR_MESSAGES, AWAKE_FOR_ROOM]);
    }
}

#[test]
fn without_the_leavers_fence_the_reader_gone_model_fails() {
    fail_without(Site::FenceReaderGone, LOST_WAKE, &[READER_GONE]);
}

#[test]
fn without_one_step_to_take_a_flag_the_take_model_fails() {
    fail_without(Site::TakeFlag, LOST_WAKE, &[TAKE, MESSAGES]);
}

#[test]
fn without_taking_the_flag_back_the_message_and_room_models_find_it() {
    fail_without(Site::Disarm, FLAG_LEFT, &[MESSAGES, ROOM]);
}

#[test]
fn without_the_second_look_for_a_hop_the_hop_model_fails() {
    fail_without(Site::LookForHop, LOST_WAKE, &[LATE_HOP]);
}

#[test]
fn without_the_look_for_the_end_its_model_fails() {
    fail_without(Site::LookForEnd, LOST_WAKE, &[END_ALONE]);
}

#[test]
fn without_giving_back_control_records_the_controls_model_fails() {
    fail_without(Site::ReleaseControls, LOST_WAKE, &[CONTROLS]);
}

#[test]
fn without_the_look_after_a_batch_its_model_fails() {
    fail_without(Site::LookAfterBatch, LOST_WAKE, &[BATCH]);
}

#[test]
fn without_either_order_of_its_count_the_slot_model_fails() {
    fail_without(Site::ReturnSlot, RACE, &[SLOT]);
    fail_without(Site::TakeSlot, RACE, &[SLOT]);
}

#[test]
fn without_either_order_of_a_request_its_models_fail() {
    fail_without(Site::Request, RACE, &[SEEN_REQUEST, TAKEN_REQUEST]);
    fail_without(Site::SeeRequest, RACE, &[SEEN_REQUEST]);
    fail_without(Site::TakeRequest, RACE, &[TAKEN_REQUEST]);
}

#[test]
fn without_any_part_of_the_end_of_a_bias_its_model_fails() {
    let sites = [Site::EnterByBias, Site::EndBias, Site::LeaveByBias, Site::SeeOwnerLeave];
    for site in sites {
        fail_without(site, RACE, &[BIAS]);
    }
}

/// A new site needs a weakened variant above: this match does not compile without it.
#[test]
fn every_site_has_a_twin() {
    let twins = ALL_SITES.map(|site| match site {
        Site::PublishTail
        | Site::ReadTail
        | Site::PublishHead
        | Site::ReadHead
        | Site::ResumeHead
        | Site::HeadAtShrink
        | Site::FenceBeforeLook
        | Site::FenceBeforeSleep
        | Site::LightFence
        | Site::Barrier
        | Site::FenceReaderGone
        | Site::TakeFlag
        | Site::Disarm
        | Site::LookForHop
        | Site::LookForEnd
        | Site::ReleaseControls
        | Site::LookAfterBatch
        | Site::ReturnSlot
        | Site::TakeSlot
        | Site::Request
        | Site::SeeRequest
        | Site::TakeRequest
        | Site::EnterByBias
        | Site::EndBias
        | Site::LeaveByBias
        | Site::SeeOwnerLeave => site,
    });
    for (index, site) in twins.iter().enumerate() {
        assert!(!twins[..index].contains(site), "{site:?} is listed twice");
    }
}
