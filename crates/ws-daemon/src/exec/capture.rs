//! What is kept of what a script prints: the beginning and the end of a stream, or one JSON value. It never reads a pipe, and
//! never keeps more than its bounds: with [`Capture::Tail`] 128 KiB a run, with [`Capture::Json`] those and
//! [`RESULT_BYTES_AT_ONCE`] in all runs together, with [`Capture::Stream`] the buffer's 256 KiB a run. So 256 runs at once keep
//! 128 MiB at most; a run that ends needs as much again as it kept for a moment.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ws_daemon_protocol::codec::compact::compact;
use ws_daemon_protocol::codec::scanner::Scanner;
use ws_daemon_protocol::command::StreamName;

use super::job::Capture;
use super::rounds::Asker;
use super::starter::Starters;
use super::stream::StreamBuffer;

/// How much of the beginning of a stream is kept, in bytes; what follows is kept as its end.
const HEAD_KEPT_BYTES: usize = 8 * 1024;

/// How much of the end of a stream is kept, in bytes; when there is more, the oldest of it is dropped, which is marked.
const TAIL_KEPT_BYTES: usize = 56 * 1024;

/// The longest standard output that is taken for a JSON value, in bytes; a longer one is kept as a tail, with a note.
const RESULT_BYTES: usize = 8 << 20;

/// The memory for such output in all runs together, in bytes; when it is used up, the next is kept as a tail, with a note.
pub const RESULT_BYTES_AT_ONCE: usize = 64 << 20;

/// How deep such a value may be nested: it travels inside a frame, which has its own limit. A deeper one is kept as a tail.
const RESULT_LEVELS: usize = 100;

/// Output that is longer, in bytes, is checked on another thread: it would hold up everybody else.
const CHECKED_HERE_BYTES: usize = 64 * 1024;

/// What was kept of one run.
#[derive(Debug)]
pub struct Captured {
    /// Standard output; `None` if it became the result.
    pub stdout: Option<Text>,
    /// Standard error.
    pub stderr: Text,
    /// Standard output as one compact JSON value, if that was asked for and it is one.
    pub result: Option<Box<RawValue>>,
    /// Why there is no result although one was asked for.
    pub note: Option<String>,
    /// Given back when this is dropped.
    _held: Option<OwnedSemaphorePermit>,
}

/// A stream, or its beginning and its end, joined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// What is there, as it is said: text, or the bytes in base64.
    pub data: String,
    /// Whether it is base64, since the bytes are no UTF-8.
    pub base64: bool,
    /// What is missing.
    pub cut: Option<Cut>,
}

/// A piece missing from a [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Where, in bytes from the beginning (of the decoded bytes where they are in base64).
    pub at: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What one stream's bytes go to.
#[derive(Debug, Default)]
pub enum Keep {
    /// Nowhere.
    #[default]
    Nothing,
    /// Its beginning and end are kept.
    Tail(Box<Tail>),
    /// All of it is kept as long as it can be a result.
    Whole(Box<Whole>),
    /// To whoever reads it live, and so many bytes at most still.
    Live(Arc<StreamBuffer>, StreamName, u64),
}

/// The beginning and the end of a stream.
#[derive(Debug)]
pub struct Tail {
    /// How much of the beginning, and of the end, is kept.
    room: [usize; 2],
    head: Vec<u8>,
    /// The end; once it is full, the oldest byte is at `oldest`.
    ring: Vec<u8>,
    oldest: usize,
    total: u64,
}

/// All of a stream.
#[derive(Debug)]
pub struct Whole {
    bytes: Vec<u8>,
    /// What the script's contract lets be kept.
    cap: Option<u64>,
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// What it became when it was too much, and why.
    given_up: Option<(Tail, &'static str)>,
}

impl Keep {
    /// Where the bytes of `stream` go under `capture`, and no more of them than `cap`; `budget` is of [`RESULT_BYTES_AT_ONCE`].
    pub fn new(capture: &Capture, stream: StreamName, budget: &Arc<Semaphore>, cap: Option<u64>) -> Self {
        match (capture, stream) {
            (Capture::None, _) => Self::Nothing,
            (Capture::Tail, _) | (Capture::Json, StreamName::Stderr) => Self::Tail(Box::new(Tail::new(cap))),
            (Capture::Json, StreamName::Stdout) => Self::Whole(Box::new(Whole::new(Arc::clone(budget), cap))),
            (Capture::Stream(buffer), _) => Self::Live(Arc::clone(buffer), stream, cap.unwrap_or(u64::MAX)),
        }
    }

