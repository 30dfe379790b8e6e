//! What can be asked of a message, wherever its bytes are: in an event that borrows its port, or in
//! an owned message.

use crate::error::{BufferError, MessageError};
use crate::link::archive::pool::ReceiveDeserializer;
use crate::link::archive::{self, Receive};
use crate::link::buffer::Buffer;
use crate::link::cargo::{Kind, Parcel, Part};
use crate::link::pool::{Pooled, PooledBuffer};
use crate::link::transfer;
use crate::port::MessagePort;
use crate::wire::record::Format;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::{Archive, Deserialize, Portable};
use std::mem;
use std::os::fd::OwnedFd;

pub(crate) trait Content {
    fn content(&self) -> &[u8];
    fn posted_as(&self) -> Format;
    /// Works on the transferables of the message, if it has any.
    fn with_parcel<T>(&self, act: impl FnOnce(&mut Parcel) -> T) -> Option<T>;
}

#[inline]
pub(crate) fn data<T: Receive>(of: &impl Content) -> Result<&T::Archived, MessageError> {
    require(of, Format::Archive)?;
    archive::access::<T>(of.content()).map_err(invalid::<T>)
}

pub(crate) fn data_checked_by_rkyv_only<T>(of: &impl Content) -> Result<&T::Archived, MessageError>
where
    T: Archive,
    T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
{
    require(of, Format::Archive)?;
    archive::access_by_rkyv::<T::Archived, BoxedError>(of.content()).map_err(invalid::<T>)
}

pub(crate) fn deserialize<T>(of: &impl Content) -> Result<T, MessageError>
where
    T: Receive<Archived: Deserialize<T, ReceiveDeserializer>>,
{
    require(of, Format::Archive)?;
    archive::deserialize::<T>(of.content()).map_err(invalid::<T>)
}

pub(crate) fn text(of: &impl Content) -> Result<&str, MessageError> {
    require(of, Format::Text)?;
    std::str::from_utf8(of.content()).map_err(MessageError::NotText)
}

pub(crate) fn take_port(of: &impl Content) -> Result<MessagePort, MessageError> {
    take(of, Kind::Port, "port", |part, is_trusted| {
        let Part::Port(parts) = part else { unreachable!("a port was asked for") };
        transfer::unpack(*parts, is_trusted)
            .map(MessagePort::new)
            .map_err(|(error, parts)| (MessageError::Port(error), parts.map(Part::Port)))
    })
}

pub(crate) fn take_buffer(of: &impl Content) -> Result<Buffer, MessageError> {
    take(of, Kind::Buffer, "buffer", |part, is_trusted| {
        let Part::Buffer { descriptor, len } = part else { unreachable!("asked for") };
        Buffer::import(descriptor, len, is_trusted).map_err(|(error, descriptor)| {
            let again = matches!(error, BufferError::Io { .. });
            let part = again.then_some(Part::Buffer { descriptor, len });
            (MessageError::Buffer(error), part)
        })
    })
}

pub(crate) fn take_descriptor(of: &impl Content) -> Result<OwnedFd, MessageError> {
    take(of, Kind::Descriptor, "descriptor", |part, _| {
        let Part::Descriptor(descriptor) = part else { unreachable!("asked for") };
        Ok(descriptor.into_owned())
    })
}

pub(crate) fn take_pooled(of: &impl Content) -> Result<PooledBuffer, MessageError> {
    let taken = of.with_parcel(|parcel| match mem::take(&mut parcel.pooled) {
        Pooled::Buffer(buffer) => Some(Ok(buffer)),
        Pooled::Unmapped(unmapped) => Some(unmapped.map().map_err(|(error, unmapped)| {
            parcel.pooled = Pooled::Unmapped(unmapped);
            MessageError::Buffer(error.into())
        })),
        Pooled::Unknown => {
            parcel.pooled = Pooled::Unknown;
            Some(Err(MessageError::UnknownPool))
        }
        Pooled::Nothing => parcel.check().err().map(Err),
    });
    taken.flatten().unwrap_or(Err(MessageError::NothingLeft { kind: "pooled buffer" }))
}

pub(crate) fn transferred(of: &impl Content) -> (usize, usize, usize) {
    let count = |kind| of.with_parcel(|parcel| parcel.count(kind)).unwrap_or(0);
    (count(Kind::Port), count(Kind::Buffer), count(Kind::Descriptor))
}

pub(crate) fn take_all<C: Content, T>(
    of: &C,
    kind: Kind,
    take: impl Fn(&C) -> Result<T, MessageError>,
) -> Result<Vec<T>, MessageError> {
    match of.with_parcel(|parcel| parcel.check().map(|()| parcel.count(kind))) {
        None => Ok(Vec::new()),
        Some(count) => (0..count?).map(|_| take(of)).collect(),
    }
}

/// Takes one transferable and converts it; one that can be retried goes back.
fn take<T>(
    of: &impl Content,
    kind: Kind,
    name: &'static str,
    make: impl FnOnce(Part, bool) -> Result<T, (MessageError, Option<Part>)>,
) -> Result<T, MessageError> {
    let taken = of.with_parcel(|parcel| {
        parcel.check()?;
        Ok(parcel.take(kind).map(|taken| (taken, parcel.is_trusted)))
    });
    let Some(((place, part), is_trusted)) = taken.transpose()?.flatten() else {
        return Err(MessageError::NothingLeft { kind: name });
    };
    make(part, is_trusted).map_err(|(error, part)| {
        if let Some(part) = part {
            of.with_parcel(|parcel| parcel.put_back(place, part));
        }
        error
    })
}

pub(crate) fn require(of: &impl Content, expected: Format) -> Result<(), MessageError> {
    let found = of.posted_as();
    if found == expected {
        return Ok(());
    }
    // A refused message has no bytes, and so is not what it was posted as.
    check_refused(of)?;
    Err(MessageError::Format { expected: expected.name(), found: found.name() })
}

/// Whether the port has refused the message because of its transferables.
#[inline]
pub(crate) fn check_refused(of: &impl Content) -> Result<(), MessageError> {
    if !of.content().is_empty() {
        return Ok(());
    }
    let refused = of.with_parcel(|parcel| parcel.refused).unwrap_or(0);
    match refused {
        0 => Ok(()),
        descriptors => Err(MessageError::TransfersRefused { descriptors }),
    }
}

fn invalid<T>(source: BoxedError) -> MessageError {
    MessageError::Invalid { expected: std::any::type_name::<T>(), source }
}
