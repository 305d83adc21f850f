//! What is logged and in which form, as it is written in settings. It logs nothing.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// Bytes of a filter as it is written; a longer one is refused.
const FILTER_BYTES: usize = 4096;

/// What is logged: a level, or one for each module; it is understood, and so it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(Box<str>);

/// A filter that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log level {text:?} is not understood{why}; write off, error, warn, info, debug or trace, \
     or one for a module, like info,ws_daemon::link=trace"
)]
pub struct LogFilterFault {
    text: String,
    why: String,
}

impl LogFilter {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, and what it could be.
    pub fn parse(text: &str) -> Result<Self, LogFilterFault> {
        let wrong = |text: &str, why: String| LogFilterFault { text: text.to_owned(), why };
        if text.len() > FILTER_BYTES {
            let beginning: String = text.chars().take(32).collect();
            return Err(wrong(&beginning, format!(", being longer than {FILTER_BYTES} bytes")));
        }
        // A bare word that is no level would be taken for a module, and everything else be silent; none would be a level.
        let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        if text.split(',').any(|part| !part.contains(['=', '[']) && !is_level(part.trim())) {
            return Err(wrong(text, String::new()));
        }
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => Err(wrong(text, format!(": {error}"))),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter itself.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        // It was understood when it was parsed.
        EnvFilter::try_new(&self.0).unwrap_or_default()
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For the journal where stderr is the journal, else text.
    #[default]
    Auto,
    /// A line for people.
    Text,
    /// A line with one JSON object.
    Json,
    /// An entry of systemd's journal, with fields, by the journal's own socket.
    Journald,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_modules_and_nothing_else() {
        for text in ["off", "info", "INFO", "info,ws_daemon::link=trace", "ws_daemon=debug", "warn,ws_daemon::exec=off"] {
            assert_eq!(LogFilter::parse(text).expect(text).as_str(), text);
        }
        let long = "info,".repeat(FILTER_BYTES);
        for text in ["", "loud", "info,loud", "info,ws_daemon=loud", "ws_daemon", "usual", &long] {
            let said = LogFilter::parse(text).expect_err(text).to_string();
            assert!(said.starts_with("the log level ") && said.len() < 300, "{said}");
        }
    }
}
