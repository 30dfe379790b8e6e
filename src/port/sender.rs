//! The sending half of a port.

use crate::error::{CloseReason, PoolError, PostError};
use crate::link::attachment::Outgoing;
use crate::link::end::{Event, Half};
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::link::pool::{PoolMemory, PooledBuffer};
use crate::link::sending::{MOST_SCRATCH, Sending};
use crate::link::stats::{Backlog, LaneStats};
use crate::os::clock::Deadline;
use crate::os::spin::Spin;
use crate::port::burst::Burst;
use crate::port::cancel::{Canceller, Switch};
use crate::port::loan::Loan;
use crate::port::pool::PooledError;
use crate::port::transfer::{TransferError, TransferList, Transferable};
use crate::ring::notifier::Wait;
use crate::wire::record::{CloseKind, Format};
use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// The sending half of a [`MessagePort`](crate::MessagePort), for use on its own thread.
///
/// It posts as the port did. Dropping it ends this direction only: the peer receives everything
/// that was posted, and then `Closed`, while the [`Receiver`](crate::Receiver) half continues.
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
    /// Whether a loan is open: it has exclusive use of the half, without a borrow of the cell.
    lending: Cell<bool>,
    end: Arc<Endpoint>,
    /// The cancellers of this half, and of the whole port.
    switches: RefCell<Vec<Arc<Switch>>>,
    /// Whether `close` was called, perhaps while a loan or a serialisation used the half.
    closing: Cell<bool>,
    /// Whether a burst was committed while the half was in use, or a long loan was given.
    unfinished: Cell<bool>,
    /// How long calls look before they sleep.
    spin: Spin,
}

impl Sender {
    pub(crate) fn new(sending: Sending) -> Sender {
        let end = sending.endpoint().clone();
        Sender {
            sending: RefCell::new(sending),
            lending: Cell::new(false),
            end,
            switches: RefCell::new(Vec::new()),
            closing: Cell::new(false),
            unfinished: Cell::new(false),
            spin: Spin::new(),
        }
    }

