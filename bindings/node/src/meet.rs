//! Ports between processes: the parent's, one for a child, and those of a name.

use crate::failure::fail_with_code;
use crate::port::Handle;
use crate::raw::{self, Calls, Context, Loop, Scope, Source, Turn, Value, Watch};
use messageport::{Connect, ListenError, Listener, MessageChannel, MessagePort, ParentPortError};
use napi::bindgen_prelude::{AsyncTask, External, ExternalRef, Object};
use napi::{Env, Error, Result, Task};
use napi_derive::napi;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, IntoRawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// The port to the process that started this one; `null` if this is no worker, or a part of the
/// process has taken it.
#[napi]
pub fn parent_port() -> Result<Option<External<Handle>>> {
    raw::unmark_inherited("MESSAGEPORT_PARENT");
    match messageport::parent_port() {
        Ok(port) => Ok(Some(External::new(Handle::of_port(port)))),
        Err(ParentPortError::NotAWorker { .. } | ParentPortError::AlreadyTaken) => Ok(None),
        Err(error) => Err(fail_with_code(error)),
    }
}

/// Packs a port into one descriptor, for a child: its number, which the caller closes.
#[napi]
pub fn into_descriptor(handle: &External<Handle>) -> Result<i32> {
    let port = handle.port()?.take()?;
    match port.into_fd() {
        Ok(descriptor) => Ok(descriptor.into_raw_fd()),
        Err(error) => Err(fail_with_code(error)),
    }
}

/// A listener whose clients arrive as events.
pub struct ListenerCell {
    listener: RefCell<Option<Listener>>,
    watch: RefCell<Option<Watch>>,
    /// Whether the program takes clients. The others wait in `connect`.
    is_accepting: Cell<bool>,
    /// How often accepting has failed in a row.
    failures: Cell<u32>,
}

/// Clients of one turn.
const SHARE: u32 = 16;

impl Source for ListenerCell {
    fn turn(&self, calls: &Calls<'_>) -> Turn {
        for _ in 0..SHARE {
            if !self.is_accepting.get() {
                return Turn::Stop;
            }
            let accepted = match &*self.listener.borrow() {
                Some(listener) => listener.try_accept(),
                None => return Turn::Stop,
            };
            let stays = match accepted {
                Ok(None) => return Turn::Wait,
                Ok(Some(port)) => {
                    self.failures.set(0);
                    calls.deliver(|scope| Some(client(scope, port)))
                }
                // The descriptor is quiet for a moment after such an error.
                Err(ListenError::Io(_)) => return Turn::Wait,
                Err(error) => {
                    self.failures.set(self.failures.get() + 1);
                    calls.deliver(|scope| {
                        Some(vec![scope.number(REFUSED), scope.text(&error.to_string())])
                    })
                }
            };
            if !stays {
                return Turn::Stop;
            }
        }
        Turn::More
    }
}

// What an event of a listener is; `lib/names.js` has the same numbers.
const CLIENT: u32 = 0;
const REFUSED: u32 = 1;

fn client<'s>(scope: &Scope<'s>, port: MessagePort) -> Vec<Value<'s>> {
    let credentials = port.peer_credentials();
    let handle = scope.handle(External::new(Handle::of_port(port)));
    let Some(peer) = credentials else { return vec![scope.number(CLIENT), handle] };
    let list = [peer.pid, peer.uid, peer.gid].map(|number| scope.number(number));
    vec![scope.number(CLIENT), handle, scope.array(&list)]
}

/// Listens under a name; clients arrive as events of `target` while it accepts.
#[napi]
pub fn listen(
    of: &External<Loop>,
    name: String,
    limit: f64,
    target: Object<'_>,
) -> Result<External<Rc<ListenerCell>>> {
    let mut builder = MessageChannel::builder();
    if limit > 0.0 {
        builder = builder.limit(limit as usize);
    }
    let listener = Listener::bind_with(&name, builder).map_err(fail_with_code)?;
    let cell = Rc::new(ListenerCell {
        listener: RefCell::default(),
        watch: RefCell::default(),
        is_accepting: Cell::new(false),
        failures: Cell::new(0),
    });
    let source: Weak<dyn Source> = Rc::downgrade(&(cell.clone() as Rc<dyn Source>));
    let context = Context::new(of, &target);
    let watch = Watch::new(of, listener.as_fd(), source, &target, context)?;
    cell.listener.replace(Some(listener));
    cell.watch.replace(Some(watch));
    Ok(External::new(cell))
}

/// Whether a listener accepts clients.
#[napi]
pub fn set_accepting(handle: &External<Rc<ListenerCell>>, is_accepting: bool) {
    handle.is_accepting.set(is_accepting);
    if let Some(watch) = &*handle.watch.borrow() {
        watch.kick();
    }
}

/// Gives up the name.
#[napi]
pub fn close_listener(handle: &External<Rc<ListenerCell>>) {
    handle.watch.borrow_mut().take();
    handle.listener.borrow_mut().take();
}

/// Whether a listener keeps the process alive.
#[napi]
pub fn set_listener_ref(handle: &External<Rc<ListenerCell>>, is_referenced: bool) {
    if let Some(watch) = &*handle.watch.borrow() {
        watch.set_ref(is_referenced);
    }
}

/// A connection that is being made, in a thread of libuv's pool: the call waits for the listener.
pub struct Connecting {
    name: String,
    timeout: Option<Duration>,
}

impl Task for Connecting {
    type Output = MessagePort;
    type JsValue = ExternalRef<Handle>;

    fn compute(&mut self) -> Result<MessagePort> {
        let mut connect = Connect::new();
        if let Some(timeout) = self.timeout {
            connect = connect.timeout(timeout);
        }
        connect.to(&self.name).map_err(fail_with_code)
    }

    fn resolve(&mut self, env: Env, port: MessagePort) -> Result<ExternalRef<Handle>> {
        ExternalRef::new(&env, Handle::of_port(port))
    }
}

/// Connects to the listener of a name; a promise of the handle. `timeout` is in milliseconds.
#[napi]
pub fn connect(name: String, timeout: Option<f64>) -> Result<AsyncTask<Connecting>> {
    let timeout = match timeout {
        None => None,
        Some(milliseconds) => Some(
            Duration::try_from_secs_f64(milliseconds / 1000.0)
                .map_err(|_| Error::from_reason(BAD_TIMEOUT))?,
        ),
    };
    Ok(AsyncTask::new(Connecting { name, timeout }))
}

const BAD_TIMEOUT: &str = "the timeout is no time: expected milliseconds of at least 0";
