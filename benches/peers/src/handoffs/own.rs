//! Hand-offs by this crate, on trusted ports, acknowledged by a stored word like all others.

use std::hint::spin_loop;
use std::os::fd::AsFd;
use std::time::Duration;

use messageport::{BufferPool, MessageChannel, MessageEvent, MessagePort};

use super::{Told, Way, start};
use crate::harness::child::{Job, Role};
use crate::harness::handoff::{FILL, filled};
use crate::harness::ports::trust;
use crate::harness::workload::Subject;
use crate::subjects::Site;

/// How the payload gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrying {
    /// Buffers of a pool.
    Pooled,
    /// Written in the ring, and read there.
    Loan,
    /// A buffer that is made and filled for each message.
    Fresh,
    /// Copied into the ring.
    Copied,
}

impl Carrying {
    fn name(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Loan => "loan",
            Self::Fresh => "fresh",
            Self::Copied => "copied",
        }
    }

    fn of_role(role: &str) -> Self {
        let all = [Self::Pooled, Self::Loan, Self::Fresh, Self::Copied];
        let is_named = |one: &Self| role.starts_with(&format!("{NAME}-{}:", one.name()));
        all.into_iter().find(is_named).expect("a way of carrying")
    }
}

struct Own {
    port: MessagePort,
    carrying: Carrying,
    bytes: usize,
    pool: Option<BufferPool>,
    content: Vec<u8>,
}

impl Way for Own {
    #[inline]
    fn give(&mut self, number: u64, is_first: bool) {
        let port = &self.port;
        let posted = match self.carrying {
            Carrying::Pooled => {
                let pool = self.pool.as_ref().expect("a pool");
                let mut buffer = pool.take().expect("the other one came back");
                if is_first {
                    buffer.fill(FILL);
                }
                port.post_message_pooled(&number, buffer).map_err(|error| error.to_string())
            }
            Carrying::Loan => {
                let mut loan = port.loan(self.bytes).expect("room: the last one was read");
                if is_first {
                    loan.fill(FILL);
                }
                loan.post().map_err(|error| error.to_string())
            }
            Carrying::Fresh => {
                let list = [filled(self.bytes).into()];
                port.post_message_with(&number, list).map_err(|error| error.to_string())
            }
            // The largest has one segment to go to, which the other side may not have left yet.
            Carrying::Copied => port
                .post_bytes_timeout(&self.content, Duration::MAX)
                .map_err(|error| error.to_string()),
        };
        posted.expect("the other side lives");
    }
}

/// A payload handed over in this way.
pub fn own(carrying: Carrying, bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new(carrying.name(), bytes, 0, move || {
        let builder = match carrying {
            // A message takes half of a lane at most. Its places in the ring come round, so that
            // later trips hand over what the first ones wrote.
            Carrying::Loan => MessageChannel::builder().capacity(4 * bytes).bounded(),
            _ => MessageChannel::builder().limit(1 << 30),
        };
        let MessageChannel { port1: port, port2 } = builder.build().expect("a channel");
        trust(&port);
        let Ok(theirs) = port2.into_fd() else { panic!("a port that is one descriptor") };
        let role = format!("{NAME}-{}", carrying.name());
        start(&role, (bytes, is_read), &site, &[theirs.as_fd()], || {
            let pool = (carrying == Carrying::Pooled)
                .then(|| BufferPool::new(&port, 2, bytes).expect("a pool"));
            let is_copied = carrying == Carrying::Copied;
            let content = if is_copied { vec![FILL; bytes] } else { Vec::new() };
            Own { port, carrying, bytes, pool, content }
        })
    })
}

fn serve(mut job: Job) {
    let carrying = Carrying::of_role(&job.role);
    let told = Told::of(&mut job);
    let port = MessagePort::from_fd(job.descriptor()).expect("a port");
    trust(&port);
    told.say_ready();
    // An error means that the other side is gone.
    while let Ok(event) = port.try_recv() {
        let Some(event) = event else {
            spin_loop();
            continue;
        };
        let sum = take(&told, carrying, event);
        told.acks.acknowledge(sum);
    }
}

/// Reads a payload where it is to be read, and gives it back.
#[inline]
fn take(told: &Told, carrying: Carrying, event: MessageEvent<'_>) -> u64 {
    match carrying {
        Carrying::Pooled => told.sum(&event.take_pooled().expect("a pooled buffer")),
        Carrying::Fresh => told.sum(&event.take_buffer().expect("a buffer")),
        Carrying::Loan | Carrying::Copied => told.sum(event.bytes()),
    }
}

/// What the role's name begins with; the way of carrying follows.
const NAME: &str = "handoff-own";
/// The role, for each way of carrying.
pub const ROLES: [Role; 4] = [
    ("handoff-own-pooled", serve),
    ("handoff-own-loan", serve),
    ("handoff-own-fresh", serve),
    ("handoff-own-copied", serve),
];