    /// Where the bytes of both streams go, if anywhere.
    pub fn both(capture: &Capture, budget: &Arc<Semaphore>, cap: Option<u64>) -> Option<Box<[Self; 2]>> {
        let keeps = || StreamName::BOTH.map(|stream| Self::new(capture, stream, budget, cap));
        (!matches!(capture, Capture::None)).then(|| Box::new(keeps()))
    }

    /// The end of a stream, so many bytes of it.
    pub fn last(bytes: u64) -> Self {
        Self::Tail(Box::new(Tail::new(Some(bytes))))
    }

    /// The last line that was taken, of a stream whose end is kept.
    pub fn last_line(self) -> Option<String> {
        let Self::Tail(tail) = self else { return None };
        let text = tail.into_text();
        let line = text.data.lines().rev().find(|line| !line.trim().is_empty()).filter(|_| !text.base64)?;
        Some(line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect())
    }

    /// Who reads it live.
    pub fn reader(&self) -> Option<Arc<StreamBuffer>> {
        match self {
            Self::Live(buffer, _, 1..) => Some(Arc::clone(buffer)),
            _ => None,
        }
    }

    /// Waits for room for `bytes` more, if somebody reads live and keeps up.
    pub async fn room(&self, bytes: usize) {
        if let Self::Live(buffer, _, 1..) = self {
            buffer.room(bytes).await;
        }
    }

    /// Takes the next bytes. Never waits.
    pub fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Tail(tail) => tail.take(bytes),
            Self::Whole(whole) => whole.take(bytes),
            Self::Live(buffer, stream, left) => {
                let (told, beyond) = bytes.split_at(usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len()));
                *left -= told.len() as u64;
                buffer.push(*stream, told);
                buffer.pass_over(*stream, beyond.len());
            }
        }
    }
}

impl Captured {
    /// What was kept of the two streams, if anything was asked for.
    pub async fn new(stdout: Keep, stderr: Keep, starters: &Starters, asker: &Asker) -> Option<Box<Self>> {
        let Keep::Tail(stderr) = stderr else { return None };
        let stderr = stderr.into_text();
        match stdout {
            Keep::Tail(stdout) => {
                let stdout = Some(stdout.into_text());
                Some(Box::new(Self { stdout, stderr, result: None, note: None, _held: None }))
            }
            Keep::Whole(whole) => Some(Box::new(Self::of_result(*whole, stderr, starters, asker).await)),
            Keep::Nothing | Keep::Live(..) => None,
        }
    }

    async fn of_result(whole: Whole, stderr: Text, starters: &Starters, asker: &Asker) -> Self {
        let Whole { bytes, held, given_up, .. } = whole;
        let checked = match given_up {
            Some((tail, note)) => Err((tail.into_text(), note.to_owned())),
            None if bytes.len() <= CHECKED_HERE_BYTES => result(&bytes),
            // A run that ends has a slot, so there is room for its work.
            None => starters.run(asker, move || result(&bytes)).await.unwrap_or_else(|| {
                Err((Text::default(), "the daemon lost what the script printed while checking whether it is JSON".into()))
            }),
        };
        match checked {
            Ok(result) => Self { stdout: None, stderr, result: Some(result), note: None, _held: held },
            Err((stdout, note)) => Self { stdout: Some(stdout), stderr, result: None, note: Some(note), _held: None },
        }
    }
}

/// The value that `bytes` are; else their beginning and end, and why they are none.
fn result(bytes: &[u8]) -> Result<Box<RawValue>, (Text, String)> {
    one_value(bytes).map_err(|why| {
        let mut tail = Tail::new(None);
        tail.take(bytes);
        (tail.into_text(), format!("there is no result: what the script printed {why}"))
    })
}

