//! A stack of frames: what a program keeps for a pass that reads it in the opposite order.
//!
//! What holds:
//! - A frame is the bytes of some values and a tag that says who pushed them. Frames are popped last in, first out, by who
//!   knows the tag and the sizes; anything else is a [`TapeError::Mismatch`], and the tape is as it was.
//! - Memory comes in chunks that grow up to 1 MB, each counted against the query's limit; a value lies in one chunk. Chunks
//!   are given back as they run empty, but for one.

use std::sync::Arc;

use crate::pool::{MemoryLimitError, QueryMemory, Reservation};

/// Bytes of the first chunk.
const FIRST_CHUNK: usize = 4 << 10;
/// Bytes of a chunk at most, if no value needs more.
const LARGEST_CHUNK: usize = 1 << 20;
/// Bytes behind a frame's values: the tag, and how many bytes they are.
const HEAD: usize = 16;

/// Why a frame was not popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapeError {
    /// There is no frame.
    #[error("the tape is empty")]
    Empty,
    /// The frame on top is another one.
    #[error("the tape has frame {found} of {found_bytes} bytes on top, not {wanted} of {wanted_bytes}")]
    Mismatch {
        /// The tag asked for.
        wanted: u32,
        /// The bytes asked for.
        wanted_bytes: usize,
        /// The tag on top.
        found: u32,
        /// The bytes on top.
        found_bytes: usize,
    },
}

/// A tape.
pub struct Tape {
    memory: Arc<QueryMemory>,
    chunks: Vec<Chunk>,
}

struct Chunk {
    bytes: Vec<u8>,
    /// What `bytes` may grow to.
    size: usize,
    _counted: Reservation,
}

impl Tape {
    /// An empty tape, whose memory counts against this account.
    pub fn new(memory: Arc<QueryMemory>) -> Self {
        Self { memory, chunks: vec![] }
    }

    /// Whether it has no frame.
    pub fn is_empty(&self) -> bool {
        self.chunks.iter().all(|c| c.bytes.is_empty())
    }

    /// Without its frames.
    pub fn clear(&mut self) {
        self.chunks.truncate(1);
        self.chunks.iter_mut().for_each(|c| c.bytes.clear());
    }

