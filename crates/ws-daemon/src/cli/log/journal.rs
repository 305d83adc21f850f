//! The log as systemd's journal has it: an entry with fields for each line, and the socket that entries are sent to. An entry is made
//! where something is said, and waits in the log's buffer like any line; the journal may take its time.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{Log, escaped, tame};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long one entry may wait for the journal; then it is lost, and the next ones are tried.
const SENDING: Duration = Duration::from_secs(5);

/// Bytes of one value; what goes beyond is left out, so that an entry fits into one datagram.
const VALUE_BYTES: usize = 16 << 10;

/// Bytes of a field's name.
const FIELD_BYTES: usize = 64;

/// The journal's socket.
pub struct Journal(UnixDatagram);

impl Journal {
    /// What entries are written to.
    ///
    /// # Errors
    /// There is no journal.
    pub fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SENDING))?;
        // Only to see that it is there: it may be another one after a restart of the journal, so each entry names it.
        let not_there =
            |error: io::Error| io::Error::new(error.kind(), format!("the journal's socket {SOCKET} cannot be used: {error}"));
        UnixDatagram::unbound()?.connect(SOCKET).map_err(not_there)?;
        Ok(Self(socket))
    }
}

impl Write for Journal {
    /// Whole entries, each with an empty line behind it. One that the journal does not take is nobody's.
    fn write(&mut self, entries: &[u8]) -> io::Result<usize> {
        // Values are tame: an empty line stands nowhere else.
        for entry in String::from_utf8_lossy(entries).split_inclusive("\n\n") {
            drop(self.0.send_to(entry.trim_end_matches('\n').as_bytes(), SOCKET));
        }
        Ok(entries.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether what is written to stderr goes to the journal, as systemd says where it has it so.
pub fn is_stderr() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Ok(found) = std::fs::metadata("/proc/self/fd/2") else { return false };
    named == format!("{}:{}", found.dev(), found.ino())
}

/// Makes an entry of each event, and puts it into the log.
pub struct Entries(Log);

impl Entries {
    /// Entries for this log.
    pub fn new(log: Log) -> Self {
        Self(log)
    }
}

/// What an event or a span says: for people, and for whoever searches the journal.
#[derive(Default)]
struct Said {
    message: String,
    /// ` name=value`, for each field.
    words: String,
    /// `WSDAEMON_NAME=value`, a line for each field.
    fields: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            name => self.add(name, &value, format_args!("{value}")),
        }
    }
}

impl Said {
    fn add(&mut self, name: &str, value: &str, shown: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = write!(self.words, " {name}={shown}");
        self.fields.push_str("WSDAEMON_");
        let as_field = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' };
        self.fields.extend(name.chars().take(FIELD_BYTES / 2).map(as_field));
        put_value(&mut self.fields, value);
    }
}

/// `=` and the value, in one line.
fn put_value(into: &mut String, value: &str) {
    let mut end = value.len().min(VALUE_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    into.push('=');
    into.push_str(&String::from_utf8_lossy(&tame(&value.as_bytes()[..end], |_| false, escaped)));
    into.push('\n');
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Entries {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut said = Said::default();
        attributes.record(&mut said);
        span.extensions_mut().insert(said);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(said) = span.extensions_mut().get_mut::<Said>() {
            values.record(said);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let about = event.metadata();
        let priority = match *about.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=ws-daemon\nTARGET={}\n", about.target());
        if let (Some(file), Some(line)) = (about.file(), about.line()) {
            let _ = write!(entry, "CODE_FILE={file}\nCODE_LINE={line}\n");
        }
        let mut message = String::new();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(said) = span.extensions().get::<Said>() {
                let _ = write!(message, "{}{{{}}}: ", span.name(), said.words.trim_start());
                entry.push_str(&said.fields);
            }
        }
        entry.push_str(&said.fields);
        message.push_str(&said.message);
        message.push_str(&said.words);
        entry.push_str("MESSAGE");
        put_value(&mut entry, &message);
        entry.push('\n');
        self.0.put(entry.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::Form;
    use super::*;
    use crate::config::LogFilter;
    use crate::levels::Levels;

    #[test]
    fn an_entry_has_a_message_for_people_and_fields_and_no_value_forges_another() {
        let (levels, _) = Levels::new(&LogFilter::default());
        let log = Log::new(Form::Journal, levels);
        let subscriber = tracing_subscriber::registry().with(Entries::new(log.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = info_span!("run", id = "r-1", script = "sms/send");
            span.in_scope(|| info!(peer = "web\nPRIORITY=0\n\nMESSAGE=forged\u{202e}", ms = 5, ok = true, "run ended"));
            warn!(long = "é".repeat(VALUE_BYTES), "plain");
        });
        let text = String::from_utf8(log.state().lines.clone()).expect("it is text");
        let entries: Vec<Vec<&str>> = text.split_terminator("\n\n").map(|entry| entry.lines().collect()).collect();
        assert_eq!(entries.len(), 2, "{text}");
        let tamed = r"web\u{a}PRIORITY=0\u{a}\u{a}MESSAGE=forged\u{202e}";
        let peer = format!("WSDAEMON_PEER={tamed}");
        for line in [
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=ws-daemon",
            "WSDAEMON_ID=r-1",
            "WSDAEMON_SCRIPT=sms/send",
            &peer,
            "WSDAEMON_OK=true",
        ] {
            assert_eq!(entries[0].iter().filter(|found| **found == line).count(), 1, "{line} is not once in {text}");
        }
        let message = entries[0].iter().find_map(|line| line.strip_prefix("MESSAGE=")).expect("there is one");
        assert!(message.starts_with(r#"run{id="r-1" script="sms/send"}: run ended peer="#), "{message}");
        assert!(message.ends_with(" ms=5 ok=true"), "{message}");
        assert!(entries[0].iter().any(|line| line.starts_with("CODE_LINE=")));
        assert!(entries[1].contains(&"PRIORITY=4") && text.len() < 5 * VALUE_BYTES);
        for entry in &entries {
            assert!(entry.iter().all(|line| line.split_once('=').is_some_and(|(name, _)| name.len() <= FIELD_BYTES)));
        }
    }
}
