//! The sending half of a port.

use crate::error::{CloseReason, PostError};
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::link::sending::Sending;
use crate::port::burst::Burst;
use crate::port::cancel::{Canceller, Switch};
use crate::port::loan::Loan;
use crate::port::stats::{LaneStats, Undelivered};
use crate::ring::notifier::Wait;
use crate::wire::record::{Farewell, Format};
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// The sending half of a [`MessagePort`](crate::MessagePort), for a thread of its own.
///
/// Posts as the port did. Dropping it ends this direction only: the peer receives everything that
/// was posted, and then `Closed`, while the [`Receiver`](crate::Receiver) half goes on.
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::new()?;
/// let (sender, _receiver) = channel.port1.split();
/// let thread = std::thread::spawn(move || sender.post_text("from another thread"));
/// assert_eq!(channel.port2.recv()?.text()?, "from another thread");
/// thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sender {
    sending: RefCell<Sending>,
    end: Arc<Endpoint>,
    switch: OnceCell<Arc<Switch>>,
    /// `close` was called while a loan or a serialisation held the half.
    closing: Cell<bool>,
    /// How long looking before sleeping has paid of late, in looks.
    spin: Cell<u32>,
}

impl Sender {
    pub(crate) fn new(sending: Sending) -> Sender {
        let end = sending.endpoint().clone();
        Sender {
            sending: RefCell::new(sending),
            end,
            switch: OnceCell::new(),
            closing: Cell::new(false),
            spin: Cell::new(0),
        }
    }

    /// Posts a value. See [`MessagePort::post_message`](crate::MessagePort::post_message).
    ///
    /// # Errors
    /// Any [`PostError`] but `Timeout` and `Cancelled`; nothing of the message is in the ring then.
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_value(value))
    }

    /// Posts bytes. See [`MessagePort::post_bytes`](crate::MessagePort::post_bytes).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_bytes(bytes, Format::Bytes))
    }

    /// Posts text. See [`MessagePort::post_text`](crate::MessagePort::post_text).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn post_text(&self, text: &str) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_bytes(text.as_bytes(), Format::Text))
    }

    /// Lends the bytes of a future message. See [`MessagePort::loan`](crate::MessagePort::loan).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, PostError> {
        let mut sending = self.borrow()?;
        let reserved = sending.reserve(len)?;
        Ok(Loan::new(self, sending, reserved, len))
    }

    /// Begins a burst. See [`MessagePort::burst`](crate::MessagePort::burst).
    pub fn burst(&self) -> Burst<'_> {
        Burst::new(self)
    }

    /// A handle that ends a blocked call of this half from another thread.
    ///
    /// # Errors
    /// [`PostError::Io`] if there is no descriptor for it.
    pub fn canceller(&self) -> Result<Canceller, PostError> {
        if self.switch.get().is_none() {
            let _ = self.switch.set(Switch::new(&self.end)?);
        }
        Ok(Canceller::new(self.switch.get().expect("just set").clone()))
    }

    /// Says that nothing more will be posted; the peer receives what was posted before. Never
    /// blocks; the second time it does nothing. An open [`Loan`] can no longer be posted.
    pub fn close(&self) {
        self.say_farewell(Farewell::Closed);
    }

    /// Whether posts fail because an end is closed. At most one system call.
    pub fn is_closed(&self) -> bool {
        self.end_reason().is_some()
    }

    /// What was posted and not yet taken by the peer, also after its end.
    pub fn undelivered(&self) -> Undelivered {
        let (messages, bytes) = self.borrow().map_or((0, 0), |mut sending| sending.undelivered());
        Undelivered { messages, bytes }
    }

    /// Gives idle pages back. See [`MessagePort::trim`](crate::MessagePort::trim).
    ///
    /// # Errors
    /// [`PostError::Io`] if the kernel refuses, [`PostError::Busy`] while a loan is open.
    pub fn trim(&self) -> Result<u64, PostError> {
        self.borrow()?.trim()
    }

    /// Counters of the lane that this half writes. What the peer counts is the peer's word.
    pub fn stats(&self) -> LaneStats {
        LaneStats::read(&self.end.region().lane(self.end.outgoing()))
    }

    /// Runs `stage`, and publishes what it staged.
    fn stage_and_commit(
        &self,
        stage: impl FnOnce(&mut Sending) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        let mut sending = self.borrow()?;
        stage(&mut sending)?;
        sending.commit();
        self.finish(sending);
        Ok(())
    }

    /// Runs `stage` without publishing.
    pub(crate) fn stage(
        &self,
        stage: impl FnOnce(&mut Sending) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        let mut sending = self.borrow()?;
        stage(&mut sending)?;
        self.finish(sending);
        Ok(())
    }

    /// Publishes what is staged. While somebody else holds the half, his commit does it.
    pub(crate) fn commit(&self) {
        if let Ok(mut sending) = self.borrow() {
            sending.commit();
        }
    }

    pub(crate) fn has_room(&self, len: u64) -> Result<(), PostError> {
        self.borrow()?.has_room(len)
    }

    pub(crate) fn prepare_wait(&self, len: u64) -> Result<Wait, PostError> {
        self.borrow()?.prepare_wait(len)
    }

    pub(crate) fn sleep(&self, deadline: Option<Instant>) -> Result<(), PostError> {
        self.borrow()?.sleep(deadline);
        Ok(())
    }

    pub(crate) fn take_cancel_request(&self) -> bool {
        self.switch.get().is_some_and(|switch| switch.take_request())
    }

    pub(crate) fn spin_estimate(&self) -> &Cell<u32> {
        &self.spin
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        match self.sending.try_borrow() {
            Ok(_) if self.closing.get() => Some(CloseReason::Local),
            Ok(sending) => sending.end_reason(),
            Err(_) => self.closing.get().then_some(CloseReason::Local),
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.end
    }

    pub(crate) fn sending(&mut self) -> &mut Sending {
        self.sending.get_mut()
    }

    pub(crate) fn share_switch(&self, switch: Arc<Switch>) {
        let _ = self.switch.set(switch);
    }

    fn borrow(&self) -> Result<RefMut<'_, Sending>, PostError> {
        self.sending.try_borrow_mut().map_err(|_| PostError::Busy)
    }

    /// Ends a use of the half; a `close` that came meanwhile takes place now.
    fn finish(&self, mut sending: RefMut<'_, Sending>) {
        if self.closing.get() {
            sending.close(Farewell::Closed);
        }
    }

    fn say_farewell(&self, farewell: Farewell) {
        self.closing.set(true);
        if let Ok(mut sending) = self.borrow() {
            sending.close(farewell);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let farewell = match self.closing.get() {
            true => Farewell::Closed,
            false => Farewell::Dropped,
        };
        self.sending.get_mut().close(farewell);
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Sender");
        match self.sending.try_borrow() {
            Ok(sending) => {
                let lane = sending.producer().memory().lane();
                out.field("cursor", &sending.producer().cursor())
                    .field("tail", &lane.producer.tail)
                    .field("head", &lane.consumer.head)
                    .field("sleepers", &lane.sleepers)
                    .field("produced", &sending.producer().counters())
                    .field("segments", &sending.producer().geometry().segments())
                    .field("trusted", &self.end.is_trusted())
            }
            Err(_) => out.field("busy", &true),
        };
        out.finish_non_exhaustive()
    }
}