    /// Pushes a frame.
    ///
    /// # Errors
    /// A limit of memory is reached; the tape is of no further use then.
    pub fn push<'a>(&mut self, tag: u32, values: impl IntoIterator<Item = &'a [u8]>) -> Result<(), MemoryLimitError> {
        let mut total = 0u64;
        for v in values {
            self.put(v)?;
            total += v.len() as u64;
        }
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&tag.to_le_bytes());
        head[8..].copy_from_slice(&total.to_le_bytes());
        self.put(&head)
    }

    /// Pops the frame on top into places of its values' sizes, in the order in which they were pushed.
    ///
    /// # Errors
    /// There is no frame, or it has another tag or size.
    pub fn pop(&mut self, tag: u32, values: &mut [&mut [u8]]) -> Result<(), TapeError> {
        let top = self.chunks.iter().rev().find(|c| !c.bytes.is_empty()).ok_or(TapeError::Empty)?;
        let head = &top.bytes[top.bytes.len() - HEAD..];
        let word = |at: usize, n: usize| head[at..at + n].iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
        let (found, found_bytes) = (word(0, 4) as u32, word(8, 8) as usize);
        let wanted_bytes = values.iter().map(|v| v.len()).sum();
        if found != tag || found_bytes != wanted_bytes {
            return Err(TapeError::Mismatch { wanted: tag, wanted_bytes, found, found_bytes });
        }
        self.take(&mut [0; HEAD]);
        values.iter_mut().rev().for_each(|v| self.take(v));
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), MemoryLimitError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let fits = |c: &Chunk| c.size - c.bytes.len() >= bytes.len();
        if !self.chunks.last().is_some_and(fits) {
            let grown = self.chunks.last().map_or(FIRST_CHUNK, |c| (2 * c.size).min(LARGEST_CHUNK));
            let size = grown.max(bytes.len());
            // An empty chunk that is too small goes, so that the one below a value is never empty.
            if self.chunks.last().is_some_and(|c| c.bytes.is_empty()) {
                self.chunks.pop();
            }
            let counted = self.memory.reserve(size)?;
            self.chunks.push(Chunk { bytes: Vec::with_capacity(size), size, _counted: counted });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Takes the bytes on top; [`Tape::pop`] has checked that they are there.
    fn take(&mut self, to: &mut [u8]) {
        if to.is_empty() {
            return;
        }
        if self.chunks.len() > 1 && self.chunks.last().is_some_and(|c| c.bytes.is_empty()) {
            self.chunks.pop();
        }
        if let Some(chunk) = self.chunks.last_mut() {
            let from = chunk.bytes.len() - to.len();
            to.copy_from_slice(&chunk.bytes[from..]);
            chunk.bytes.truncate(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::MemoryPool;

    /// Frame `i` of a test: some values of growing sizes.
    fn frame(i: usize) -> Vec<Vec<u8>> {
        (0..i % 4).map(|k| vec![(i + k) as u8; (i * 37 + k * 1001) % 9000]).collect()
    }

    #[test]
    fn frames_come_back_in_opposite_order() {
        let mut tape = Tape::new(QueryMemory::unlimited());
        let mut frames = 0;
        // Up and down, so that chunks are left and entered more than once.
        for (up, down) in [(300, 120), (500, 430), (10, 260)] {
            for i in frames..frames + up {
                tape.push(i as u32, frame(i).iter().map(Vec::as_slice)).unwrap();
            }
            frames += up;
            for i in (frames - down..frames).rev() {
                let mut found: Vec<Vec<u8>> = frame(i).iter().map(|v| vec![0; v.len()]).collect();
                let mut places: Vec<&mut [u8]> = found.iter_mut().map(Vec::as_mut_slice).collect();
                tape.pop(i as u32, &mut places).unwrap();
                assert_eq!(found, frame(i), "frame {i}");
            }
            frames -= down;
        }
        assert_eq!(frames, 0);
        assert!(tape.is_empty());
        assert_eq!(tape.pop(0, &mut []), Err(TapeError::Empty));
    }

    #[test]
    fn another_frame_is_an_error_and_changes_nothing() {
        let mut tape = Tape::new(QueryMemory::unlimited());
        tape.push(7, [&[1u8, 2, 3][..]]).unwrap();
        let mut three = [0; 3];
        let wrong_tag = TapeError::Mismatch { wanted: 8, wanted_bytes: 3, found: 7, found_bytes: 3 };
        assert_eq!(tape.pop(8, &mut [&mut three]), Err(wrong_tag));
        let wrong_size = TapeError::Mismatch { wanted: 7, wanted_bytes: 2, found: 7, found_bytes: 3 };
        assert_eq!(tape.pop(7, &mut [&mut three[..2]]), Err(wrong_size));
        tape.pop(7, &mut [&mut three]).unwrap();
        assert_eq!(three, [1, 2, 3]);
    }

    #[test]
    fn the_memory_limit_holds_and_memory_comes_back() {
        let memory = QueryMemory::new(MemoryPool::process(), 100 << 10);
        let mut tape = Tape::new(Arc::clone(&memory));
        let value = vec![1u8; 1000];
        let pushed = (0..1000).take_while(|i| tape.push(*i, [&value[..]]).is_ok()).count();
        assert!((30..100).contains(&pushed), "{pushed} frames of 1000 bytes within 100 KB");
        tape.clear();
        assert!(tape.is_empty() && memory.used() <= FIRST_CHUNK, "{} bytes", memory.used());
        drop(tape);
        assert_eq!(memory.used(), 0);
    }
}
