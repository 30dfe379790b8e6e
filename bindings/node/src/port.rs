//! Ports as handles: posting, receiving, and the turns in which the loop delivers.

use crate::failure::{fail, fail_with_code};
use crate::message;
use crate::raw::{self, Calls, Context, Loop, Scope, Source, Turn, Value, Watch};
use messageport::{
    Buffer, Format, MessageChannel, MessagePort, PostError, RecvError, TransferError, Transferable,
};
use napi::bindgen_prelude::{Array, External, ExternalRef, Function, Object};
use napi::{Env, Error, Result};
use napi_derive::napi;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

/// What JavaScript holds: a port, or memory that can move.
#[derive(Clone)]
pub enum Handle {
    /// A port.
    Port(Rc<PortCell>),
    /// Memory, until it has moved.
    Buffer(Rc<RefCell<Option<Buffer>>>),
}

impl Handle {
    /// A handle of a port that nothing watches yet.
    pub fn of_port(port: MessagePort) -> Handle {
        Handle::Port(Rc::new_cyclic(|this| PortCell {
            this: this.clone(),
            port: RefCell::new(Some(port)),
            watch: RefCell::default(),
            context: RefCell::default(),
            is_started: Cell::new(false),
            is_referenced: Cell::new(false),
            stays_for_outbox: Cell::new(true),
            is_closing: Cell::new(false),
            drains: Cell::new(false),
            outbox: RefCell::default(),
            tickets: Cell::new(0),
            carriers: RefCell::default(),
        }))
    }

    pub(crate) fn port(&self) -> Result<&Rc<PortCell>> {
        match self {
            Handle::Port(cell) => Ok(cell),
            Handle::Buffer(_) => Err(Error::from_reason("expected the handle of a port")),
        }
    }
}

/// One port of this thread.
pub struct PortCell {
    this: Weak<PortCell>,
    /// `None` once it is closed or has moved away.
    port: RefCell<Option<MessagePort>>,
    watch: RefCell<Option<Watch>>,
    /// The context of its events, until it is watched.
    context: RefCell<Option<Context>>,
    is_started: Cell<bool>,
    is_referenced: Cell<bool>,
    /// The process stays until the outbox is empty.
    stays_for_outbox: Cell<bool>,
    /// Closed by the program, while messages of it still wait for room.
    is_closing: Cell<bool>,
    /// What has arrived before it was closed is still delivered.
    drains: Cell<bool>,
    /// Messages that did not fit, in their order.
    outbox: RefCell<VecDeque<Pending>>,
    /// The last number of a message whose content comes later.
    tickets: Cell<u32>,
    /// Ports whose outbox waits until this one, which moves with a message there, is empty.
    carriers: RefCell<Vec<Weak<PortCell>>>,
}

/// A message that waits for room.
struct Pending {
    content: Vec<u8>,
    format: Format,
    list: Vec<Item>,
    /// The number of a message whose content is still to come.
    ticket: Option<u32>,
}

// Lists are short.
#[allow(clippy::large_enum_variant)]
enum Item {
    Ready(Transferable),
    /// A port whose own messages still wait for room.
    Waiting(Rc<PortCell>),
}

/// What became of a post; `lib/port.js` has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is in the ring.
    Sent = 0,
    /// It waits for room.
    Kept = 1,
    /// It waits for something that is not reported: try again after a time.
    Later = 2,
    /// The conversation has ended, and the message is lost with what it carried.
    Lost = 3,
    /// It carried the other end of its own channel, and both are lost.
    Loop = 4,
}

/// Messages of one turn: the loop's timers and other descriptors have their turn after them.
const SHARE: u32 = 64;

impl Source for PortCell {
    fn turn(&self, calls: &Calls<'_>) -> Turn {
        let turn = self.deliver(calls);
        if self.outbox.borrow().is_empty() {
            return turn;
        }
        let flushed = self.flush();
        if flushed.rang && self.is_started.get() {
            return Turn::More;
        }
        // It waits for room as well.
        if turn == Turn::Stop && flushed.posted == Posted::Kept { Turn::Wait } else { turn }
    }
}

/// What one look at a port found.
enum Look {
    Delivered(bool),
    Nothing,
    /// Something is there that can be received a little later.
    Later,
    Ended(String),
}

/// How a flush ended.
struct Flushed {
    posted: Posted,
    /// A ring was drained that may have been for a message.
    rang: bool,
}

