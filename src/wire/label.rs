//! What people call a channel or an end. It travels in a capsule, as bytes of a fixed number.

use std::fmt;

/// Bytes of a label.
pub(crate) const LABEL_LEN: usize = 32;

/// A text of at most [`LABEL_LEN`] bytes without control characters. The empty one is none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Label {
    /// The text, and zeros.
    bytes: [u8; LABEL_LEN],
}

impl Label {
    pub(crate) const NONE: Label = Label { bytes: [0; LABEL_LEN] };

    /// The beginning of a text, without its control characters.
    pub(crate) fn new(text: &str) -> Label {
        let (mut label, mut len) = (Label::NONE, 0);
        for character in text.chars().filter(|character| !character.is_control()) {
            let Some(place) = label.bytes.get_mut(len..len + character.len_utf8()) else { break };
            character.encode_utf8(place);
            len += character.len_utf8();
        }
        label
    }

    /// The label that another process has sent. What is no label is none.
    pub(crate) fn from_bytes(bytes: [u8; LABEL_LEN]) -> Label {
        let text = std::str::from_utf8(&bytes).unwrap_or("").trim_end_matches('\0');
        Label::new(text)
    }

    pub(crate) fn to_bytes(self) -> [u8; LABEL_LEN] {
        self.bytes
    }

    pub(crate) fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(LABEL_LEN);
        std::str::from_utf8(&self.bytes[..len]).expect("it was made of characters")
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What people call a channel, and one of its ends; made by
/// [`MessagePort::labels`](crate::MessagePort::labels).
///
/// As text it is `port "shop" of the channel "prices"`, as far as there are labels.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PortLabels {
    pub(crate) channel: Label,
    pub(crate) end: Label,
}

impl PortLabels {
    /// The label of the channel. Empty if it has none.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.channel.as_str()
    }

    /// The label of the end. Empty if it has none.
    #[must_use]
    pub fn end(&self) -> &str {
        self.end.as_str()
    }

    /// Whether neither the channel nor the end has a label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channel().is_empty() && self.end().is_empty()
    }
}

impl fmt::Display for PortLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.end(), self.channel()) {
            ("", "") => f.write_str("a port without a label"),
            (end, "") => write!(f, "port {end:?}"),
            ("", channel) => write!(f, "a port of the channel {channel:?}"),
            (end, channel) => write!(f, "port {end:?} of the channel {channel:?}"),
        }
    }
}

/// As a pair: the channel's label, then the end's.
impl fmt::Debug for PortLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("").field(&self.channel).field(&self.end).finish()
    }
}

#[cfg(all(test, not(messageport_loom)))]
mod tests {
    use super::{LABEL_LEN, Label, PortLabels};

    #[test]
    fn labels_are_short_texts() {
        let long = "é".repeat(100);
        assert_eq!(Label::new(&long).as_str(), "é".repeat(LABEL_LEN / 2));
        assert_eq!(Label::new(&format!("x{long}")).as_str().len(), LABEL_LEN - 1);
        assert_eq!(Label::new("a\0\u{1b}[31m\nb").as_str(), "a[31mb");
        for label in ["", "prices", "ü", &"x".repeat(LABEL_LEN)].map(Label::new) {
            assert_eq!(Label::from_bytes(label.to_bytes()), label);
        }
        let mut bytes = [0; LABEL_LEN];
        bytes[..3].copy_from_slice(&[b'a', 0, b'b']);
        assert_eq!(Label::from_bytes(bytes).as_str(), "ab");
        assert_eq!(Label::from_bytes([0xff; LABEL_LEN]).as_str(), "");
    }

    #[test]
    fn labels_of_a_port_name_its_channel_and_itself() {
        for (end, channel, text) in [
            ("", "", "a port without a label"),
            ("shop", "", "port \"shop\""),
            ("", "prices", "a port of the channel \"prices\""),
            ("shop", "prices", "port \"shop\" of the channel \"prices\""),
        ] {
            let labels = PortLabels { channel: Label::new(channel), end: Label::new(end) };
            assert_eq!((labels.end(), labels.channel()), (end, channel));
            assert_eq!(labels.is_empty(), end.is_empty() && channel.is_empty());
            assert_eq!(labels.to_string(), text);
        }
    }
}
