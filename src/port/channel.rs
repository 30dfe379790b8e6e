//! `MessageChannel::new() → port1, port2`, and a builder with its limits.

use crate::error::ChannelError;
use crate::link::transfer;
use crate::port::MessagePort;
use crate::wire::label::Label;
use crate::wire::layout::{DEFAULT_CAPACITY, DEFAULT_LIMIT, MAX_LIMIT, MAX_SEGMENTS, MIN_CAPACITY};

/// Two connected ports, both in this process: each receives what is posted at the other one.
///
/// To use a port on another thread, move it there. To give one to a child process, use
/// [`Worker::spawn`](crate::Worker::spawn).
///
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
    /// Creates a channel with the defaults of [`ChannelBuilder`].
    ///
    /// Takes five descriptors, 128 MiB of address space and one page of memory, in about a dozen
    /// system calls.
    ///
    /// # Errors
    /// [`ChannelError`] if a limit of the process is too low or the kernel refuses a call; nothing
    /// is left behind.
    pub fn new() -> Result<MessageChannel, ChannelError> {
        MessageChannel::builder().build()
    }

    /// Returns a builder for other sizes.
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

/// Builds a channel with chosen sizes; they apply to both directions.
///
/// Each direction, called a *lane*, starts as a ring of `capacity` bytes. It grows up to `limit`
/// bytes by using further segments of the same memory. Memory is allocated as messages come, not in
/// advance.
///
/// | | default | least | most |
/// |---|---|---|---|
/// | `capacity` | 64 KiB | 4 KiB | 4 GiB |
/// | `limit` | 64 MiB | `capacity` | 4 GiB |
/// | `schema` | 0 | | |
/// | `refuse_transfers` | not called | | |
/// | `label` | none | | 32 bytes |
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
    label: Label,
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
            label: Label::default(),
        }
    }
}

impl ChannelBuilder {
    /// Sets the size of a lane's first ring, used while the receiver keeps up.
    ///
    /// It is rounded up to a power of two and to at least 4 KiB. A ring that fits the processor's
    /// cache is fastest.
    #[must_use]
    pub fn capacity(self, bytes: usize) -> ChannelBuilder {
        ChannelBuilder { capacity: bytes as u64, ..self }
    }

    /// Sets the largest size of a lane, rounded up to `capacity` times a power of two.
    ///
    /// The largest message has `limit / 2 - 32` bytes, or `capacity / 2 - 32` if the limit equals
    /// the capacity.
    ///
    /// A lane reserves this much address space. It uses memory only as it fills, unless the process
    /// locks its memory with `mlockall(MCL_FUTURE)`. The kernel then allocates all of it at once
    /// (128 MiB for an idle channel of the default sizes) and counts it against `RLIMIT_MEMLOCK`.
    /// Add `MCL_ONFAULT` to get pages only as they are used. To stay within `RLIMIT_MEMLOCK`, use a
    /// smaller limit or [`bounded`](Self::bounded).
    #[must_use]
    pub fn limit(self, bytes: usize) -> ChannelBuilder {
        ChannelBuilder { limit: Limit::Bytes(bytes as u64), ..self }
    }

    /// Disables growth: the limit equals the capacity.
    #[must_use]
    pub fn bounded(self) -> ChannelBuilder {
        ChannelBuilder { limit: Limit::Capacity, ..self }
    }

    /// Sets a number that identifies the set of message types of this channel.
    ///
    /// The two programs choose it. A program can check it with [`MessagePort::require_schema`].
    /// This helps because the bytes of one type can happen to be valid bytes of another.
    #[must_use]
    pub fn schema(self, id: u64) -> ChannelBuilder {
        ChannelBuilder { schema: id, ..self }
    }

    /// Makes both ends refuse transferables: ports, buffers and descriptors, in either direction.
    ///
    /// The ends themselves can move, and still refuse after that.
    ///
    /// A post with a non-empty list fails at once with [`Refused`](crate::PostError::Refused), and
    /// returns the list. If a hostile peer sends any nevertheless, the kernel refuses them (from
    /// Linux 6.16 on), or this end drops them, as [`MessagePort::refuse_transfers`] describes.
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

    /// Sets what people call the channel: it appears in the `Debug` of both ports.
    ///
    /// It takes at most 32 bytes; the rest of a longer text is left out, and so are control
    /// characters. Each end can have a label of its own beside it, see
    /// [`MessagePort::set_label`], and keeps both when it moves.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().label("prices").build()?;
    /// assert!(format!("{:?}", channel.port1).contains("prices"));
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    #[must_use]
    pub fn label(self, text: &str) -> ChannelBuilder {
        ChannelBuilder { label: Label::new(text), ..self }
    }

    pub(crate) fn schema_id(&self) -> u64 {
        self.schema
    }

    /// Creates the channel.
    ///
    /// # Errors
    /// If it fails, nothing is left behind.
    ///
    /// - [`ChannelError::TooLarge`] for a size above the maximum.
    /// - [`ChannelError::ResourceLimit`] if `RLIMIT_FSIZE` or `RLIMIT_AS` is below what the limit
    ///   needs.
    /// - [`ChannelError::KernelTooOld`] if the kernel lacks a feature.
    /// - [`ChannelError::Io`] with the call that the kernel refused.
    pub fn build(self) -> Result<MessageChannel, ChannelError> {
        let (capacity, limit) = self.sizes()?;
        let (end1, end2) = transfer::create_pair(
            capacity,
            limit,
            self.schema,
            self.refuses_transfers,
            self.label,
        )?;
        Ok(MessageChannel { port1: MessagePort::new(end1), port2: MessagePort::new(end2) })
    }

    /// Capacity and limit, rounded up.
    pub(crate) fn sizes(&self) -> Result<(u64, u64), ChannelError> {
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
        Ok((capacity, limit))
    }
}
