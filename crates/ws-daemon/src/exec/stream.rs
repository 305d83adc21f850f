//! What a script prints, on its way to whoever reads it live: one buffer for both streams, in the order in which it came. When it
//! is full, a reader who keeps up is waited for, as a pipe would; for one who does not, the oldest is dropped, and the reader is
//! told how much. It never splits a character of UTF-8.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::capture::{is_continuation, unfinished};
use ws_daemon_protocol::command::StreamName;

/// How much of one run's output waits for its reader, in bytes, with what it costs to keep it; when there is more, the oldest is
/// dropped, which the reader is told.
const STREAM_BYTES: usize = 256 * 1024;

/// What a worker says in one line may be so long, in bytes, and a reader who keeps up misses nothing of it: it is read on when there is room
/// for that.
pub const LINE_ROOM_BYTES: usize = 128 * 1024;

/// How long a full buffer waits for its reader to take [`STREAM_BYTES`]; with one who has not by then the script is held up no more.
const KEEPS_UP: Duration = Duration::from_millis(200);

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
    /// Something came, or all has come.
    changed: Notify,
    /// Something was taken, or nothing more will be.
    taken: Notify,
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
    /// Since when the reader is watched, and how much it has taken since.
    watched: Option<(Instant, usize)>,
    /// The reader did not keep up, and has not taken all since.
    lags: bool,
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
    /// Bytes at the end that nobody is to be told.
    beyond: u64,
    /// Whether the reader knows of these.
    ends: bool,
    /// The beginning of a character, taken out of the buffer to wait for its rest.
    begun: Vec<u8>,
    /// How many bytes after a gap may be the rest of a character that begins in it.
    broken: usize,
}

