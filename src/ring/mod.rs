//! Layer 2: the concurrency core. Pure: it makes no system call, and runs on the heap and on a
//! mapping.
//!
//! A lane carries records of any length from one producer to one consumer, in order, through an
//! area that is divided into segments. Neither end ever waits here: each call returns at once, and
//! what a sleeper or a waker has to do is a value that the link acts on.
//!
//! # The algorithm
//!
//! Positions are `u64` byte counts that never decrease, through all segments of a lane. Two are
//! shared. `tail`, written by the producer only, is the position up to which records are committed.
//! `head`, written by the consumer only, is the position up to which the bytes are the producer's
//! again. Each end keeps its own position privately and never reads it back. It loads the other's
//! when the cached one says full or empty, checks it, and caches it.
//!
//! ```text
//!              released        taken            committed          staged
//!                 │              │                  │                │
//!   ──────────────┼──────────────┼──────────────────┼────────────────┼──────────────▶ position
//!    the          │  lent, or    │  to be taken     │  written, not  │  the producer's,
//!    producer's   │  being read  │                  │  visible yet   │  as far as `head` says
//!                 │              │                  │                │
//!               head         consumer's           tail           producer's
//!             (shared)        cursor            (shared)           cursor
//! ```
//!
//! Producer: **plan → write → stage → commit**. A plan says where a record would go and changes
//! nothing, so a post that fails has nothing to undo. Staging writes the record's header, and
//! before it the control record that leads there. Committing stores `tail` once for everything
//! staged, fences unless the consumer is [`awake`], and looks whether the consumer sleeps. A close
//! is such a commit: its code is in the lowest bits of `tail`, which a position, a multiple of 16,
//! leaves free.
//!
//! Consumer: **peek → read → take → release**. A peek loads each header once, checks it, and passes
//! control records, at most eight before a message. A release stores `head`, fences in the same
//! way, and looks whether the producer sleeps; it also gives back the control records that follow.
//! In a batch the consumer fences and looks once, at the batch's end. It may read ahead: the caller
//! copies the records that come next, takes them from the copy, and releases them together.
//!
//! On the fast path each end has a *window*: contiguous bytes from its cursor on, whose place was
//! checked when it was opened, so that a record costs one comparison. A place for one record in the
//! producer's window is a *grant*.
//!
//! A cursor is a position, a segment, and the position at which the segment was entered. The place
//! inside the segment is the distance between the two positions, modulo the segment's length. While
//! it is in use a segment is a ring: a record that does not fit before its end is placed after
//! padding, at its start. When there is no room the producer writes `jump k` and continues at the
//! start of segment `k`. That segment must be free: `head` has passed the jump by which it was last
//! left. Or that jump is all in it that is not released: then the producer writes up to the jump
//! only, until `head` has passed it.
//!
//! ```text
//!   segment 0           segment 1           segment 2
//!  ┌─────────────────┐ ┌─────────────────┐ ┌─────────────────────────────────┐
//!  │ M M M M J ▒ ▒ ▒ │ │                 │ │ M   M   M   J                   │
//!  └─────────┬───────┘ └─────────────────┘ └─▲───────────┬───────────────────┘
//!            └───────────────────────────────┘           └──▶ back, once the burst has drained
//! ```
//!
//! A record that is longer than half of its segment does not fit at every index, so it leaves the
//! segment at once: a jump to a free segment is staged after it, so that the next such record may
//! enter that segment as soon as the first is released. If no segment was free, and no other one
//! holds the next such record, the producer hops through a free one later. When the lane is empty,
//! and the last records would all have fitted a smaller segment at any index, the producer moves to
//! the smallest such segment: so the bytes in use stay few, and the next burst finds the pages of
//! this one.
//!
//! Sixteen bytes are always kept free in the current segment, so a control record never waits.
//!
//! What the link must do for the ring, and the tests here do in its place:
//! - Everything staged is committed before any wait, for room or for anything else.
//! - A consumer that finds nothing, having passed control records, releases up to its position
//!   before it sleeps: the producer may wait for exactly those. So does a consumer before it moves.
//! - A [`Wake`](notifier::Wake) is acted on, once.
//!
//! # Orderings
//!
//! Every access that is stronger than `Relaxed`, every fence, and the one swap that must not become
//! two steps has a [`Site`](crate::sync::Site). `models` runs the ring under loom, unchanged and
//! with each site weakened; the second table says which models then fail, and how.
//!
//! | Site | Variable, writer → reader | Partner | What it publishes |
//! |---|---|---|---|
//! | `PublishTail` | `tail`, `Producer::commit` → | `ReadTail` | headers and payload before it |
//! | `ReadTail` | `tail`, → `Consumer::refresh_tail` | `PublishTail` | the same |
//! | `PublishHead` | `head`, `Consumer::release` → | the next three | that the bytes were read |
//! | `ReadHead` | `head`, → `Producer::refresh_head` | `PublishHead` | the same |
//! | `ResumeHead` | `head`, → `Producer::resume` | `PublishHead` | the same |
//! | `HeadAtShrink` | `head`, → `Producer::plan_shrink`, `go_to_base` | `PublishHead` | the same |
//! | `FenceBeforeLook` | store `tail`, `head`, count; load the flag | the next | either is seen |
//! | `FenceBeforeSleep` | store the flag; load those | the other two | either is seen |
//! | `LightFence` | store `tail`, `head`; load "awake" in the flag | the next | the same |
//! | `Barrier` | store the flag, which said "awake"; load those | `LightFence` | the same |
//! | `FenceReaderGone` | store `reader_gone`; load the flag | `FenceBeforeSleep` | either is seen |
//! | `TakeFlag` | the flag, sleeper → waker | `notifier::arm` | each flag, once |
//! | `ReturnSlot` | a count, `handover::return_slot` → | `TakeSlot` | that the slot was used |
//! | `TakeSlot` | a slot's count, → `handover::slot_count` | `ReturnSlot` | the same |
//! | `Request` | a request, `handover::request` → | the next two | what was done before it |
//! | `SeeRequest` | a request, → `handover::has_request` | `Request` | the same |
//! | `TakeRequest` | a request, → `handover::take_request` | `Request` | the same |
//! | `EnterByBias` | store "inside"; load the owner, `Bias::enter` | the next | either is seen |
//! | `EndBias` | store the owner; load "inside", `Bias::take` | `EnterByBias` | the same |
//! | `LeaveByBias` | "inside", `Bias::leave` → | the next | what the owner did inside |
//! | `SeeOwnerLeave` | "inside", → `Bias::is_free` | `LeaveByBias` | the same |
//!
//! Five steps have a site as well, though they order nothing: without `Disarm` a flag remains,
//! without `LookForHop`, `ReleaseControls` and `LookAfterBatch` a producer sleeps although there is
//! room, and without `LookForEnd` a consumer sleeps although the producer has left.
//!
//! | Weakened | Models that fail | How |
//! |---|---|---|
//! | `PublishTail` to Relaxed | ring, quick, growth, messages, end | a unit is read too early |
//! | `ReadTail` to Relaxed | ring, quick, growth, messages, end, ahead | the same |
//! | `PublishHead` to Relaxed | ring, growth, capped, resumed, ahead | it is overwritten in use |
//! | `ReadHead` to Relaxed | ring, growth, capped | a unit is overwritten while it is read |
//! | `ResumeHead` to Relaxed | resumed | a unit is overwritten while it is read |
//! | `HeadAtShrink` to Relaxed | `shrink` | a unit is overwritten while it is read |
//! | `FenceBeforeLook` deleted | messages, room, batch, hop, slot, both ends | an endless sleep |
//! | `FenceBeforeSleep` deleted | the same without batch, `reader_gone` | an endless sleep |
//! | `LightFence` deleted, `Barrier` left out | both awake ones | an endless sleep |
//! | `FenceReaderGone` deleted | `reader_gone` | an endless sleep |
//! | `TakeFlag` as load, then clear | take, messages | an endless sleep |
//! | `Disarm` left out | messages, room | a flag is left |
//! | `LookForHop` left out | `late_hop` | an endless sleep |
//! | `LookForEnd` left out | `end_alone` | an endless sleep |
//! | `ReleaseControls` left out | controls | an endless sleep |
//! | `LookAfterBatch` left out | batch | an endless sleep |
//! | `ReturnSlot`, `TakeSlot` to Relaxed | slot | bytes are written while they are used |
//! | `Request` to Relaxed | request, both ways | what was done before is not seen |
//! | `SeeRequest`, `TakeRequest` to Relaxed | request, its own way | the same |
//! | `EnterByBias` deleted, `EndBias` left out | bias | two threads are inside |
//! | `LeaveByBias`, `SeeOwnerLeave` to Relaxed | bias | the same |
//!
//! Everything else is `Relaxed`: the bytes of the area, which `tail` and `head` order; the flags
//! and `reader_gone`, which the fences order; the counters, by which nothing is decided.
//!
//! A weakened `head` shows only if a record overwrites the one that was released last. Bytes of an
//! older record are also ordered by the fence of a release in between, and the sixteen bytes that
//! are kept free hide the rest when all records have one size. So the ring model posts a larger
//! record after smaller ones, and growth enters a segment whose whole content was released last.

pub(crate) mod awake;
pub(crate) mod bias;
pub(crate) mod consumer;
pub(crate) mod counters;
pub(crate) mod cursor;
pub(crate) mod handover;
#[cfg(any(test, fuzzing))]
pub(crate) mod lane;
pub(crate) mod memory;
pub(crate) mod notifier;
pub(crate) mod producer;
pub(crate) mod route;
pub(crate) mod segment;

#[cfg(all(any(test, fuzzing), not(messageport_loom)))]
pub(crate) mod fuzzing;
#[cfg(all(any(test, fuzzing), not(messageport_loom)))]
pub(crate) mod harness;
#[cfg(all(test, messageport_loom))]
mod models;
#[cfg(all(test, not(messageport_loom)))]
mod tests;
