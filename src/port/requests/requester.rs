//! The side that calls.

use crate::error::{CallError, CloseReason, PostError};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::MessagePort;
use crate::port::cancel::Canceller;
use crate::port::requests::call::Call;
use crate::port::requests::core::Core;
use crate::port::requests::types::Types;
use crate::port::transfer::{TransferError, TransferList};
use crate::wire::label::PortLabels;
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Posts requests of type `Req` and receives the replies of type `Resp`; made by
/// [`MessagePort::requester`].
///
/// Any number of calls may be open at the same time, and the [`Responder`](crate::Responder) at the
/// other end answers them in any order. Each call ends exactly once: with its own reply, or with a
/// [`CallError`]. If the peer closes its port or dies, all open calls end with
/// [`CallError::Closed`].
///
/// A clone is another handle of the same requester, for another thread. Threads share one handle
/// too, as it is `Sync`. The port is closed when the last handle and the last open [`Call`] are
/// dropped.
///
/// As a [typed port](MessagePort::typed) does, it compares the [`Shape`](crate::Shape)s of its
/// types with those of the responder. If they differ, nothing is posted and calls fail with a
/// [`TypeMismatch`](crate::TypeMismatch): [`PostError::TypeMismatch`] where a request is posted,
/// [`MessageError::TypeMismatch`](crate::MessageError::TypeMismatch) where its reply came.
///
/// A call costs little more than a message and its answer on a [`TypedPort`](crate::TypedPort), and
/// no allocation of its own. While several threads wait, one of them receives for all; a reply for
/// another thread is copied, and wakes that thread.
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::new()?;
/// let responder = channel.port2.responder::<String, u64>();
/// let thread = std::thread::spawn(move || {
///     while let Ok(request) = responder.recv() {
///         let len = request.data().len() as u64;
///         request.reply(&len).expect("room for a reply");
///     }
/// });
///
/// let requester = channel.port1.requester::<String, u64>();
/// assert_eq!(requester.call(&"four".to_string())?, 4);
///
/// let calls = [requester.start(&"a".to_string())?, requester.start(&"bc".to_string())?];
/// for (call, expected) in calls.into_iter().zip([1, 2]) {
///     assert_eq!(call.wait()?.deserialize()?, expected);
/// }
/// drop(requester);
/// thread.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Requester<Req, Resp> {
    pub(crate) core: Arc<Core>,
    types: PhantomData<fn(Req) -> Resp>,
}

/// Ends a call of another thread; made by [`Call::canceller`].
///
/// The call ends with [`CallError::Cancelled`], also while a thread waits for it, and the responder
/// is told. After the call has ended, this does nothing.
#[derive(Clone)]
pub struct CallCanceller {
    pub(crate) core: Arc<Core>,
    pub(crate) id: crate::port::requests::trailer::CallId,
}

impl MessagePort {
    /// Makes this port the calling end: it posts requests and receives their replies.
    ///
    /// The other end has to be a [`responder`](Self::responder) of the same types. Set trust and
    /// listeners before: handlers and listeners of the port are no longer called.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let responder = channel.port2.responder::<u32, u32>();
    /// let requester = channel.port1.requester::<u32, u32>();
    /// let call = requester.start(&20)?;
    ///
    /// let request = responder.recv()?;
    /// request.reply(&(request.data().to_native() + 1))?;
    /// assert_eq!(*call.wait()?.data(), 21);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn requester<Req: Post, Resp: Receive>(self) -> Requester<Req, Resp> {
        let (sender, receiver) = self.split();
        let types = Types::declare::<Req, Resp>(sender.endpoint(), true);
        Requester::of(Arc::new(Core::new(sender, types, Some(receiver), None)))
    }
}

impl<Req: Post, Resp: Receive> Requester<Req, Resp> {
    pub(crate) fn of(core: Arc<Core>) -> Requester<Req, Resp> {
        Requester { core, types: PhantomData }
    }

    /// Posts a request; never blocks. The reply is waited for through the [`Call`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message`]. No call is open then. [`PostError::TypeMismatch`] if the
    /// responder has declared other types. [`PostError::Busy`] inside a `Serialize` of a request.
    pub fn start(&self, request: &Req) -> Result<Call<Resp>, PostError> {
        let mut state = self.core.lock()?;
        let id = self.core.post(&mut state, request)?;
        Ok(Call::new(self.core.clone(), id))
    }

