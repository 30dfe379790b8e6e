//! The bytes of a small buffer: private memory, until its descriptor is asked for.

use crate::error::SystemError;
use crate::link::payload::{Block, blocks_as_bytes, blocks_as_bytes_mut, blocks_for};
use crate::os::memfd;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;

/// Bytes of the longest buffer that is small: of one page. Making and moving a file costs as much
/// as copying five times as many bytes.
pub(crate) const MOST_SMALL: usize = 4096;

/// At most [`MOST_SMALL`] bytes, aligned to 16.
pub(crate) struct SmallBytes {
    blocks: Vec<Block>,
    len: usize,
}

impl SmallBytes {
    /// So many bytes of zero.
    pub(crate) fn zeroed(len: usize) -> Result<SmallBytes, SystemError> {
        let Some(mut blocks) = blocks_for(len) else {
            return Err(SystemError { call: "malloc", source: ErrorKind::OutOfMemory.into() });
        };
        blocks.resize(len.div_ceil(size_of::<Block>()), Block::default());
        Ok(SmallBytes { blocks, len })
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<SmallBytes, SystemError> {
        let mut copy = SmallBytes::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// The same bytes as sealed memory that can move by a packet.
    pub(super) fn to_file(&self) -> Result<OwnedFd, SystemError> {
        if memfd::file_size_limit()? < self.len as u64 {
            return Err(SystemError { call: "ftruncate", source: ErrorKind::FileTooLarge.into() });
        }
        let file = memfd::create(self.len as u64)?;
        memfd::write_all(&file, self, 0)?;
        memfd::freeze(&file)?;
        Ok(file)
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &blocks_as_bytes(&self.blocks)[..self.len]
    }
}

impl DerefMut for SmallBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut blocks_as_bytes_mut(&mut self.blocks)[..self.len]
    }
}
