//! The delivery of what has arrived as events.

use crate::error::{CloseReason, MessageError, RecvError};
use crate::link::receiving::chunks::Polled;
use crate::port::MessagePort;
use crate::port::content;
use crate::port::event::MessageEvent;
use crate::port::listener::{Event, EventType, Scope};
use crate::port::message::Message;
use crate::ring::notifier::Wait;
use std::cell::Cell;

/// An event as a value, for the handlers of [`EventLoop::add_with`](crate::EventLoop::add_with).
#[derive(Debug)]
#[non_exhaustive]
pub enum LoopEvent {
    /// A message has arrived.
    Message(Message),
    /// A message has arrived that could not be read as the port's type, or not be received.
    MessageError(MessageError),
    /// The peer closed its port, dropped it, or died. It comes once, after the last message. The
    /// loop drops the port afterwards, unless the handler takes it.
    Close(CloseReason),
    /// The peer has ended while messages are unread, as the port was
    /// [stopped](MessagePort::stop). `Close` follows after the last message.
    PeerGone(CloseReason),
}

/// What a turn of delivery found.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// An event; there may be more.
    Event,
    /// A part of a long message: the rest after others had their turn.
    Chunk,
    /// Nothing is there.
    Nothing,
    /// Something is there that cannot be received at the moment: retry a little later.
    Later(Box<RecvError>),
    /// Messages are there, but the port is not started.
    Unwanted,
    /// No more can come.
    End(CloseReason),
}

