//! Aeron IPC: exclusive publications, written in place with `try_claim`, polled.
//!
//! The C media driver runs inside the offering process, in one thread (`SHARED`). It moves no data
//! of an IPC channel, but it advances the publisher's limit, so it must run: it spins on a third
//! core if there is one, and backs off (its default) where there are but two, as it would take half
//! of one from the two sides otherwise. The table says so at each row that it did.
//!
//! Terms are of 16 MiB, so that the driver has to advance the limit once in 8 MiB only. The default
//! is 64 MiB.

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::CString;
use std::hint::spin_loop;
use std::rc::Rc;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
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
    client: Client,
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

/// What a callback that is no closure gets: where messages go, and their count.
type Taking<'a> = (&'a mut dyn FnMut(&[u8]), &'a mut u64);

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
                let mut context: Taking<'_> = (&mut take, &mut taken);
                let each = |context: &mut Taking<'_>, message: &[u8], _| {
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
        unreachable!("Aeron wakes no receiver");
    }
}

impl Aeron {
    /// A client of the driver in this directory.
    fn client(driver: Option<EmbeddedDriver>, directory: &str) -> Rc<Keep> {
        let context = AeronContext::new().expect("a context");
        context.set_dir(&text(directory)).expect("a directory");
        context.set_pre_touch_mapped_memory(true).expect("pages");
        let client = Client::new(&context).expect("a client");
        client.start().expect("a client that runs");
        Rc::new(Keep { client, _driver: driver })
    }

    fn ends(plan: &Plan, keep: &Rc<Keep>, term: usize, (out, back): (i32, i32)) -> (Out, In) {
        // A message is at most an eighth of a term.
        let term = term.max(8 * plan.bytes).next_power_of_two();
        let channel = text(&format!("aeron:ipc?term-length={term}|mtu={MTU}"));
        let publication = keep.client.async_add_exclusive_publication(&channel, out);
        let publication = publication.expect("a publication").poll_blocking(PATIENCE);
        let subscription =
            keep.client.async_add_subscription(&channel, back, Handlers::NONE, Handlers::NONE);
        let subscription = subscription.expect("a subscription").poll_blocking(PATIENCE);
        let publication = publication.expect("a publication in time");
        let subscription = subscription.expect("a subscription in time");
        let is_long = plan.bytes > MTU - HEADER;
        let assembler =
            is_long.then(|| AeronFragmentClosureAssembler::new().expect("an assembler"));
        let out = Out { publication, most: MTU - HEADER, _keep: Rc::clone(keep) };
        (out, In { subscription, assembler, _keep: Rc::clone(keep) })
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero in it")
}

/// Every core of the machine.
fn cores() -> Vec<usize> {
    let entries = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("cpu")?.parse().ok();
    entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect()
}

/// Starts the driver beside the two sides, not on this one's core alone, which its thread would
/// inherit.
fn launch(directory: &str) -> EmbeddedDriver {
    let this = Pid::from_raw(0);
    let ours = sched_getaffinity(this).expect("the cores of this thread");
    let mut elsewhere = CpuSet::new();
    let all = cores();
    for &core in &all {
        elsewhere.set(core).expect("a core of this machine");
    }
    // The scheduler finds the third core, where there is one.
    sched_setaffinity(this, &elsewhere).expect("cores of this machine");
    let driver = EmbeddedDriver::launch_with(|context| {
        context.set_shared_idle_strategy(if all.len() > 2 { c"noop" } else { c"backoff" })?;
        context.set_term_buffer_sparse_file(false)?;
        context.set_dir(&text(directory))?;
        Ok(())
    });
    sched_setaffinity(this, &ours).expect("the core from before");
    driver.expect("a media driver")
}

impl Transport for Aeron {
    const NAME: &'static str = "aeron";
    type Offer = (Out, In);
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let driver = launch(&format!("{}.driver", plan.name));
        let directory = driver.dir().to_owned();
        let offer = Self::ends(plan, &Self::client(Some(driver), &directory), TERM, (OUT, BACK));
        (offer, Invitation { word: directory, ..Invitation::default() })
    }

    fn accept(_plan: &Plan, (out, back): Self::Offer) -> (Self::Out, Self::In) {
        while !out.publication.is_connected() {
            spin_loop();
        }
        (out, back)
    }

    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let (out, back) =
            Self::ends(plan, &Self::client(None, &invitation.word), TERM, (BACK, OUT));
        while !out.publication.is_connected() {
            spin_loop();
        }
        (out, back)
    }

    /// With the one client that a process has, and a driver that runs already. Terms hold what the
    /// row asks for and no more.
    fn make(plan: &Plan) -> Box<dyn Any> {
        thread_local! {
            static KEPT: OnceCell<Rc<Keep>> = const { OnceCell::new() };
            static STREAM: Cell<i32> = const { Cell::new(OUT) };
        }
        let keep = KEPT.with(|kept| {
            let new = || {
                let driver = launch(&format!("{}.driver", plan.name));
                let directory = driver.dir().to_owned();
                Self::client(Some(driver), &directory)
            };
            Rc::clone(kept.get_or_init(new))
        });
        let stream = STREAM.replace(STREAM.get() + 2);
        // The window is half of a term.
        let ends = |streams| Self::ends(plan, &keep, 2 * plan.capacity, streams);
        let both = (ends((stream, stream + 1)), ends((stream + 1, stream)));
        while !both.0.0.publication.is_connected() || !both.1.0.publication.is_connected() {
            spin_loop();
        }
        Box::new(both)
    }
}

/// Read by the C driver when it starts: one thread for all its agents.
pub const THREADING: (&str, &str) = ("AERON_THREADING_MODE", "SHARED");

pub const ABOUT: &str = "exclusive publications on `aeron:ipc`, written in place with \
    `try_claim`, terms of 16 MiB, packets of 64 KiB, pages touched before; the C driver in one \
    thread of its own";

/// What the table says below a row if the driver had no core of its own.
pub fn remark() -> Option<&'static str> {
    (cores().len() <= 2).then_some(
        "its driver shares the two cores of this row, where it backs off; with a core of its own \
         it spins",
    )
}

const OUT: i32 = 1001;
const BACK: i32 = 1002;
/// Fragments of one look, as in Aeron's samples.
const FRAGMENTS: usize = 10;
/// The largest packet that Aeron knows.
const MTU: usize = 65_504;
/// In front of each message.
const HEADER: usize = 32;
const TERM: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
