//! A JavaScript engine (QuickJS) whose scripts have message ports, in two processes.
//!
//! ```text
//! cargo run --release --manifest-path examples/script_engine/Cargo.toml
//! ```
//!
//! Scripts make channels, post, set `onmessage`, transfer ports and close them. The engine's own
//! loop takes one event at a time, so a port that a handler transfers keeps all later messages.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::AsFd;
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc;

use messageport::{Event, ListenerOptions, MessageChannel, MessagePort, RecvError, Transferable};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rquickjs::{CatchResultExt, Context, Ctx, Exception, Function, Object, Runtime, Value};

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).is_some() {
        return run(include_str!("../scripts/worker.js"), messageport::parent_port()?);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker");
    let (port, mut process) = messageport::Worker::spawn(command)?.split();
    run(include_str!("../scripts/main.js"), port)?;
    assert!(process.wait()?.success(), "the worker has failed");
    Ok(())
}

/// Runs a script until it waits for messages of no port.
fn run(script: &str, peer: MessagePort) -> Result<(), Box<dyn Error>> {
    let host =
        Rc::new(Host { ports: RefCell::default(), next: Cell::new(0), arrived: mpsc::channel() });
    let peer = host.adopt(peer);
    Context::full(&Runtime::new()?)?.with(|ctx| {
        host.define(&ctx)?;
        let prelude = include_str!("../scripts/prelude.js");
        for text in [prelude, &format!("const peer = new MessagePort({peer});"), script] {
            ctx.eval::<(), _>(text).catch(&ctx).map_err(|error| error.to_string())?;
        }
        while ctx.execute_pending_job() {}
        while host.ports.borrow().values().any(MessagePort::is_started) {
            if !host.turn(&ctx)? {
                let ports = host.ports.borrow();
                let waits = ports.values().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN));
                poll(&mut waits.collect::<Vec<_>>(), PollTimeout::NONE)?;
            }
        }
        Ok(())
    })
}

/// From a listener to the script: the port, the type of the event, and what came with it.
type Arrival = (u32, &'static str, String, Vec<MessagePort>);

/// What the script can reach. It names ports by numbers.
struct Host {
    ports: RefCell<BTreeMap<u32, MessagePort>>,
    next: Cell<u32>,
    arrived: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
}

impl Host {
    /// Takes a port in. It delivers its messages once the script has set a handler.
    fn adopt(&self, port: MessagePort) -> u32 {
        let handle = self.next.replace(self.next.get() + 1);
        // Before the first `dispatch`: the descriptor tells of each event from now on.
        let _ = port.as_fd();
        let (messages, ends) = (self.arrived.0.clone(), self.arrived.0.clone());
        let on_message = move |event: &Event<'_>| -> Result<(), Box<dyn Error + Send + Sync>> {
            let message = event.message().ok_or("no message")?;
            let arrival = (handle, "message", message.text()?.to_owned(), message.take_ports()?);
            messages.send(arrival).map_err(|_| "the engine has ended".into())
        };
        port.add_event_listener("message", ListenerOptions::new(), on_message);
        port.on_close(move |_| _ = ends.send((handle, "close", String::new(), Vec::new())));
        self.ports.borrow_mut().insert(handle, port);
        handle
    }

    /// Posts a text with ports. After an error each of them is in its place again.
    fn post(&self, handle: u32, text: &str, handles: &[u32]) -> Result<(), String> {
        let mut ports = self.ports.borrow_mut();
        let moving = handles.iter().filter_map(|it| ports.remove_entry(it));
        let (names, list): (Vec<_>, Vec<_>) =
            moving.map(|(handle, port)| (handle, Transferable::from(port))).unzip();
        let (error, list) = match ports.get(&handle) {
            Some(port) if names.len() == handles.len() => match port.post_text_with(text, list) {
                Ok(()) => return Ok(()),
                Err(error) => (error.to_string(), error.into_list()),
            },
            _ => ("a port has moved or is closed".to_owned(), list),
        };
        for (handle, item) in names.into_iter().zip(list) {
            let Transferable::Port(port) = item else { continue };
            ports.insert(handle, port);
        }
        Err(error)
    }

    /// Gives the script its functions.
    fn define(self: &Rc<Host>, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        let [host1, host2, host3, host4] = [(); 4].map(|()| self.clone());
        let channel = move |ctx: Ctx<'_>| match MessageChannel::new() {
            Ok(channel) => Ok(vec![host1.adopt(channel.port1), host1.adopt(channel.port2)]),
            Err(error) => Err(Exception::throw_message(&ctx, &error.to_string())),
        };
        let post = move |ctx: Ctx<'_>, handle: u32, text: String, handles: Vec<u32>| {
            let posted = host2.post(handle, &text, &handles);
            posted.map_err(|error| Exception::throw_message(&ctx, &error))
        };
        let start = move |port: u32| _ = host3.ports.borrow().get(&port).map(MessagePort::start);
        let close = move |port: u32| _ = host4.ports.borrow_mut().remove(&port);
        let functions = Object::new(ctx.clone())?;
        functions.set("channel", Function::new(ctx.clone(), channel)?)?;
        functions.set("post", Function::new(ctx.clone(), post)?)?;
        functions.set("start", Function::new(ctx.clone(), start)?)?;
        functions.set("close", Function::new(ctx.clone(), close)?)?;
        functions.set("print", Function::new(ctx.clone(), |text: String| println!("{text}"))?)?;
        ctx.globals().set("host", functions)
    }

    /// Delivers at most one event of each port to the script. Returns whether there was one.
    fn turn(&self, ctx: &Ctx<'_>) -> Result<bool, Box<dyn Error>> {
        let mut had_something = false;
        let handles: Vec<_> = self.ports.borrow().keys().copied().collect();
        for handle in handles {
            let delivered = self.ports.borrow().get(&handle).map(|port| port.dispatch(1));
            match delivered {
                Some(Err(RecvError::Closed { .. })) => _ = self.ports.borrow_mut().remove(&handle),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => {}
            }
            while let Ok((handle, kind, text, ports)) = self.arrived.1.try_recv() {
                had_something = true;
                let ports: Vec<_> = ports.into_iter().map(|port| self.adopt(port)).collect();
                let deliver: Function<'_> = ctx.globals().get("deliver")?;
                let called = deliver.call::<_, Value<'_>>((handle, kind, text, ports));
                called.catch(ctx).map_err(|error| error.to_string())?;
                while ctx.execute_pending_job() {}
            }
        }
        Ok(had_something)
    }
}
