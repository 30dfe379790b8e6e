//! Aeron IPC: exclusive publications, written in place with `try_claim`, polled.
//!
//! The C media driver runs inside the offering process, in one thread (`SHARED`). It moves no data
//! of an IPC channel, but it advances the publisher's limit, so it must run: it spins on a third
//! core if there is one, and backs off (its default) where there are but two, as it would take half
//! of one from the two sides otherwise.

use std::ffi::CString;
use std::hint::spin_loop;
use std::rc::Rc;
use std::time::Duration;

use rusteron_client::{
    Aeron as Client, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler,
    AeronSubscription, Handlers,
};
use rusteron_media_driver::testing::EmbeddedDriver;

use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct Aeron;

pub struct Out {
    publication: AeronExclusivePublication,
    /// Longest message that goes out in one piece.
    most: usize,
    _keep: Rc<Keep>,
}

/// What both halves need, in the order in which it must end.
pub struct Keep {
    _client: Client,
    _driver: Option<EmbeddedDriver>,
}

impl Sending for Out {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        if message.len() > self.most {
            return self.offer(message);
        }
        loop {
            match self.publication.try_claim_owned(message.len()) {
                Ok(mut claim) => {
                    claim.data().copy_from_slice(message);
                    claim.commit().expect("a claim that is open");
                    return;
                }
                Err(error) if error.is_retryable() => spin_loop(),
                Err(error) => panic!("claiming: {error}"),
            }
        }
    }
}

impl Out {
    /// Sends in pieces what is longer than a packet.
    fn offer(&mut self, message: &[u8]) {
        loop {
            match self.publication.offer(message) {
                Ok(_) => return,
                Err(error) if error.is_retryable() => spin_loop(),
                Err(error) => panic!("offering: {error}"),
            }
        }
    }
}

pub struct In {
    subscription: AeronSubscription,
    /// Puts pieces together; only for messages that are longer than a packet.
    assembler: Option<AeronFragmentClosureAssembler>,
    _keep: Rc<Keep>,
}

impl Receiving for In {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        match &mut self.assembler {
            None => {
                let each = |message: &[u8], _| {
                    take(message);
                    taken += 1;
                };
                self.subscription.poll_fn(each, FRAGMENTS).expect("a subscription");
            }
            Some(assembler) => {
                let mut context = (&mut take as &mut dyn FnMut(&[u8]), &mut taken);
                let each = |context: &mut (&mut dyn FnMut(&[u8]), &mut u64), message: &[u8], _| {
                    (context.0)(message);
                    *context.1 += 1;
                };
                let polled = assembler.poll(&self.subscription, &mut context, each, FRAGMENTS);
                polled.expect("a subscription");
            }
        }
        taken
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("Aeron wakes nobody");
    }
}

impl Aeron {
    fn ends(
        plan: &Plan,
        driver: Option<EmbeddedDriver>,
        directory: &str,
        (out, back): (i32, i32),
    ) -> (Out, In) {
        let text = |text: &str| CString::new(text).expect("no zero in it");
        let context = AeronContext::new().expect("a context");
        context.set_dir(&text(directory)).expect("a directory");
        context.set_pre_touch_mapped_memory(true).expect("pages");
        let client = Client::new(&context).expect("a client");
        client.start().expect("a client that runs");
        // The window is half of a term, and a message at most an eighth.
        let term = (2 * plan.capacity).max(8 * plan.bytes).next_power_of_two().max(LEAST_TERM);
        let channel = text(&format!("aeron:ipc?term-length={term}|mtu={MTU}"));
        let publication = client.async_add_exclusive_publication(&channel, out);
        let publication = publication.expect("a publication").poll_blocking(PATIENCE);
        let subscription =
            client.async_add_subscription(&channel, back, Handlers::NONE, Handlers::NONE);
        let subscription = subscription.expect("a subscription").poll_blocking(PATIENCE);
        let publication = publication.expect("a publication in time");
        let subscription = subscription.expect("a subscription in time");
        let is_long = plan.bytes > MTU - HEADER;
        let assembler =
            is_long.then(|| AeronFragmentClosureAssembler::new().expect("an assembler"));
        let keep = Rc::new(Keep { _client: client, _driver: driver });
        let out = Out { publication, most: MTU - HEADER, _keep: Rc::clone(&keep) };
        (out, In { subscription, assembler, _keep: keep })
    }
}

impl Transport for Aeron {
    const NAME: &'static str = "aeron";
    type Offer = (Out, In);
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let driver = EmbeddedDriver::launch_with(|context| {
            context.set_threading_mode(
                rusteron_media_driver::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED,
            )?;
            context.set_term_buffer_sparse_file(false)?;
            context.set_dir(&CString::new(format!("{}.driver", plan.name)).expect("a path"))?;
            Ok(())
        });
        let driver = driver.expect("a media driver");
        let directory = driver.dir().to_owned();
        let offer = Self::ends(plan, Some(driver), &directory, (OUT, BACK));
        (offer, Invitation { word: directory, ..Invitation::default() })
    }

    fn accept(_plan: &Plan, (out, back): Self::Offer) -> (Self::Out, Self::In) {
        while !out.publication.is_connected() {
            spin_loop();
        }
        (out, back)
    }

    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let (out, back) = Self::ends(plan, None, &invitation.word, (BACK, OUT));
        while !out.publication.is_connected() {
            spin_loop();
        }
        (out, back)
    }
}

pub const ABOUT: &str = "exclusive publications on `aeron:ipc`, written in place with \
    `try_claim`, packets of 64 KiB, pages touched before; the C driver in one thread of its own";

const OUT: i32 = 1001;
const BACK: i32 = 1002;
/// Fragments of one look, as in Aeron's samples.
const FRAGMENTS: usize = 10;
/// The largest packet that Aeron knows.
const MTU: usize = 65_504;
/// In front of each message.
const HEADER: usize = 32;
const LEAST_TERM: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
