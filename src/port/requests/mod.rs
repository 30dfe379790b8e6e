//! Requests and replies: many calls over one port, answered in any order.
//!
//! Nothing here waits; what waits is in `front/requests`. A requester's threads share one [`Core`]:
//! the thread that waits and finds the receiver in it takes it, receives for all of them until its
//! own reply comes, and puts it back ("leads"). The others sleep until they are told.
//!
//! [`Core`]: core::Core

pub(crate) mod answers;
pub(crate) mod call;
pub(crate) mod calls;
pub(crate) mod core;
pub(crate) mod lent;
pub(crate) mod request;
pub(crate) mod requester;
pub(crate) mod responder;
pub(crate) mod shared;
pub(crate) mod trailer;
pub(crate) mod types;
