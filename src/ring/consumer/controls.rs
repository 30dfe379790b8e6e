//! Headers as input: each is read once and checked, and control records are passed.

use super::Consumer;
use crate::error::Corruption;
use crate::wire::record::{HEADER_LEN, Header, record_len};

impl Consumer {
    /// Reads the header at the cursor and checks it against what is left of the segment and of the
    /// committed bytes.
    #[inline(always)]
    pub(super) fn read_header(&self) -> Result<Header, Corruption> {
        let words = self.window.memory().read_header(self.cursor.offset_in(self.span));
        let header =
            Header::decode(words).ok_or(Corruption::unknown("header of a record", words[0]))?;
        let until_end = self.cursor.until_end_of(self.span);
        let available = self.available();
        match header {
            Header::Message { len, .. } if record_len(u64::from(len)) > available => {
                Err(Corruption::new("message length", u64::from(len), available))
            }
            Header::Padding { len } if HEADER_LEN + u64::from(len) != until_end => {
                let expected = until_end.saturating_sub(HEADER_LEN);
                Err(Corruption::unequal("padding length", u64::from(len), expected))
            }
            Header::Padding { len } if HEADER_LEN + u64::from(len) > available => {
                Err(Corruption::new("padding beyond the tail", u64::from(len), available))
            }
            Header::Jump { segment }
                if segment >= self.geometry.segments() || segment == self.cursor.segment =>
            {
                Err(Corruption::unknown("segment to jump to", u64::from(segment)))
            }
            header => Ok(header),
        }
    }

    /// Moves to where a control record leads.
    pub(super) fn pass(&mut self, control: Header) -> Result<(), Corruption> {
        self.controls = self.controls.saturating_add(1);
        if self.controls > MAX_CONTROLS {
            let (found, bound) = (u64::from(self.controls), u64::from(MAX_CONTROLS));
            return Err(Corruption::new("control records in a row", found, bound));
        }
        self.cursor = match control {
            Header::Padding { len } => self.cursor.advanced(HEADER_LEN + u64::from(len)),
            Header::Jump { segment } => self.cursor.advanced(HEADER_LEN).entering(segment),
            Header::Message { .. } | Header::Short { .. } => {
                unreachable!("peek stops at a message")
            }
        };
        self.span = self.geometry.span(self.cursor.segment);
        self.window.close();
        self.end_copy();
        Ok(())
    }

    /// Passes the control records that come next among the known ones; returns whether there may
    /// have been one. The next peek reads the same place again, and reports what is wrong with it.
    #[inline(always)]
    pub(super) fn pass_known_controls(&mut self) -> bool {
        if self.cursor.position == self.tail {
            return false;
        }
        let words = self.window.memory().read_header(self.cursor.offset_in(self.span));
        let is_control = Header::is_control(words[0]);
        if is_control {
            self.pass_controls();
        }
        is_control
    }

    #[cold]
    fn pass_controls(&mut self) {
        while self.cursor.position != self.tail {
            match self.read_header() {
                Ok(control @ (Header::Padding { .. } | Header::Jump { .. })) => {
                    if self.pass(control).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// The most control records before a message that an honest producer writes: a jump to hop, a jump
/// to shrink, a padding and a jump ahead.
const MAX_CONTROLS: u32 = 8;
