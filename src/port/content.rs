//! What can be asked of a message, wherever its bytes are: in an event that borrows its port, or in
//! an owned message.

use crate::error::{BufferError, FRAME_INSTEAD, MessageError};
use crate::link::archive::pool::ReceiveOwned;
use crate::link::archive::{self, Receive};
use crate::link::attachment::{Arrived, ArrivedBuffer, Attachment, AttachmentKind, Attachments};
use crate::link::buffer::Buffer;
use crate::link::pool::{Frame, Pooled, PooledBuffer};
use crate::link::transfer;
use crate::port::MessagePort;
use crate::wire::record::Format;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::{Archive, Portable};
use std::mem;
use std::os::fd::OwnedFd;

pub(crate) trait Content {
    fn content(&self) -> &[u8];
    fn posted_as(&self) -> Format;
    /// Works on the transferables of the message, if it has any.
    fn with_attachments<T>(&self, act: impl FnOnce(&mut Attachments) -> T) -> Option<T>;
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

pub(crate) fn deserialize<T: ReceiveOwned>(of: &impl Content) -> Result<T, MessageError> {
    require(of, Format::Archive)?;
    archive::deserialize::<T>(of.content()).map_err(invalid::<T>)
}

pub(crate) fn text(of: &impl Content) -> Result<&str, MessageError> {
    require(of, Format::Text)?;
    std::str::from_utf8(of.content()).map_err(MessageError::NotText)
}

pub(crate) fn take_port(of: &impl Content) -> Result<MessagePort, MessageError> {
    take(of, AttachmentKind::Port, "port", |attachment, is_trusted| {
        let Attachment::Port(parts) = attachment else { unreachable!("a port was asked for") };
        transfer::unpack(*parts, is_trusted)
            .map(MessagePort::new)
            .map_err(|(error, parts)| (MessageError::Port(error), parts.map(Attachment::Port)))
    })
}

pub(crate) fn take_buffer(of: &impl Content) -> Result<Buffer, MessageError> {
    take(of, AttachmentKind::Buffer, "buffer", |attachment, is_trusted| {
        let Attachment::Buffer(arrived) = attachment else { unreachable!("asked for") };
        let (descriptor, len) = match arrived {
            ArrivedBuffer::Small(buffer) => return Ok(buffer),
            ArrivedBuffer::File(descriptor, len) => (descriptor, len),
        };
        Buffer::import(descriptor, len, is_trusted).map_err(|(error, descriptor)| {
            let again = matches!(error, BufferError::Io { .. });
            let arrived = ArrivedBuffer::File(descriptor, len);
            (MessageError::Buffer(error), again.then_some(Attachment::Buffer(arrived)))
        })
    })
}

pub(crate) fn take_descriptor(of: &impl Content) -> Result<OwnedFd, MessageError> {
    take(of, AttachmentKind::Descriptor, "descriptor", |attachment, _| {
        let Attachment::Descriptor(descriptor) = attachment else { unreachable!("asked for") };
        Ok(descriptor.into_owned())
    })
}

pub(crate) fn take_pooled(of: &impl Content) -> Result<PooledBuffer, MessageError> {
    let taken = of.with_attachments(|attachments| match mem::take(&mut attachments.pooled) {
        Pooled::Buffer(buffer) => Some(Ok(buffer)),
        Pooled::Unmapped(unmapped) => Some(unmapped.map().map_err(|(error, unmapped)| {
            attachments.pooled = Pooled::Unmapped(unmapped);
            MessageError::Buffer(error.into())
        })),
        Pooled::Unknown => {
            attachments.pooled = Pooled::Unknown;
            Some(Err(MessageError::UnknownPool))
        }
        Pooled::Frame(frame) => {
            attachments.pooled = Pooled::Frame(frame);
            Some(Err(MessageError::NothingLeft { kind: FRAME_INSTEAD }))
        }
        Pooled::Nothing => attachments.check().err().map(Err),
    });
    taken.flatten().unwrap_or(Err(MessageError::NothingLeft { kind: "pooled buffer" }))
}

pub(crate) fn take_frame(of: &impl Content) -> Result<Frame, MessageError> {
    let taken = of.with_attachments(|attachments| match mem::take(&mut attachments.pooled) {
        Pooled::Frame(frame) => Some(frame),
        other => {
            attachments.pooled = other;
            None
        }
    });
    match taken.flatten() {
        Some(frame) => Ok(frame),
        None => take_pooled(of).map(Frame::of).map_err(|error| match error {
            MessageError::NothingLeft { .. } => MessageError::NothingLeft { kind: "frame" },
            error => error,
        }),
    }
}

pub(crate) fn transferred(of: &impl Content) -> (usize, usize, usize) {
    let count = |kind| of.with_attachments(|attachments| attachments.count(kind)).unwrap_or(0);
    (count(AttachmentKind::Port), count(AttachmentKind::Buffer), count(AttachmentKind::Descriptor))
}

pub(crate) fn take_all<C: Content, T>(
    of: &C,
    kind: AttachmentKind,
    take: impl Fn(&C) -> Result<T, MessageError>,
) -> Result<Vec<T>, MessageError> {
    match of.with_attachments(|attachments| attachments.check().map(|()| attachments.count(kind))) {
        None => Ok(Vec::new()),
        Some(count) => (0..count?).map(|_| take(of)).collect(),
    }
}

/// Takes one transferable and converts it; one that can be retried goes back.
fn take<T>(
    of: &impl Content,
    kind: AttachmentKind,
    name: &'static str,
    make: impl FnOnce(Arrived, bool) -> Result<T, (MessageError, Option<Arrived>)>,
) -> Result<T, MessageError> {
    let taken = of.with_attachments(|attachments| {
        attachments.check()?;
        Ok(attachments.take(kind).map(|taken| (taken, attachments.is_trusted)))
    });
    let Some(((place, attachment), is_trusted)) = taken.transpose()?.flatten() else {
        return Err(MessageError::NothingLeft { kind: name });
    };
    make(attachment, is_trusted).map_err(|(error, attachment)| {
        if let Some(attachment) = attachment {
            of.with_attachments(|attachments| attachments.put_back(place, attachment));
        }
        error
    })
}

#[inline(always)]
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
    let refused = of.with_attachments(|attachments| attachments.refused).unwrap_or(0);
    match refused {
        0 => Ok(()),
        descriptors => Err(MessageError::TransfersRefused { descriptors }),
    }
}

pub(crate) fn invalid<T>(source: BoxedError) -> MessageError {
    MessageError::Invalid { expected: std::any::type_name::<T>(), source }
}
