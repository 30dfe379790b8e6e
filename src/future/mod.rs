//! Layer 7: everything that waits, for async programs. It waits on the runtime's reactor, and
//! starts no thread of its own.

mod broadcast;
mod connect;
mod halves;
mod listener;
mod peer_gone;
mod port;
mod reactor;
mod requests;
mod typed;
#[cfg(feature = "value")]
mod value;
mod watched;
mod worker;
mod worker_pool;

pub use broadcast::AsyncBroadcastChannel;
pub use connect::connect_async;
pub use halves::{AsyncReceiver, AsyncSender};
pub use listener::AsyncListener;
pub use port::AsyncPort;
pub use requests::{AsyncRequester, AsyncResponder, RequesterDriver};
pub use typed::{AsyncTypedPort, AsyncTypedReceiver, AsyncTypedSender};
pub use worker_pool::AsyncWorkerPool;

/// Messages, or clients, that one task takes in a row before it yields to other tasks.
const SHARE: u32 = 64;
