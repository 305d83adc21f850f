//! A line of the log in words, without colours, byte for byte as the subscriber's own form has it. That one styles each word for a
//! terminal, also where there is none, and looks at each character of what it needs not look at: it costs several times as much, and
//! there is a line for each run.

use std::error::Error;
use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::clock::Clock;

/// The form of a line: its time, its level, what it belongs to, and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

/// The form of fields: the message as it is, all else as `name=value`.
#[derive(Debug, Clone, Copy)]
pub struct Fields;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        Clock.format_time(&mut writer)?;
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => " ERROR ",
            Level::WARN => "  WARN ",
            Level::INFO => "  INFO ",
            Level::DEBUG => " DEBUG ",
            Level::TRACE => " TRACE ",
        })?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                writer.write_str(span.name())?;
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty());
                if let Some(fields) = fields {
                    writer.write_char('{')?;
                    writer.write_str(fields)?;
                    writer.write_char('}')?;
                }
                writer.write_char(':')?;
            }
            writer.write_char(' ')?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writer.write_char('\n')
    }
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        self.begin(name)?;
        if name == "message" {
            return write!(Tamed(&mut self.writer), "{value:?}");
        }
        write!(self.writer, "{value:?}")
    }

    fn put_str(&mut self, name: &str, value: &str) -> fmt::Result {
        if name == "message" {
            self.begin(name)?;
            return Tamed(&mut self.writer).write_str(value);
        }
        // What has nothing to be escaped is as long in quotes as without.
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.begin(name)?;
            self.writer.write_char('"')?;
            self.writer.write_str(value)?;
            return self.writer.write_char('"');
        }
        self.put(name, &value)
    }

    /// All that comes before a value.
    fn begin(&mut self, name: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return Ok(());
        }
        self.writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
        self.writer.write_char('=')
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.result = self.result.and_then(|()| self.put_str(field.name(), value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if self.result.is_ok() {
            let mut visitor = DefaultVisitor::new(self.writer.by_ref(), std::mem::take(&mut self.is_empty));
            visitor.record_error(field, value);
            self.result = visitor.finish();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.result = self.result.and_then(|()| self.put(field.name(), value));
    }
}

/// Writes what a terminal would take for orders as escapes.
struct Tamed<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Tamed<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_order = |char: char| matches!(char, '\u{1b}' | '\u{7}' | '\u{8}' | '\u{c}' | '\u{7f}'..='\u{9f}');
        let mut rest = text;
        while let Some(at) = rest.find(is_order) {
            let (plain, order) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = order.chars();
            let number = chars.next().map_or(0, u32::from);
            if number < 0x80 {
                write!(self.0, "\\x{number:02x}")?;
            } else {
                write!(self.0, "\\u{{{number:x}}}")?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::{debug, error, info, info_span, trace, warn};
    use tracing_subscriber::Layer;
    use tracing_subscriber::fmt::layer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::{Form, Log};
    use super::*;
    use crate::audit::AuditFault;
    use crate::config::LogFilter;
    use crate::levels::Levels;

    /// What the daemon says, and worse.
    fn say_all() {
        let nasty = "a\"b\\c\nd\r\te\u{1b}[2Jf\u{7}\u{8}\u{c}\u{7f}\u{9b}g\u{202e}h zażółć 漢字 {}";
        info!("plain");
        error!(pid = 7, ok = true, share = 0.25, under = -1, wide = u128::MAX, "with numbers");
        warn!(name = "sms/send", empty = "", spaced = "a b", nasty, "with text");
        debug!(%nasty, debugged = ?nasty, none = ?None::<u8>, some = ?Some("x"), "shown and debugged");
        trace!("{nasty} and {}", 5);
        info!(message = nasty);
        info!(message = ?nasty, r#type = "t", a.dotted.name = 1);
        info!(first = 1, second = "2");
        let alone = io::Error::other(nasty);
        warn!(error = &alone as &dyn Error, before = 1, "with an error");
        warn!(%alone, "with one that is shown");
        let of_another = AuditFault::System { path: nasty.into(), source: io::Error::other(nasty) };
        warn!(error = &of_another as &dyn Error, "with one that has a source");
        let run = info_span!("run", id = %"0192f0c1", script = "sms/send");
        run.in_scope(|| {
            info!(peer = %"web-1", outcome = ?Ok::<u8, ()>(0), "run ended");
            let bare = info_span!("bare", later = tracing::field::Empty, name = nasty);
            bare.record("later", 3);
            bare.in_scope(|| info!("in two"));
            info_span!("nothing").in_scope(|| info!("in a span without fields"));
        });
        info!(parent: &run, "by its parent");
        info!(parent: None, "by none");
    }

    fn written<L>(form: impl FnOnce(Log) -> L) -> Vec<String>
    where
        L: Layer<tracing_subscriber::Registry> + Send + Sync,
    {
        let log = Log::new(Form::Text { colours: false }, Levels::new(&LogFilter::default()).0);
        let subscriber = tracing_subscriber::registry().with(form(log.clone()));
        tracing::subscriber::with_default(subscriber, say_all);
        let text = String::from_utf8(log.state().lines.clone()).expect("it is text");
        text.split_inclusive('\n').map(|line| line.split_once('Z').expect("a time").1.to_owned()).collect()
    }

    #[test]
    fn a_line_is_what_the_subscriber_would_have_made_of_it() {
        let own = written(|log| layer().event_format(Plain).fmt_fields(Fields).with_ansi(false).with_writer(log));
        let theirs = written(|log| layer().with_ansi(false).with_target(false).with_writer(log));
        assert_eq!(own, theirs);
        assert_eq!(own.len(), 16, "{own:#?}");
        let ended = r#"  INFO run{id=0192f0c1 script="sms/send"}: run ended peer=web-1 outcome=Ok(0)"#;
        assert!(own.contains(&format!("{ended}\n")), "{own:#?}");
    }
}
