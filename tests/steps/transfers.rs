//! A port, a buffer and a descriptor move: the port is then at one owner, or closed at both ends.

use crate::common::census::Census;
use crate::common::{DEADLINE, receive, receive_end, receive_text, wait_until};
use crate::subject::{check_error, operate};
use crate::walk::{Fate, Operation, Partner, plain};
use messageport::{
    Buffer, CloseReason, MessageChannel, MessageError, MessagePort, RecvError, Transferable,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::OwnedFd;

/// Bytes of the buffer: too many for the record of the message.
const BYTES: usize = 5000;
const NUMBER: u32 = 7;

pub static SENDING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let given = receive(&subject.port).take_port().expect("a port");
        given.post_text(KEPT).expect("room");
        operate(list(given), |list| send(&subject.port, list));
        subject.port.post_text(DONE).expect("room");
        before.wait_for("the sender keeps nothing of what it sent");
    },
    partner: |port, _| Away::partner(port, |port2| vec![port2.into()]),
};

pub static RECEIVING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let came = operate((), |()| take(&subject.port).map_err(|error| ((), error)));
        let is_all = came.len() == 3;
        match is_all {
            true => port_of(came).post_text(KEPT).expect("room"),
            false => drop(came),
        }
        subject.port.post_text(if is_all { DONE } else { LOST }).expect("room");
        before.wait_for("the receiver keeps nothing of what it dropped");
    },
    partner: |port, _| Away::partner(port, list),
};

/// The one in the middle of three processes.
pub static RELAYING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let onward = receive(&subject.port).take_port().expect("a port");
        let is_all = operate(None, |held| {
            let list = match held {
                Some(list) => list,
                None => take(&subject.port).map_err(|error| (None, error))?,
            };
            if list.len() < 3 {
                return Ok(false);
            }
            send(&onward, list).map_err(|(list, error)| (Some(list), error))?;
            Ok(true)
        });
        subject.port.post_text(if is_all { DONE } else { LOST }).expect("room");
        drop(onward);
        before.wait_for("the process in the middle keeps nothing");
    },
    partner: |carrier, _| {
        let MessageChannel { port1: onward, port2 } = MessageChannel::new().expect("a channel");
        carrier.post_text_with("onward", [port2.into()]).expect("room");
        let away = Away::send(carrier, list);
        Box::new(Away { onward: Some(onward), ..away })
    },
};

/// What the subject posts on the port while it has it, and on its own port at last.
const KEPT: &str = "kept for a while";
const DONE: &str = "done";
const LOST: &str = "lost";

fn list(port: MessagePort) -> Vec<Transferable> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let token = EventFd::from_value_and_flags(NUMBER, flags).expect("a descriptor");
    let buffer = Buffer::from_slice(&[NUMBER as u8; BYTES]).expect("a buffer");
    vec![OwnedFd::from(token).into(), port.into(), buffer.into()]
}

/// Checks that it is such a list, and returns the port.
fn port_of(list: Vec<Transferable>) -> MessagePort {
    let list = <[Transferable; 3]>::try_from(list).expect("three of them");
    let [Transferable::Descriptor(token), Transferable::Port(port), Transferable::Buffer(buffer)] =
        list
    else {
        panic!("not in their order: {list:?}");
    };
    let mut bytes = [0; 8];
    assert_eq!(nix::unistd::read(&token, &mut bytes), Ok(8));
    assert_eq!(u64::from_ne_bytes(bytes), u64::from(NUMBER));
    assert_eq!(*buffer, [NUMBER as u8; BYTES]);
    port
}

fn send(
    carrier: &MessagePort,
    list: Vec<Transferable>,
) -> Result<(), (Vec<Transferable>, io::Error)> {
    carrier.post_text_with("back", list).map_err(|error| {
        let (reason, list) = error.into_parts();
        assert_eq!(list.len(), 3, "all of it comes back");
        (list, reason.into())
    })
}

