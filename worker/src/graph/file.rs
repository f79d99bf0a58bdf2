//! A file as a buffer of which only the decoded parts are read.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
};

use bytes::Buf;

/// Bytes per read.
const CHUNK: usize = 64 * 1024;

/// A file that is decoded in chunks. To skip the weights costs one seek, so that a model of
/// gigabytes takes neither the time nor the memory of its weights.
#[derive(Debug)]
pub(super) struct FileBuf {
    file: File,
    chunk: Vec<u8>,
    /// How much of the chunk has been consumed.
    consumed: usize,
    /// Bytes of the file after the chunk.
    unread: u64,
    error: Option<io::Error>,
}

impl FileBuf {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let unread = file.metadata()?.len();
        let mut buf = Self { file, chunk: Vec::new(), consumed: 0, unread, error: None };
        buf.fill(0);
        Ok(buf)
    }

    /// The first error of a read. The buffer ended there.
    pub(super) fn error(self) -> Option<io::Error> {
        self.error
    }

    /// Replaces the consumed chunk by the next one, `skip` bytes further on.
    fn fill(&mut self, skip: u64) {
        self.unread -= skip;
        self.consumed = 0;
        if let Err(error) = self.read(skip) {
            self.chunk.clear();
            self.unread = 0;
            self.error.get_or_insert(error);
        }
    }

    fn read(&mut self, skip: u64) -> io::Result<()> {
        if skip > 0 {
            self.file.seek_relative(skip.cast_signed())?;
        }
        let length = usize::try_from(self.unread).unwrap_or(CHUNK).min(CHUNK);
        self.chunk.resize(length, 0);
        self.file.read_exact(&mut self.chunk)?;
        self.unread -= length as u64;
        Ok(())
    }
}

impl Buf for FileBuf {
    fn remaining(&self) -> usize {
        let unread = usize::try_from(self.unread).unwrap_or(usize::MAX);
        unread.saturating_add(self.chunk.len() - self.consumed)
    }

    fn chunk(&self) -> &[u8] {
        &self.chunk[self.consumed..]
    }

    fn advance(&mut self, count: usize) {
        let in_chunk = self.chunk.len() - self.consumed;
        if count < in_chunk {
            self.consumed += count;
        } else {
            self.fill(((count - in_chunk) as u64).min(self.unread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_skips_across_chunks() {
        let bytes: Vec<u8> =
            (0..u32::try_from(CHUNK).unwrap()).flat_map(u32::to_le_bytes).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        for step in [4, 1000, CHUNK - 4, CHUNK, CHUNK + 4, 3 * CHUNK] {
            let (mut buf, mut at) = (FileBuf::open(&path).unwrap(), 0);
            while at + step <= bytes.len() {
                assert_eq!(buf.remaining(), bytes.len() - at);
                assert_eq!(buf.chunk()[0], bytes[at]);
                buf.advance(step);
                at += step;
            }
            assert!(buf.error().is_none());
        }
    }
}
