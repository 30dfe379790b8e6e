//! What is watched for whatever comes next: a listener for clients, a member for messages.

use crate::error::{LoopError, SystemError};
use crate::front::add_error::AddError;
use crate::future::SHARE;
use crate::future::reactor::Reactor;
use crate::os::backoff::PAUSE;
use crate::os::clock::Deadline;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

/// Something with a descriptor that says when to look.
pub(super) trait Watch: AsFd {
    type Item;
    type Error: From<SystemError>;

    /// The next item, if there is one.
    fn look(&self) -> Result<Option<Self::Item>, Self::Error>;

    /// Whether the error is a lack of descriptors, after which the descriptor is quiet for
    /// [`PAUSE`].
    fn waits_for_descriptors(&self, error: &Self::Error) -> bool;

    /// Towards [`SHARE`].
    fn cost(item: &Self::Item) -> u32;
}

pub(super) struct Watched<W> {
    pub(super) watch: W,
    reactor: Reactor,
    /// Whether nothing more can come.
    pub(super) has_ended: bool,
    /// Until when a lack of descriptors is not reported.
    shortage_until: Option<Deadline>,
    in_a_row: u32,
}

impl<W: Watch> Watched<W> {
    pub(super) fn new(watch: W) -> Result<Watched<W>, AddError<W>> {
        match Reactor::watch(watch.as_fd()) {
            Ok(reactor) => {
                Ok(Watched { watch, reactor, has_ended: false, shortage_until: None, in_a_row: 0 })
            }
            Err(error) => Err(AddError::new(LoopError::Io(error), watch)),
        }
    }

    /// Looks until something is there.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<W::Item, W::Error>> {
        self.poll_for(context, W::look, W::cost)
    }

    /// The same for something else than the usual items.
    pub(super) fn poll_for<T>(
        &mut self,
        context: &mut Context<'_>,
        look: impl Fn(&W) -> Result<Option<T>, W::Error>,
        cost: impl Fn(&T) -> u32,
    ) -> Poll<Result<T, W::Error>> {
        if self.in_a_row >= SHARE {
            self.in_a_row = 0;
            self.reactor.give_way(context);
            return Poll::Pending;
        }
        loop {
            match look(&self.watch) {
                Ok(Some(item)) => {
                    self.shortage_until = None;
                    self.in_a_row = self.in_a_row.saturating_add(cost(&item));
                    return Poll::Ready(Ok(item));
                }
                Ok(None) => self.shortage_until = None,
                Err(error) if self.watch.waits_for_descriptors(&error) => {
                    // Reported after one pause, so that a caller who retries does not spin.
                    let until = *self.shortage_until.get_or_insert_with(|| Deadline::after(PAUSE));
                    if until.is_over() {
                        self.shortage_until = None;
                        return Poll::Ready(Err(error));
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.in_a_row = 0;
            ready!(self.reactor.poll_readable(context)).inspect_err(|_| self.has_ended = true)?;
        }
    }
}
