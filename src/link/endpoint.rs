//! What the two halves of one end share: the region, the sockets, and what is known of the peer.

#[cfg(test)]
mod tests;

use crate::error::{CloseReason, Corruption, SystemError};
use crate::link::end::{Event, Half, Reason, State, Step};
use crate::link::region::Region;
use crate::link::trace;
use crate::os::clock::Deadline;
use crate::os::reaper::{self, Account};
use crate::os::socket::{self, DrainTo, Drained, Rung, Socket};
use crate::os::{futex, poll};
use crate::ring::memory::Memory;
use crate::ring::notifier::{self, Sleep, Wake};
use crate::sync::{AtomicU32, Site};
use crate::wire::frame::TransferPolicy;
use crate::wire::label::{Label, PortLabels};
use crate::wire::record::CloseKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{self, AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// One end of one pair.
///
/// The kernel reports the peer's state through the sockets: they hang up when the last holder of
/// the other end is gone, for whatever reason.
pub(crate) struct Endpoint {
    region: Arc<Region>,
    /// No other end of this process has the same.
    number: u64,
    side: usize,
    epoch: u64,
    doorbell: Socket,
    attachment_socket: Socket,
    /// What came through this end and waits to be closed.
    account: Arc<Account>,
    /// Whether this end refuses transferables.
    refuses_transfers: AtomicBool,
    /// Whether the peer does, as the channel's maker chose.
    peer_refuses_transfers: bool,
    /// The kernel has refused a ring, and the sleeper's flag is still armed.
    owes_ring: AtomicBool,
    /// The [`Standing`] of the end, which both halves ask.
    standing: atomic::AtomicU32,
    /// What the peer wrote, where that is the reason.
    corruption: Mutex<Option<Corruption>>,
    /// Who held the other end when the two connected by name.
    peer_credentials: OnceLock<PeerCredentials>,
    channel_label: Label,
    label: Mutex<Label>,
}

/// A number that this process has not used: for an end, or for anything that is told apart from
/// ends by it.
pub(crate) fn fresh_number() -> u64 {
    static NEXT: atomic::AtomicU64 = atomic::AtomicU64::new(0);
    // Relaxed: each call gets another number, and nothing else is meant by it.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What each call of a half asks first: the [`State`] of the end, and in the highest bit whether
/// its peer is trusted.
#[derive(Clone, Copy)]
pub(crate) struct Standing(u32);

impl Standing {
    #[inline(always)]
    pub(crate) fn is_trusted(self) -> bool {
        self.0 & TRUSTED != 0
    }

    #[inline(always)]
    pub(crate) fn has_receiving_ended(self) -> bool {
        self.state().has_receiving_ended()
    }

    #[inline(always)]
    fn state(self) -> State {
        State::from_word(self.0 & !TRUSTED)
    }
}

/// A bit that no state has.
const TRUSTED: u32 = 1 << 31;

/// The process at the other end, as the kernel identifies it.
///
/// It is known for ports that were made by [`connect`](crate::connect) or a
/// [`Listener`](crate::Listener): it is the process that held the other end at that time. Ports can
/// be moved, so another process may hold it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// Process id. The process may have ended, and another one may have the number now.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The sockets of one end.
pub(crate) struct Sockets {
    pub doorbell: Socket,
    pub attachment_socket: Socket,
}

impl Endpoint {
    /// A number that no other end of this process has or had.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn new(
        region: Arc<Region>,
        side: usize,
        epoch: u64,
        policy: TransferPolicy,
        sockets: Sockets,
        labels: PortLabels,
    ) -> Endpoint {
        let Sockets { mut doorbell, mut attachment_socket } = sockets;
        let account = Arc::<Account>::default();
        for socket in [&mut doorbell, &mut attachment_socket] {
            socket.account = Some(account.clone());
        }
        Endpoint {
            region,
            number: fresh_number(),
            side,
            epoch,
            doorbell,
            attachment_socket,
            account,
            refuses_transfers: AtomicBool::new(policy.here_refuses),
            peer_refuses_transfers: policy.peer_refuses,
            owes_ring: AtomicBool::new(false),
            standing: atomic::AtomicU32::new(State::OPEN.word()),
            corruption: Mutex::new(None),
            peer_credentials: OnceLock::new(),
            channel_label: labels.channel,
            label: Mutex::new(labels.end),
        }
    }

    pub(crate) fn channel_label(&self) -> Label {
        self.channel_label
    }

    pub(crate) fn label(&self) -> Label {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both labels, for people.
    pub(crate) fn labels(&self) -> PortLabels {
        PortLabels { channel: self.channel_label, end: self.label() }
    }

    pub(crate) fn set_label(&self, label: Label) {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
    }

    /// Has the contents of packets closed that this end will not receive: packets without a record,
    /// of a peer that died between the two, and those of messages that are left behind. A port in
    /// one of them would be neither owned nor closed for as long as this socket lives.
    ///
    /// The thread that closes them has a duplicate of the socket. If no descriptor is free for
    /// that, they are closed together with this end.
    pub(crate) fn discard_packets(&self) {
        if !self.attachment_socket.refuses_descriptors
            && !self.account.is_drained_soon()
            && socket::holds_something(self.attachment_socket(), self.is_honest())
            && let Ok(duplicate) = self.attachment_socket().try_clone_to_owned()
        {
            reaper::drain_later(duplicate, &self.account);
        }
    }

    /// The same once this end receives no more: the peer's next packet is refused.
    pub(crate) fn stop_packets(&self) {
        if self.learn(Event::StoppedReceiving).sweeps {
            socket::stop_receiving(self.attachment_socket());
            self.discard_packets();
        }
    }

    /// Counts what came through this end and waits to be closed.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether only this crate sends to this end: the peer is trusted, or its end never left this
    /// process.
    fn is_honest(&self) -> bool {
        self.is_trusted() || !self.region.is_shared()
    }

    /// Remembers the process that this end has met.
    pub(crate) fn set_peer_credentials(&self, peer: PeerCredentials) {
        let _ = self.peer_credentials.set(peer);
    }

    pub(crate) fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.peer_credentials.get().copied()
    }

    /// Takes back the types that this end has declared, if any.
    pub(crate) fn withdraw_types(&self) {
        self.region.withdraw_types(self.side);
    }

    /// The lane that this end produces: 0 for side 0.
    pub(crate) fn outgoing(&self) -> usize {
        self.side
    }

    /// The lane that this end consumes.
    pub(crate) fn incoming(&self) -> usize {
        1 - self.side
    }

    #[inline]
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// The socket on which packets with descriptors travel.
    pub(crate) fn attachment_socket(&self) -> BorrowedFd<'_> {
        self.attachment_socket.as_fd()
    }

    /// What has to travel for this end to move, in the order of the capsule's descriptors.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.region.memfd(), self.doorbell.as_fd(), self.attachment_socket.as_fd()]
    }

    #[inline]
    pub(crate) fn is_trusted(&self) -> bool {
        self.standing().is_trusted()
    }

    pub(crate) fn trust(&self) {
        // Relaxed: it turns once; what it promises concerns the other process.
        self.standing.fetch_or(TRUSTED, Ordering::Relaxed);
    }

    /// The state of this end, and whether its peer is trusted, by one load.
    #[inline(always)]
    pub(crate) fn standing(&self) -> Standing {
        // Relaxed: a half that misses what the other one learns now, learns it in its next call.
        // What the state stands for is either in it, or behind a lock.
        Standing(self.standing.load(Ordering::Relaxed))
    }

    /// Which ends refuse transferables, as far as this one knows.
    pub(crate) fn transfer_policy(&self) -> TransferPolicy {
        TransferPolicy {
            here_refuses: self.refuses_transfers(),
            peer_refuses: self.peer_refuses_transfers,
        }
    }

    /// Whether this end refuses transferables.
    pub(crate) fn refuses_transfers(&self) -> bool {
        // Relaxed: it turns once, by a thread that has both halves.
        self.refuses_transfers.load(Ordering::Relaxed)
    }

    /// From now on, for good: then drained packets are not missed, not even by a later owner of
    /// this end.
    pub(crate) fn refuse_transfers(&self) {
        self.refuses_transfers.store(true, Ordering::Relaxed);
    }

    /// The state of this end, as far as it is known without asking.
    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        self.standing().state()
    }

    /// Whether no end is known, and no ring has to be repeated.
    #[inline(always)]
    pub(crate) fn is_quiet(&self) -> bool {
        // Relaxed, both: as above, and as in `ring`.
        self.state() == State::OPEN && !self.owes_ring.load(Ordering::Relaxed)
    }

    /// Tells the state machine what a half has learned, and returns what that half has to do.
    #[cold]
    pub(crate) fn learn(&self, event: Event) -> Step {
        let mut standing = self.standing();
        loop {
            let step = standing.state().on(event);
            // Relaxed, both: as above.
            let (before, next) = (standing.0, standing.0 & TRUSTED | step.next.word());
            let order = Ordering::Relaxed;
            match self.standing.compare_exchange(before, next, order, order) {
                Ok(_) => {
                    trace::learned(self, standing.state(), step.next);
                    return step;
                }
                Err(now) => standing = Standing(now),
            }
        }
    }

    /// Marks both halves as moved: they announce no close.
    pub(crate) fn mark_moved(&self) {
        let _ = self.learn(Event::Moved);
    }

    /// Notes that the peer broke the protocol, which ends both halves. The first finding stays.
    pub(crate) fn mark_corrupt(&self, corruption: Corruption) {
        self.lock_corruption().get_or_insert(corruption);
        let _ = self.learn(Event::Corrupted);
    }

    /// Why calls of a half fail, if they do, as far as it was reported before.
    pub(crate) fn told(&self, half: Half) -> Option<CloseReason> {
        self.state().told(half).map(|reason| self.in_words(reason))
    }

    /// Why calls of a half fail, or will fail once its queue is empty.
    pub(crate) fn reason(&self, half: Half) -> Option<CloseReason> {
        self.state().reason(half).map(|reason| self.in_words(reason))
    }

    /// Whether the peer has written that it receives no more.
    pub(crate) fn has_reader_left(&self) -> bool {
        let memory = self.region.lane(self.outgoing());
        // Relaxed: a thread that acts on it looks again.
        memory.lane().sleepers.reader_gone.load(Ordering::Relaxed) != 0
    }

    /// Tells the peer that its pool was not accepted.
    pub(crate) fn refuse_pool(&self, number: u32) {
        let memory = self.region.lane(1 - self.outgoing());
        let refused = &memory.lane().sleepers.refused_pools;
        // Relaxed: one thread at a time receives, and it publishes nothing.
        let bits = refused.load(Ordering::Relaxed) | 1u32.checked_shl(number).unwrap_or(0);
        refused.store(bits, Ordering::Relaxed);
    }

    /// Whether the peer has written that it did not accept a pool.
    pub(crate) fn has_refused_pool(&self, number: u32) -> bool {
        let memory = self.region.lane(self.outgoing());
        // Relaxed: it publishes nothing; a thread that acts on it looks again.
        let bits = memory.lane().sleepers.refused_pools.load(Ordering::Relaxed);
        bits & 1u32.checked_shl(number).unwrap_or(0) != 0
    }

    /// Why posts fail, if it is known that they may. The finding stays: a peer may write another
    /// reason later.
    #[cold]
    pub(crate) fn find_posting_end(&self) -> Option<CloseReason> {
        // First ask the kernel: a peer that closed normally said so before its sockets closed.
        // Perhaps another thread has asked, so this one asks as well, once.
        if self.state().is_hung_up() && self.told(Half::Sending).is_none() {
            self.ask_hang_up_again();
        }
        let memory = self.region.lane(self.outgoing());
        // Relaxed: it publishes nothing; after a hang-up the system call orders.
        let kind = match memory.lane().sleepers.reader_gone.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(CloseKind::Closed),
            _ => Some(CloseKind::Dropped),
        };
        let _ = self.learn(Event::LookedForReader(kind));
        self.told(Half::Sending)
    }

    /// What the peer wrote, if it broke the protocol.
    pub(crate) fn corruption(&self) -> Option<Corruption> {
        *self.lock_corruption()
    }

    fn in_words(&self, reason: Reason) -> CloseReason {
        match reason {
            Reason::Local => CloseReason::Local,
            Reason::PeerClosed => CloseReason::PeerClosed,
            Reason::PeerDropped => CloseReason::PeerDropped,
            Reason::PeerDied => CloseReason::PeerDied,
            // It was noted before the state was changed.
            Reason::Corrupt => CloseReason::Corrupt(self.lock_corruption().expect("noted before")),
        }
    }

    fn lock_corruption(&self) -> std::sync::MutexGuard<'_, Option<Corruption>> {
        self.corruption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel whether the peer is gone. One system call, until the answer is yes.
    pub(crate) fn ask_hang_up(&self) -> bool {
        self.ring_again();
        self.state().is_hung_up() || self.ask_hang_up_again()
    }

    /// Asks the kernel whether the peer is gone, whatever is known. What an orderly peer wrote
    /// before its sockets closed can be seen afterwards.
    pub(crate) fn ask_hang_up_again(&self) -> bool {
        self.note(poll::is_hung_up(self.doorbell.as_fd()))
    }

    /// Drains the doorbell, and learns whether the peer is gone.
    pub(crate) fn drain_doorbell(&self, to: DrainTo) -> bool {
        self.ring_again();
        self.note(self.drain(to) == Drained::HungUp) || self.state().is_hung_up()
    }

    /// Drains the doorbell for a sender that waits on its descriptor. Returns whether the receiving
    /// half has to be woken, as that ring may have been for it. Usually one system call.
    pub(crate) fn drain_doorbell_for_sender(&self) -> bool {
        let drained = self.drain(DrainTo::Silence);
        self.note(drained == Drained::HungUp);
        drained != Drained::Silent
    }

    /// Does what the notifier decided: nothing, or one system call.
    #[inline]
    pub(crate) fn wake(&self, wake: Wake, memory: &Memory, sleeper: Sleeper) {
        match wake {
            Wake::NoSleeper => {}
            Wake::Doorbell => self.ring(memory, sleeper),
            Wake::Futex => futex::wake(sleeper.flag(memory)),
        }
    }

    /// Rings. If the kernel refuses a ring for lack of memory, it is retried at once, and then in
    /// each later call of either half that waits or finds nothing.
    #[cold]
    fn ring(&self, memory: &Memory, sleeper: Sleeper) {
        for _ in 0..RING_TRIES {
            match socket::ring(self.doorbell.as_fd()) {
                Rung::Rings => return,
                Rung::HungUp => {
                    self.note(true);
                    return;
                }
                Rung::Failed => {}
            }
        }
        notifier::put_back(sleeper.flag(memory), Sleep::Doorbell);
        // Relaxed: it says only that there may be something to do; the flag says what.
        self.owes_ring.store(true, Ordering::Relaxed);
    }

    /// Retries a ring that the kernel has refused.
    #[inline]
    pub(crate) fn ring_again(&self) {
        if self.owes_ring.load(Ordering::Relaxed) {
            self.pay_rings();
        }
    }

    #[cold]
    fn pay_rings(&self) {
        self.owes_ring.store(false, Ordering::Relaxed);
        let lanes = [(self.outgoing(), Sleeper::Receiver), (self.incoming(), Sleeper::Sender)];
        for (lane, sleeper) in lanes {
            let memory = self.region.lane(lane);
            let wake = notifier::look_strictly(sleeper.flag(&memory), Site::FenceBeforeLook);
            self.wake(wake, &memory, sleeper);
        }
    }

    /// Sleeps until the doorbell rings, the peer goes, `interrupt` is readable or `deadline` comes,
    /// and for at most half a second: the kernel may have refused the peer's ring. It sleeps less
    /// while this end owes its peer a ring.
    pub(crate) fn sleep_on_doorbell(
        &self,
        interrupt: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(), SystemError> {
        let most = if self.owes_ring.load(Ordering::Relaxed) { SLICE } else { LOOK_AGAIN };
        let timeout = Some(deadline.left_at_most(most));
        match interrupt {
            Some(interrupt) => poll::wait_readable_few([self.doorbell.as_fd(), interrupt], timeout),
            None => poll::wait_readable_few([self.doorbell.as_fd()], timeout),
        }
    }

    /// Sleeps until the kernel reports that the peer is gone, for a slice of time: a peer that has
    /// closed its port and keeps it is found by another look.
    pub(crate) fn sleep_until_hung_up(
        &self,
        interrupt: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(), SystemError> {
        let timeout = Some(deadline.left_at_most(LOOK_AGAIN));
        poll::wait_hung_up(self.doorbell.as_fd(), interrupt, timeout)
    }

    /// Sleeps on the room flag of `memory` for a slice of time. The caller asks for hang-up and
    /// looks again in between: a futex reports nothing when the peer dies.
    pub(crate) fn sleep_on_room(&self, memory: &Memory, deadline: Deadline) {
        let word = &memory.lane().sleepers.room_sleeper;
        futex::wait(word, Sleep::Futex.code(), deadline.left_at_most(SLICE));
    }

    /// Sleeps on the room flag of this end's outgoing lane, for a slice of time, and takes the flag
    /// back. For threads that share the sending half, after one of them has armed it.
    pub(crate) fn sleep_on_own_room(&self, deadline: Deadline) {
        let memory = self.region.lane(self.outgoing());
        self.sleep_on_room(&memory, deadline);
        notifier::disarm(&memory.lane().sleepers.room_sleeper);
    }

    /// Ends a sleep on the room flag of this end's outgoing lane, from any thread.
    pub(crate) fn interrupt_sender(&self) {
        let memory = self.region.lane(self.outgoing());
        let word = &memory.lane().sleepers.room_sleeper;
        // The word first, so that a sleep that is about to begin does not.
        notifier::disarm(word);
        futex::wake(word);
    }

    fn drain(&self, to: DrainTo) -> Drained {
        match self.doorbell.refuses_descriptors {
            true => socket::drain(self.doorbell.as_fd(), to),
            false => socket::drain_all(self.doorbell.as_fd(), &self.account, to),
        }
    }

    fn note(&self, hung_up: bool) -> bool {
        if hung_up {
            let _ = self.learn(Event::HungUp);
        }
        hung_up
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let (is_honest, has_moved) = (self.is_honest(), self.state().has_moved());
        for socket in [&mut self.doorbell, &mut self.attachment_socket] {
            (socket.is_honest, socket.has_moved) = (is_honest, has_moved);
        }
    }
}

/// Which half to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleeper {
    /// Waits for a message.
    Receiver,
    /// Waits for room.
    Sender,
}

impl Sleeper {
    fn flag(self, memory: &Memory) -> &AtomicU32 {
        let sleepers = &memory.lane().sleepers;
        match self {
            Sleeper::Receiver => &sleepers.message_sleeper,
            Sleeper::Sender => &sleepers.room_sleeper,
        }
    }
}

/// How long a sender half sleeps before it asks whether the peer is alive.
const SLICE: Duration = Duration::from_millis(20);
/// How often a ring is tried before the call that wakes goes on.
const RING_TRIES: u32 = 4;
/// The longest sleep before its owner looks by itself whether there is something: a ring may have
/// been refused, and its sender may make no further call.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);