impl StreamBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), taken: Notify::new(), tap: None }
    }

    /// An empty buffer whose bytes `tap` sees as they come.
    #[must_use]
    pub fn with_tap(tap: Box<OutputTap>) -> Self {
        Self { tap: Some(tap), ..Self::new() }
    }

    /// Takes what the script printed. Never waits: if there is no [`room`](Self::room), the oldest makes some.
    pub fn push(&self, stream: StreamName, bytes: &[u8]) {
        let Some(offset) = self.state().push(stream, bytes) else { return };
        if let Some(tap) = &self.tap {
            tap(stream, offset, bytes);
        }
        self.changed.notify_one();
    }

    /// So much more was printed, and is not to be told: all that follows in this stream is passed over as well. The reader sees a
    /// gap at its end.
    pub fn pass_over(&self, stream: StreamName, bytes: usize) {
        let position = &mut self.state().streams[stream as usize];
        position.pushed += bytes as u64;
        position.beyond += bytes as u64;
    }

    /// Of each stream whose end was passed over: where that begins, and how many bytes.
    #[must_use]
    pub fn passed_over(&self) -> Vec<(StreamName, u64, u64)> {
        let state = self.state();
        let ends = StreamName::BOTH.into_iter().map(|stream| {
            let Position { pushed, beyond, .. } = state.streams[stream as usize];
            (stream, pushed - beyond, beyond)
        });
        ends.filter(|(.., bytes)| *bytes > 0).collect()
    }

    /// Waits until `bytes` fit without a loss, as long as the reader keeps up: whoever takes less than the buffer holds within
    /// 200 ms is waited for no more, until it has taken all that is there.
    pub async fn room(&self, bytes: usize) {
        loop {
            let mut taken = pin!(self.taken.notified());
            // From here on it is woken, whatever is taken between the look and the wait.
            taken.as_mut().enable();
            let Some(until) = self.state().patience(bytes) else { return };
            // What came of it is seen at the next look.
            drop(timeout_at(until, taken).await);
        }
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
        self.taken.notify_waiters();
    }

    /// The next chunk, of `max_bytes` bytes of output at most (at least 4: a character must fit); `None` when all is read and
    /// nothing more will come. For one reader at a time. Cancel safe.
    pub async fn next(&self, max_bytes: usize) -> Option<Chunk> {
        loop {
            let (chunk, closed) = {
                let mut state = self.state();
                (state.take(max_bytes.max(CHARACTER_BYTES)), state.closed)
            };
            if chunk.is_some() {
                self.taken.notify_waiters();
            }
            if chunk.is_some() || closed {
                return chunk;
            }
            self.changed.notified().await;
        }
    }

    /// Waits until there is something to read; `false` when all is read and nothing more will come.
    pub async fn has_more(&self) -> bool {
        loop {
            {
                let state = self.state();
                let untold = state.streams.iter().any(|position| position.told < position.pushed);
                if state.closed || !state.pieces.is_empty() {
                    return untold;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Of each stream that has not been told to its end: where the reader stands, and how many bytes came behind that.
    #[must_use]
    pub fn untold(&self) -> Vec<(StreamName, u64, u64)> {
        let state = self.state();
        let left = StreamName::BOTH.into_iter().map(|stream| {
            let Position { pushed, told, .. } = state.streams[stream as usize];
            (stream, told, pushed - told)
        });
        left.filter(|(.., bytes)| *bytes > 0).collect()
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

    /// What is in it, with what it costs to keep it.
    fn used(&self) -> usize {
        self.bytes.len() + self.pieces.len() * PIECE_BYTES
    }

    /// Until when to wait for room for `bytes` more; `None` if there is room, or nobody to wait for.
    fn patience(&mut self, bytes: usize) -> Option<Instant> {
        if self.closed || self.lags || self.used() + PIECE_BYTES + bytes <= STREAM_BYTES {
            return None;
        }
        let now = Instant::now();
        let going = self.watched.filter(|(_, taken)| *taken < STREAM_BYTES);
        let (since, _) = *self.watched.insert(going.unwrap_or((now, 0)));
        self.lags = now >= since + KEEPS_UP;
        (!self.lags).then_some(since + KEEPS_UP)
    }

    fn make_room(&mut self, wanted: usize) {
        while self.used() + wanted > STREAM_BYTES {
            let over = self.used() + wanted - STREAM_BYTES;
            let Some(&(stream, length)) = self.pieces.front() else { return };
            let dropped = length.min(over);
            self.drop_first(dropped);
            self.streams[stream as usize].lose(dropped);
        }
    }

    /// Takes the first `length` bytes, all of the first piece, out of the buffer, for the reader.
    fn consume(&mut self, length: usize) -> Vec<u8> {
        // In two copies: an iterator over the ring goes byte by byte.
        let (front, back) = self.bytes.as_slices();
        let at_front = length.min(front.len());
        let fresh = [&front[..at_front], &back[..length - at_front]].concat();
        self.drop_first(length);
        if let Some((_, taken)) = &mut self.watched {
            *taken += length;
        }
        if self.pieces.is_empty() {
            (self.watched, self.lags) = (None, false);
        }
        fresh
    }

    /// Drops the first `length` bytes, all of the first piece.
    fn drop_first(&mut self, length: usize) {
        if let Some((_, left)) = self.pieces.front_mut() {
            *left -= length;
            if *left == 0 {
                self.pieces.pop_front();
            }
        }
        self.bytes.drain(..length);
    }

    fn take(&mut self, max_bytes: usize) -> Option<Chunk> {
        while let Some(&(stream, length)) = self.pieces.front() {
            let broken = self.streams[stream as usize].broken;
            let rest = self.bytes.iter().take(length.min(broken)).take_while(|byte| is_continuation(**byte)).count();
            let position = &mut self.streams[stream as usize];
            position.broken = if rest == length { broken - rest } else { 0 };
            position.gap += rest as u64;
            let room = max_bytes - position.begun.len();
            self.drop_first(rest);
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
            let Position { gap, begun, beyond, ends, .. } = &self.streams[*stream as usize];
            *gap > 0 || !begun.is_empty() || *beyond > 0 && !ends
        };
        let stream = StreamName::BOTH.into_iter().find(left)?;
        let position = &mut self.streams[stream as usize];
        if position.begun.is_empty() && !position.ends {
            position.gap += position.beyond;
            position.ends = true;
        }
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

/// Bytes as they are said: text, or base 64 and marked, and how many of them that is. Unless this is `the_end`, the beginning of
/// a character waits for its rest.
#[must_use]
pub fn text_of(bytes: &[u8], the_end: bool) -> (String, bool, usize) {
    let waiting = if the_end { 0 } else { unfinished(bytes) };
    let whole = &bytes[..bytes.len() - waiting];
    match std::str::from_utf8(whole) {
        Ok(text) => (text.to_owned(), false, whole.len()),
        Err(_) => (STANDARD.encode(whole), true, whole.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::StreamName::{Stderr, Stdout};
    use super::*;

    /// What a reader finds when it looks.
    #[derive(Debug, PartialEq, Eq)]
    enum Found {
        Nothing,
        Next(Chunk),
        End,
    }

    fn next(buffer: &StreamBuffer, max_bytes: usize) -> Found {
        match buffer.next(max_bytes).now_or_never() {
            None => Found::Nothing,
            Some(None) => Found::End,
            Some(Some(chunk)) => Found::Next(chunk),
        }
    }

    fn chunk(stream: StreamName, offset: u64, text: &str) -> Found {
        Found::Next(Chunk { stream, offset, gap: 0, data: ChunkData::Text(text.into()) })
    }

    fn bytes(count: u64) -> usize {
        usize::try_from(count).expect("small")
    }

    #[test]
    fn what_is_passed_over_is_a_gap_at_the_end() {
        let buffer = StreamBuffer::new();
        buffer.push(Stdout, b"one\xe2");
        buffer.pass_over(Stdout, 5);
        buffer.pass_over(Stderr, 7);
        buffer.pass_over(Stdout, 1);
        assert_eq!(next(&buffer, 100), chunk(Stdout, 0, "one"));
        assert_eq!(next(&buffer, 100), Found::Nothing);
        buffer.close();
        let at_end = |stream, offset, gap, data| Found::Next(Chunk { stream, offset, gap, data });
        assert_eq!(next(&buffer, 100), at_end(Stdout, 3, 0, ChunkData::Base64("4g==".into())));
        assert_eq!(buffer.untold(), [(Stdout, 4, 6), (Stderr, 0, 7)]);
        assert_eq!(next(&buffer, 100), at_end(Stdout, 10, 6, ChunkData::Text(String::new())));
        assert_eq!(next(&buffer, 100), at_end(Stderr, 7, 7, ChunkData::Text(String::new())));
        assert_eq!((next(&buffer, 100), buffer.untold()), (Found::End, vec![]));
        assert_eq!(buffer.passed_over(), [(Stdout, 4, 6), (Stderr, 0, 7)]);
    }

    #[test]
    fn chunks_come_in_order_and_a_character_waits_for_its_rest() {
        let buffer = StreamBuffer::new();
        assert_eq!(next(&buffer, 100), Found::Nothing);
        assert_eq!(buffer.has_more().now_or_never(), None);
        buffer.push(Stdout, b"one \xe2\x82");
        buffer.push(Stderr, b"two");
        assert_eq!(buffer.has_more().now_or_never(), Some(true));
        assert_eq!(next(&buffer, 100), chunk(Stdout, 0, "one "));
        assert_eq!(next(&buffer, 100), chunk(Stderr, 0, "two"));
        assert_eq!(next(&buffer, 100), Found::Nothing);
        buffer.push(Stdout, b"\xac!");
        assert_eq!(next(&buffer, 4), chunk(Stdout, 4, "€!"));
        buffer.push(Stdout, b"\xe2");
        buffer.close();
        assert_eq!((buffer.untold(), buffer.has_more().now_or_never()), (vec![(Stdout, 8, 1)], Some(true)));
        let rest = Chunk { stream: Stdout, offset: 8, gap: 0, data: ChunkData::Base64("4g==".into()) };
        assert_eq!(next(&buffer, 100), Found::Next(rest));
        assert_eq!(next(&buffer, 100), Found::End);
        assert_eq!((buffer.untold(), buffer.has_more().now_or_never()), (vec![], Some(false)));
    }

    #[test]
    fn what_is_dropped_is_told_also_when_nothing_follows_it() {
        let buffer = StreamBuffer::new();
        buffer.push(Stdout, b"gone");
        assert_eq!(buffer.untold(), [(Stdout, 0, 4)]);
        for _ in 0..5 {
            buffer.push(Stderr, "ä".repeat(30_000).as_bytes());
        }
        buffer.close();
        let mut read = 0;
        let mut gaps = Vec::new();
        while let Found::Next(Chunk { stream, offset, gap, data: ChunkData::Text(text) }) = next(&buffer, 1000) {
            assert!(text.chars().all(|char| char == 'ä'));
            gaps.extend((gap > 0).then_some((stream, offset, gap)));
            read += text.len();
        }
        let [(Stderr, at, lost), (Stdout, 4, 4)] = gaps[..] else { panic!("{gaps:?}") };
        assert_eq!((at, bytes(lost) + read), (lost, 300_000));
        assert!((250_000..=STREAM_BYTES).contains(&read), "{read}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_keeps_up_is_waited_for_and_one_who_does_not_only_once() {
        const READ: usize = 16 << 10;
        let buffer = StreamBuffer::new();
        let fill = || {
            while buffer.room(READ).now_or_never().is_some() {
                buffer.push(Stdout, &[b'x'; READ]);
            }
        };
        fill();
        // It takes the whole buffer in time, again and again.
        for _ in 0..100 {
            tokio::time::sleep(KEEPS_UP / 10).await;
            assert!(matches!(next(&buffer, STREAM_BYTES), Found::Next(Chunk { gap: 0, .. })));
            assert!(buffer.room(READ).now_or_never().is_some(), "room is seen at once");
            fill();
        }
        // It takes a little now and then: that is waited for once, and no more.
        let begun = Instant::now();
        let take_a_little = async {
            loop {
                tokio::time::sleep(KEEPS_UP / 4).await;
                next(&buffer, READ);
            }
        };
        let print = async {
            for _ in 0..100 {
                buffer.room(READ).await;
                buffer.push(Stdout, &[b'x'; READ]);
            }
        };
        tokio::select! {
            () = take_a_little => {}
            () = print => {}
        }
        assert_eq!(begun.elapsed(), KEEPS_UP);
        // When it has taken all, it is waited for again; nobody is once all is over.
        while let Found::Next(_) = next(&buffer, STREAM_BYTES) {}
        fill();
        tokio::join!(buffer.room(READ), async { buffer.close() });
        assert_eq!(begun.elapsed(), KEEPS_UP);
    }

    #[test]
    fn small_pieces_of_both_streams_in_turn_stay_within_the_bound() {
        let buffer = StreamBuffer::new();
        for _ in 0..100_000 {
            buffer.push(Stdout, b"o");
            buffer.push(Stderr, b"e");
        }
        let state = buffer.state();
        assert!(state.pieces.len() * PIECE_BYTES + state.bytes.len() <= STREAM_BYTES);
        assert!(state.bytes.capacity() <= STREAM_BYTES);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_by_output_and_by_the_end_and_a_tap_sees_all() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tapped = Arc::clone(&seen);
        let tap = move |stream, offset, bytes: &[u8]| tapped.lock().expect("whole").push((stream, offset, bytes.to_vec()));
        let buffer = StreamBuffer::with_tap(Box::new(tap));
        let write = async {
            for text in ["one", "two"] {
                tokio::task::yield_now().await;
                buffer.push(Stdout, text.as_bytes());
            }
            tokio::task::yield_now().await;
            buffer.close();
            buffer.push(Stdout, b"late");
        };
        let read = async {
            let mut all = String::new();
            while let Some(chunk) = buffer.next(100).await {
                assert_eq!(chunk.offset, all.len() as u64);
                let ChunkData::Text(text) = chunk.data else { panic!("text") };
                all.push_str(&text);
            }
            all
        };
        assert_eq!(tokio::join!(read, write).0, "onetwo");
        assert_eq!(*seen.lock().expect("whole"), [(Stdout, 0, b"one".to_vec()), (Stdout, 3, b"two".to_vec())]);
    }

    /// What a script does and what its reader does.
    #[derive(Debug, Clone)]
    enum Step {
        Push(StreamName, Vec<u8>),
        Flood(StreamName, String, usize),
        Read(usize),
    }

    fn steps(text_only: bool) -> impl Strategy<Value = Vec<(usize, Step)>> {
        let stream = || prop_oneof![Just(Stdout), Just(Stderr)];
        let text = "[aé€𝄞]{0,12}".prop_map(String::into_bytes);
        let bytes = if text_only { text.boxed() } else { prop_oneof![text, prop::collection::vec(any::<u8>(), 0..12)].boxed() };
        let step = prop_oneof![
            6 => (stream(), bytes).prop_map(|(stream, bytes)| Step::Push(stream, bytes)),
            1 => (stream(), "[é€𝄞]{1,3}", 1..90_000_usize).prop_map(|(stream, text, bytes)| Step::Flood(stream, text, bytes)),
            4 => (0..40_usize).prop_map(Step::Read),
            1 => Just(Step::Read(100_000)),
        ];
        prop::collection::vec((1..5_usize, step), 0..60)
    }

    /// Does the steps, every push cut into pieces; checks each chunk against what was written.
    fn check(steps: Vec<(usize, Step)>, text_only: bool) {
        let buffer = StreamBuffer::new();
        let mut written = [Vec::new(), Vec::new()];
        let mut told = [0_u64, 0];
        let mut take = |written: &[Vec<u8>; 2], max_bytes| -> bool {
            let Found::Next(Chunk { stream, offset, gap, data }) = next(&buffer, max_bytes) else { return false };
            assert_eq!(offset, told[stream as usize] + gap, "no byte is missing but for the gap");
            let bytes = match data {
                ChunkData::Text(text) => text.into_bytes(),
                ChunkData::Base64(text) => {
                    assert!(!text_only, "a character was split");
                    STANDARD.decode(text).expect("base64")
                }
            };
            assert!(bytes.len() <= max_bytes.max(4));
            assert!(!bytes.is_empty() || gap > 0);
            told[stream as usize] = offset + bytes.len() as u64;
            let at = self::bytes(offset);
            assert_eq!(bytes, written[stream as usize][at..at + bytes.len()]);
            true
        };
        for (size, step) in steps {
            let (stream, bytes) = match step {
                Step::Push(stream, bytes) => (stream, bytes),
                Step::Flood(stream, text, bytes) => (stream, text.repeat(bytes / text.len()).into_bytes()),
                Step::Read(max_bytes) => {
                    take(&written, max_bytes);
                    continue;
                }
            };
            let size = if bytes.len() > 100 { 16_383 } else { size };
            for piece in bytes.chunks(size) {
                buffer.push(stream, piece);
                written[stream as usize].extend_from_slice(piece);
            }
        }
        buffer.close();
        while take(&written, 5000) {}
        assert_eq!(told.map(bytes), written.map(|written| written.len()), "all is told, or told as a gap");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn chunks_and_gaps_are_what_was_written(steps in steps(false)) {
            check(steps, false);
        }

        #[test]
        fn no_chunk_of_text_splits_a_character(steps in steps(true)) {
            check(steps, true);
        }
    }
}