impl PortCell {
    fn deliver(&self, calls: &Calls<'_>) -> Turn {
        for _ in 0..SHARE {
            let look = if self.is_started.get() { self.deliver_next(calls) } else { self.peek() };
            match look {
                Look::Delivered(true) => {}
                Look::Delivered(false) => return Turn::Stop,
                Look::Nothing => return Turn::Wait,
                Look::Later => return Turn::More,
                Look::Ended(reason) => {
                    calls.deliver(|scope| Some(message::close(scope, &reason)));
                    return Turn::Stop;
                }
            }
        }
        Turn::More
    }

    fn deliver_next(&self, calls: &Calls<'_>) -> Look {
        let mut look = Look::Delivered(false);
        let stays = calls.deliver(|scope| {
            let port = self.port.borrow();
            let (found, arguments) = receive(scope, port.as_ref()?);
            look = found;
            arguments
        });
        if matches!(look, Look::Delivered(true)) { Look::Delivered(stays) } else { look }
    }

    /// A port that is not started delivers nothing but its end, once nothing is before it.
    fn peek(&self) -> Look {
        match self.port.borrow().as_ref().map(MessagePort::peek) {
            None | Some(Ok(Some(_))) => Look::Delivered(false),
            Some(Ok(None)) => Look::Nothing,
            Some(Err(RecvError::Closed { reason })) => Look::Ended(reason.to_string()),
            Some(Err(_)) => Look::Later,
        }
    }

    /// Whether the handle keeps the process alive; to be called whenever something changes.
    fn update_ref(&self) {
        let delivers = self.is_started.get() && self.is_referenced.get() || self.drains.get();
        let sends = self.stays_for_outbox.get() && !self.outbox.borrow().is_empty();
        if let Some(watch) = &*self.watch.borrow() {
            watch.set_ref(delivers || sends);
        }
    }

    fn kick(&self) {
        if let Some(watch) = &*self.watch.borrow() {
            watch.kick();
        }
    }

    /// Posts, or keeps the message until there is room.
    fn post(&self, content: &[u8], format: Format, list: Vec<Item>) -> Result<Posted> {
        let mut list = list;
        if self.outbox.borrow().is_empty() && list.iter_mut().all(Item::settle) {
            let port = self.port.borrow();
            let Some(port) = port.as_ref() else { return Ok(Posted::Lost) };
            match post_now(port, content, format, list) {
                Ok(()) => return Ok(Posted::Sent),
                Err((error, back)) => match after(&error) {
                    Posted::Sent => return Err(fail(error)),
                    Posted::Kept | Posted::Later => list = back,
                    lost => return Ok(lost),
                },
            }
        }
        self.keep(Pending { content: content.to_vec(), format, list, ticket: None });
        Ok(self.flush().posted)
    }

    fn keep(&self, pending: Pending) {
        for item in &pending.list {
            if let Item::Waiting(cell) = item {
                cell.carriers.borrow_mut().push(self.this.clone());
            }
        }
        self.outbox.borrow_mut().push_back(pending);
    }

    /// Keeps the place of a message whose content comes later; returns its number.
    fn post_later(&self, list: Vec<Item>) -> u32 {
        let ticket = self.tickets.get().wrapping_add(1);
        self.tickets.set(ticket);
        self.keep(Pending { content: vec![], format: Format::Bytes, list, ticket: Some(ticket) });
        self.update_ref();
        ticket
    }

    /// Posts the message of a number, now that its content is there. Without it, the conversation
    /// has ended.
    fn complete(&self, ticket: u32, content: &[u8], first: Option<Buffer>) -> Posted {
        let mut outbox = self.outbox.borrow_mut();
        let Some(pending) = outbox.iter_mut().find(|one| one.ticket == Some(ticket)) else {
            return Posted::Lost;
        };
        pending.content = content.to_vec();
        pending.ticket = None;
        if let Some(buffer) = first {
            pending.list.insert(0, Item::Ready(buffer.into()));
        }
        drop(outbox);
        self.flush().posted
    }

