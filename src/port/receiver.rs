//! The receiving half of a port.

use crate::error::{CloseReason, RecvError};
use crate::link::attachment::Attachments;
use crate::link::endpoint::Endpoint;
#[cfg(any(feature = "tokio", feature = "async-io"))]
use crate::link::payload::blocks_for;
use crate::link::payload::{Block, Payload, PayloadHandle};
use crate::link::receiving::Receiving;
use crate::link::receiving::chunks::Polled;
use crate::link::stats::LaneStats;
use crate::os::clock::Deadline;
use crate::os::socket::DrainTo;
use crate::os::spin::Spin;
use crate::port::cancel::{Canceller, Switch};
use crate::port::event::MessageEvent;
use crate::ring::notifier::Wait;
use crate::wire::record::CloseKind;
#[cfg(any(feature = "tokio", feature = "async-io"))]
use crate::wire::record::MOST_IN_HEADER;
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// The receiving half of a [`MessagePort`](crate::MessagePort), for use on its own thread.
///
/// It receives as the port did. Dropping it ends this direction only: from then on the peer's posts
/// fail, while the [`Sender`](crate::Sender) half continues.
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::new()?;
/// let (_sender, receiver) = channel.port2.split();
/// let thread = std::thread::spawn(move || {
///     receiver.iter().map(|event| event.bytes().len()).sum::<usize>()
/// });
/// channel.port1.post_bytes(&[0; 100])?;
/// channel.port1.close();
/// assert_eq!(thread.join().unwrap(), 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Receiver {
    receiving: RefCell<Receiving>,
    /// How many messages in the half's memory for short ones are in use.
    ahead_in_use: Cell<u32>,
    end: Arc<Endpoint>,
    switch: OnceCell<Arc<Switch>>,
    /// How long calls look before they sleep.
    spin: Spin,
    /// A message that a fast path has received, and its slow path takes.
    aside: Cell<Option<Payload>>,
    /// Whether that fast path is still checking it: nothing else takes it then.
    is_checking: Cell<bool>,
}

impl Receiver {
    pub(crate) fn new(receiving: Receiving) -> Receiver {
        let end = receiving.endpoint().clone();
        let receiving = RefCell::new(receiving);
        Receiver {
            receiving,
            ahead_in_use: Cell::new(0),
            end,
            switch: OnceCell::new(),
            spin: Spin::new(),
            aside: Cell::new(None),
            is_checking: Cell::new(false),
        }
    }

    /// Takes the next message, if there is one. See
    /// [`MessagePort::try_recv`](crate::MessagePort::try_recv).
    ///
    /// # Errors
    /// [`RecvError::Closed`] once everything was delivered and no more can come;
    /// [`RecvError::OutOfMemory`] if a copy cannot be allocated; [`RecvError::OutOfDescriptors`]
    /// while this process has too few free descriptors for what moves with the message.
    #[inline(always)]
    pub fn try_recv(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        self.poll().map_err(|failure| *failure)
    }

