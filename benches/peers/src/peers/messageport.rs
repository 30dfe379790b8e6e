//! messageport where the crate's own benchmarks have no subject: wake-ups, channels as such.

use std::any::Any;
use std::hint::spin_loop;
use std::rc::Rc;

use messageport::{MessageChannel, MessagePort, PostError};

use crate::harness::ports::{self, trust};
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// Ports as they come, or trusted ones.
pub struct Ports<const TRUSTED: bool>;

/// Either half: a port both sends and receives.
pub struct Half(Rc<MessagePort>);

impl Sending for Half {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        loop {
            match self.0.post_bytes(message) {
                Ok(()) => return,
                Err(PostError::QueueFull { .. }) => spin_loop(),
                Err(error) => panic!("posting to a peer that lives: {error}"),
            }
        }
    }
}

impl Receiving for Half {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Some(event) = self.0.try_recv().expect("a peer that lives") else { return 0 };
        take(event.bytes());
        1
    }

    /// Not in `recv`: between two ends that answer at once that soon stops sleeping.
    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        while self.poll(&mut take) == 0 {
            ports::sleep(&self.0);
        }
    }
}

impl<const TRUSTED: bool> Ports<TRUSTED> {
    fn halves(port: MessagePort) -> (Half, Half) {
        if TRUSTED {
            trust(&port);
        }
        let port = Rc::new(port);
        (Half(Rc::clone(&port)), Half(port))
    }
}

impl<const TRUSTED: bool> Transport for Ports<TRUSTED> {
    const NAME: &'static str = if TRUSTED { "messageport-trusted" } else { "messageport" };
    type Offer = MessagePort;
    type Out = Half;
    type In = Half;

    fn offer(_plan: &Plan) -> (Self::Offer, Invitation) {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let Ok(descriptor) = port2.into_fd() else { panic!("a port that is one descriptor") };
        (port1, Invitation { descriptors: vec![descriptor], ..Invitation::default() })
    }

    fn accept(_plan: &Plan, port: Self::Offer) -> (Self::Out, Self::In) {
        Self::halves(port)
    }

    fn join(_plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let descriptor = invitation.descriptors.pop().expect("a port");
        Self::halves(MessagePort::from_fd(descriptor).expect("a port"))
    }

    fn make(_plan: &Plan) -> Box<dyn Any> {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        Box::new((Self::halves(port1), Self::halves(port2)))
    }
}