    /// Posts what waits for room, as far as there is room. Asks for a ring if there is none.
    fn flush(&self) -> Flushed {
        let (mut rang, mut is_armed) = (false, false);
        let posted = loop {
            let Some(mut pending) = self.outbox.borrow_mut().pop_front() else {
                break Posted::Sent;
            };
            if pending.ticket.is_some() || !pending.list.iter_mut().all(Item::settle) {
                // Its content comes later; or the port that moves with it goes on when it is
                // empty itself.
                self.outbox.borrow_mut().push_front(pending);
                break Posted::Kept;
            }
            let port = self.port.borrow();
            let Some(port) = port.as_ref() else { break Posted::Lost };
            let posted = post_now(port, &pending.content, pending.format, pending.list);
            let Err((error, list)) = posted else { continue };
            let state = after(&error);
            if !matches!(state, Posted::Kept | Posted::Later) {
                if state == Posted::Lost {
                    break Posted::Lost;
                }
                continue;
            }
            pending.list = list;
            self.outbox.borrow_mut().push_front(pending);
            if state == Posted::Later || is_armed || self.watch.borrow().is_none() {
                break state;
            }
            rang |= port.notify_room();
            is_armed = true;
        };
        if posted == Posted::Lost {
            self.outbox.borrow_mut().clear();
        }
        self.update_ref();
        if self.outbox.borrow().is_empty() {
            self.flushed();
        }
        Flushed { posted, rang }
    }

    /// The outbox is empty: what has waited for that goes on.
    fn flushed(&self) {
        for carrier in self.carriers.take().iter().filter_map(Weak::upgrade) {
            carrier.flush();
        }
        if self.is_closing.get() {
            self.close_now();
        }
    }

    fn close_now(&self) {
        if self.drains.get() {
            if let Some(port) = &*self.port.borrow() {
                port.close();
            }
            self.update_ref();
            self.kick();
            return;
        }
        self.watch.borrow_mut().take();
        if let Some(port) = self.port.borrow_mut().take() {
            port.close();
        }
    }

    /// Takes the port out, to be used elsewhere.
    pub(crate) fn take(&self) -> Result<MessagePort> {
        self.watch.borrow_mut().take();
        let port = self.port.borrow_mut().take();
        port.ok_or_else(|| Error::from_reason("the port is closed"))
    }

    /// Takes the port out, which moves away; or waits until its messages are posted.
    fn take_item(self: &Rc<PortCell>) -> Result<Item> {
        if self.outbox.borrow().is_empty() {
            return Ok(Item::Ready(self.take()?.into()));
        }
        self.is_started.set(false);
        Ok(Item::Waiting(self.clone()))
    }
}

impl Item {
    /// Whether it can be posted now. A port can once its own messages are posted.
    fn settle(&mut self) -> bool {
        if let Item::Waiting(cell) = self {
            let cell = cell.clone();
            if !cell.outbox.borrow().is_empty() {
                return false;
            }
            cell.watch.borrow_mut().take();
            // Its peer may have closed it meanwhile; a fresh port whose peer is gone says so.
            let port = cell.port.borrow_mut().take();
            if let Some(port) = port {
                *self = Item::Ready(port.into());
            }
        }
        true
    }

    fn into_transferable(self) -> Option<Transferable> {
        match self {
            Item::Ready(item) => Some(item),
            Item::Waiting(_) => None,
        }
    }
}

fn post_now(
    port: &MessagePort,
    content: &[u8],
    format: Format,
    list: Vec<Item>,
) -> std::result::Result<(), (PostError, Vec<Item>)> {
    // What is posted as text comes from a string.
    let text = || str::from_utf8(content).unwrap_or_default();
    if list.is_empty() {
        let posted = match format {
            Format::Text => port.post_text(text()),
            Format::Value => port.post_encoded_value(content),
            _ => port.post_bytes(content),
        };
        return posted.map_err(|error| (error, list));
    }
    let list: Vec<Transferable> = list.into_iter().filter_map(Item::into_transferable).collect();
    let posted = match format {
        Format::Text => port.post_text_with(text(), list),
        Format::Value => port.post_encoded_value_with(content, list),
        _ => port.post_bytes_with(content, list),
    };
    posted
        .map_err(TransferError::into_parts)
        .map_err(|(error, list)| (error, list.into_iter().map(Item::Ready).collect()))
}

/// What an error means for the message. `Sent` stands for an error that the program gets.
fn after(error: &PostError) -> Posted {
    match error {
        PostError::QueueFull { is_socket: false, .. } => Posted::Kept,
        PostError::QueueFull { .. } | PostError::TooManyInFlight | PostError::Io(_) => {
            Posted::Later
        }
        PostError::Closed { .. } => Posted::Lost,
        PostError::TransferLoop { .. } => Posted::Loop,
        _ => Posted::Sent,
    }
}