impl MessagePort {
    /// Delivers up to `limit` events to the listeners of this port, and returns how many: for
    /// programs that have their own event loop.
    ///
    /// The events are those that an [`EventLoop`](crate::EventLoop) delivers: `message`,
    /// `messageerror` and `close`. Messages are delivered once the port is
    /// [started](Self::start); as on the web, one without a listener is dropped. Call `dispatch` as
    /// follows:
    ///
    /// 1. Call [`as_fd`](std::os::fd::AsFd::as_fd) once, and register the descriptor for reading.
    ///    The watcher may be level-triggered or edge-triggered.
    /// 2. Call `dispatch`. If it returns `limit`, there may be more: call it again, at once or
    ///    after others had their turn.
    /// 3. If it returns less, wait until the descriptor is readable, and go to step 2.
    ///
    /// Start the port before step 2. After a later start, go to step 2 without a wait. A port that
    /// is not started keeps its messages, and delivers `close` only when none are left. If its peer
    /// is gone while there are some, `peergone` is delivered; from then on the descriptor stays
    /// readable until they are read, so stop watching it.
    ///
    /// The call copies each message as a whole, however long it is; a peer chooses the length, up
    /// to the channel's [limit](crate::ChannelBuilder::limit). It makes no system call while
    /// messages keep coming, and one to drain the doorbell when it finds no more. A listener may do
    /// anything with the port. Inside a listener or message check of this port, and with a `limit`
    /// of 0, the call delivers nothing and returns 0. It does the same while a loop has the port
    /// with a handler, by [`EventLoop::add_with`](crate::EventLoop::add_with): the loop alone
    /// delivers to that.
    ///
    /// # Errors
    /// Events that were delivered before the error stay delivered.
    /// - [`Closed`](RecvError::Closed): no event can come any more. `close` was delivered, in this
    ///   call or an earlier one, unless the port was closed here: take the port out of the loop.
    ///   Every later call returns the same.
    /// - [`OutOfDescriptors`](RecvError::OutOfDescriptors): the next message has descriptors for
    ///   which there is no room now. Call again a little later, without waiting for the descriptor.
    ///
    /// ```
    /// use messageport::{CloseReason, MessageChannel, RecvError};
    ///
    /// let MessageChannel { port1, port2 } = MessageChannel::new()?;
    /// port2.on_message(|event| event.port().post_text("heard"));
    /// port1.post_text("one")?;
    /// port1.post_text("two")?;
    /// assert_eq!(port2.dispatch(1)?, 1); // the limit: there may be more
    /// assert_eq!(port2.dispatch(64)?, 1);
    /// assert_eq!(port1.iter().take(2).count(), 2);
    /// drop(port1);
    /// let end = port2.dispatch(64).unwrap_err();
    /// assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerDropped }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dispatch(&self, limit: u32) -> Result<u32, RecvError> {
        let mut count = 0;
        while count < limit && !self.has_loop_handler.get() {
            match self.deliver_next(None) {
                Delivered::Event => count += 1,
                Delivered::Chunk => {}
                Delivered::Nothing | Delivered::Unwanted => break,
                Delivered::Later(error) => return Err(*error),
                Delivered::End(reason) => return Err(RecvError::Closed { reason }),
            }
        }
        Ok(count)
    }

    /// Asks the peer to ring the descriptor of this port when it makes room: for programs that have
    /// their own event loop, and that keep what did not fit. Returns whether to look for messages
    /// before the next wait.
    ///
    /// Call it after a post has returned [`QueueFull`](crate::PostError::QueueFull), as follows:
    ///
    /// 1. Call [`as_fd`](std::os::fd::AsFd::as_fd) once, and register the descriptor for reading.
    /// 2. Receive, or [`dispatch`](Self::dispatch), until nothing is left.
    /// 3. Call `notify_room`, and post again: the peer may have made room before. If the post
    ///    succeeds, go on.
    /// 4. If `notify_room` has returned true, go to step 2: it has drained a ring that may have
    ///    been for a message. Otherwise wait until the descriptor is readable, and go to step 2.
    ///
    /// Each call asks for one ring. The peer also rings when it closes or dies. Makes one system
    /// call. During a loan or a burst it asks for nothing.
    ///
    /// A peer that receives nothing does not ring. Room for transferables in the socket is not
    /// reported either: a program whose post of a list does not fit tries again after a time.
    ///
    /// ```
    /// use messageport::{MessageChannel, PostError};
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// use std::os::fd::AsFd;
    ///
    /// let MessageChannel { port1, port2 } = MessageChannel::builder().limit(1 << 16).build()?;
    /// let _ = port1.as_fd();
    /// while port1.post_bytes(&[7; 4096]).is_ok() {}
    /// assert!(!port1.notify_room());
    /// assert!(matches!(port1.post_bytes(&[7; 4096]), Err(PostError::QueueFull { .. })));
    /// while port2.try_recv()?.is_some() {}
    /// poll(&mut [PollFd::new(port1.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    /// port1.post_bytes(&[7; 4096])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_room(&self) -> bool {
        let rang = self.endpoint().drain_doorbell_for_sender();
        self.sender().arm_room_doorbell();
        rang
    }

    /// Says whether an event loop has a handler for the port, to which it alone delivers.
    pub(crate) fn set_loop_handler(&self, is_there: bool) {
        self.has_loop_handler.set(is_there);
    }

    /// The cost of the messages delivered since the last call; a message without transferables
    /// costs 1.
    pub(crate) fn take_spent(&self) -> u32 {
        self.spent.take()
    }

    pub(crate) fn has_said_close(&self) -> bool {
        self.said_close.get().is_some()
    }

    /// Delivers what has arrived next: messages if the port is started, otherwise only an end that
    /// no message comes before.
    ///
    /// Finds nothing while it is called from code of the program that another call of it runs.
    pub(crate) fn deliver_next(&self, scope: Option<&dyn Scope>) -> Delivered {
        if self.is_delivering.replace(true) {
            return Delivered::Nothing;
        }
        let _reset = Reset(&self.is_delivering);
        if let Some(reason) = self.said_close.get() {
            return Delivered::End(reason);
        }
        if self.is_started() { self.deliver(scope) } else { self.deliver_early_close(scope) }
    }

    fn deliver(&self, scope: Option<&dyn Scope>) -> Delivered {
        let failure = match self.receiver.poll_in_chunks() {
            Ok(Polled::Nothing) => return Delivered::Nothing,
            Ok(Polled::Unfinished) => return Delivered::Chunk,
            Ok(Polled::Message(message)) => {
                let cost = message.cost();
                self.spent.set(self.spent.get().saturating_add(cost));
                let valid = content::check_refused(&message).and_then(|()| self.validate(&message));
                match valid {
                    Ok(()) => {
                        self.fire(EventType::Message, scope, |event| event.with_message(&message));
                        self.hand_over(scope, message);
                    }
                    Err(error) => self.fire_error(scope, error),
                }
                return Delivered::Event;
            }
            Err(failure) => failure,
        };
        match *failure {
            RecvError::Closed { reason } => self.deliver_close(reason, scope),
            RecvError::OutOfMemory { len } => {
                // The message may never fit; its loss is reported.
                let _ = self.receiver.discard_next();
                self.fire_error(scope, MessageError::OutOfMemory { len });
                Delivered::Event
            }
            _ => Delivered::Later(failure),
        }
    }

    /// Delivers the end of a port that was not started, if no message comes before it. If it was
    /// closed here, what is in its queue waits for its start.
    fn deliver_early_close(&self, scope: Option<&dyn Scope>) -> Delivered {
        match self.receiver.prepare_wait_for_end() {
            // The peer can post nothing more.
            Ok(Wait::Sleep) if self.is_closed_here() => {
                self.deliver_close(CloseReason::Local, scope)
            }
            Ok(Wait::Sleep) => Delivered::Nothing,
            Ok(Wait::Ready) => self.deliver_peer_gone(scope),
            Err(RecvError::Closed { reason }) => self.deliver_close(reason, scope),
            Err(error) => Delivered::Later(Box::new(error)),
        }
    }

    /// Delivers the news that no more messages can come behind those that are unread.
    fn deliver_peer_gone(&self, scope: Option<&dyn Scope>) -> Delivered {
        if !self.awaits_peer_gone() {
            return Delivered::Unwanted;
        }
        // The doorbell was drained up to its silence, which an end may follow.
        self.endpoint().ask_hang_up();
        let Some(reason) = self.endpoint().find_posting_end() else { return Delivered::Unwanted };
        self.said_peer_gone.set(true);
        self.fire(EventType::PeerGone, scope, |event| event.with_reason(reason));
        if let Some(scope) = scope.filter(|scope| scope.has_handler()) {
            scope.hand_over(LoopEvent::PeerGone(reason));
        }
        Delivered::Event
    }

    /// Whether `peergone` may still be delivered.
    pub(crate) fn awaits_peer_gone(&self) -> bool {
        !self.said_peer_gone.get() && !self.is_closed_here()
    }

    fn deliver_close(&self, reason: CloseReason, scope: Option<&dyn Scope>) -> Delivered {
        // It fires at the other end only: not where `close` was called, however the peer ended
        // then. Read it first, as a port whose peer broke the protocol is closed now.
        let is_news = reason != CloseReason::Local && !self.is_closed_here();
        // A peer that has found other types here may have left for that. It is an event of its own:
        // who takes the port away because of it gets `close` where the port is next.
        if is_news
            && !self.said_mismatch.replace(true)
            && let Err(error) = self.check_incoming_type()
        {
            self.fire_error(scope, error);
            return Delivered::Event;
        }
        self.said_close.set(Some(reason));
        self.end_if_broken(&RecvError::Closed { reason });
        if is_news {
            self.fire(EventType::Close, scope, |event| event.with_reason(reason));
            if let Some(scope) = scope.filter(|scope| scope.has_handler()) {
                scope.hand_over(LoopEvent::Close(reason));
            }
        }
        Delivered::End(reason)
    }

    fn fire_error(&self, scope: Option<&dyn Scope>, error: MessageError) {
        self.fire(EventType::MessageError, scope, |event| event.with_error(&error));
        if let Some(scope) = scope.filter(|scope| scope.has_handler()) {
            scope.hand_over(LoopEvent::MessageError(error));
        }
    }

    /// Gives a message to the handler of a loop, if there is one.
    fn hand_over(&self, scope: Option<&dyn Scope>, message: MessageEvent<'_>) {
        let Some(scope) = scope.filter(|scope| scope.has_handler()) else { return };
        match message.try_into_message() {
            Ok(message) => scope.hand_over(LoopEvent::Message(message)),
            Err(error) => self.fire_error(Some(scope), error),
        }
    }

    fn fire<'e>(
        &'e self,
        kind: EventType,
        scope: Option<&'e dyn Scope>,
        complete: impl FnOnce(Event<'e>) -> Event<'e>,
    ) {
        let event = complete(Event::of_transport(kind, self, scope));
        // A fresh event is not being dispatched.
        let _ = self.events.dispatch(&event);
    }
}

/// Makes a flag false, even after a panic in code of the program.
struct Reset<'p>(&'p Cell<bool>);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
