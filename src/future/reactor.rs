//! Waiting on the reactor of a runtime, for a descriptor or for a time.

#[cfg(all(feature = "tokio", not(feature = "async-io")))]
use crate::error::NO_RUNTIME;
use crate::error::SystemError;
use crate::os::clock::Deadline;
use crate::os::timer;
#[cfg(feature = "tokio")]
use crate::os::tokio_fd;
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
#[cfg(feature = "tokio")]
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Wakes a task when a descriptor becomes readable.
pub(crate) enum Reactor {
    #[cfg(feature = "tokio")]
    Tokio(tokio::io::unix::AsyncFd<OwnedFd>),
    #[cfg(feature = "async-io")]
    AsyncIo(async_io::Async<OwnedFd>),
}

impl Reactor {
    /// Watches a duplicate of the descriptor, on the reactor of the runtime that runs this.
    pub(crate) fn watch(descriptor: BorrowedFd<'_>) -> Result<Reactor, SystemError> {
        let failed = |source| SystemError { call: "fcntl(F_DUPFD)", source };
        Reactor::own(descriptor.try_clone_to_owned().map_err(failed)?)
    }

    /// Watches a descriptor that nothing else uses.
    fn own(descriptor: OwnedFd) -> Result<Reactor, SystemError> {
        Reactor::of(descriptor)
    }

    #[cfg(all(feature = "tokio", feature = "async-io"))]
    fn of(descriptor: OwnedFd) -> Result<Reactor, SystemError> {
        match tokio::runtime::Handle::try_current() {
            Ok(_) => Reactor::on_tokio(descriptor).map_err(refused),
            Err(_) => Reactor::on_async_io(descriptor).map_err(refused),
        }
    }

    #[cfg(all(feature = "tokio", not(feature = "async-io")))]
    fn of(descriptor: OwnedFd) -> Result<Reactor, SystemError> {
        // Asked first, as tokio panics outside a runtime.
        let runtime = tokio::runtime::Handle::try_current();
        let none = |error| io::Error::new(io::ErrorKind::Unsupported, error);
        runtime.map_err(|error| SystemError { call: NO_RUNTIME, source: none(error) })?;
        Reactor::on_tokio(descriptor).map_err(refused)
    }

    #[cfg(all(feature = "async-io", not(feature = "tokio")))]
    fn of(descriptor: OwnedFd) -> Result<Reactor, SystemError> {
        Reactor::on_async_io(descriptor).map_err(refused)
    }

    #[cfg(feature = "tokio")]
    fn on_tokio(descriptor: OwnedFd) -> io::Result<Reactor> {
        tokio_fd::watch(descriptor).map(Reactor::Tokio)
    }

    #[cfg(feature = "async-io")]
    fn on_async_io(descriptor: OwnedFd) -> io::Result<Reactor> {
        // No call on these descriptors waits, so their flags stay as they are.
        async_io::Async::new_nonblocking(descriptor).map(Reactor::AsyncIo)
    }

    /// Ready if the descriptor became readable since this was last ready. The caller then looks
    /// again, and repeats this until it is pending.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<(), SystemError>> {
        match self {
            #[cfg(feature = "tokio")]
            Reactor::Tokio(fd) => {
                std::task::ready!(fd.poll_read_ready(context)).map_err(refused)?.clear_ready();
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(fd) => fd.poll_readable(context).map_err(refused),
        }
    }

    /// Waits until the descriptor becomes readable or the timer ends. Returns whether it was the
    /// timer. Cancel-safe.
    pub(crate) async fn readable_or(&self, timer: &Timer) -> Result<bool, SystemError> {
        poll_fn(|context| {
            if let Poll::Ready(answer) = self.poll_readable(context) {
                return Poll::Ready(answer.map(|()| false));
            }
            timer.poll_over(context).map_ok(|()| true)
        })
        .await
    }

    /// Has the task polled again after the other tasks.
    pub(crate) fn give_way(&self, context: &mut Context<'_>) {
        match self {
            // Tokio looks for readiness only at every 61st poll if a task merely wakes itself, and
            // before the next poll if it yields.
            #[cfg(feature = "tokio")]
            Reactor::Tokio(_) => _ = pin!(tokio::task::yield_now()).poll(context),
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(_) => context.waker().wake_by_ref(),
        }
    }

    /// Forgets the last readiness, before a look that takes what caused it. Otherwise
    /// `poll_readable` would report it again, which costs a second look. `poll_readable` still
    /// reports later changes, and a hang-up each time.
    pub(crate) fn use_up(&self) {
        match self {
            #[cfg(feature = "tokio")]
            Reactor::Tokio(fd) => {
                // This reads nothing: it only clears the readiness.
                let used_up = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = fd.try_io(tokio::io::Interest::READABLE, used_up);
            }
            // It clears the readiness itself, when it is polled.
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(_) => {}
        }
    }
}

fn refused(source: io::Error) -> SystemError {
    SystemError { call: "reactor", source }
}

/// A point in time, as a descriptor of the kernel: the runtime's own timers need not be enabled.
pub(crate) struct Timer {
    /// `None` if it never ends.
    reactor: Option<Reactor>,
}

impl Timer {
    pub(crate) fn after(time: Duration) -> Result<Timer, SystemError> {
        Ok(Timer { reactor: Some(Reactor::own(timer::one_shot(time)?)?) })
    }

    pub(crate) fn until(deadline: Deadline) -> Result<Timer, SystemError> {
        deadline.left().map_or(Ok(Timer { reactor: None }), Timer::after)
    }

    /// Waits for the end of it.
    pub(crate) async fn over(&self) -> Result<(), SystemError> {
        poll_fn(|context| self.poll_over(context)).await
    }

    fn poll_over(&self, context: &mut Context<'_>) -> Poll<Result<(), SystemError>> {
        self.reactor.as_ref().map_or(Poll::Pending, |reactor| reactor.poll_readable(context))
    }
}

/// A timer for one deadline after the other. It is set again only if the next deadline is earlier
/// than the one that it was set for, or once that is over.
#[derive(Default)]
pub(crate) struct Alarm {
    set: Option<(Instant, Timer)>,
}

impl Alarm {
    /// Ready once the deadline is over.
    pub(crate) fn poll(
        &mut self,
        deadline: Deadline,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), SystemError>> {
        let Some(time) = deadline.time() else { return Poll::Pending };
        while !deadline.is_over() {
            match &self.set {
                Some((at, timer)) if *at <= time => {
                    std::task::ready!(timer.poll_over(context))?;
                    self.set = None;
                }
                _ => self.set = Some((time, Timer::until(deadline)?)),
            }
        }
        Poll::Ready(Ok(()))
    }
}