/// Takes the next message and makes the arguments of its event.
fn receive<'s>(scope: &Scope<'s>, port: &MessagePort) -> (Look, Option<Vec<Value<'s>>>) {
    match port.receive_message() {
        Ok(Some(event)) => (Look::Delivered(true), Some(message::arguments(scope, &event))),
        Ok(None) => (Look::Nothing, None),
        Err(RecvError::Closed { reason }) => (Look::Ended(reason.to_string()), None),
        Err(error @ RecvError::OutOfMemory { .. }) => {
            let _ = port.discard_next();
            (Look::Delivered(true), Some(message::unreadable(scope, &error.to_string())))
        }
        Err(_) => (Look::Later, None),
    }
}

// What JavaScript calls.

/// The loop of this environment; `dispatch` takes the events, with short contents in `scratch`.
#[napi]
pub fn init(env: &Env, dispatch: Function<'_>, scratch: Object<'_>) -> Result<External<Loop>> {
    Ok(External::new(Loop::new(env, &dispatch, &scratch)?))
}

/// Makes a channel: the handles of its ports. A limit of 0 is the default.
#[napi]
pub fn channel(env: &Env, limit: f64) -> Result<Value<'_>> {
    let mut builder = MessageChannel::builder();
    if limit > 0.0 {
        builder = builder.limit(limit as usize);
    }
    let MessageChannel { port1, port2 } = builder.build().map_err(fail_with_code)?;
    let scope = Scope::of_call(env);
    let handle = |port| scope.handle(External::new(Handle::of_port(port)));
    Ok(scope.array(&[handle(port1), handle(port2)]))
}

/// Makes the async context of a port's object, in which it gets its events.
#[napi]
pub fn set_object(
    of: &External<Loop>,
    handle: &External<Handle>,
    object: Object<'_>,
) -> Result<()> {
    handle.port()?.context.replace(Some(Context::new(of, &object)));
    Ok(())
}

/// Has the loop watch a port, whose events go to `target` from now on.
#[napi]
pub fn watch(of: &External<Loop>, handle: &External<Handle>, target: Object<'_>) -> Result<()> {
    let cell = handle.port()?;
    if cell.watch.borrow().is_some() {
        return Ok(());
    }
    let context = cell.context.take().unwrap_or_else(|| Context::new(of, &target));
    let watch = match &*cell.port.borrow() {
        Some(port) => Watch::new(of, port.as_fd(), cell.this.clone(), &target, context)?,
        None => return Ok(()),
    };
    cell.watch.replace(Some(watch));
    cell.update_ref();
    cell.kick();
    Ok(())
}

/// Starts or stops the delivery of messages.
#[napi]
pub fn set_started(handle: &External<Handle>, is_started: bool) -> Result<()> {
    let cell = handle.port()?;
    cell.is_started.set(is_started);
    cell.update_ref();
    cell.kick();
    Ok(())
}

/// Whether the port keeps the process alive while it is started. `stays_for_outbox`: while messages
/// of it wait for room as well.
#[napi]
pub fn set_ref(
    handle: &External<Handle>,
    is_referenced: bool,
    stays_for_outbox: bool,
) -> Result<()> {
    let cell = handle.port()?;
    cell.is_referenced.set(is_referenced);
    cell.stays_for_outbox.set(stays_for_outbox);
    cell.update_ref();
    Ok(())
}

/// Closes a port once its messages are posted. If it `drains`, what has arrived is still delivered,
/// and then its end.
#[napi]
pub fn close(handle: &External<Handle>, drains: bool) -> Result<()> {
    let cell = handle.port()?;
    cell.is_closing.set(true);
    cell.drains.set(drains && cell.watch.borrow().is_some());
    if !cell.drains.get() {
        cell.is_started.set(false);
    }
    if cell.outbox.borrow().is_empty() {
        cell.close_now();
    } else {
        cell.flush();
    }
    Ok(())
}

/// Posts bytes.
#[napi]
pub fn post_bytes(
    handle: &External<Handle>,
    bytes: &[u8],
    list: Option<Array<'_>>,
    descriptors: Option<Vec<i32>>,
) -> Result<u32> {
    post(handle, bytes, Format::Bytes, list, descriptors)
}

/// Whether the channel was built to refuse what a transfer list contains.
#[napi]
pub fn refuses_transfers(handle: &External<Handle>) -> Result<bool> {
    let cell = handle.port()?;
    let port = cell.port.borrow();
    Ok(port.as_ref().is_some_and(MessagePort::peer_refuses_transfers))
}

/// Posts text.
#[napi]
pub fn post_text(
    handle: &External<Handle>,
    text: String,
    list: Option<Array<'_>>,
    descriptors: Option<Vec<i32>>,
) -> Result<u32> {
    post(handle, text.as_bytes(), Format::Text, list, descriptors)
}

