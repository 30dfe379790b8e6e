//! The web's `MessagePort`, between native processes on Linux, at shared-memory speed.
#![deny(missing_docs)]

mod error;
#[cfg(not(loom))]
mod front;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
mod meet;
#[cfg(not(loom))]
mod os;
#[cfg(not(loom))]
mod port;
#[cfg_attr(loom, allow(dead_code))]
mod ring;
#[cfg_attr(loom, allow(dead_code))]
mod sync;
#[cfg_attr(loom, allow(dead_code))]
mod wire;

pub use error::{
    AttachError, ChannelError, CloseReason, Corruption, MessageError, ParentPortError, PostError,
    RecvError, SchemaError, SpawnError,
};
#[cfg(not(loom))]
pub use front::blocking::Iter;
#[cfg(not(loom))]
pub use link::payload::{PayloadWriter, Post, PostSerializer};
#[cfg(not(loom))]
pub use meet::spawn::{Worker, parent_port};
#[cfg(not(loom))]
pub use port::{
    JoinError, MessagePort,
    burst::Burst,
    cancel::Canceller,
    channel::{ChannelBuilder, MessageChannel},
    event::MessageEvent,
    loan::Loan,
    receiver::Receiver,
    sender::Sender,
    stats::{LaneStats, PortStats, Undelivered},
};
pub use rkyv;
pub use wire::record::Format;
