//! Why a call ended without its reply.

use super::{CloseReason, MessageError, PostError, SystemError};
use thiserror::Error;

/// Why a call of a [`Requester`](crate::Requester) ended without its reply. Other calls are not
/// affected, except by `Closed`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request was not posted, so the responder knows nothing of it.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The time was up. The responder was told that the call is cancelled.
    #[error(
        "no reply came within the time given, so the call was cancelled: wait for longer, or see \
         that the responder answers"
    )]
    Timeout,
    /// A [`CallCanceller`](crate::CallCanceller) ended the call. The responder was told.
    #[error("the call was cancelled by a `CallCanceller`, so it has no reply: call again")]
    Cancelled,
    /// The port was closed, or the peer has ended: no reply can come.
    #[error(
        "no reply can come, because {reason}: the call may have been carried out; make a new \
         channel to call again"
    )]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
    },
    /// The responder refused the request.
    #[error(
        "the responder refused the request, saying {text:?}: send what it expects, or handle its \
         refusal"
    )]
    Refused {
        /// What the responder says, at most 1,024 bytes.
        text: String,
    },
    /// The responder dropped the request without answering it.
    #[error(
        "the responder dropped the request, and expected is one reply to each: see why it has not \
         replied, or call again"
    )]
    Unanswered,
    /// The reply came and cannot be read. What moved with it is closed.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The kernel refused to wait. The responder was told that the call is cancelled.
    #[error(transparent)]
    Io(#[from] SystemError),
}