/// Posts the first `len` of the bytes, which are plain data in CBOR.
#[napi]
pub fn post_value(
    handle: &External<Handle>,
    bytes: &[u8],
    len: u32,
    list: Option<Array<'_>>,
    descriptors: Option<Vec<i32>>,
) -> Result<u32> {
    let encoded = bytes.get(..len as usize).unwrap_or_default();
    post(handle, encoded, Format::Value, list, descriptors)
}

fn post(
    handle: &External<Handle>,
    content: &[u8],
    format: Format,
    list: Option<Array<'_>>,
    descriptors: Option<Vec<i32>>,
) -> Result<u32> {
    let cell = handle.port()?;
    let longest = cell.port.borrow().as_ref().map(MessagePort::max_message_len);
    if longest.is_some_and(|longest| content.len() > longest) {
        let len = content.len() as u64;
        return Err(fail(PostError::TooLarge { len, max: longest.unwrap_or(0) as u64 }));
    }
    let items = items_of(list, descriptors)?;
    Ok(cell.post(content, format, items)? as u32)
}

/// What moves with a message.
fn items_of(list: Option<Array<'_>>, descriptors: Option<Vec<i32>>) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for index in 0..list.as_ref().map_or(0, Array::len) {
        let entry = list.as_ref().and_then(|list| list.get(index).transpose());
        let entry: ExternalRef<Handle> = entry.ok_or_else(no_handle)??;
        items.push(match &*entry {
            Handle::Port(port) => port.take_item()?,
            Handle::Buffer(buffer) => {
                Item::Ready(buffer.borrow_mut().take().ok_or_else(no_handle)?.into())
            }
        });
    }
    for number in descriptors.unwrap_or_default() {
        items.push(Item::Ready(raw::duplicate(number).map_err(fail)?.into()));
    }
    Ok(items)
}

/// Keeps the place of a message whose bytes come later: what is posted after it waits behind it.
/// Returns its number, for `complete`.
#[napi]
pub fn post_later(
    handle: &External<Handle>,
    list: Option<Array<'_>>,
    descriptors: Option<Vec<i32>>,
) -> Result<u32> {
    let cell = handle.port()?;
    Ok(cell.post_later(items_of(list, descriptors)?))
}

/// Posts the message of a number that `post_later` has returned. `first` becomes its first buffer.
#[napi]
pub fn complete(
    handle: &External<Handle>,
    ticket: u32,
    bytes: &[u8],
    first: Option<&External<Handle>>,
) -> Result<u32> {
    let first = match first.map(|first| &**first) {
        Some(Handle::Buffer(buffer)) => Some(buffer.borrow_mut().take().ok_or_else(no_handle)?),
        Some(Handle::Port(_)) => return Err(no_handle()),
        None => None,
    };
    Ok(handle.port()?.complete(ticket, bytes, first) as u32)
}

fn no_handle() -> Error {
    Error::from_reason("expected a list of handles that have not moved")
}

/// The limit of one message, in bytes; 0 for a closed port.
#[napi]
pub fn longest(handle: &External<Handle>) -> Result<f64> {
    Ok(handle.port()?.port.borrow().as_ref().map_or(0, MessagePort::max_message_len) as f64)
}

/// Tries again to post what waits for room.
#[napi]
pub fn flush(handle: &External<Handle>) -> Result<u32> {
    Ok(handle.port()?.flush().posted as u32)
}

/// Takes the next message, if there is one: the arguments of its event, or `undefined`.
#[napi]
pub fn receive_now<'e>(env: &'e Env, handle: &External<Handle>) -> Result<Value<'e>> {
    let (scope, cell) = (Scope::of_call(env), handle.port()?);
    let (look, arguments) = match &*cell.port.borrow() {
        Some(port) => receive(&scope, port),
        None => return Ok(scope.undefined()),
    };
    // The end is delivered as an event, and the next message wakes the loop again.
    cell.kick();
    drop(look);
    Ok(arguments.map_or_else(|| scope.undefined(), |values| scope.array(&values)))
}

/// The number of messages that were posted and not received, those that wait for room included.
#[napi]
pub fn backlog(handle: &External<Handle>) -> Result<f64> {
    let cell = handle.port()?;
    let in_ring = cell.port.borrow().as_ref().map_or(0, |port| port.backlog().messages);
    Ok(in_ring as f64 + cell.outbox.borrow().len() as f64)
}