    /// Like `try_recv`. Failures come in a box: a result whose address is passed to a call that may
    /// fill it would be in memory on the fast path too.
    #[inline(always)]
    pub(crate) fn poll(&self) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        match self.poll_fast() {
            Some(event) => Ok(Some(event)),
            None if self.is_still_empty() => Ok(None),
            None => self.poll_slow(),
        }
    }

    /// See [`Receiving::is_still_empty`].
    #[inline(never)]
    pub(crate) fn is_still_empty(&self) -> bool {
        self.receiving.borrow_mut().is_still_empty()
    }

    /// Fast path of each poll. `None` says nothing more.
    #[inline(always)]
    pub(crate) fn poll_fast(&self) -> Option<MessageEvent<'_>> {
        let payload = self.receiving.borrow_mut().poll_fast(&self.ahead_in_use)?;
        Some(MessageEvent::new(payload, self))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn poll_slow(&self) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        // Often a message has just come, between this and the fast path.
        if let Some(event) = self.poll_fast() {
            return Ok(Some(event));
        }
        let payload = self.receiving.borrow_mut().poll_slow()?;
        Ok(payload.map(|payload| MessageEvent::new(payload, self)))
    }

    /// Puts aside a message that a fast path has received, and returns what to check it by. If the
    /// fast path does not take it, because it is none for it or its check panics, it is there for
    /// the next slow path. An event in its own place would be given back by a panic, and so be in
    /// memory on the fast path too.
    #[inline(always)]
    pub(crate) fn set_aside(&self, event: MessageEvent<'_>) -> Payload {
        let payload = event.into_payload();
        self.aside.set(Some(payload.clone()));
        payload
    }

    /// Checks what was just put aside, by code of the program. If that receives here, it gets the
    /// next message: this one must be given back once, and not while it is being read.
    #[inline(always)]
    pub(crate) fn check_aside(&self, check: impl FnOnce() -> bool) -> bool {
        struct Checking<'r>(&'r Cell<bool>);

        impl Drop for Checking<'_> {
            #[inline(always)]
            fn drop(&mut self) {
                self.0.set(false);
            }
        }

        self.is_checking.set(true);
        let _checking = Checking(&self.is_checking);
        check()
    }

    /// The fast path takes what it has just put aside.
    #[inline(always)]
    pub(crate) fn take_back(&self, payload: Payload) -> MessageEvent<'_> {
        self.aside.set(None);
        MessageEvent::new(payload, self)
    }

    /// A slow path takes what was put aside, unless it is being checked.
    pub(crate) fn take_aside(&self) -> Option<MessageEvent<'_>> {
        if self.is_checking.get() {
            return None;
        }
        Some(MessageEvent::new(self.aside.take()?, self))
    }

    /// Whether something was put aside.
    #[inline(always)]
    pub(crate) fn has_aside(&self) -> bool {
        let aside = self.aside.take();
        let is_there = aside.is_some();
        self.aside.set(aside);
        is_there
    }

    /// Skips the next message without reading it; returns whether there was one.
    ///
    /// See [`MessagePort::discard_next`](crate::MessagePort::discard_next).
    ///
    /// # Errors
    /// [`RecvError::Closed`], as [`try_recv`](Self::try_recv); [`RecvError::OutOfDescriptors`] if a
    /// [`BufferPool`](crate::BufferPool) comes before the message.
    pub fn discard_next(&self) -> Result<bool, RecvError> {
        self.receiving.borrow_mut().discard()
    }

    /// See [`Receiving::end_of_next`].
    pub(crate) fn end_of_next(&self) -> Option<[u8; 16]> {
        self.receiving.borrow_mut().end_of_next()
    }

    /// Returns a handle that ends a blocked call of this half from another thread.
    ///
    /// # Errors
    /// [`RecvError::Io`] if the process is out of descriptors.
    pub fn canceller(&self) -> Result<Canceller, RecvError> {
        if self.switch.get().is_none() {
            let _ = self.switch.set(Switch::new(&self.end)?);
        }
        Ok(Canceller::new(self.switch.get().expect("just set").clone()))
    }

    /// Ends this direction: the peer's posts fail from now on.
    ///
    /// What is in the queue can still be received; after that every call returns
    /// [`CloseReason::Local`].
    pub fn close(&self) {
        self.close_as(CloseKind::Closed);
    }

    /// Whether no more messages can come. Some may still be waiting. Makes at most one system call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end_reason().is_some()
    }

    /// Counters of the lane that this half reads. The peer can falsify those that it writes.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.end.received()
    }

    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        self.receiving.borrow_mut().end_reason()
    }

    pub(crate) fn close_as(&self, kind: CloseKind) {
        self.receiving.borrow_mut().close(kind);
    }

    /// Like `poll`, for users of several ports; see [`Receiving::poll_in_chunks`].
    #[inline(always)]
    pub(crate) fn poll_in_chunks(&self) -> Result<Polled<MessageEvent<'_>>, Box<RecvError>> {
        match self.poll_fast() {
            Some(event) => Ok(Polled::Message(event)),
            None => self.poll_in_chunks_slow(),
        }
    }

    #[cold]
    #[inline(never)]
    fn poll_in_chunks_slow(&self) -> Result<Polled<MessageEvent<'_>>, Box<RecvError>> {
        let polled = self.receiving.borrow_mut().poll_in_chunks()?;
        Ok(polled.map(|payload| MessageEvent::new(payload, self)))
    }

    /// See [`Receiving::poll_to_copy`].
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn poll_to_copy(&self) -> Result<(Polled<MessageEvent<'_>>, Vec<Block>), RecvError> {
        let is_short = self.receiving.borrow_mut().has_short();
        // Allocated before it is taken, as a short message has no memory that it could take along.
        let memory = if is_short { blocks_for(MOST_IN_HEADER as usize) } else { Some(Vec::new()) };
        if !self.end.is_trusted()
            && let Some(memory) = memory
            && let Some(event) = self.poll_fast()
        {
            return Ok((Polled::Message(event), memory));
        }
        let (polled, memory) = self.receiving.borrow_mut().poll_to_copy()?;
        Ok((polled.map(|payload| MessageEvent::new(payload, self)), memory))
    }

    /// Takes the transferables of a message that is alive.
    pub(crate) fn take_attachments(&self, handle: PayloadHandle) -> Option<Attachments> {
        self.receiving.borrow_mut().take_attachments(handle)
    }

    /// Takes the memory of a message that is a private copy.
    pub(crate) fn take_memory(&self, handle: PayloadHandle) -> Option<Vec<Block>> {
        if handle == PayloadHandle::Ahead && self.ahead_in_use.get() != 1 {
            return None;
        }
        self.receiving.borrow_mut().take_memory(handle)
    }

    /// Works on the transferables of a message that is alive.
    pub(crate) fn with_attachments<T>(
        &self,
        handle: PayloadHandle,
        act: impl FnOnce(&mut Attachments) -> T,
    ) -> Option<T> {
        self.receiving.borrow_mut().attachments(handle).map(act)
    }

    /// Whether a poll would find something.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.receiving.borrow().has_news()
    }

    /// Whether the next record is a message: not the end, nor one that is skipped silently.
    pub(crate) fn has_message(&self) -> bool {
        self.receiving.borrow_mut().has_message()
    }

    /// Takes back a message in the memory for short ones, to which nothing is attached.
    #[inline(always)]
    pub(crate) fn give_back_ahead(&self) {
        self.ahead_in_use.set(self.ahead_in_use.get() - 1);
    }

    /// Takes back another message.
    #[inline(never)]
    pub(crate) fn give_back(&self, handle: PayloadHandle) {
        if !self.receiving.borrow_mut().give_back_fast(handle) {
            self.give_back_slow(handle);
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back_slow(&self, handle: PayloadHandle) {
        let mut receiving = self.receiving.borrow_mut();
        receiving.give_back(handle);
        if let Some(attachments) = receiving.take_attachments(handle) {
            drop(receiving);
            attachments.close_unclaimed();
        }
    }

    /// See [`Receiving::begin_batch`].
    pub(crate) fn begin_batch(&self) {
        self.receiving.borrow_mut().begin_batch();
    }

    /// See [`Receiving::poll_in_copy`].
    #[inline(always)]
    pub(crate) fn poll_in_copy(&self, position: u64) -> Option<(MessageEvent<'_>, u64)> {
        let in_use = &self.ahead_in_use;
        let (payload, next) = self.receiving.borrow_mut().poll_in_copy(position, in_use)?;
        Some((MessageEvent::new(payload, self), next))
    }

    /// See [`Receiving::end_copy`].
    pub(crate) fn end_copy(&self) {
        self.receiving.borrow_mut().end_copy();
    }

    /// See [`Receiving::position`].
    pub(crate) fn position(&self) -> u64 {
        self.receiving.borrow().position()
    }

    /// See [`Receiving::read_ahead`].
    pub(crate) fn read_ahead(&self) {
        let is_free = self.ahead_in_use.get() == 0;
        self.receiving.borrow_mut().read_ahead(is_free);
    }

    /// See [`Receiving::end_batch`].
    pub(crate) fn end_batch(&self) {
        self.receiving.borrow_mut().end_batch();
    }

    /// How many descriptors were received, with messages or without, since the last call.
    pub(crate) fn take_cost(&self) -> u32 {
        self.receiving.borrow_mut().take_cost()
    }

    /// See [`Receiving::set_patient`].
    pub(crate) fn set_patient(&self, is_patient: bool) {
        self.receiving.borrow_mut().set_patient(is_patient);
    }

    /// Whether the next message waits until more of what came through this port is closed.
    pub(crate) fn waits_for_reaper(&self) -> bool {
        self.receiving.borrow().waits_for_reaper()
    }

    /// Whether the doorbell was drained since the last call.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn has_drained(&self) -> bool {
        self.receiving.borrow_mut().has_drained()
    }

    pub(crate) fn prepare_wait(&self) -> Result<Wait, RecvError> {
        self.receiving.borrow_mut().prepare_wait()
    }

    /// Prepares to wait for the peer's end alone; `Ready` if a message comes before it.
    pub(crate) fn prepare_wait_for_end(&self) -> Result<Wait, RecvError> {
        self.receiving.borrow_mut().prepare_wait_for_end()
    }

    /// Sleeps after `prepare_wait`; a canceller's request ends the sleep.
    pub(crate) fn sleep(&self, deadline: Deadline) -> Result<(), RecvError> {
        let interrupt = self.switch.get().map(|switch| switch.bell());
        Ok(self.receiving.borrow().sleep(interrupt, deadline)?)
    }

    /// Sleeps until the peer is gone, or a canceller asks for an end, or for a slice of time.
    pub(crate) fn sleep_until_peer_gone(&self, deadline: Deadline) -> Result<(), RecvError> {
        let interrupt = self.switch.get().map(|switch| switch.bell());
        Ok(self.end.sleep_until_hung_up(interrupt, deadline)?)
    }

    pub(crate) fn take_cancel_request(&self) -> bool {
        self.switch.get().is_some_and(|switch| switch.take_request())
    }

    pub(crate) fn spin(&self) -> &Spin {
        &self.spin
    }

    /// The doorbell, for a level-triggered watcher of this crate: saves one call per ring.
    pub(crate) fn level_triggered_fd(&self) -> BorrowedFd<'_> {
        self.receiving.borrow_mut().arm_doorbell(DrainTo::Silence);
        self.end.doorbell()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.end
    }

    pub(crate) fn borrow_receiving(&self) -> RefMut<'_, Receiving> {
        self.receiving.borrow_mut()
    }

    pub(crate) fn receiving(&mut self) -> &mut Receiving {
        self.receiving.get_mut()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let receiving = self.receiving.get_mut();
        receiving.close(CloseKind::Dropped);
        // One reference is ours, one that of `receiving`. The last user closes the sockets, which
        // has the same effect, and no former owner of them can delay that.
        if Arc::strong_count(&self.end) > 2 {
            receiving.close_unread();
        }
    }
}

/// The doorbell. Wait for it only after `try_recv` has returned `None`: that call arms the flag
/// that makes the peer ring.
///
/// The watcher may be edge-triggered: a `try_recv` that returns `None` has read everything that
/// came before from the socket, including the peer's end.
impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.borrow_mut().arm_doorbell(DrainTo::TheEnd);
        self.end.doorbell()
    }
}

/// As `AsFd`.
impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Receiver");
        match self.receiving.try_borrow() {
            Ok(receiving) => receiving.debug_fields(&mut out),
            Err(_) => _ = out.field("busy", &true),
        }
        out.finish_non_exhaustive()
    }
}
