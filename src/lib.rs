//! Fast IPC for Linux: typed messages between processes through lock-free rings in shared memory.
//!
//! A [`MessageChannel`] has two ends, its [`MessagePort`]s. What is posted at one is received at
//! the other, whole and in order; both ends post and receive. [`rkyv`] serialises a value straight
//! into shared memory, and the receiver checks it and reads it without parsing it. The design is
//! that of the web's [`MessagePort`][web].
//!
//! ```
//! use messageport::MessageChannel;
//!
//! #[messageport::message]
//! struct Order { id: u64, item: String }
//!
//! let MessageChannel { port1, port2 } = MessageChannel::new()?;
//! port1.post_message(&Order { id: 7, item: "lamp".to_string() })?;
//!
//! let event = port2.recv()?;
//! assert_eq!(event.data::<Order>()?.item, "lamp");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [web]: https://developer.mozilla.org/en-US/docs/Web/API/MessagePort
//!
//! # Between processes
//!
//! [`Worker::spawn`] starts a child process with a port to it; in the child, [`parent_port`]
//! returns the other end.
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
//! Unrelated programs of one user connect by a name, through a [`Listener`] and [`connect`].
//! [`post_message_with`](MessagePort::post_message_with) sends ports, [`Buffer`]s and file
//! descriptors along with a message, so a third process can also connect two others.
//!
//! # Which type for what
//!
//! | Task | Type |
//! |---|---|
//! | a type of messages | [`message`] |
//! | messages of one type each way, which both programs know | [`TypedPort`] |
//! | requests, each with its reply, many at a time | [`Requester`] and [`Responder`] |
//! | many ports on one thread, with callbacks | [`EventLoop`] |
//! | many ports on one thread, without callbacks | [`PortSet`] |
//! | callbacks in an event loop of another crate | [`MessagePort::dispatch`] |
//! | callbacks without a port | [`EventTarget`] |
//! | plain data for other languages, with the feature `value` | `post_value` and `Value` |
//! | async, with the feature `tokio` or `async-io` | `AsyncPort`, and `into_async` of the others |
//! | tasks for several worker processes, which are restarted when they die | [`WorkerPool`] |
//! | two threads for one port | [`Sender`] and [`Receiver`], by [`MessagePort::split`] |
//! | many threads that post through one port | [`SharedSender`], by [`Sender::into_shared`] |
//! | one message to many ports | [`PortCollection`] |
//! | one message to all programs that joined a name | [`BroadcastChannel`] |
//! | large data, again and again, between ends that trust each other | [`BufferPool`] |
//! | large data that the receiver keeps | [`Buffer`] |
//! | a stream of bytes, as `Read` and `Write` | [`PortReader`], [`PortWriter`] |
//! | sizes, limits, no transferables | [`ChannelBuilder`] |
//!
//! # What you can rely on
//!
//! - A post does not wait for the receiver. `Ok` means that the message is in shared memory: the
//!   receiver can read it even if the sender is killed immediately afterwards. A queue grows up to
//!   its limit; then a post returns [`QueueFull`](PostError::QueueFull).
//! - After the last message every receiving call returns `Closed` with a [`CloseReason`], even if
//!   the peer was killed. Calls that are waiting return as well.
//! - The peer counts as hostile until you call [`trust_peer`](MessagePort::trust_peer): whatever
//!   the peer does, this API stays memory-safe. `docs/safety.md` lists the harm that it can do.
//! - While neither process has to wait, a message takes no system call.
//!
//! The package's `docs` folder has a guide with a program for each task, pages for those who come
//! from another library, the trust model, the measurements, and the protocol.
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
#[cfg(all(not(messageport_loom), any(feature = "tokio", feature = "async-io")))]
mod future;
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