    /// Posts a value. See [`MessagePort::post_message`](crate::MessagePort::post_message).
    ///
    /// # Errors
    /// Any [`PostError`] except `Timeout` and `Cancelled`. Nothing of the message is in the ring
    /// then.
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_value(value))
    }

    /// Posts bytes. See [`MessagePort::post_bytes`](crate::MessagePort::post_bytes).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    #[inline]
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.post_as(bytes, Format::Bytes)
    }

    /// Posts text. See [`MessagePort::post_text`](crate::MessagePort::post_text).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    #[inline]
    pub fn post_text(&self, text: &str) -> Result<(), PostError> {
        self.post_as(text.as_bytes(), Format::Text)
    }

    /// Posts a value and what moves with it. See
    /// [`MessagePort::post_message_with`](crate::MessagePort::post_message_with).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list; nothing has moved then.
    pub fn post_message_with<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.post_with(transfer.into_list(), |sending, items| sending.post_value_with(value, items))
    }

    /// Posts bytes and what moves with them. See
    /// [`MessagePort::post_message_with`](crate::MessagePort::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_bytes_with(
        &self,
        bytes: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.post_framed_with(bytes, Format::Bytes, transfer)
    }

    /// Posts text and what moves with it. See
    /// [`MessagePort::post_message_with`](crate::MessagePort::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_text_with(
        &self,
        text: &str,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.post_with(transfer.into_list(), |sending, items| {
            sending.post_bytes_with(text.as_bytes(), Format::Text, items)
        })
    }

    /// Reserves the bytes of a message. See [`MessagePort::loan`](crate::MessagePort::loan).
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    #[inline(always)]
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, PostError> {
        let Some(mut sending) = self.try_borrow() else { return Err(PostError::Busy) };
        match sending.reserve(len) {
            Ok(room) => {
                self.lending.set(true);
                if len > MOST_SCRATCH {
                    self.unfinished.set(true);
                }
                Ok(Loan::new(self, room))
            }
            Err(error) => Err(*error),
        }
    }

    /// Posts the first `len` bytes of the open loan.
    #[inline(always)]
    pub(crate) fn post_loaned(&self, len: usize) {
        self.sending.borrow_mut().post_reserved(len);
    }

    /// Frees the half, and does what was requested meanwhile.
    #[inline(always)]
    pub(crate) fn end_loan(&self) {
        self.lending.set(false);
        if self.unfinished.get() || self.closing.get() {
            drop(self.borrow());
        }
    }

    /// Begins a burst. See [`MessagePort::burst`](crate::MessagePort::burst).
    pub fn burst(&self) -> Burst<'_> {
        Burst::new(self)
    }

    /// Returns a handle that ends a blocked call of this half from another thread.
    ///
    /// # Errors
    /// [`PostError::Io`] if the process is out of descriptors.
    pub fn canceller(&self) -> Result<Canceller, PostError> {
        let mut switches = self.switches.borrow_mut();
        if switches.is_empty() {
            switches.push(Switch::new(&self.end)?);
        }
        Ok(Canceller::new(switches[0].clone()))
    }

    /// Ends this direction; never blocks, and does nothing the second time.
    ///
    /// The peer receives what was posted before. An open [`Loan`] can no longer be posted.
    pub fn close(&self) {
        self.close_as(CloseKind::Closed);
    }

    /// Whether posts fail because an end is closed. Makes at most one system call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end_reason().is_some()
    }

    /// What was posted and not yet taken by the peer. The peer may have closed its port or died
    /// meanwhile.
    ///
    /// While a loan is open it is zero.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let (messages, bytes) = self.borrow().map_or((0, 0), |mut sending| sending.backlog());
        Backlog { messages, bytes }
    }

    /// Frees unused pages. See [`MessagePort::trim`](crate::MessagePort::trim).
    ///
    /// # Errors
    /// [`PostError::Io`] if the kernel refuses, [`PostError::Busy`] while a loan is open.
    pub fn trim(&self) -> Result<u64, PostError> {
        self.borrow()?.trim()
    }

    /// Counters of the lane that this half writes. The peer can falsify those that it writes.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.end.sent()
    }

    /// Posts a value and hands over a pooled buffer. See
    /// [`MessagePort::post_message_pooled`](crate::MessagePort::post_message_pooled).
    ///
    /// # Errors
    /// [`PooledError`] with the reason and the buffer.
    pub fn post_message_pooled<T: Post>(
        &self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), PooledError> {
        let mut sending = match self.borrow() {
            Ok(sending) => sending,
            Err(reason) => return Err(PooledError::new(reason, buffer)),
        };
        let posted = sending.post_value_pooled(value, buffer);
        posted.map_err(|(reason, buffer)| PooledError::new(reason, buffer))
    }

    pub(crate) fn add_pool(
        &self,
        slots: u32,
        len: u64,
        has_frames: bool,
    ) -> Result<(Arc<PoolMemory>, u32), PoolError> {
        self.borrow()?.add_pool(slots, len, has_frames)
    }

    /// Runs `post`, and keeps the list if it fails. On success the moved values are dropped here:
    /// their ports were told not to announce a close.
    pub(crate) fn post_with(
        &self,
        mut list: Vec<Transferable>,
        post: impl FnOnce(&mut Sending, &mut [Outgoing<'_>]) -> Result<(), PostError>,
    ) -> Result<(), TransferError> {
        let posted = self.borrow().and_then(|mut sending| {
            let mut items: Vec<Outgoing<'_>> = list.iter_mut().map(Transferable::item).collect();
            post(&mut sending, &mut items)
        });
        posted.map_err(|reason| TransferError::new(reason, list))
    }

    /// Posts bytes together with their format.
    pub(crate) fn post_framed(&self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        self.post_as(bytes, format)
    }

    /// Posts bytes together with their format, and what moves with them.
    pub(crate) fn post_framed_with(
        &self,
        bytes: &[u8],
        format: Format,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.post_with(transfer.into_list(), |sending, items| {
            sending.post_bytes_with(bytes, format, items)
        })
    }

    /// Posts an archive that was serialised before.
    pub(crate) fn post_archive(&self, archive: &[u8]) -> Result<(), PostError> {
        self.post_as(archive, Format::Archive)
    }

    #[inline(always)]
    fn post_as(&self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        // No code of the program runs meanwhile, so nothing is requested that `Held` would have to
        // do.
        if let Some(mut sending) = self.try_borrow()
            && sending.stage_bytes_fast(bytes, format)
        {
            sending.commit_staged();
            return Ok(());
        }
        self.post_slow(bytes, format)
    }

    #[inline(never)]
    fn post_slow(&self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_bytes(bytes, format))
    }

    /// Stages bytes without publishing them.
    #[inline(always)]
    pub(crate) fn stage_bytes(&self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        if let Some(mut sending) = self.try_borrow()
            && sending.stage_bytes_fast(bytes, format)
        {
            return Ok(());
        }
        self.stage(|sending| sending.stage_bytes(bytes, format))
    }

    /// Runs `stage` and then publishes everything that is staged, including what a burst staged
    /// before, even if `stage` failed.
    #[inline]
    pub(super) fn stage_and_commit(
        &self,
        stage: impl FnOnce(&mut Sending) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        let mut sending = self.borrow()?;
        // Each outcome by itself: a result that is kept over the commit goes through memory.
        match stage(&mut sending) {
            Ok(()) => {
                sending.commit();
                Ok(())
            }
            Err(error) => {
                sending.commit();
                Err(error)
            }
        }
    }

    /// Runs `stage` without publishing.
    pub(crate) fn stage(
        &self,
        stage: impl FnOnce(&mut Sending) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        stage(&mut *self.borrow()?)
    }

    /// Publishes what is staged; if the half is in use, once it is free.
    pub(crate) fn commit(&self) {
        match self.borrow() {
            Ok(mut sending) => sending.commit(),
            Err(_) => self.unfinished.set(true),
        }
    }

    pub(crate) fn may_fit(&self, len: u64) -> bool {
        self.borrow().is_ok_and(|mut sending| sending.may_fit(len))
    }

    pub(crate) fn has_room(&self, len: u64) -> Result<(), PostError> {
        self.borrow()?.has_room(len)
    }

    pub(crate) fn prepare_wait(&self, len: u64) -> Result<Wait, PostError> {
        self.borrow()?.prepare_wait(len)
    }

    pub(crate) fn arm_room_flag(&self) {
        if let Ok(mut sending) = self.borrow() {
            sending.arm_room_flag();
        }
    }

    /// Asks the peer to ring the doorbell when it makes room.
    pub(crate) fn arm_room_doorbell(&self) {
        if let Ok(mut sending) = self.borrow() {
            sending.arm_room_doorbell();
        }
    }

    pub(crate) fn sleep(&self, deadline: Deadline) -> Result<(), PostError> {
        self.borrow()?.sleep(deadline);
        Ok(())
    }

    pub(crate) fn take_cancel_request(&self) -> bool {
        self.switches.borrow().iter().any(|switch| switch.take_request())
    }

    pub(crate) fn spin(&self) -> &Spin {
        &self.spin
    }

    /// Whether `close` was called here.
    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        match self.sending.try_borrow() {
            Ok(sending) if !self.closing.get() => sending.end_reason(),
            _ => self.closing.get().then(|| self.close_reason()),
        }
    }

    /// Why posts fail after `close`, also while a loan or a serialisation uses the half.
    pub(crate) fn close_reason(&self) -> CloseReason {
        let _ = self.end.learn(Event::Closed(Half::Sending));
        self.end.told(Half::Sending).expect("it was closed here")
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.end
    }

    pub(crate) fn sending(&mut self) -> &mut Sending {
        self.sending.get_mut()
    }

    /// Lets the port's canceller end this half's calls, in addition to the half's own.
    pub(crate) fn share_switch(&self, switch: Arc<Switch>) {
        let mut switches = self.switches.borrow_mut();
        if !switches.iter().any(|known| Arc::ptr_eq(known, &switch)) {
            switches.push(switch);
        }
    }

    #[inline(always)]
    fn borrow(&self) -> Result<Held<'_>, PostError> {
        // Not `ok_or`, which makes the error first, and drops it in each post.
        match self.try_borrow() {
            Some(sending) => Ok(Held { sender: self, sending }),
            None => Err(PostError::Busy),
        }
    }

    /// Borrows the half, unless it is in use.
    #[inline(always)]
    fn try_borrow(&self) -> Option<RefMut<'_, Sending>> {
        if self.lending.get() { None } else { self.sending.try_borrow_mut().ok() }
    }

    fn close_as(&self, kind: CloseKind) {
        self.closing.set(true);
        if let Ok(mut sending) = self.borrow() {
            sending.close(kind);
        }
    }
}

/// The half, in use. When the use ends, in whatever way, it does what was requested meanwhile from
/// inside a `Serialize`.
struct Held<'p> {
    sender: &'p Sender,
    sending: RefMut<'p, Sending>,
}

impl Held<'_> {
    #[cold]
    fn catch_up(&mut self) {
        if self.sender.unfinished.replace(false) {
            self.sending.commit();
            self.sending.trim_scratch();
        }
        if self.sender.closing.get() {
            self.sending.close(CloseKind::Closed);
        }
    }
}

impl Deref for Held<'_> {
    type Target = Sending;

    #[inline(always)]
    fn deref(&self) -> &Sending {
        &self.sending
    }
}

impl DerefMut for Held<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Sending {
        &mut self.sending
    }
}

impl Drop for Held<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.sender.unfinished.get() || self.sender.closing.get() {
            self.catch_up();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let kind = match self.closing.get() {
            true => CloseKind::Closed,
            false => CloseKind::Dropped,
        };
        self.sending.get_mut().close(kind);
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Sender");
        match self.sending.try_borrow() {
            Ok(sending) => sending.debug_fields(&mut out),
            Err(_) => _ = out.field("busy", &true),
        }
        out.finish_non_exhaustive()
    }
}
