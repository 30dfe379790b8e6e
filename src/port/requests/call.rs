//! A call that is open, and its reply.

use crate::error::{CallError, MessageError};
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::port::message::Message;
use crate::port::requests::core::Core;
use crate::port::requests::requester::CallCanceller;
use crate::port::requests::trailer::CallId;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

/// A call that was started and waits for its reply; made by
/// [`Requester::start`](crate::Requester::start).
///
/// Dropping it cancels the call: the responder is told, and a reply that comes later is dropped
/// together with what moves with it.
#[must_use = "a call that is dropped is cancelled"]
pub struct Call<Resp> {
    pub(crate) core: Arc<Core>,
    pub(crate) id: CallId,
    kind: PhantomData<fn() -> Resp>,
}

/// A reply, with its bytes and its transferables. It was checked to be a `Resp`.
///
/// It is `Send` and borrows nothing. Take what moved with it by the methods of [`Message`], such as
/// [`take_port`](Message::take_port).
pub struct Reply<Resp> {
    message: Message,
    kind: PhantomData<fn() -> Resp>,
}

impl<Resp> Call<Resp> {
    pub(crate) fn new(core: Arc<Core>, id: CallId) -> Call<Resp> {
        Call { core, id, kind: PhantomData }
    }

    /// Returns a handle that ends this call from another thread.
    pub fn canceller(&self) -> CallCanceller {
        CallCanceller { core: self.core.clone(), id: self.id }
    }
}

impl<Resp> Drop for Call<Resp> {
    fn drop(&mut self) {
        self.core.abandon(self.id);
    }
}

impl<Resp: Receive> Reply<Resp> {
    /// Checks a message that came as a reply, and of which the trailer was removed.
    pub(crate) fn new(message: Message) -> Result<Reply<Resp>, CallError> {
        message.data::<Resp>()?;
        Ok(Reply { message, kind: PhantomData })
    }

    /// Borrows the archived value. Each call checks it again, so keep the reference.
    pub fn data(&self) -> &Resp::Archived {
        self.message.data::<Resp>().expect("checked before, and unchanged since")
    }

    /// Returns the reply as an owned `Resp`.
    ///
    /// # Errors
    /// What the deserialisation itself refuses.
    pub fn deserialize(&self) -> Result<Resp, MessageError>
    where
        Resp: ReceiveOwned,
    {
        self.message.deserialize()
    }
}

impl<Resp> Deref for Reply<Resp> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl<Resp> fmt::Debug for Call<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("number", &self.id.sequence).finish_non_exhaustive()
    }
}

impl<Resp> fmt::Debug for Reply<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.message).finish()
    }
}