#[cfg(feature = "value")]
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
pub use error::ValueError;
pub use error::{
    AttachError, BroadcastError, BufferError, CallError, ChannelError, CloseReason, ConnectError,
    Corruption, ListenError, LoopError, LostWorker, MessageError, ParentPortError, PoolError,
    PostError, RecvError, SchemaError, SpawnError, SystemError, TaskError, TypeMismatch,
};
#[cfg(not(messageport_loom))]
pub use front::add_error::AddError;
#[cfg(not(messageport_loom))]
pub use front::blocking::Iter;
#[cfg(not(messageport_loom))]
pub use front::bytes::{PortReader, PortWriter};
#[cfg(not(messageport_loom))]
pub use front::event_loop::{EventLoop, LoopHandle, LoopItem, RunEnd, SourceId, TimerId};
#[cfg(not(messageport_loom))]
pub use front::port_set::{PortEvent, PortSet};
#[cfg(all(not(messageport_loom), any(feature = "tokio", feature = "async-io")))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
pub use future::{
    AsyncBroadcastChannel, AsyncListener, AsyncPort, AsyncReceiver, AsyncRequester, AsyncResponder,
    AsyncSender, AsyncTypedPort, AsyncTypedReceiver, AsyncTypedSender, AsyncWorkerPool,
    RequesterDriver, connect_async,
};
#[cfg(not(messageport_loom))]
pub use group::broadcast::{
    BroadcastChannel,
    presence::{BroadcastEvent, BroadcastPeer},
};
#[cfg(not(messageport_loom))]
pub use group::collection::{
    CollectionError, CollectionMember, Member, MemberId, OwnedMember, PortCollection,
};
#[cfg(not(messageport_loom))]
pub use group::worker_pool::{WorkerPool, builder::WorkerPoolBuilder, slots::WorkerPoolStats};
#[cfg(not(messageport_loom))]
pub use link::archive::{
    ArchiveCheck, Receive, SafeArchive,
    pool::{ReceiveDeserializer, ReceiveOwned},
    shape::{Shape, ShapeWriter},
};
#[cfg(not(messageport_loom))]
pub use link::buffer::{Buffer, BufferMut, BufferWriter};
#[cfg(not(messageport_loom))]
pub use link::endpoint::PeerCredentials;
#[cfg(not(messageport_loom))]
pub use link::payload::{PayloadWriter, Post, PostArena, PostSerializer};
#[cfg(not(messageport_loom))]
pub use link::pool::{Frame, PooledBuffer};
#[cfg(not(messageport_loom))]
pub use link::stats::{Backlog, LaneStats, PortStats};
#[cfg(all(not(messageport_loom), feature = "value"))]
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
pub use link::value::{BigInt, Date, Value};
#[cfg(not(messageport_loom))]
pub use meet::builder::{ResourceLimit, WorkerBuilder};
#[cfg(not(messageport_loom))]
pub use meet::connect::{Connect, connect};
#[cfg(not(messageport_loom))]
pub use meet::listen::Listener;
#[cfg(not(messageport_loom))]
pub use meet::refused::{RefusedClient, RefusedClients};
#[cfg(not(messageport_loom))]
pub use meet::spawn::{Worker, parent_port};
#[cfg(all(not(messageport_loom), feature = "seccomp"))]
#[cfg_attr(docsrs, doc(cfg(feature = "seccomp")))]
pub use meet::syscall_filter::SyscallFilter;
#[cfg(not(messageport_loom))]
pub use meet::worker_process::{WorkerEnd, WorkerProcess};
pub use messageport_macros::SafeArchive;
/// ```
/// use messageport::MessageChannel;
///
/// #[messageport::message]
/// #[derive(Debug, PartialEq)] // of the program's own type
/// #[rkyv(derive(Debug))] // of the type that is read in place
/// struct Order { id: u64, item: String, kind: Kind }
///
/// #[messageport::message]
/// #[derive(Debug, PartialEq)]
/// #[rkyv(derive(Debug))]
/// enum Kind { New, Paid { cents: u64 } }
///
/// let channel = MessageChannel::new()?;
/// let shop = channel.port1.typed::<(), Order>();
/// let stock = channel.port2.typed::<Order, ()>();
/// let order = Order { id: 7, item: "lamp".to_string(), kind: Kind::Paid { cents: 1999 } };
/// shop.post_message(&order)?;
/// let event = stock.recv()?;
/// println!("{:?}", event.data());
/// assert_eq!(event.deserialize()?, order);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Everything in it needs a shape:
///
/// ```compile_fail,E0080
/// #[derive(messageport::rkyv::Archive, messageport::rkyv::Serialize)]
/// #[derive(messageport::rkyv::Deserialize, messageport::SafeArchive)]
/// #[rkyv(crate = messageport::rkyv)]
/// struct Date(u64);
///
/// #[messageport::message]
/// struct Order { at: Date } // here `#[messageport(shape = "Date 1")]` is missing
/// ```
///
/// and a text for a shape is short and plain:
///
/// ```compile_fail
/// #[messageport::message(shape = "an \"Order\"")]
/// struct Order { id: u64 }
/// ```
pub use messageport_macros::message;
#[cfg(not(messageport_loom))]
pub use port::{
    MessagePort,
    batch::TryIter,
    burst::Burst,
    cancel::Canceller,
    channel::{ChannelBuilder, MessageChannel},
    delivery::LoopEvent,
    event::MessageEvent,
    event_target::EventTarget,
    halves::JoinError,
    id::PortId,
    label::LabeledError,
    listener::{
        AbortController, AbortSignal, Event, EventListener, EventType, IntoListenerResult,
        InvalidState, ListenerFailure, ListenerId, ListenerOptions,
    },
    loan::Loan,
    message::Message,
    peek::NextMessage,
    pool::{BufferPool, PooledError},
    receiver::Receiver,
    requests::{
        call::{Call, Reply},
        request::{OwnedRequest, Request},
        requester::{CallCanceller, Requester},
        responder::Responder,
    },
    sender::Sender,
    shared::{SharedSender, SharedSenderGuard},
    transfer::{IntoFdError, TransferError, TransferList, Transferable},
    typed::{TypedBurst, TypedError, TypedEvent, TypedPort},
    typed_halves::{TypedReceiver, TypedSender},
    typed_iter::{TypedIter, TypedTryIter},
    typed_message::TypedMessage,
    typed_shared::TypedSharedSender,
};
pub use rkyv;
#[cfg(not(messageport_loom))]
pub use wire::label::PortLabels;
pub use wire::record::Format;

/// What the fuzzer runs; see `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::link::archive::fuzzing::{Family, decode, mutate};
    pub use crate::link::fuzzing::{attach_region, frames::foreign_frames, memory::foreign_memory};
    #[cfg(feature = "value")]
    pub use crate::link::value::fuzzing::decode_value;
    pub use crate::port::fuzzing::port_ops;
    pub use crate::ring::fuzzing::{lane_ops, record_stream};
    pub use crate::wire::fuzzing::frames;
}

/// The programs of the documents for users are compiled and run like the examples above.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    // Its programs use all of them.
    #[cfg(all(feature = "tokio", feature = "async-io", feature = "value"))]
    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
    #[doc = include_str!("../docs/migrating.md")]
    struct Migrating;
}
