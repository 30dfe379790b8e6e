//! Threads that wait for requests, and for room for replies.

use crate::error::{PostError, RecvError};
use crate::front::requests::park::{park, with_waker};
use crate::front::waiting_shared::retry;
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::os::clock::Deadline;
use crate::port::requests::answers::Answers;
use crate::port::requests::request::{OwnedRequest, Request};
use crate::port::requests::responder::{MOST_IN_A_ROW, Responder};
use crate::port::transfer::{TransferError, TransferList, Transferable};
use crate::port::typed::TypedError;
use std::mem;
use std::time::{Duration, Instant};

impl<Req: Receive, Resp: Post> Responder<Req, Resp> {
    /// Waits for the next request, without a limit.
    ///
    /// While as many [`OwnedRequest`]s are open as the [limit](Self::set_limit) allows, it waits
    /// until one is answered or dropped, and receives nothing.
    ///
    /// # Errors
    /// [`TypedError::Recv`] as for [`MessagePort::recv`](crate::MessagePort::recv).
    /// [`TypedError::Message`] if a message came that is no valid `Req`, or for which there is no
    /// memory; its caller is told, and the next call gives the next request.
    /// [`TypedError::TypeMismatch`] if the requester has declared other types before the call
    /// began, or by the time it posts or closes its port; the callers of what came are told.
    pub fn recv(&self) -> Result<Request<'_, Req, Resp>, TypedError> {
        self.recv_until(Deadline::NEVER)
    }

    /// Waits for the next request, at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Request<'_, Req, Resp>, TypedError> {
        self.recv_until(Deadline::after(timeout))
    }

    /// Waits for the next request until `deadline`.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Request<'_, Req, Resp>, TypedError> {
        self.recv_until(Deadline::at(deadline))
    }

    #[inline]
    fn recv_until(&self, deadline: Deadline) -> Result<Request<'_, Req, Resp>, TypedError> {
        match self.try_recv_fast() {
            Some(request) => Ok(request),
            None => self.recv_slow(deadline),
        }
    }

    #[cold]
    fn recv_slow(&self, deadline: Deadline) -> Result<Request<'_, Req, Resp>, TypedError> {
        if let Some(event) = self.incoming.receiver().take_aside()
            && let Some(request) = self.admit(event)?
        {
            return Ok(request);
        }
        let mut passed = 0;
        loop {
            if self.incoming.is_full() {
                self.wait_for_fewer(deadline)?;
            }
            if let Some(request) = self.next_ahead()? {
                return Ok(request);
            }
            self.incoming.check_types_if_empty()?;
            let slice = self.slice(deadline);
            let received = match slice.time() {
                None => self.incoming.receiver().recv(),
                Some(time) => self.incoming.receiver().recv_deadline(time),
            };
            let event = match received {
                // The slice is over, and answers that are owed are tried again.
                Err(RecvError::Timeout) if !deadline.is_over() => continue,
                received => self.incoming.recover(received)?,
            };
            if let Some(request) = self.admit(event)? {
                return Ok(request);
            }
            passed += 1;
            if passed % MOST_IN_A_ROW == 0 && deadline.is_over() {
                return Err(RecvError::Timeout.into());
            }
        }
    }

    /// How long to wait at once: shortly, if answers wait for room.
    #[inline]
    fn slice(&self, deadline: Deadline) -> Deadline {
        let answers = self.incoming.answers();
        if answers.has_owed() {
            answers.retry_owed();
        }
        match answers.has_owed() {
            true => Deadline::after(deadline.left_at_most(RETRY)),
            false => deadline,
        }
    }

    /// Waits until fewer owned requests are open.
    #[cold]
    fn wait_for_fewer(&self, deadline: Deadline) -> Result<(), TypedError> {
        let (answers, limit) = (self.incoming.answers(), self.incoming.limit());
        while with_waker(|waker| answers.wait_for_fewer(limit, waker)) {
            if self.incoming.receiver().take_cancel_request() {
                return Err(RecvError::Cancelled.into());
            }
            if deadline.is_over() {
                return Err(RecvError::Timeout.into());
            }
            // A canceller does not wake this thread, and neither does room for what is owed.
            park(Deadline::after(deadline.left_at_most(RETRY)));
            answers.retry_owed();
        }
        Ok(())
    }
}

impl<Req: Receive, Resp: Post> Request<'_, Req, Resp> {
    /// Posts the reply, waiting for room at most for `timeout`.
    ///
    /// Sleeps until the requester makes room, and receives nothing meanwhile. Of several threads
    /// that wait, one at a time looks for room.
    ///
    /// # Errors
    /// As [`reply`](Self::reply), with `Timeout` for `QueueFull`. `Cancelled` by a canceller that
    /// the port had before it became a responder.
    pub fn reply_timeout(&self, reply: &Resp, timeout: Duration) -> Result<(), PostError> {
        retry(self.answers(), timeout, || self.reply(reply))
    }

    /// Posts the reply and moves what is in the list, waiting for room at most for `timeout`.
    ///
    /// # Errors
    /// As [`reply_with`](Self::reply_with), with `Timeout` and `Cancelled` as
    /// [`reply_timeout`](Self::reply_timeout).
    pub fn reply_with_timeout(
        &self,
        reply: &Resp,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        retry_with(self.answers(), timeout, transfer, |list| self.reply_with(reply, list))
    }
}

impl<Req: Receive, Resp: Post> OwnedRequest<Req, Resp> {
    /// Posts the reply, waiting for room at most for `timeout`. See [`Request::reply_timeout`].
    ///
    /// # Errors
    /// As [`Request::reply_timeout`].
    pub fn reply_timeout(&self, reply: &Resp, timeout: Duration) -> Result<(), PostError> {
        retry(self.answers(), timeout, || self.reply(reply))
    }

    /// Posts the reply and moves what is in the list, waiting for room at most for `timeout`.
    ///
    /// # Errors
    /// As [`reply_with`](Self::reply_with), with `Timeout` and `Cancelled` as
    /// [`reply_timeout`](Self::reply_timeout).
    pub fn reply_with_timeout(
        &self,
        reply: &Resp,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        retry_with(self.answers(), timeout, transfer, |list| self.reply_with(reply, list))
    }
}

/// Posts until there is room, and keeps the list meanwhile.
fn retry_with(
    answers: &Answers,
    timeout: Duration,
    transfer: impl TransferList,
    mut post: impl FnMut(Vec<Transferable>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut list = transfer.into_list();
    let posted = retry(answers, timeout, || {
        post(mem::take(&mut list)).map_err(|error| {
            let (reason, back) = error.into_parts();
            list = back;
            reason
        })
    });
    posted.map_err(|reason| TransferError::new(reason, list))
}

/// How long a thread sleeps while there is something to retry.
const RETRY: Duration = Duration::from_millis(10);
