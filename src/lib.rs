//! The web's `MessagePort`, between native processes on Linux, at shared-memory speed.
//!
//! A [`MessageChannel`] is two entangled [`MessagePort`]s: what is posted to one is received from
//! the other, in order. The ports share one region of memory that holds a lock-free ring for each
//! direction; messages are serialised by [`rkyv`] straight into it, and read from it after a check.
//!
//! ```
//! use messageport::{MessageChannel, rkyv};
//!
//! #[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
//! struct Order { id: u64, item: String }
//!
//! let MessageChannel { port1, port2 } = MessageChannel::new()?;
//! port1.post_message(&Order { id: 7, item: "lamp".into() })?;
//!
//! let event = port2.recv()?;
//! assert_eq!(event.data::<Order>()?.item, "lamp");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Between processes
//!
//! [`Worker::spawn`] starts a child process with a port to it; in the child, [`parent_port`] is the
//! other end.
//!
//! ```no_run
//! use messageport::Worker;
//! use std::process::Command;
//!
//! let worker = Worker::spawn(Command::new("resizer"))?;
//! worker.port().post_text("picture.png")?;
//! println!("{}", worker.port().recv()?.text()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Ports move: [`post_message_with`](MessagePort::post_message_with) takes ports, [`Buffer`]s and
//! descriptors along with a message. Strangers meet by a name, through a [`Listener`] and
//! [`connect`].
//!
//! # Many ports
//!
//! An [`EventLoop`] calls the handlers of many ports on one thread; a [`PortSet`] waits for many
//! without callbacks; a [`PortCollection`] posts to many, and a [`BroadcastChannel`] to whoever has
//! joined its name. The features `tokio` and `async-io` have
//! `AsyncPort`.
//!
//! # What is promised
//!
//! - `Ok` of a post means that the message is in shared memory and arrives whatever happens to the
//!   sender. A post never blocks: the lane grows up to its limit, and then says
//!   [`QueueFull`](PostError::QueueFull).
//! - After the last message every receiving call says `Closed`, with a [`CloseReason`]; also when
//!   the peer was killed. Blocked calls wake up for it.
//! - The peer counts as hostile unless [`trust_peer`](MessagePort::trust_peer) says otherwise:
//!   whatever it does, this API stays memory-safe. `docs/safety.md` lists the harm that it can do.
//! - While both sides keep up there is no system call.
//!
//! The repository's `docs` folder has the layout, the protocol, the safety argument and the
//! measurements.
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Else every item would say that it is not there under loom.
#![cfg_attr(docsrs, doc(auto_cfg = false))]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("messageport needs 64-bit Linux");

mod error;
#[cfg(all(test, not(messageport_loom)))]
mod error_texts;
#[cfg(not(messageport_loom))]
mod front;
#[cfg(not(messageport_loom))]
mod group;
#[cfg(not(messageport_loom))]
mod link;
#[cfg(not(messageport_loom))]
mod meet;
#[cfg(not(messageport_loom))]
mod os;
#[cfg(not(messageport_loom))]
mod port;
#[cfg_attr(messageport_loom, allow(dead_code))]
mod ring;
#[cfg_attr(messageport_loom, allow(dead_code))]
mod sync;
#[cfg_attr(messageport_loom, allow(dead_code))]
mod wire;

pub use error::{
    AttachError, BroadcastError, BufferError, ChannelError, CloseReason, ConnectError, Corruption,
    ListenError, LoopError, MessageError, ParentPortError, PoolError, PostError, RecvError,
    SchemaError, SpawnError,
};
#[cfg(not(messageport_loom))]
pub use front::add_error::AddError;
#[cfg(not(messageport_loom))]
pub use front::blocking::Iter;
#[cfg(not(messageport_loom))]
pub use front::event_loop::{EventLoop, LoopHandle, PortId, SourceId};
#[cfg(all(not(messageport_loom), any(feature = "tokio", feature = "async-io")))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
pub use front::future::{AsyncPort, AsyncReceiver, AsyncSender};
#[cfg(not(messageport_loom))]
pub use front::port_set::{PortSet, Said};
#[cfg(not(messageport_loom))]
pub use group::broadcast::BroadcastChannel;
#[cfg(not(messageport_loom))]
pub use group::collection::{CollectionError, Member, MemberId, PortCollection};
#[cfg(not(messageport_loom))]
pub use link::archive::{ArchiveCheck, Receive, SafeArchive, pool::ReceiveDeserializer};
#[cfg(not(messageport_loom))]
pub use link::buffer::{Buffer, BufferMut};
#[cfg(not(messageport_loom))]
pub use link::endpoint::PeerCredentials;
#[cfg(not(messageport_loom))]
pub use link::payload::{PayloadWriter, Post, PostSerializer};
#[cfg(not(messageport_loom))]
pub use link::pool::PooledBuffer;
#[cfg(not(messageport_loom))]
pub use meet::listen::{Connect, Listener, connect};
#[cfg(not(messageport_loom))]
pub use meet::refused::{RefusedClient, RefusedClients};
#[cfg(not(messageport_loom))]
pub use meet::spawn::{Worker, parent_port};
pub use messageport_macros::SafeArchive;
#[cfg(not(messageport_loom))]
pub use port::{
    JoinError, MessagePort,
    burst::Burst,
    cancel::Canceller,
    channel::{ChannelBuilder, MessageChannel},
    event::MessageEvent,
    loan::Loan,
    message::Message,
    outcome::Outcome,
    pool::{BufferPool, PooledError},
    receiver::Receiver,
    sender::Sender,
    stats::{LaneStats, PortStats, Undelivered},
    target::{
        AbortController, AbortSignal, Event, EventListener, EventType, InvalidState,
        ListenerFailure, ListenerId, ListenerOptions,
    },
    transfer::{IntoFdError, TransferError, Transferable},
    typed::{TypedBurst, TypedError, TypedEvent, TypedIter, TypedPort},
};
pub use rkyv;
pub use wire::record::Format;

/// What the fuzzer runs; see `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::link::archive::fuzzing::{Family, decode, mutate};
    pub use crate::link::fuzzing::{attach_region, memory::foreign_memory};
    pub use crate::ring::fuzzing::{lane_ops, record_stream};
    pub use crate::wire::fuzzing::frames;
}

/// The programs of the documents for users are compiled and run like the examples above.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    // Its programs use tokio.
    #[cfg(feature = "tokio")]
    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
    #[doc = include_str!("../docs/migrating.md")]
    struct Migrating;
}
