//! What travels between the parent and a worker, and the sizes both agree on.
//!
//! The format of a message says what it is: an *archive* is an [`Order`] or a [`Report`], *bytes*
//! are the next piece of the file under work. So a chunk needs no header of its own, and its bytes
//! begin where the port put them: aligned, and good to be read into directly.
//!
//! ```text
//! parent                                   worker
//! Start { job 3, state none }   ------->   a fresh hash
//! bytes, bytes, bytes ...       ------->   hashes them
//!                               <-------   Checkpoint { job 3, covered 1 MiB, state }
//! Finish                        ------->
//!                               <-------   Digest { job 3 }
//! ```

use messageport::rkyv;
use messageport::{ChannelBuilder, MessageChannel};
use sha2::Sha256;
use sha2::digest::common::hazmat::SerializedState;

/// The hash after some bytes, as words that another process can go on from.
pub type State = [u8; STATE_LEN];

/// From the parent to a worker, between chunks.
#[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
#[rkyv(crate = messageport::rkyv)]
pub enum Order {
    /// The chunks that follow belong to this job, up to `Finish` or the next `Start`.
    Start {
        /// Index of the file on the command line.
        job: u64,
        /// How many bytes `state` covers.
        covered: u64,
        /// The state to continue from; `None` is the beginning.
        state: Option<State>,
    },
    /// The previous chunk was the last one.
    Finish,
}

/// From a worker to the parent.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, messageport::SafeArchive)]
#[rkyv(crate = messageport::rkyv)]
pub enum Report {
    /// The bytes up to `covered` need not be sent again.
    Checkpoint {
        /// The job that the last `Start` named.
        job: u64,
        /// Bytes from the beginning of the file.
        covered: u64,
        /// The hash of those bytes.
        state: State,
    },
    /// The job is done.
    Digest {
        /// The job that the last `Start` named.
        job: u64,
        /// Bytes in the file.
        covered: u64,
        /// Their SHA-256.
        digest: [u8; 32],
    },
}

/// The channel between the parent and one worker.
///
/// Bounded: the ring is the pipe, and a parent that is ahead waits for room in it.
pub fn channel() -> ChannelBuilder {
    MessageChannel::builder().capacity(RING).bounded()
}

/// The process name of this program and its workers.
pub const NAME: &str = "digest";

/// The most bytes in one chunk.
pub const CHUNK: usize = 128 << 10;

/// Size of the ring between the parent and one worker, per direction.
///
/// Large enough that a wake-up serves many chunks, small enough for the cache: a quarter of it cost
/// a fifth more time in the kernel, and twice of it 4 % more time for copying.
pub const RING: usize = 2 << 20;

/// A worker reports its state at least once per this many bytes.
pub const CHECKPOINT: u64 = 1 << 20;

/// The most bytes for which a worker may owe a report. It bounds what the parent keeps of inputs
/// that can be read only once.
pub const WINDOW: u64 = 8 << 20;

const STATE_LEN: usize = size_of::<SerializedState<Sha256>>();

// A worker must reach its next report before the parent stops sending.
const _: () = assert!(CHECKPOINT + RING as u64 + CHUNK as u64 <= WINDOW);
// A bounded ring takes records of up to half its size.
const _: () = assert!(CHUNK <= RING / 4);
