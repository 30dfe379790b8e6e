//! A received message as arguments for JavaScript.

use crate::port::Handle;
use crate::raw::{Scope, Value};
use messageport::{Format, MessageEvent};
use napi::bindgen_prelude::External;
use std::error::Error;
use std::os::fd::IntoRawFd;

/// What an event is; `lib/port.js` has the same numbers.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Bytes, as an `ArrayBuffer`.
    Bytes = 0,
    /// Text, as a string.
    Text = 1,
    /// A message that cannot be read, with the reason as a string.
    Unreadable = 2,
    /// The conversation has ended, with the reason as a string.
    Close = 3,
    /// Plain data in CBOR, as an `ArrayBuffer`.
    Value = 4,
    /// As `Bytes` and `Value`, in the scratch memory: the content is the length.
    ScratchBytes = 5,
    ScratchValue = 6,
}

/// The arguments of the event of a port's message: its kind, its content, and what came with it:
/// ports, `ArrayBuffer`s and descriptors, in one array of three.
pub fn arguments<'s>(scope: &Scope<'s>, event: &MessageEvent<'_>) -> Vec<Value<'s>> {
    let attached = match attachments(scope, event) {
        Ok(attached) => attached,
        Err(error) => return unreadable(scope, &error.to_string()),
    };
    let mut arguments = content(scope, event.format(), event.bytes());
    arguments.extend(attached);
    arguments
}

/// The arguments of the event of a message that carries nothing.
pub fn content<'s>(scope: &Scope<'s>, format: Format, bytes: &[u8]) -> Vec<Value<'s>> {
    match format {
        // Plain bytes become an object of the program, so they need memory of their own.
        Format::Bytes if bytes.starts_with(MARK) => match scope.in_scratch(bytes) {
            Some(len) => vec![scope.number(Kind::ScratchBytes as u32), len],
            None => vec![scope.number(Kind::Bytes as u32), scope.array_buffer(bytes)],
        },
        Format::Bytes => vec![scope.number(Kind::Bytes as u32), scope.array_buffer(bytes)],
        Format::Value => match scope.in_scratch(bytes) {
            Some(len) => vec![scope.number(Kind::ScratchValue as u32), len],
            None => vec![scope.number(Kind::Value as u32), scope.array_buffer(bytes)],
        },
        Format::Text => match str::from_utf8(bytes) {
            Ok(text) => vec![scope.number(Kind::Text as u32), scope.text(text)],
            Err(error) => unreadable(scope, &format!("the message is no text: {error}")),
        },
        _ => unreadable(scope, ARCHIVE),
    }
}

/// Takes what came with a message. What cannot be taken makes the message unreadable, and the rest
/// of it is closed.
fn attachments<'s>(
    scope: &Scope<'s>,
    event: &MessageEvent<'_>,
) -> Result<Option<Value<'s>>, Box<dyn Error>> {
    let (ports, buffers, descriptors) = event.transferred();
    if ports + buffers + descriptors == 0 {
        return Ok(None);
    }
    let (ports, buffers) = (event.take_ports()?, event.take_buffers()?);
    let descriptors = event.take_descriptors()?;
    let mut memory = Vec::new();
    for buffer in buffers {
        memory.push(buffer.into_mut()?);
    }
    let ports: Vec<_> =
        ports.into_iter().map(|port| scope.handle(External::new(Handle::of_port(port)))).collect();
    let buffers: Vec<_> =
        memory.into_iter().map(|memory| scope.array_buffer_over(memory)).collect();
    let descriptors: Vec<_> = descriptors
        .into_iter()
        .map(|descriptor| scope.number(descriptor.into_raw_fd().unsigned_abs()))
        .collect();
    let lists = [scope.array(&ports), scope.array(&buffers), scope.array(&descriptors)];
    Ok(Some(scope.array(&lists)))
}

/// The arguments of a `messageerror`.
pub fn unreadable<'s>(scope: &Scope<'s>, reason: &str) -> Vec<Value<'s>> {
    vec![scope.number(Kind::Unreadable as u32), scope.text(reason)]
}

/// The arguments of `close`.
pub fn close<'s>(scope: &Scope<'s>, reason: &str) -> Vec<Value<'s>> {
    vec![scope.number(Kind::Close as u32), scope.text(reason)]
}

/// What a clone begins with; see `lib/clone.js`.
const MARK: &[u8] = b"\x89mpjs\r\n";

const ARCHIVE: &str = "the message is an rkyv archive, which only a Rust program reads: have the \
                       peer post text, bytes or a value";
