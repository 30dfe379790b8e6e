//! Why a call, or a task of a pool, ended without its reply.

use super::{CloseReason, MessageError, PostError, SystemError, text};
use std::fmt;
use std::process::ExitStatus;
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
    ///
    /// A blocking or async call also returns this, and not [`Post`](Self::Post), if the end came
    /// before its request was posted: then `is_posted` is false.
    #[error("no reply can come, because {reason}: {}", text::after_end(*is_posted))]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
        /// Whether the request may have been posted, so that the responder may have carried out the
        /// call. If not, the responder knows nothing of it.
        is_posted: bool,
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

/// Why a task of a [`WorkerPool`](crate::WorkerPool) ended without its reply. Other tasks are not
/// affected, except by `Broken` and `Closed`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// As many tasks wait for a worker as the pool allows. No worker has seen this one.
    #[error(
        "{limit} tasks wait for a worker, as many as this pool allows: call again later, or build \
         the pool with a higher `queue_limit` or more workers"
    )]
    QueueFull {
        /// The limit of the pool.
        limit: usize,
    },
    /// The time of the caller was up. If a worker was at the task, that worker is replaced.
    #[error(
        "no reply came within the time given: wait for longer, or see that the pool has enough \
         workers"
    )]
    Timeout,
    /// The task was given to as many workers as the pool allows, and each of them died, dropped it,
    /// or did not reply within the time for an attempt.
    #[error(
        "{attempts} workers ended or hung before they answered this task, as many as this pool \
         gives it to: see what they do with it, and that they reply through their `parent_port`; \
         the last one: {last}"
    )]
    Lost {
        /// How many workers have had it.
        attempts: u32,
        /// What happened to the last one.
        last: Box<LostWorker>,
    },
    /// The worker lives and the call failed: the worker refused the request, the request could not
    /// be posted, or this process lacks memory. The task was not redone.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Too many workers in a row could not be started, or ended before they received a request.
    /// The pool starts no more.
    #[error(
        "{restarts} workers in a row could not be started, or ended before they received a \
         request, so this pool starts no more: have their program reply through its \
         `parent_port`, then build a new pool; the last one: {last}"
    )]
    Broken {
        /// How many.
        restarts: u32,
        /// What happened to the last one.
        last: std::sync::Arc<str>,
    },
    /// The pool was shut down.
    #[error("the pool was shut down before the task had its reply: build a new pool to go on")]
    Closed,
}

/// What happened to a worker of a [`WorkerPool`](crate::WorkerPool) that has not replied to a task.
///
/// ```no_run
/// # use messageport::{TaskError, WorkerPool};
/// # fn example(pool: WorkerPool<u64, u64>) {
/// if let Err(TaskError::Lost { last, .. }) = pool.call(&7) {
///     // For example: worker 4711 ended: signal: 11 (SIGSEGV)
///     eprintln!("{last}; its exit code is {:?}", last.status().and_then(|status| status.code()));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct LostWorker {
    id: u32,
    label: String,
    /// It had not read the request.
    is_unread: bool,
    status: Option<ExitStatus>,
    error: CallError,
}

impl LostWorker {
    pub(crate) fn new(
        (id, label): (u32, String),
        is_unread: bool,
        status: Option<ExitStatus>,
        error: CallError,
    ) -> LostWorker {
        LostWorker { id, label, is_unread, status, error }
    }

    /// Whether it had not read the request.
    pub(crate) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// What the [builder](crate::WorkerBuilder::label) of the worker called it. Empty if it has no
    /// label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The process id of the worker, for display. It may have been given to another process since.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How its process ended, if it had ended by itself: by an exit code, or by a signal. `None` if
    /// it still ran, 50 ms after it had closed its port or dropped the request; the pool has killed
    /// it then.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// How the call of the worker ended.
    #[must_use]
    pub fn error(&self) -> &CallError {
        &self.error
    }
}

impl fmt::Display for LostWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", worker(self.id, &self.label))?;
        match (&self.error, self.status) {
            (_, Some(status)) if self.is_unread => {
                write!(f, "ended before it had read the request: {status}")
            }
            (_, Some(status)) => write!(f, "ended: {status}"),
            (CallError::Timeout | CallError::Post(PostError::Timeout), None) => {
                let nor = if self.is_unread { ", nor read the request" } else { "" };
                write!(f, "did not reply within the time for an attempt{nor}, and was killed")
            }
            (CallError::Unanswered, None) => {
                f.write_str("dropped the request without a reply, and was killed")
            }
            (CallError::Message(error), None) => {
                write!(f, "sent a reply that cannot be read, and was killed: {error}")
            }
            (_, None) => f.write_str("closed its port without a reply, and was killed"),
        }
    }
}

/// A worker, in words.
pub(crate) fn worker(id: u32, label: &str) -> String {
    match label {
        "" => format!("worker {id}"),
        label => format!("worker {id} ({label:?})"),
    }
}
