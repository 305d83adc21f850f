//! What a script prints, on its way to whoever reads it live: one buffer for both streams, in the order in which it came. It
//! never waits for the reader: when it is full the oldest is dropped, and the reader is told how much. It never splits a
//! character of UTF-8.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;

use super::capture::{is_continuation, unfinished};
use super::job::StreamName;

/// How much of one run's output waits for its reader, in bytes, with what it costs to keep it; when there is more, the oldest is
/// dropped, which the reader is told.
const STREAM_BYTES: usize = 256 * 1024;

/// What one piece costs beside its bytes: a script that writes single bytes to both streams in turn makes many.
const PIECE_BYTES: usize = 32;

/// The shortest chunk that holds any character.
const CHARACTER_BYTES: usize = 4;

/// Sees all bytes before any are dropped: the stream, where in it they stand, and the bytes. Called by whoever reads the
/// script's pipes; it must not wait.
pub type OutputTap = dyn Fn(StreamName, u64, &[u8]) + Send + Sync;

/// The output of one run between the script and one reader.
pub struct StreamBuffer {
    state: Mutex<State>,
    changed: Notify,
    tap: Option<Box<OutputTap>>,
}

/// What the reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which stream.
    pub stream: StreamName,
    /// Where in the stream the data stands, in bytes.
    pub offset: u64,
    /// How many bytes right before `offset` were dropped. A gap at the very end comes with empty data.
    pub gap: u64,
    /// What was printed.
    pub data: ChunkData,
}

/// Output as it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkData {
    /// UTF-8.
    Text(String),
    /// The bytes in base64, since they are no UTF-8.
    Base64(String),
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Whose bytes these are, in order; neighbours differ.
    pieces: VecDeque<(StreamName, usize)>,
    streams: [Position; 2],
    closed: bool,
}

/// Where one stream stands.
#[derive(Debug, Default)]
struct Position {
    /// Bytes that came.
    pushed: u64,
    /// Where the next chunk begins, but for a gap before it.
    told: u64,
    /// Bytes dropped behind `told`.
    gap: u64,
    /// The beginning of a character, taken out of the buffer to wait for its rest.
    begun: Vec<u8>,
    /// How many bytes after a gap may be the rest of a character that begins in it.
    broken: usize,
}

impl StreamBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), tap: None }
    }

    /// An empty buffer whose bytes `tap` sees as they come.
    #[must_use]
    pub fn with_tap(tap: Box<OutputTap>) -> Self {
        Self { tap: Some(tap), ..Self::new() }
    }

    /// Takes what the script printed. Never waits: the oldest makes room.
    pub fn push(&self, stream: StreamName, bytes: &[u8]) {
        let Some(offset) = self.state().push(stream, bytes) else { return };
        if let Some(tap) = &self.tap {
            tap(stream, offset, bytes);
        }
        self.changed.notify_one();
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// The next chunk, of `max_bytes` bytes of output at most (at least 4: a character must fit); `None` when all is read and
    /// nothing more will come. For one reader at a time. Cancel safe.
    pub async fn next(&self, max_bytes: usize) -> Option<Chunk> {
        loop {
            let (chunk, closed) = {
                let mut state = self.state();
                (state.take(max_bytes.max(CHARACTER_BYTES)), state.closed)
            };
            if chunk.is_some() || closed {
                return chunk;
            }
            self.changed.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for StreamBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StreamBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBuffer").finish_non_exhaustive()
    }
}

impl State {
    /// Returns where in the stream the bytes stand; `None` if the buffer is closed or there are none.
    fn push(&mut self, stream: StreamName, bytes: &[u8]) -> Option<u64> {
        if self.closed || bytes.is_empty() {
            return None;
        }
        let position = &mut self.streams[stream as usize];
        let offset = position.pushed;
        position.pushed += bytes.len() as u64;
        let most = STREAM_BYTES - PIECE_BYTES;
        for part in bytes.chunks(most) {
            self.make_room(part.len() + PIECE_BYTES);
            if self.bytes.capacity() < self.bytes.len() + part.len() {
                let wanted = (self.bytes.capacity() * 2).max(self.bytes.len() + part.len()).min(STREAM_BYTES);
                self.bytes.reserve_exact(wanted - self.bytes.len());
            }
            self.bytes.extend(part);
            match self.pieces.back_mut() {
                Some((last, length)) if *last == stream => *length += part.len(),
                _ => self.pieces.push_back((stream, part.len())),
            }
        }
        Some(offset)
    }

    fn make_room(&mut self, wanted: usize) {
        while self.bytes.len() + self.pieces.len() * PIECE_BYTES + wanted > STREAM_BYTES {
            let over = self.bytes.len() + self.pieces.len() * PIECE_BYTES + wanted - STREAM_BYTES;
            let Some(&(stream, length)) = self.pieces.front() else { return };
            let dropped = length.min(over);
            self.consume(dropped);
            self.streams[stream as usize].lose(dropped);
        }
    }

    /// Takes the first `length` bytes, all of the first piece, out of the buffer.
    fn consume(&mut self, length: usize) -> Vec<u8> {
        if let Some((_, left)) = self.pieces.front_mut() {
            *left -= length;
            if *left == 0 {
                self.pieces.pop_front();
            }
        }
        self.bytes.drain(..length).collect()
    }

    fn take(&mut self, max_bytes: usize) -> Option<Chunk> {
        while let Some(&(stream, length)) = self.pieces.front() {
            let broken = self.streams[stream as usize].broken;
            let rest = self.bytes.iter().take(length.min(broken)).take_while(|byte| is_continuation(**byte)).count();
            let position = &mut self.streams[stream as usize];
            position.broken = if rest == length { broken - rest } else { 0 };
            position.gap += rest as u64;
            let room = max_bytes - position.begun.len();
            drop(self.consume(rest));
            let fresh = self.consume(room.min(length - rest));
            let position = &mut self.streams[stream as usize];
            position.begun.extend(fresh);
            let whole = position.begun.len() - unfinished(&position.begun);
            if whole > 0 {
                return Some(position.tell(stream, whole));
            }
        }
        if !self.closed {
            return None;
        }
        let left = |stream: &StreamName| {
            let Position { gap, begun, .. } = &self.streams[*stream as usize];
            *gap > 0 || !begun.is_empty()
        };
        let stream = StreamName::BOTH.into_iter().find(left)?;
        let position = &mut self.streams[stream as usize];
        let length = position.begun.len();
        Some(position.tell(stream, length))
    }
}

impl Position {
    /// The next `length` bytes of the stream went the way of the oldest.
    fn lose(&mut self, length: usize) {
        // Half a character is of no use to anybody.
        self.gap += (length + self.begun.len()) as u64;
        self.begun.clear();
        self.broken = CHARACTER_BYTES - 1;
    }

    /// The chunk of the first `length` of the bytes that were taken out.
    fn tell(&mut self, stream: StreamName, length: usize) -> Chunk {
        let later = self.begun.split_off(length);
        let bytes = std::mem::replace(&mut self.begun, later);
        let gap = std::mem::take(&mut self.gap);
        let offset = self.told + gap;
        self.told = offset + bytes.len() as u64;
        let data = match String::from_utf8(bytes) {
            Ok(text) => ChunkData::Text(text),
            Err(error) => ChunkData::Base64(STANDARD.encode(error.as_bytes())),
        };
        Chunk { stream, offset, gap, data }
    }
}
