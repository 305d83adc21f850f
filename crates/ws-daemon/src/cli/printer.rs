//! Where the commands write: lines, scripts' output and one progress line, to stdout and stderr. It knows which of them is a
//! terminal and what stands on it; what comes from afar is cleaned for a terminal and left as it is for a program.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use unicode_width::UnicodeWidthChar;

use super::clean::{clean_json, clean_output};
use super::exit::{Exit, Trouble};

/// Which of a script's two streams, and of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// stdout.
    Out,
    /// stderr.
    Err,
}

impl Stream {
    /// The stream of a word on the wire.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "stdout" => Some(Self::Out),
            "stderr" => Some(Self::Err),
            _ => None,
        }
    }

    /// Its word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// Writes to both streams.
#[derive(Debug)]
pub struct Printer {
    /// The exit code when stdout's reader has gone away; without one the rest is printed to nobody.
    when_gone: Option<Exit>,
    out_is_terminal: bool,
    err_is_terminal: bool,
    /// What was last written to a terminal did not end its line.
    mid_line: bool,
    progress_stands: bool,
}

impl Printer {
    /// One that ends the command with `when_gone`, if given, once nobody reads stdout any more.
    #[must_use]
    pub fn new(when_gone: Option<Exit>) -> Self {
        let (out_is_terminal, err_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self { when_gone, out_is_terminal, err_is_terminal, mid_line: false, progress_stands: false }
    }

    /// A line of ours on stdout; parts from afar are already clean.
    pub fn line(&mut self, line: impl Display) -> Result<(), Trouble> {
        self.write(Stream::Out, format!("{line}\n").as_bytes())
    }

    /// A line for programs on stdout, as it came.
    pub fn json(&mut self, line: &str) -> Result<(), Trouble> {
        if self.out_is_terminal { self.line(clean_json(line)) } else { self.line(line) }
    }

    /// What a script printed, to the stream of the same name: byte by byte, or cleaned for a terminal.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Trouble> {
        let is_terminal = if stream == Stream::Out { self.out_is_terminal } else { self.err_is_terminal };
        if is_terminal {
            self.write(stream, clean_output(&String::from_utf8_lossy(bytes)).as_bytes())
        } else {
            self.write(stream, bytes)
        }
    }

    /// A word to the person, on stderr, where it starts a line.
    pub fn note(&mut self, note: impl Display) {
        let begin = if self.err_is_terminal && self.mid_line { "\n" } else { "" };
        // Whoever would read it is gone.
        let _ = self.write(Stream::Err, format!("{begin}ws-daemon: {note}\n").as_bytes());
    }

    /// How far things are, in a line that is written over; only on a terminal that can.
    pub fn progress(&mut self, text: &str) {
        if !self.err_is_terminal || self.mid_line || std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
            return;
        }
        let width = width_of(&io::stderr()).unwrap_or(80);
        let _ = write!(io::stderr(), "\r\x1b[K{}", cut(text, width.saturating_sub(1)));
        self.progress_stands = true;
    }

    /// Takes the progress line away.
    pub fn end_progress(&mut self) {
        if std::mem::take(&mut self.progress_stands) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Trouble> {
        self.end_progress();
        let (written, is_terminal) = match stream {
            Stream::Out => (write_all(&mut io::stdout().lock(), bytes), self.out_is_terminal),
            // What nobody reads there is no reason to end.
            Stream::Err => (write_all(&mut io::stderr().lock(), bytes).or(Ok(())), self.err_is_terminal),
        };
        if let (true, Some(last)) = (is_terminal, bytes.last()) {
            self.mid_line = *last != b'\n';
        }
        match (written, self.when_gone) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(exit)) if error.kind() == ErrorKind::BrokenPipe => Err(Trouble::said_already(exit)),
            (Err(error), None) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            (Err(error), _) => Err(Trouble::new(Exit::Failed, format_args!("stdout cannot be written: {error}"))),
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.end_progress();
    }
}

fn write_all(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// How many columns a terminal has; `None` if it is none, or does not say.
pub fn width_of(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(stream).filter(|_| stream.is_terminal())?;
    (width > 0).then(|| width.into())
}

/// The beginning of a text that fits into so many columns; what is cut off is marked by `…`.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    let width = |char: char| char.width().unwrap_or_default();
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut kept: String =
        text.chars().take_while(|char| left.checked_sub(width(*char)).map(|rest| left = rest).is_some()).collect();
    if columns > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_is_cut_and_marked() {
        for (text, columns, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("漢字漢字", 5, "漢字…"),
            ("漢字漢字", 4, "漢…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} in {columns}");
        }
    }
}
