//! `ws-daemon check`: the settings as they are understood.

use super::exit::{Exit, Trouble};
use super::gather::Flags;

/// What `check` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// Prints every setting, its value and where it came from; secrets are left out.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    // What is wrong is said in one line to programs.
    let (_, rows) = if arguments.json { flags.settings_for_log()? } else { flags.settings()? };
    if arguments.json {
        let map: serde_json::Map<_, _> = rows
            .iter()
            .map(|row| (row.name.to_owned(), serde_json::json!({ "value": row.value, "source": row.source.to_string() })))
            .collect();
        super::print(serde_json::Value::Object(map));
        return Ok(Exit::Ok);
    }
    let rows: Vec<(&str, String, String)> = rows.iter().map(|row| (row.name, row.shown(), row.source.to_string())).collect();
    let names = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
    let values = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or_default();
    for (name, value, source) in rows {
        super::print(format_args!("{name:names$}  {value:values$}  {source}"));
    }
    Ok(Exit::Ok)
}
