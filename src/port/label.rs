//! What people call a channel, and each of its ends.

use crate::port::MessagePort;
use crate::wire::label::Label;

impl MessagePort {
    /// Gives this end a label, for people: it appears in the `Debug` of the port.
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

    /// The label that the channel's builder chose. Empty if it chose none.
    pub fn channel_label(&self) -> String {
        self.endpoint().channel_label().as_str().to_owned()
    }
}