/// Receives the three; fewer if a refusal has cost some of them.
fn take(carrier: &MessagePort) -> io::Result<Vec<Transferable>> {
    fn kept<T: Into<Transferable>>(taken: Result<T, MessageError>) -> Option<Transferable> {
        taken.inspect_err(|error| check_error(error)).ok().map(Into::into)
    }
    let event = carrier.recv()?;
    assert_eq!(event.text().expect("a text"), "yours");
    let (descriptor, port) = (kept(event.take_descriptor()), kept(event.take_port()));
    Ok([descriptor, port, kept(event.take_buffer())].into_iter().flatten().collect())
}

/// One end of a pair whose other end is away.
#[derive(Debug)]
struct Away {
    carrier: MessagePort,
    /// Where the other end comes back, if not through the carrier.
    onward: Option<MessagePort>,
    port1: MessagePort,
    came_back: Option<Vec<Transferable>>,
    said: Option<String>,
}

impl Away {
    fn partner(
        carrier: MessagePort,
        list: fn(MessagePort) -> Vec<Transferable>,
    ) -> Box<dyn Partner> {
        Box::new(Away::send(carrier, list))
    }

    fn send(carrier: MessagePort, list: fn(MessagePort) -> Vec<Transferable>) -> Away {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        carrier.post_text_with("yours", list(port2)).expect("room");
        Away { carrier, onward: None, port1, came_back: None, said: None }
    }

    /// Receives what there is, from one of the ports, until its end.
    fn receive(&mut self, from_onward: bool) -> CloseReason {
        loop {
            let port = if from_onward { self.onward.as_ref() } else { Some(&self.carrier) };
            match port.expect("it is there").recv_timeout(DEADLINE) {
                Err(RecvError::Closed { reason }) => return reason,
                Err(error) => panic!("{error}\n{self:#?}"),
                Ok(event) if event.text().is_ok_and(|text| text == "back") => {
                    assert!(self.came_back.is_none(), "once");
                    let descriptor = event.take_descriptor().expect("a descriptor").into();
                    let port = event.take_port().expect("a port").into();
                    let buffer = event.take_buffer().expect("a buffer").into();
                    self.came_back = Some(vec![descriptor, port, buffer]);
                }
                Ok(event) => self.said = Some(event.text().expect("a text").to_owned()),
            }
        }
    }

    /// The port has come back: it works, and has lost nothing.
    fn check_entangled(&self, port2: MessagePort) {
        assert!(!self.port1.is_closed(), "it has an owner");
        port2.post_text("here").expect("room");
        self.port1.post_text("there").expect("room");
        assert_eq!(receive_text(&port2), "there");
        let mut text = receive_text(&self.port1);
        if text == KEPT {
            text = receive_text(&self.port1);
        }
        assert_eq!(text, "here");
        drop(port2);
        assert_eq!(receive_end(&self.port1), CloseReason::PeerDropped);
    }

    /// The port has gone with its owner.
    fn check_closed(&self, is_kept: bool) {
        let mut texts = Vec::new();
        let reason = loop {
            match self.port1.recv_timeout(DEADLINE) {
                Ok(event) => texts.push(event.text().expect("a text").to_owned()),
                Err(RecvError::Closed { reason }) => break reason,
                Err(error) => panic!("{error}\n{self:#?}"),
            }
        };
        assert!(matches!(reason, CloseReason::PeerDied | CloseReason::PeerDropped), "{reason:?}");
        assert!(texts.len() <= 1 && texts.iter().all(|text| text == KEPT), "{texts:?}");
        assert!(!is_kept || texts.len() == 1, "it was posted");
        wait_until("posts fail", || self.port1.post_text("too late").is_err());
    }
}

impl Partner for Away {
    fn carry_on(&mut self) {
        assert!(!self.port1.is_closed(), "its owner has only stopped");
        assert!(self.carrier.post_text("not received").is_ok());
    }

    fn end(mut self: Box<Self>, fate: Fate) {
        let reason = self.receive(false);
        if self.onward.is_some() {
            self.receive(true);
        }
        let is_done = self.said.as_deref() == Some(DONE);
        if fate == Fate::Finished {
            assert_eq!(reason, CloseReason::PeerDropped);
            assert!(self.said.is_some(), "it comes to its end");
        }
        match self.came_back.take() {
            Some(list) => self.check_entangled(port_of(list)),
            None => self.check_closed(is_done),
        }
    }
}
