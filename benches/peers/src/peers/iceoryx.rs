//! iceoryx2: publish-subscribe of byte slices, loaned and written in place; asleep with an event
//! service beside it, which is how its documentation has a subscriber woken.
//!
//! Names and files stay below the private directory, and no process looks for dead nodes.

use std::any::Any;
use std::cell::OnceCell;
use std::rc::Rc;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct Iceoryx;

pub struct Out {
    publisher: Publisher<ipc::Service, [u8], ()>,
    notifier: Option<Notifier<ipc::Service>>,
    /// Services live as long as their node.
    _node: Rc<Node<ipc::Service>>,
}

impl Sending for Out {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let sample = self.publisher.loan_slice_uninit(message.len()).expect("a sample");
        let reached = sample.write_from_slice(message).send().expect("a subscriber");
        debug_assert_eq!(reached, 1);
        if let Some(notifier) = &self.notifier {
            notifier.notify().expect("a listener");
        }
    }
}

impl Out {
    /// Sends a sample whose bytes were written when it was last used.
    pub fn send_as_it_is(&self, bytes: usize) {
        let sample = self.publisher.loan_slice_uninit(bytes).expect("a sample");
        // SAFETY: any byte is a byte; the segment was zeroed by the kernel and written by us.
        let sample = unsafe { sample.assume_init() };
        sample.send().expect("a subscriber");
    }

    /// Sends a sample of the same byte everywhere.
    pub fn send_filled(&self, bytes: usize, byte: u8) {
        let mut sample = self.publisher.loan_slice_uninit(bytes).expect("a sample");
        for place in sample.payload_mut() {
            place.write(byte);
        }
        // SAFETY: every byte has just been written.
        unsafe { sample.assume_init() }.send().expect("a subscriber");
    }
}

pub struct In {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    listener: Option<Listener<ipc::Service>>,
}

impl Receiving for In {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Some(sample) = self.subscriber.receive().expect("a publisher") else { return 0 };
        take(sample.payload());
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        while self.poll(&mut take) == 0 {
            let listener = self.listener.as_ref().expect("made for sleeping");
            listener.blocking_wait(|_| {}).expect("a notifier");
        }
    }
}

/// A node whose files all lie in the plan's directory.
pub fn node(plan: &Plan) -> Node<ipc::Service> {
    set_log_level(LogLevel::Error);
    let (directory, _) = plan.name.rsplit_once('/').expect("a path");
    let mut config = Config::default();
    let root = iceoryx2::prelude::Path::new(directory.as_bytes()).expect("a short path");
    config.global.set_root_path(&root);
    config.global.prefix = FileName::new(prefix(directory).as_bytes()).expect("a file name");
    config.global.node.cleanup_dead_nodes_on_creation = false;
    config.global.node.cleanup_dead_nodes_on_destruction = false;
    config.global.service.cleanup_dead_nodes_on_open = false;
    // No handlers of signals: a child is ended by one.
    let builder = NodeBuilder::new().config(&config);
    builder.signal_handling_mode(SignalHandlingMode::Disabled).create().expect("a node")
}

/// What the names of shared memory begin with that belongs to the private directory.
pub fn prefix(directory: &str) -> String {
    let name = directory.rsplit('/').next().unwrap_or(directory);
    format!("{name}_")
}

impl Iceoryx {
    /// One side in a process of its own, with the names and the largest messages of its services.
    pub fn ends(plan: &Plan, out: (&str, usize), back: (&str, usize)) -> (Out, In) {
        Self::ends_of(&Rc::new(node(plan)), plan, out, back)
    }

    fn ends_of(
        node: &Rc<Node<ipc::Service>>,
        plan: &Plan,
        (out, bytes): (&str, usize),
        (back, _): (&str, usize),
    ) -> (Out, In) {
        let service = |end: &str| {
            let name = format!("{}/{end}", plan.label());
            let builder = node.service_builder(&name.as_str().try_into().expect("a name"));
            let builder = builder.publish_subscribe::<[u8]>().max_nodes(4);
            let builder = builder.max_publishers(1).max_subscribers(1).history_size(0);
            let builder = builder.subscriber_max_buffer_size(plan.slots().min(MOST_SAMPLES));
            builder.enable_safe_overflow(false).open_or_create().expect("a service")
        };
        let (service_out, service_back) = (service(out), service(back));
        let publisher = service_out.publisher_builder().initial_max_slice_len(bytes);
        let publisher = publisher.max_loaned_samples(LOANS);
        let strategy = BackpressureStrategy::RetryUntilDelivered;
        let publisher = publisher.backpressure_strategy(strategy).create().expect("a publisher");
        let subscriber = service_back.subscriber_builder().create().expect("a subscriber");
        let event = |end: &str| {
            let name = format!("{}/{end}/event", plan.label());
            let builder = node.service_builder(&name.as_str().try_into().expect("a name"));
            builder.event().open_or_create().expect("an event service")
        };
        let asleep = plan.is_asleep.then_some(());
        let notifier = asleep.map(|()| event(out).notifier_builder().create().expect("a notifier"));
        let listener =
            asleep.map(|()| event(back).listener_builder().create().expect("a listener"));
        (Out { publisher, notifier, _node: Rc::clone(node) }, In { subscriber, listener })
    }
}

impl Transport for Iceoryx {
    const NAME: &'static str = "iceoryx2";
    type Offer = (Out, In);
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        (Self::ends(plan, ("out", plan.bytes), ("back", plan.bytes)), Invitation::default())
    }

    fn accept(_plan: &Plan, offer: Self::Offer) -> (Self::Out, Self::In) {
        offer
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        Self::ends(plan, ("back", plan.bytes), ("out", plan.bytes))
    }

    /// In the one node that a process has.
    fn make(plan: &Plan) -> Box<dyn Any> {
        thread_local! {
            static NODE: OnceCell<Rc<Node<ipc::Service>>> = const { OnceCell::new() };
        }
        let node = NODE.with(|kept| Rc::clone(kept.get_or_init(|| Rc::new(node(plan)))));
        let (out, back) = (("out", plan.bytes), ("back", plan.bytes));
        Box::new((Self::ends_of(&node, plan, out, back), Self::ends_of(&node, plan, back, out)))
    }
}

/// Samples that one side may write at the same time.
pub const LOANS: usize = 2;
/// Where messages are small, a longer queue of them is not faster.
const MOST_SAMPLES: usize = 1 << 12;
