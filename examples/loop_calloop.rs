//! Ports with listeners in a loop of calloop: each port is a source of it.
//!
//! ```text
//! cargo run --example loop_calloop
//! ```

use std::error::Error;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use calloop::generic::Generic;
use calloop::{EventLoop, Interest, Mode, PostAction};
use messageport::{MessageChannel, MessagePort, RecvError};

const CLIENTS: u32 = 3;
/// Events of one port before the others have their turn.
const SHARE: u32 = 64;

/// What the callbacks of the loop share.
#[derive(Default)]
struct Server {
    open: u32,
    /// Ports that may have more events, of which their descriptors may be silent.
    busy: Vec<Rc<MessagePort>>,
}

impl Server {
    /// Delivers a port's share. Returns whether more events can come later.
    fn serve(&mut self, port: &Rc<MessagePort>) -> bool {
        match port.dispatch(SHARE) {
            Ok(SHARE) => self.busy.push(port.clone()),
            Ok(_) => {}
            Err(RecvError::Closed { .. }) => return false,
            // Usually it lacks descriptors, and is served again in the next turn.
            Err(error) => {
                eprintln!("{error}");
                self.busy.push(port.clone());
            }
        }
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut event_loop: EventLoop<'_, Server> = EventLoop::try_new()?;
    let mut server = Server::default();
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let MessageChannel { port1, port2: port } = MessageChannel::new()?;
        port.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
            let text = event.message().ok_or("a message")?.text()?;
            Ok(event.port().post_text(&text.to_uppercase())?)
        });
        port.on_close(move |_| println!("client {number} has left"));
        // From now on the descriptor becomes readable with the next event; the first turn looks for
        // those that came before.
        let _ = port.as_fd();
        let port = Rc::new(port);
        server.busy.push(port.clone());
        server.open += 1;
        let source = Generic::new(port, Interest::READ, Mode::Level);
        event_loop.handle().insert_source(source, |_, port, server: &mut Server| {
            if server.serve(port) {
                return Ok(PostAction::Continue);
            }
            server.open -= 1;
            Ok(PostAction::Remove)
        })?;
        clients.push(thread::spawn(move || client(number, &port1)));
    }
    while server.open > 0 {
        for port in std::mem::take(&mut server.busy) {
            // If it has ended, its descriptor says so as well, and the callback removes it.
            server.serve(&port);
        }
        let timeout = if server.busy.is_empty() { None } else { Some(Duration::ZERO) };
        event_loop.dispatch(timeout, &mut server)?;
    }
    for client in clients {
        client.join().map_err(|_| "a client has panicked")?;
    }
    Ok(())
}

fn client(number: u32, port: &MessagePort) {
    port.post_text(&format!("hello from client {number}")).expect("there is room");
    println!("{}", port.recv().expect("an answer").text().expect("text"));
}
