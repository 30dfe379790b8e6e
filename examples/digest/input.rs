//! Reading a file, or an input that can be read only once, so that its bytes can be sent again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::jobs::{Job, STDIN};
use crate::protocol::CHUNK;
use crate::standard;

/// An open input.
pub enum Input {
    /// A regular file: what a lost worker had is read again.
    Again(Reread),
    /// Anything else: what is not covered by a checkpoint is kept.
    Once(Kept),
}

/// A regular file, read at positions.
pub struct Reread {
    file: File,
    len: u64,
}

/// What was read of an input since the last checkpoint.
///
/// INVARIANT: all chunks but the last one are full, so that a position says which chunk it is in.
pub struct Kept {
    file: File,
    start: u64,
    chunks: VecDeque<Box<[u8]>>,
    last_len: usize,
    /// Not to be read again after the end: a named pipe may have another writer by then.
    ended: bool,
    spare: Vec<Box<[u8]>>,
}

impl Input {
    /// Opens the job's file; may wait for the writer of a named pipe.
    pub fn open(job: &Job) -> io::Result<Self> {
        if job.name == STDIN {
            standard::input()?;
            // A duplicate, without the buffer of `Stdin`: a chunk is read in one go.
            return Ok(Self::Once(Kept::new(io::stdin().as_fd().try_clone_to_owned()?.into())));
        }
        let file = File::open(&job.name)?;
        let metadata = file.metadata()?;
        // The files of /proc are regular and claim to be empty; a second reading of them may give
        // something else.
        if metadata.is_file() && metadata.len() > 0 {
            Ok(Self::Again(Reread { file, len: metadata.len() }))
        } else {
            Ok(Self::Once(Kept::new(file)))
        }
    }
}

impl Reread {
    /// How much to ask for at `position`: a full chunk, the rest of the file, or, where it should
    /// end, just enough to see that it does.
    pub fn ask(&self, position: u64) -> usize {
        let rest = self.len.saturating_sub(position).max(AT_END);
        rest.min(CHUNK as u64) as usize
    }

    /// Reads into `buffer` from `position` on; 0 is the end.
    pub fn read(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        uninterrupted(|| self.file.read_at(buffer, position))
    }
}

impl Kept {
    fn new(file: File) -> Self {
        let (chunks, spare) = (VecDeque::new(), Vec::new());
        Self { file, start: 0, chunks, last_len: CHUNK, ended: false, spare }
    }

    /// The bytes from `position` to the end of its chunk; empty if they are still to be read.
    pub fn at(&self, position: u64) -> &[u8] {
        let (index, offset) = self.place(position);
        match self.chunks.get(index) {
            Some(chunk) if index + 1 == self.chunks.len() => &chunk[offset..self.last_len],
            Some(chunk) => &chunk[offset..],
            None => &[],
        }
    }

    /// Waits for more input and keeps it; 0 is the end.
    pub fn read_more(&mut self) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.last_len == CHUNK {
            let chunk = self.spare.pop().unwrap_or_else(|| vec![0; CHUNK].into());
            self.chunks.push_back(chunk);
            self.last_len = 0;
        }
        let chunk = self.chunks.back_mut().expect("one was pushed when the last one was full");
        let count = uninterrupted(|| self.file.read(&mut chunk[self.last_len..]))?;
        self.last_len += count;
        self.ended = count == 0;
        Ok(count)
    }

    /// Drops the full chunks before `position`.
    pub fn forget(&mut self, position: u64) {
        let (full, _) = self.place(position);
        for chunk in self.chunks.drain(..full.min(self.chunks.len())) {
            self.start += CHUNK as u64;
            self.spare.push(chunk);
        }
    }

    fn place(&self, position: u64) -> (usize, usize) {
        let distance = (position - self.start) as usize;
        (distance / CHUNK, distance % CHUNK)
    }
}

/// The system's error text, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn uninterrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Bytes to ask for where a file should end: it may have grown meanwhile.
const AT_END: u64 = 4 << 10;