fn one_value(bytes: &[u8]) -> Result<Box<RawValue>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1))?;
    if text.trim_ascii().is_empty() {
        return Err("is empty, and no JSON value".into());
    }
    let value: &RawValue = serde_json::from_str(text).map_err(|error| format!("is not one JSON value: {error}"))?;
    // The checker takes objects only, and the value is known to be one: what it still can find is its depth.
    let mut scanner = Scanner::new(RESULT_LEVELS + 1);
    let nested = scanner.advance(b"{\"\":").is_ok() && scanner.advance(value.get().as_bytes()).is_ok();
    if !nested {
        return Err(format!("is nested more than {RESULT_LEVELS} levels deep"));
    }
    RawValue::from_string(compact(value.get()).into_owned()).map_err(|error| format!("is not one JSON value: {error}"))
}

impl Whole {
    fn new(budget: Arc<Semaphore>, cap: Option<u64>) -> Self {
        Self { bytes: Vec::new(), cap, budget, held: None, given_up: None }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some((tail, _)) = &mut self.given_up {
            return tail.take(bytes);
        }
        let wanted = self.bytes.len() + bytes.len();
        let why = if self.cap.is_some_and(|cap| wanted as u64 > cap) {
            "there is no result: the script printed more than its contract lets be kept"
        } else if wanted > RESULT_BYTES {
            "there is no result: what the script printed is longer than 8 MiB"
        } else if !self.grow(bytes.len()) {
            "there is no result: the memory for the results of all runs is used up; try again later"
        } else {
            return self.bytes.extend_from_slice(bytes);
        };
        let mut tail = Tail::new(self.cap);
        tail.take(&std::mem::take(&mut self.bytes));
        tail.take(bytes);
        self.held = None;
        self.given_up = Some((tail, why));
    }

    /// Makes room for `more` bytes, within what all runs may hold.
    fn grow(&mut self, more: usize) -> bool {
        let wanted = self.bytes.len() + more;
        if wanted <= self.bytes.capacity() {
            return true;
        }
        let wanted = wanted.max(self.bytes.capacity() * 2).min(RESULT_BYTES);
        let missing = wanted - self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(permits) = Arc::clone(&self.budget).try_acquire_many_owned(missing) else { return false };
        match &mut self.held {
            Some(held) => held.merge(permits),
            None => self.held = Some(permits),
        }
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }
}

impl Tail {
    /// Keeps no more than `cap`, an eighth of it from the beginning.
    fn new(cap: Option<u64>) -> Self {
        let all = cap.and_then(|cap| usize::try_from(cap).ok()).unwrap_or(usize::MAX).min(HEAD_KEPT_BYTES + TAIL_KEPT_BYTES);
        let head = (all / 8).min(HEAD_KEPT_BYTES);
        Self { room: [head, all - head], head: Vec::new(), ring: Vec::new(), oldest: 0, total: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        let [head_room, ring_room] = self.room;
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(head_room - self.head.len()));
        self.head.extend_from_slice(head);
        // What would be overwritten in the same breath is not written.
        let rest = &rest[rest.len().saturating_sub(ring_room)..];
        let (fresh, mut over) = rest.split_at(rest.len().min(ring_room - self.ring.len()));
        if self.ring.capacity() < self.ring.len() + fresh.len() {
            let wanted = (self.ring.capacity() * 2).max(self.ring.len() + fresh.len()).min(ring_room);
            self.ring.reserve_exact(wanted - self.ring.len());
        }
        self.ring.extend_from_slice(fresh);
        while !over.is_empty() {
            let (now, later) = over.split_at(over.len().min(ring_room - self.oldest));
            self.ring[self.oldest..self.oldest + now.len()].copy_from_slice(now);
            self.oldest = (self.oldest + now.len()) % ring_room;
            over = later;
        }
    }

    fn into_text(mut self) -> Text {
        self.ring.rotate_left(self.oldest);
        let missing = self.total - (self.head.len() + self.ring.len()) as u64;
        let (mut joined, mut ring) = (self.head, self.ring);
        if missing == 0 {
            joined.append(&mut ring);
            return Text::new(joined, None);
        }
        // If it is text, the characters that the cut goes through are left out.
        let head = joined.len() - unfinished(&joined);
        let tail = ring.iter().take(3).take_while(|byte| is_continuation(**byte)).count();
        if let (Ok(head), Ok(tail)) = (std::str::from_utf8(&joined[..head]), std::str::from_utf8(&ring[tail..])) {
            let left_out = joined.len() - head.len() + (ring.len() - tail.len());
            let cut = Cut { at: head.len() as u64, bytes: missing + left_out as u64 };
            return Text { data: [head, tail].concat(), base64: false, cut: Some(cut) };
        }
        let cut = Cut { at: joined.len() as u64, bytes: missing };
        joined.append(&mut ring);
        Text::new(joined, Some(cut))
    }
}

