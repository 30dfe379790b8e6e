//! What people call a channel, and each of its ends.

use crate::port::MessagePort;
use crate::port::receiver::Receiver;
use crate::port::requests::responder::Responder;
use crate::port::sender::Sender;
use crate::port::shared::SharedSender;
use crate::wire::label::{Label, PortLabels};
use std::error::Error;
use std::{fmt, io};

/// An error together with the labels of its port; made by [`MessagePort::labeled`] and
/// [`PortLabels::name`].
///
/// Its text is that of the error, after the labels: `port "shop" of the channel "prices": the port
/// is closed, …`. Without labels it is the error's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabeledError<E> {
    labels: PortLabels,
    error: E,
}

impl<E> LabeledError<E> {
    /// The labels of the port, at the time of the error.
    pub fn labels(&self) -> PortLabels {
        self.labels
    }

    /// The error.
    pub fn error(&self) -> &E {
        &self.error
    }

    /// Returns the error without the labels.
    pub fn into_error(self) -> E {
        self.error
    }
}

impl<E: fmt::Display> fmt::Display for LabeledError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.labels.is_empty() {
            true => self.error.fmt(f),
            false => write!(f, "{}: {}", self.labels, self.error),
        }
    }
}

impl<E: Error> Error for LabeledError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Its text says all that the error itself says.
        self.error.source()
    }
}

/// Keeps the kind of the error's own conversion. The error inside is a `LabeledError<io::Error>`,
/// or the error's own conversion if there are no labels.
///
/// ```
/// use std::io;
/// fn post(port: &messageport::MessagePort) -> io::Result<()> {
///     Ok(port.labeled(port.post_text("hello"))?)
/// }
///
/// let channel = messageport::MessageChannel::builder().label("prices").build()?;
/// drop(channel.port2);
/// let error = post(&channel.port1).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
/// assert!(error.to_string().contains("prices"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<E: Into<io::Error>> From<LabeledError<E>> for io::Error {
    fn from(labeled: LabeledError<E>) -> io::Error {
        let error: io::Error = labeled.error.into();
        match labeled.labels.is_empty() {
            true => error,
            false => io::Error::new(error.kind(), LabeledError { labels: labeled.labels, error }),
        }
    }
}

impl PortLabels {
    /// Adds the labels to the error of a result, if it is one. See [`MessagePort::labeled`].
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().label("prices").build()?;
    /// let labels = channel.port1.labels(); // before the port goes its own way
    /// let requester = channel.port1.requester::<u64, u64>();
    /// drop(channel.port2);
    /// let error = labels.name(requester.call(&7)).unwrap_err();
    /// let text = error.to_string();
    /// assert!(text.starts_with(r#"a port of the channel "prices": no reply can come"#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name<T, E>(self, result: Result<T, E>) -> Result<T, LabeledError<E>> {
        result.map_err(|error| LabeledError { labels: self, error })
    }
}

impl MessagePort {
    /// Gives this end a label, for people: it appears in the `Debug` of the port, in its counters,
    /// in the events of the feature `tracing`, in errors of a pool of workers, in the reports of
    /// listeners that fail without a hook, and in errors by [`labeled`](Self::labeled).
    ///
    /// It takes at most 32 bytes; the rest of a longer text is left out, and so are control
    /// characters. It moves with the port. The peer does not see it. An empty text removes it.
    ///
    /// The channel itself has a label that its [builder](crate::ChannelBuilder::label) chose.
    /// [`Connect::label`](crate::Connect::label) and
    /// [`WorkerBuilder::label`](crate::WorkerBuilder::label) set that of the end that they make.
    ///
    /// A label is never trusted: what a former owner of the port wrote says nothing about the peer.
    /// [`peer_credentials`](Self::peer_credentials) do.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().label("prices").build()?;
    /// channel.port1.set_label("shop");
    /// let port1 = messageport::MessagePort::from_fd(channel.port1.into_fd()?)?;
    /// assert_eq!((port1.channel_label(), port1.label()), ("prices".into(), "shop".into()));
    /// assert!(format!("{port1:?}").contains("\"shop\""));
    /// assert_eq!(channel.port2.label(), "");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_label(&self, text: &str) {
        self.endpoint().set_label(Label::new(text));
    }

    /// The label of this end. Empty if it has none.
    pub fn label(&self) -> String {
        self.endpoint().label().as_str().to_owned()
    }

    /// Both labels of this end.
    pub fn labels(&self) -> PortLabels {
        self.endpoint().labels()
    }

    /// Adds the labels of this end to the error of a result, if it is one.
    ///
    /// An error of a port does not contain its labels: it would be longer on the way of every
    /// message. This call adds them where the error is passed on. It costs nothing without an
    /// error.
    ///
    /// ```
    /// use messageport::{LabeledError, MessagePort, PostError};
    ///
    /// fn announce(port: &MessagePort) -> Result<(), LabeledError<PostError>> {
    ///     port.labeled(port.post_text("lamp: 20"))
    /// }
    ///
    /// let channel = messageport::MessageChannel::builder().label("prices").build()?;
    /// channel.port1.set_label("shop");
    /// drop(channel.port2);
    /// let error = announce(&channel.port1).unwrap_err();
    /// let text = error.to_string();
    /// assert!(text.starts_with(r#"port "shop" of the channel "prices": the port is closed"#));
    /// assert!(matches!(error.error(), PostError::Closed { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn labeled<T, E>(&self, result: Result<T, E>) -> Result<T, LabeledError<E>> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => self.labels().name(Err(error)),
        }
    }

    /// The label that the channel's builder chose. Empty if it chose none.
    pub fn channel_label(&self) -> String {
        self.endpoint().channel_label().as_str().to_owned()
    }
}

impl Sender {
    /// Both labels of the port. See [`MessagePort::labels`].
    pub fn labels(&self) -> PortLabels {
        self.endpoint().labels()
    }
}

impl Receiver {
    /// Both labels of the port. See [`MessagePort::labels`].
    pub fn labels(&self) -> PortLabels {
        self.endpoint().labels()
    }
}

impl SharedSender {
    /// Both labels of the port. See [`MessagePort::labels`].
    pub fn labels(&self) -> PortLabels {
        self.endpoint().labels()
    }
}

impl<Req, Resp> Responder<Req, Resp> {
    /// Both labels of the port. See [`MessagePort::labels`].
    pub fn labels(&self) -> PortLabels {
        self.incoming.answers().endpoint().labels()
    }
}
