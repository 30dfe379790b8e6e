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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn every_length_has_its_bytes_here_and_in_a_file() {
        for len in [0, 1, 15, 16, 17, MOST_SMALL - 1, MOST_SMALL] {
            let zeroed = SmallBytes::zeroed(len).expect("some memory");
            assert_eq!(*zeroed, vec![0; len]);
            let bytes: Vec<u8> = (0..len).map(|place| (place % 251) as u8 + 1).collect();
            let mut copy = SmallBytes::copy_of(&bytes).expect("some memory");
            assert_eq!(*copy, bytes);
            copy.reverse();
            let bytes: Vec<u8> = bytes.into_iter().rev().collect();
            assert_eq!(*copy, bytes);
            if !cfg!(miri) && len > 0 {
                let mut found = Vec::new();
                let mut file = File::from(copy.to_file().expect("a sealed file"));
                file.read_to_end(&mut found).expect("its bytes");
                assert_eq!(found, bytes);
                assert!(memfd::examine(&file).expect("a memfd").sealed);
            }
        }
    }
}