impl Text {
    fn new(bytes: Vec<u8>, cut: Option<Cut>) -> Self {
        match String::from_utf8(bytes) {
            Ok(data) => Self { data, base64: false, cut },
            Err(error) => Self { data: STANDARD.encode(error.as_bytes()), base64: true, cut },
        }
    }
}

/// How many bytes at the end begin a character of UTF-8 that is not whole: at most 3.
pub fn unfinished(bytes: &[u8]) -> usize {
    let begins = |length: &usize| {
        let end = &bytes[bytes.len() - length..];
        std::str::from_utf8(end).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(begins).unwrap_or(0)
}

/// Whether a byte of UTF-8 can only stand inside a character.
pub fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(pieces: &[&[u8]]) -> Text {
        let mut tail = Tail::new(None);
        for piece in pieces {
            tail.take(piece);
        }
        assert!(tail.head.capacity() + tail.ring.capacity() <= HEAD_KEPT_BYTES + TAIL_KEPT_BYTES);
        tail.into_text()
    }

    #[test]
    fn what_fits_is_kept_as_it_is_and_what_is_no_utf8_in_base64() {
        let long = vec![b'x'; HEAD_KEPT_BYTES + TAIL_KEPT_BYTES];
        let table: [(&[&[u8]], &str, bool); 4] = [
            (&[], "", false),
            (&[b"a\xc3", b"\xa9\n"], "aé\n", false),
            (&[b"a\xc3"], "YcM=", true),
            (&[&long[..100], &long[100..]], std::str::from_utf8(&long).expect("text"), false),
        ];
        for (pieces, data, base64) in table {
            assert_eq!(tail(pieces), Text { data: data.into(), base64, cut: None });
        }
    }

    #[test]
    fn a_contract_lets_less_be_kept() {
        let kept = |cap, text: &str| {
            let mut tail = Tail::new(Some(cap));
            text.as_bytes().chunks(5).for_each(|piece| tail.take(piece));
            tail.into_text()
        };
        let table = [
            (16, "0123456789abcdef", "0123456789abcdef", None),
            (16, "0123456789abcdefgh", "01456789abcdefgh", Some(Cut { at: 2, bytes: 2 })),
            (1, "0123456789", "9", Some(Cut { at: 0, bytes: 9 })),
            (0, "0123456789", "", Some(Cut { at: 0, bytes: 10 })),
            (0, "", "", None),
        ];
        for (cap, text, data, cut) in table {
            assert_eq!(kept(cap, text), Text { data: data.into(), base64: false, cut }, "{cap} {text}");
        }
        let long = "x".repeat(HEAD_KEPT_BYTES + TAIL_KEPT_BYTES);
        assert_eq!(kept(1 << 40, &long).cut, None, "and never more");
    }

    #[test]
    fn beginning_and_end_are_kept_however_it_came_and_the_cut_is_marked() {
        let lines: Vec<u8> = (0..40_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        for size in [1, 7, 4096, 60_000, lines.len()] {
            let Text { data, base64, cut } = tail(&lines.chunks(size).collect::<Vec<_>>());
            let cut = cut.expect("cut");
            assert!(!base64 && data.ends_with("line 39998\nline 39999\n"));
            assert_eq!((cut.at, cut.bytes), (8192, (lines.len() - 65536) as u64));
            assert_eq!(data.as_bytes(), [&lines[..8192], &lines[lines.len() - 57_344..]].concat());
        }
    }

    #[test]
    fn a_cut_goes_through_no_character() {
        let euros = "€".repeat(50_000);
        for shift in 0..3 {
            let text = format!("{}{euros}", "x".repeat(shift));
            let Text { data, base64, cut } = tail(&[text.as_bytes()]);
            let cut = cut.expect("cut");
            let at = usize::try_from(cut.at).expect("small");
            assert!(!base64 && (8190..=8192).contains(&at));
            assert_eq!(data.len() as u64 + cut.bytes, text.len() as u64);
            assert_eq!(data, [&text[..at], &text[text.len() - (data.len() - at)..]].concat());
        }
        let bytes = vec![0xff; 70_000];
        let Text { data, base64, cut } = tail(&[&bytes]);
        assert_eq!((base64, cut), (true, Some(Cut { at: 8192, bytes: 70_000 - 65536 })));
        assert_eq!(STANDARD.decode(data).expect("base64").len(), 65536);
    }

    async fn json(budget: &Arc<Semaphore>, pieces: &[&[u8]]) -> Box<Captured> {
        let starters = Starters::new(1).expect("threads");
        let mut stdout = Keep::new(&Capture::Json, StreamName::Stdout, budget, None);
        let mut stderr = Keep::new(&Capture::Json, StreamName::Stderr, budget, None);
        for piece in pieces {
            stdout.take(piece);
        }
        stderr.take(b"trouble\n");
        Captured::new(stdout, stderr, &starters, &None).await.expect("asked for")
    }

    #[tokio::test]
    async fn one_json_value_becomes_the_result_and_anything_else_a_tail_with_a_note() {
        let budget = Arc::new(Semaphore::new(RESULT_BYTES_AT_ONCE));
        let long = format!("[{}1.50]", "1, ".repeat(100_000));
        for (said, result) in
            [("{ \"a\" : 1.0 }\n", "{\"a\":1.0}"), ("\"x y\"", "\"x y\""), ("12345678901234567890", "12345678901234567890")]
        {
            let captured = json(&budget, &[said.as_bytes()]).await;
            assert_eq!(captured.result.as_ref().expect(said).get(), result);
            assert_eq!((&captured.stdout, &captured.note, captured.stderr.data.as_str()), (&None, &None, "trouble\n"));
        }
        let captured = json(&budget, &[long.as_bytes()]).await;
        assert_eq!(captured.result.as_ref().expect("long").get(), long.replace(' ', ""));
        assert!(budget.available_permits() < RESULT_BYTES_AT_ONCE);
        drop(captured);
        assert_eq!(budget.available_permits(), RESULT_BYTES_AT_ONCE);

        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        let table: [(&[u8], &str); 5] = [
            (b" \n", "is empty"),
            (b"{} {}", "is not one JSON value: trailing characters"),
            (b"{\"a\":", "is not one JSON value: EOF"),
            (b"\"\xff\"", "is not UTF-8 from byte 2 on"),
            (deep.as_bytes(), "nested more than 100 levels"),
        ];
        for (said, note) in table {
            let captured = json(&budget, &[said]).await;
            assert!(captured.note.as_ref().expect("a note").contains(note), "{:?}", captured.note);
            assert!(captured.result.is_none() && captured.stdout.as_ref().is_some_and(|stdout| !stdout.data.is_empty()));
        }
    }

    #[tokio::test]
    async fn what_is_too_long_or_finds_no_memory_is_no_result() {
        let budget = Arc::new(Semaphore::new(RESULT_BYTES_AT_ONCE));
        let (long, end) = (vec![b'1'; RESULT_BYTES], b"the end\n".as_slice());
        let captured = json(&budget, &[&long, end]).await;
        assert!(captured.note.as_ref().expect("a note").contains("longer than 8 MiB"));
        let stdout = captured.stdout.as_ref().expect("a tail");
        assert!(stdout.data.ends_with("the end\n"));
        assert_eq!(stdout.cut.map(|cut| cut.bytes), Some((RESULT_BYTES + 8 - 65536) as u64));
        assert_eq!(budget.available_permits(), RESULT_BYTES_AT_ONCE, "memory that is not used is given back");

        let small = Arc::new(Semaphore::new(1000));
        let captured = json(&small, &[b"[1,", &[b' '; 2000], b"2]"]).await;
        assert!(captured.note.as_ref().expect("a note").contains("is used up"));
        assert!(captured.stdout.as_ref().is_some_and(|stdout| stdout.data.len() == 2005 && stdout.cut.is_none()));
        assert_eq!(small.available_permits(), 1000);
    }
}
