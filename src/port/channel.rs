//! `MessageChannel::new() → port1, port2`, and a builder with its limits.

use crate::error::ChannelError;
use crate::link::transfer;
use crate::port::MessagePort;
use crate::wire::layout::{DEFAULT_CAPACITY, DEFAULT_LIMIT, MAX_LIMIT, MAX_SEGMENTS, MIN_CAPACITY};

/// Two entangled ports, both in this process: what is posted to one is received from the other.
///
/// A port goes to another thread by moving it, and to a child process by
/// [`Worker::spawn`](crate::Worker::spawn).
/// HTML: [the `MessageChannel` constructor](https://html.spec.whatwg.org/#dom-messagechannel).
///
/// ```
/// use messageport::MessageChannel;
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// port1.post_text("hello")?;
/// assert_eq!(port2.recv()?.text()?, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MessageChannel {
    /// One end.
    pub port1: MessagePort,
    /// The other end.
    pub port2: MessagePort,
}

impl MessageChannel {
    /// Makes a channel with the defaults of [`ChannelBuilder`].
    ///
    /// Takes five descriptors, 128 MiB of address space and one page of memory; about a dozen
    /// system calls.
    ///
    /// # Errors
    /// [`ChannelError`] if a limit of the process is too low or the kernel refuses a call; nothing
    /// is left behind.
    pub fn new() -> Result<MessageChannel, ChannelError> {
        MessageChannel::builder().build()
    }

    /// A builder for other sizes.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().capacity(1 << 20).bounded().build()?;
    /// assert_eq!(channel.port1.limit(), 1 << 20);
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    pub fn builder() -> ChannelBuilder {
        ChannelBuilder::default()
    }
}

/// Sizes of a channel, for both directions alike, and what it carries.
///
/// A lane starts in a ring of `capacity` bytes and grows, by further segments of the same memory,
/// up to `limit` bytes. Memory is taken as messages come, not before.
///
/// | | default | least | most |
/// |---|---|---|---|
/// | `capacity` | 64 KiB | 4 KiB | 4 GiB |
/// | `limit` | 64 MiB | `capacity` | 4 GiB |
/// | `schema` | 0 | | |
/// | `refuse_transfers` | not called | | |
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::builder().capacity(4096).limit(16384).schema(7).build()?;
/// assert_eq!(channel.port1.max_message_len(), 16384 / 2 - 32);
/// assert!(channel.port2.require_schema(7).is_ok());
/// # Ok::<(), messageport::ChannelError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ChannelBuilder {
    capacity: u64,
    limit: Limit,
    schema: u64,
    refuses_transfers: bool,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    Bytes(u64),
    Capacity,
}

impl Default for ChannelBuilder {
    fn default() -> ChannelBuilder {
        ChannelBuilder {
            capacity: DEFAULT_CAPACITY,
            limit: Limit::Bytes(DEFAULT_LIMIT),
            schema: 0,
            refuses_transfers: false,
        }
    }
}

impl ChannelBuilder {
    /// Bytes of the ring that a lane uses while its receiver keeps up, rounded up to a power of
    /// two and to 4 KiB. What stays inside the processor's cache is fastest.
    #[must_use]
    pub fn capacity(self, bytes: usize) -> ChannelBuilder {
        ChannelBuilder { capacity: bytes as u64, ..self }
    }

    /// Most bytes of a lane, rounded up to `capacity` times a power of two.
    ///
    /// The largest message takes `limit / 2 - 32` bytes, or `capacity / 2 - 32` when the limit is
    /// the capacity.
    ///
    /// A lane takes this much address space. It takes memory only as it fills, unless the process
    /// locks its memory by `mlockall(MCL_FUTURE)`: then the kernel makes all of it at once, 128 MiB
    /// for an idle channel of the default sizes, and counts it against `RLIMIT_MEMLOCK`. Add
    /// `MCL_ONFAULT` to have pages only as they are used; a smaller limit, or
    /// [`bounded`](Self::bounded), serves against `RLIMIT_MEMLOCK`.
    #[must_use]
    pub fn limit(self, bytes: usize) -> ChannelBuilder {
        ChannelBuilder { limit: Limit::Bytes(bytes as u64), ..self }
    }

    /// Never grow: the limit is the capacity.
    #[must_use]
    pub fn bounded(self) -> ChannelBuilder {
        ChannelBuilder { limit: Limit::Capacity, ..self }
    }

    /// A number that names the set of message types of this channel, chosen by its two programs.
    /// A port can demand it by [`MessagePort::require_schema`]: bytes of one type can happen to be
    /// valid bytes of another.
    #[must_use]
    pub fn schema(self, id: u64) -> ChannelBuilder {
        ChannelBuilder { schema: id, ..self }
    }

    /// Both ends refuse transferables: no port, buffer or descriptor goes through this channel, in
    /// either direction. The ends themselves can move, and refuse wherever they are.
    ///
    /// A post with a list that is not empty fails at once with
    /// [`Refused`](crate::PostError::Refused), and gives the list back. What a hostile peer sends
    /// all the same, the kernel refuses (from Linux 6.16 on), or this end drops, as
    /// [`MessagePort::refuse_transfers`] says.
    ///
    /// ```
    /// use messageport::{MessageChannel, PostError};
    ///
    /// let channel = MessageChannel::builder().refuse_transfers().build()?;
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let error = channel.port1.post_text_with("a file", [file.into()]).unwrap_err();
    /// assert!(matches!(error.reason(), PostError::Refused));
    /// assert_eq!(error.into_list().len(), 1);
    /// channel.port1.post_text("words alone")?;
    /// assert_eq!(channel.port2.recv()?.text()?, "words alone");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn refuse_transfers(self) -> ChannelBuilder {
        ChannelBuilder { refuses_transfers: true, ..self }
    }

    pub(crate) fn schema_id(&self) -> u64 {
        self.schema
    }

    /// Makes the channel.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] for a size beyond the most; [`ChannelError::ResourceLimit`] if
    /// `RLIMIT_FSIZE` or `RLIMIT_AS` is below what the limit needs; [`ChannelError::KernelTooOld`];
    /// [`ChannelError::Io`] with the call that the kernel refused. Nothing is left behind.
    pub fn build(self) -> Result<MessageChannel, ChannelError> {
        let too_large = |name, found| ChannelError::TooLarge { name, found, max: MAX_LIMIT };
        let capacity = self.capacity.max(MIN_CAPACITY);
        if capacity > MAX_LIMIT {
            return Err(too_large("capacity", capacity));
        }
        let capacity = capacity.next_power_of_two();
        let limit = match self.limit {
            Limit::Capacity => capacity,
            Limit::Bytes(bytes) if bytes > MAX_LIMIT => return Err(too_large("limit", bytes)),
            Limit::Bytes(bytes) => bytes.next_power_of_two().max(capacity),
        };
        debug_assert!(((limit / capacity).trailing_zeros() as usize) < MAX_SEGMENTS);
        let (end1, end2) =
            transfer::create_pair(capacity, limit, self.schema, self.refuses_transfers)?;
        Ok(MessageChannel { port1: MessagePort::new(end1), port2: MessagePort::new(end2) })
    }
}
