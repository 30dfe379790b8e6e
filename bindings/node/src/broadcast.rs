//! Members of a `BroadcastChannel` as handles.

use crate::failure::{fail, fail_with_code};
use crate::message;
use crate::raw::{Calls, Context, Loop, Scope, Source, Turn, Value, Watch};
use messageport::{BroadcastChannel, BroadcastError};
use napi::bindgen_prelude::{External, Object};
use napi::{Env, Result};
use napi_derive::napi;
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

/// One member.
pub struct MemberCell {
    channel: RefCell<Option<BroadcastChannel>>,
    watch: RefCell<Option<Watch>>,
}

/// Messages of one turn.
const SHARE: u32 = 64;

impl Source for MemberCell {
    fn turn(&self, calls: &Calls<'_>) -> Turn {
        for _ in 0..SHARE {
            let received = match &*self.channel.borrow() {
                Some(channel) => channel.try_recv(),
                None => return Turn::Stop,
            };
            let stays = match received {
                Ok(None) => return Turn::Wait,
                Ok(Some(message)) => {
                    let (format, bytes) = (message.format(), message.bytes());
                    calls.deliver(|scope| Some(message::content(scope, format, bytes)))
                }
                Err(BroadcastError::Message(error)) => {
                    calls.deliver(|scope| Some(message::unreadable(scope, &error.to_string())))
                }
                // The descriptor is quiet for a moment after such an error.
                Err(_) => return Turn::Wait,
            };
            if !stays {
                return Turn::Stop;
            }
        }
        Turn::More
    }
}

/// Joins a channel; its messages are events of `target`.
#[napi]
pub fn join(
    of: &External<Loop>,
    name: String,
    target: Object<'_>,
) -> Result<External<Rc<MemberCell>>> {
    let channel = BroadcastChannel::open(&name).map_err(fail_with_code)?;
    let cell = Rc::new(MemberCell { channel: RefCell::default(), watch: RefCell::default() });
    let source: Weak<dyn Source> = Rc::downgrade(&(cell.clone() as Rc<dyn Source>));
    let context = Context::new(of, &target);
    let watch = Watch::new(of, channel.as_fd(), source, &target, context)?;
    watch.kick();
    cell.channel.replace(Some(channel));
    cell.watch.replace(Some(watch));
    Ok(External::new(cell))
}

/// Leaves the channel.
#[napi]
pub fn leave(handle: &External<Rc<MemberCell>>) {
    handle.watch.borrow_mut().take();
    handle.channel.borrow_mut().take();
}

/// Whether a member keeps the process alive.
#[napi]
pub fn set_member_ref(handle: &External<Rc<MemberCell>>, is_referenced: bool) {
    if let Some(watch) = &*handle.watch.borrow() {
        watch.set_ref(is_referenced);
    }
}

/// Posts bytes to all other members; returns how many have missed them, as their queues are full.
#[napi]
pub fn broadcast_bytes(handle: &External<Rc<MemberCell>>, bytes: &[u8]) -> Result<u32> {
    post(handle, |channel| channel.post_bytes(bytes))
}

/// Posts text to all other members; returns how many have missed it.
#[napi]
pub fn broadcast_text(handle: &External<Rc<MemberCell>>, text: String) -> Result<u32> {
    post(handle, |channel| channel.post_text(&text))
}

/// Posts the first `len` of the bytes, which are plain data in CBOR, to all other members.
#[napi]
pub fn broadcast_value(handle: &External<Rc<MemberCell>>, bytes: &[u8], len: u32) -> Result<u32> {
    let encoded = bytes.get(..len as usize).unwrap_or_default();
    post(handle, |channel| channel.post_encoded_value(encoded))
}

fn post(
    handle: &External<Rc<MemberCell>>,
    post: impl FnOnce(&BroadcastChannel) -> std::result::Result<(), BroadcastError>,
) -> Result<u32> {
    match handle.channel.borrow().as_ref().map(post) {
        None | Some(Ok(())) => Ok(0),
        Some(Err(BroadcastError::Missed { missed, .. })) => Ok(missed as u32),
        Some(Err(error)) => Err(fail(error)),
    }
}

/// Takes the next message of a member, if there is one, as `receive_now` does for a port.
#[napi]
pub fn receive_broadcast<'e>(env: &'e Env, handle: &External<Rc<MemberCell>>) -> Result<Value<'e>> {
    let scope = Scope::of_call(env);
    let received = match &*handle.channel.borrow() {
        Some(channel) => channel.try_recv(),
        None => Ok(None),
    };
    match received {
        Ok(None) => Ok(scope.undefined()),
        Ok(Some(message)) => {
            Ok(scope.array(&message::content(&scope, message.format(), message.bytes())))
        }
        Err(error) => Ok(scope.array(&message::unreadable(&scope, &error.to_string()))),
    }
}
