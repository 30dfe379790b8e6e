//! What the end of an attempt means for its task and its worker.

use crate::error::{CallError, CloseReason, LostWorker, MessageError, PostError, TaskError};
use crate::group::worker_pool::member::Line;
use crate::group::worker_pool::slots::{Busy, Loss, Slots};
use crate::os::clock::Deadline;
use std::time::Duration;

/// The attempts of one task.
pub(crate) struct Attempts<'s, L: Line> {
    slots: &'s Slots<L>,
    made: u32,
    /// That of the caller.
    deadline: Deadline,
}

impl<'s, L: Line> Attempts<'s, L> {
    pub(crate) fn new(slots: &'s Slots<L>, deadline: Deadline) -> Attempts<'s, L> {
        Attempts { slots, made: 0, deadline }
    }

    /// Begins another attempt, and returns when it has to be over.
    pub(crate) fn begin(&mut self) -> Deadline {
        self.made += 1;
        Deadline::after(self.slots.limits().attempt).min(self.deadline)
    }

    /// Ends an attempt. `None` says that the task is to be redone.
    pub(crate) fn end<T>(
        &self,
        busy: Busy<'_, L>,
        outcome: Result<T, CallError>,
    ) -> Option<Result<T, TaskError>> {
        let error = match outcome {
            Ok(reply) => {
                busy.answered();
                return Some(Ok(reply));
            }
            Err(error) => error,
        };
        match error {
            // Its program has other types, so that it can do no task. It may have been updated
            // meanwhile: the next task gets a worker that is started for it.
            CallError::Message(MessageError::TypeMismatch(_))
            | CallError::Post(PostError::TypeMismatch(_)) => busy.lost(&Loss::Abandoned),
            CallError::Refused { .. } if busy.member().line.has_other_types() => {
                busy.lost(&Loss::Abandoned);
            }
            CallError::Refused { .. } => busy.refused(),
            // This process has no memory for the reply.
            CallError::Message(MessageError::OutOfMemory { .. }) => busy.refused(),
            CallError::Post(PostError::Timeout | PostError::Closed { .. })
            | CallError::Timeout
            | CallError::Closed { .. }
            // A panic drops the request, before the worker ends.
            | CallError::Unanswered
            | CallError::Message(_) => return self.redo(busy, error),
            CallError::Post(_) => busy.unused(),
            // The worker may be at it still.
            CallError::Cancelled | CallError::Io(_) => busy.lost(&Loss::Abandoned),
        }
        Some(Err(TaskError::Call(error)))
    }

    fn redo<T>(&self, busy: Busy<'_, L>, error: CallError) -> Option<Result<T, TaskError>> {
        let is_late = matches!(error, CallError::Timeout | CallError::Post(PostError::Timeout));
        if is_late && self.deadline.is_over() {
            busy.lost(&Loss::Abandoned);
            return Some(Err(TaskError::Timeout));
        }
        let member = busy.member();
        let is_unread = member.line.has_read_nothing();
        let lost = LostWorker::new(member.name(), is_unread, member.status(), error);
        busy.lost(&Loss::Failed(&lost));
        if let Some(end) = self.slots.ended() {
            return Some(Err(end));
        }
        if self.made >= self.slots.limits().attempts {
            return Some(Err(TaskError::Lost { attempts: self.made, last: Box::new(lost) }));
        }
        self.slots.count_redone();
        None
    }
}

/// Whether an attempt may have ended because its worker ends: its status is worth a short wait.
pub(crate) fn may_have_ended<T>(outcome: &Result<T, CallError>) -> bool {
    match outcome {
        // A panic drops the request, and the port.
        Err(CallError::Unanswered) => true,
        Err(CallError::Closed { reason, .. } | CallError::Post(PostError::Closed { reason })) => {
            *reason != CloseReason::Local
        }
        _ => false,
    }
}

/// How long to wait for the status of a worker that has left its port.
pub(crate) const STATUS: Duration = Duration::from_millis(50);