    /// Posts a request, and moves what is in the list; never blocks.
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with`]: [`TransferError`] with the reason and the list. No
    /// call is open then.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let responder = channel.port2.responder::<String, bool>();
    /// let requester = channel.port1.requester::<String, bool>();
    /// let file = std::fs::File::open("/dev/null")?;
    /// let call = requester.start_with(&"keep it".to_string(), [file.into()])?;
    ///
    /// let request = responder.recv()?;
    /// let _file = request.take_descriptor()?;
    /// request.reply(&true)?;
    /// assert!(call.wait()?.data());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_with(
        &self,
        request: &Req,
        transfer: impl TransferList,
    ) -> Result<Call<Resp>, TransferError> {
        let list = transfer.into_list();
        let mut state = match self.core.lock() {
            Ok(state) => state,
            Err(inside) => return Err(TransferError::new(inside.into(), list)),
        };
        let id = self.core.post_with(&mut state, request, list)?;
        Ok(Call::new(self.core.clone(), id))
    }
}

impl<Req, Resp> Requester<Req, Resp> {
    /// Closes the port: all open calls end with [`CallError::Closed`], also those that threads wait
    /// for. The responder receives what was posted before, and then `Closed`.
    ///
    /// Inside a `Serialize` of a request it does nothing.
    pub fn close(&self) {
        let Ok(state) = self.core.lock() else { return };
        state.sender().close();
        state.close_receiver();
        let interrupt = state.interrupt.clone();
        drop(state);
        self.core.end(CloseReason::Local);
        interrupt.iter().for_each(Canceller::cancel);
    }

    /// Both labels of the port. See [`MessagePort::labels`]. Empty inside a request's `Serialize`.
    pub fn labels(&self) -> PortLabels {
        let state = self.core.lock();
        state.map(|state| state.sender().endpoint().labels()).unwrap_or_default()
    }

    /// Whether requests can no longer be posted. Makes at most one system call.
    pub fn is_closed(&self) -> bool {
        self.core.lock().is_ok_and(|state| state.ended().is_some() || state.sender().is_closed())
    }

    /// Whether something was posted, and the peer has read nothing of it. After a call whose time
    /// was up its cancellation may be unread, which says nothing about the request.
    pub(crate) fn has_read_nothing(&self) -> bool {
        self.core.lock().is_ok_and(|state| {
            state.sender().backlog().messages > 0 && state.sender().stats().received == 0
        })
    }

    /// Whether the responder is known to have other types.
    pub(crate) fn has_other_types(&self) -> bool {
        self.core.check_types().is_err()
    }

    /// The number of calls whose outcome was not taken yet.
    pub fn open_calls(&self) -> usize {
        self.core.lock().map_or(0, |state| state.calls.len())
    }

    /// How many messages came that are the reply to no open call: the call was cancelled or its
    /// time was up, or the peer does not keep to the protocol. They were dropped, and what moved
    /// with them was closed.
    pub fn discarded(&self) -> u64 {
        self.core.lock().map_or(0, |state| state.discarded())
    }
}

impl CallCanceller {
    /// Ends the call. Never blocks.
    pub fn cancel(&self) {
        let Ok(mut state) = self.core.lock() else { return };
        if !state.calls.is_open(self.id) {
            return;
        }
        state.owe_cancel(self.id);
        // Another thread may lead, and then this wakes it in vain.
        let interrupt = state.interrupt.clone();
        self.core.finish(state, self.id, Err(CallError::Cancelled));
        interrupt.iter().for_each(Canceller::cancel);
    }
}

impl<Req, Resp> Clone for Requester<Req, Resp> {
    fn clone(&self) -> Self {
        Requester { core: self.core.clone(), types: PhantomData }
    }
}

/// Prints what is needed to debug a hang: the open calls, who receives, and both lanes.
impl<Req, Resp> fmt::Debug for Requester<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Requester");
        out.field("request", &type_name::<Req>()).field("reply", &type_name::<Resp>());
        match self.core.lock() {
            Ok(state) => {
                let end = state.sender().endpoint();
                out.field("pair", &format_args!("{:032x}", end.region().pair_id()))
                    .field("side", &end.outgoing())
                    .field("labels", &end.labels())
                    .field("open_calls", &state.calls.len())
                    .field("owed_cancellations", &state.owed())
                    .field("discarded", &state.discarded())
                    .field("has_driver", &state.driver.is_some())
                    .field("ended", &state.ended())
                    .field("sender", state.sender());
                match &state.receiver {
                    Some(receiver) => out.field("receiver", receiver),
                    None => out.field("receiver", &format_args!("in use")),
                }
            }
            Err(_) => out.field("busy", &true),
        };
        out.finish_non_exhaustive()
    }
}

impl fmt::Debug for CallCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallCanceller").field("call", &self.id.sequence).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use crate::port::channel::MessageChannel;

    #[test]
    fn a_request_was_read_though_its_cancellation_was_not() {
        let channel = MessageChannel::new().expect("a channel");
        let requester = channel.port1.requester::<u32, u32>();
        let responder = channel.port2.responder::<u32, u32>();
        assert!(!requester.has_read_nothing(), "nothing was posted");
        let call = requester.start(&1).expect("room");
        assert!(requester.has_read_nothing());
        let request = responder.try_recv().expect("an open port").expect("a request");
        assert!(!requester.has_read_nothing());
        drop(call);
        let unread = requester.core.lock().expect("no call is inside").sender().backlog().messages;
        assert_eq!(unread, 1, "the cancellation");
        assert!(!requester.has_read_nothing());
        drop(request);
    }
}
