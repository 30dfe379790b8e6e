//! Iterators over the messages of typed ports.

use crate::error::{MessageError, TypeMismatch};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::agreement::{self, Agreement};
use crate::port::batch::TryIter;
use crate::port::typed::{TypedError, TypedEvent, TypedPort};
use std::iter::FusedIterator;
use std::marker::PhantomData;

/// An iterator over messages of one type; made by [`TypedPort::iter`].
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct TypedIter<'p, Rx, Tx> {
    port: &'p TypedPort<Rx, Tx>,
    has_ended: bool,
}

/// An iterator over the messages of one type that are there; made by [`TypedPort::try_iter`].
///
/// It is not fused: after `None`, `next` finds messages that have come meanwhile. After a
/// [`MessageError::TypeMismatch`] it has ended for good.
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct TypedTryIter<'p, Rx> {
    messages: TryIter<'p>,
    agreement: &'p Option<Agreement>,
    has_ended: bool,
    kind: PhantomData<fn() -> Rx>,
}

impl<'p, Rx, Tx> TypedIter<'p, Rx, Tx> {
    pub(super) fn new(port: &'p TypedPort<Rx, Tx>) -> TypedIter<'p, Rx, Tx> {
        TypedIter { port, has_ended: false }
    }
}

impl<'p, Rx: Receive, Tx: Post> Iterator for TypedIter<'p, Rx, Tx> {
    type Item = Result<TypedEvent<'p, Rx>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        match self.port.recv() {
            Ok(event) => Some(Ok(event)),
            Err(TypedError::Message(error)) => Some(Err(error)),
            Err(TypedError::TypeMismatch(error)) => {
                self.has_ended = true;
                Some(Err(MessageError::TypeMismatch(error)))
            }
            Err(TypedError::Recv(_)) => {
                self.has_ended = true;
                None
            }
        }
    }
}

impl<Rx: Receive, Tx: Post> FusedIterator for TypedIter<'_, Rx, Tx> {}

impl<'p, Rx> TypedTryIter<'p, Rx> {
    pub(super) fn new(
        messages: TryIter<'p>,
        agreement: &'p Option<Agreement>,
    ) -> TypedTryIter<'p, Rx> {
        TypedTryIter { messages, agreement, has_ended: false, kind: PhantomData }
    }

    fn end<T>(&mut self, error: TypeMismatch) -> Option<Result<T, MessageError>> {
        self.has_ended = true;
        Some(Err(MessageError::TypeMismatch(error)))
    }
}

impl<'p, Rx: Receive> Iterator for TypedTryIter<'p, Rx> {
    type Item = Result<TypedEvent<'p, Rx>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        if let Err(error) = agreement::check(self.agreement) {
            return self.end(error);
        }
        let event = self.messages.next()?;
        if let Err(error) = agreement::check(self.agreement) {
            return self.end(error);
        }
        Some(TypedEvent::checked(event))
    }
}
