//! Whether the two ends of a channel were given the same types.
//!
//! Each end writes the fingerprints and shapes of its two types into the region's header, and reads
//! those of the other end. No end waits for the other: the fingerprint is 0 while an end has no
//! types, and that counts as agreed.
//!
//! An end declares a type before it posts the first message of it, and the receiver loads the
//! fingerprint again after each message that it takes. So a message that a typed port has posted is
//! never read as another type while that port keeps its types, even if the other end has moved or
//! has been given other types meanwhile.

mod difference;

use crate::error::{MessageError, TypeMismatch};
use crate::link::archive::Receive;
use crate::link::archive::shape::{self, Shape};
use crate::link::endpoint::Endpoint;
use crate::link::region::{Declared, Region};
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What one end has declared about one direction, and what it knows of the other end.
pub(crate) struct Agreement {
    region: Arc<Region>,
    peer: Declared,
    posts: bool,
    fingerprint: u64,
    shape: fn() -> Option<Shape>,
    /// The last fingerprint of the peer that was agreed to: 0, or the same as the own one. Relaxed:
    /// each value that a thread finds here was agreed to, and nothing else depends on it.
    agreed: AtomicU64,
}

impl Agreement {
    /// Declares the type of one direction. `None` if it has no shape, and so nothing is compared.
    pub(crate) fn declare<T: Receive>(end: &Endpoint, posts: bool) -> Option<Agreement> {
        Agreement::of(end, posts, Shape::of::<T>)
    }

    /// The same for the shape that a function returns.
    pub(crate) fn of(
        end: &Endpoint,
        posts: bool,
        shape: fn() -> Option<Shape>,
    ) -> Option<Agreement> {
        let region = end.region().clone();
        let own = Declared::new(end.outgoing(), posts);
        let Some(declared) = shape() else {
            region.declared(own).withdraw();
            return None;
        };
        let fingerprint = declared.fingerprint();
        region.declared(own).declare(fingerprint, declared.as_str());
        let (peer, agreed) = (own.other(), AtomicU64::new(0));
        Some(Agreement { region, peer, posts, fingerprint, shape, agreed })
    }

    /// Whether the peer has declared the same type, or none. Costs a load if it did so before.
    #[inline(always)]
    fn is_agreed(&self) -> bool {
        self.region.declared(self.peer).fingerprint() == self.agreed.load(Relaxed)
            || self.is_agreed_now()
    }

    #[cold]
    #[inline(never)]
    fn is_agreed_now(&self) -> bool {
        let found = self.region.declared(self.peer).fingerprint();
        let is_agreed = found == 0 || found == self.fingerprint;
        if is_agreed {
            self.agreed.store(found, Relaxed);
        }
        is_agreed
    }

    /// Whether this end still declares the type, as far as the peer has not falsified that.
    fn is_declared(&self) -> bool {
        self.region.declared(self.peer.other()).fingerprint() == self.fingerprint
    }

    /// What differs.
    fn mismatch(&self) -> TypeMismatch {
        let declared = self.region.declared(self.peer);
        let (found, (text, is_whole)) = (declared.fingerprint(), declared.text());
        let here = (self.shape)().expect("it had a shape when it was declared");
        let here = here.as_str();
        // The peer may be writing it, or be hostile.
        let (there, difference) = match is_whole && shape::fingerprint(&text) != found {
            true => {
                let unknown =
                    format!("the peer's fingerprint is {found:#x}, and does not say more");
                ("another type".to_owned(), unknown)
            }
            false => {
                let there = difference::printable(&text);
                let difference = difference::describe(here, &there, is_whole);
                (there, difference)
            }
        };
        TypeMismatch::new(self.posts, here.to_owned(), there, difference)
    }
}

impl Clone for Agreement {
    fn clone(&self) -> Self {
        let Agreement { ref region, peer, posts, fingerprint, shape, ref agreed } = *self;
        let agreed = AtomicU64::new(agreed.load(Relaxed));
        Agreement { region: region.clone(), peer, posts, fingerprint, shape, agreed }
    }
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agreement({:#x}, peer {:#x})", self.fingerprint, self.agreed.load(Relaxed))
    }
}

/// The check that every message of a typed port must pass, also where it is delivered as an event.
pub(crate) struct Validator {
    pub agreement: Option<Agreement>,
    /// Returns what is wrong with a message.
    pub check: fn(&MessageEvent<'_>) -> Result<(), MessageError>,
}

impl Validator {
    fn check(&self, message: &MessageEvent<'_>) -> Result<(), MessageError> {
        check(&self.agreement).map_err(MessageError::TypeMismatch)?;
        (self.check)(message)
    }
}

impl MessagePort {
    pub(crate) fn set_validator(&self, validator: Option<Validator>) {
        *self.validator.borrow_mut() = validator;
    }

    /// Whether a message may be delivered on this port, if it has types.
    pub(crate) fn validate(&self, message: &MessageEvent<'_>) -> Result<(), MessageError> {
        self.validator.borrow().as_ref().map_or(Ok(()), |validator| validator.check(message))
    }

    /// Whether the peer posts the type of this port, if it has types.
    pub(crate) fn check_incoming_type(&self) -> Result<(), MessageError> {
        let validator = self.validator.borrow();
        let agreed = validator.as_ref().map_or(Ok(()), |validator| check(&validator.agreement));
        agreed.map_err(MessageError::TypeMismatch)
    }
}

/// Whether the ends agree about a direction that may have nothing to compare.
#[inline(always)]
pub(crate) fn is_agreed(agreement: &Option<Agreement>) -> bool {
    match agreement {
        None => true,
        Some(agreement) => agreement.is_agreed(),
    }
}

/// Takes back the declaration of a direction, if there is one.
pub(crate) fn withdraw(agreement: &Option<Agreement>) {
    if let Some(agreement) = agreement {
        agreement.region.declared(agreement.peer.other()).withdraw();
    }
}

/// What differs, after [`is_agreed`] has said no.
#[cold]
#[inline(never)]
pub(crate) fn mismatch(agreement: &Option<Agreement>) -> TypeMismatch {
    agreement.as_ref().expect("what is not compared is agreed").mismatch()
}

/// As [`check`], unless the own declaration was taken back or replaced since.
pub(crate) fn check_declared(agreement: &Option<Agreement>) -> Result<(), TypeMismatch> {
    match agreement {
        Some(own) if own.is_declared() => check(agreement),
        _ => Ok(()),
    }
}

pub(crate) fn check(agreement: &Option<Agreement>) -> Result<(), TypeMismatch> {
    if is_agreed(agreement) { Ok(()) } else { Err(mismatch(agreement)) }
}
