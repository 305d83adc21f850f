//! `ws-daemon callers`: which programs may ask over HTTP, and what they show. Only a token or a key is printed on stdout when there is one.

use serde_json::{Value, json};

use super::conversation::{Asking, Line, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use super::table::{Cell, Table};

/// What `callers` takes.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A token is shown once, and is shown to the daemon with each request: Authorization: Bearer TOKEN\n\n\
                  Examples:\n  ws-daemon callers add ci --allow 'deploy/*' --to tag:web\n  \
                  ws-daemon callers add github --hmac --allow 'hooks/*'\n  ws-daemon callers revoke ci"
)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List them (what happens without a word).
    List {
        #[command(flatten)]
        asking: Asking,
    },
    /// Let one more program ask over HTTP, and print its token.
    Add {
        /// What it is called.
        #[arg(value_name = "NAME")]
        name: String,
        /// A script that it may ask for, or a glob like 'sms/*'. May be given several times.
        #[arg(long, value_name = "GLOB")]
        allow: Vec<String>,
        /// Who may be asked for it: a peer, a glob, or tag:…. May be given several times.
        #[arg(long, value_name = "TARGET")]
        to: Vec<String>,
        /// A command that it may give: PEERS, RUNS, RUN, CANCEL, SCRIPTS, STATS, SUBSCRIBE, METRICS. May be given several times.
        #[arg(long = "command", value_name = "CODE")]
        commands: Vec<String>,
        /// It signs what it sends (HMAC-SHA256), as git hosts do, and has no token: its key is printed.
        #[arg(long)]
        hmac: bool,
        /// The header of its signatures [default: X-Hub-Signature-256]
        #[arg(long, value_name = "NAME", requires = "hmac")]
        header: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Let it ask no more, from now on.
    Revoke {
        /// The caller.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Print another token, or key; the old one is good for nothing from now on.
    Rotate {
        /// The caller.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
}

/// Does what is said.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    match &arguments.what {
        None => list(flags, &arguments.asking),
        Some(What::List { asking }) => list(flags, asking),
        Some(What::Add { name, allow, to, commands, hmac, header, asking }) => {
            let mut data = json!({ "do": "add", "name": name, "hmac": hmac });
            for (key, words) in [("allow", allow), ("to", to), ("commands", commands)] {
                if !words.is_empty() {
                    data[key] = json!(words);
                }
            }
            if let Some(header) = header {
                data["header"] = json!(header);
            }
            secret(asking, &asking.ask(flags, "CALLERS", &data)?)
        }
        Some(What::Rotate { name, asking }) => {
            secret(asking, &asking.ask(flags, "CALLERS", &json!({ "do": "rotate", "name": name }))?)
        }
        Some(What::Revoke { name, asking }) => {
            let answer = asking.ask(flags, "CALLERS", &json!({ "do": "revoke", "name": name }))?;
            let mut printer = Printer::new(Some(Exit::Ok));
            if asking.json {
                printer.json(&answer.text)?;
            } else {
                printer.line(format_args!("{name:?} is revoked: what it shows is good for nothing any more"))?;
            }
            Ok(Exit::Ok)
        }
    }
}

/// Prints what a caller is to show, or to sign with.
fn secret(asking: &Asking, answer: &Line) -> Result<Exit, Trouble> {
    let mut printer = Printer::new(Some(Exit::Ok));
    if asking.json {
        printer.json(&answer.text)?;
        return Ok(Exit::Ok);
    }
    let result = answer.value.get("result").cloned().unwrap_or_default();
    let (token, key, name) = (text(&result, "token"), text(&result, "key"), text(&result, "name").unwrap_or_default());
    let Some(secret) = token.or(key) else {
        return Err(Trouble::new(Exit::Failed, "the daemon's answer is not understood"));
    };
    printer.note(if token.is_some() {
        format!("{name:?} shows this token with each request, which is told only now: Authorization: Bearer TOKEN")
    } else {
        format!("{name:?} signs by this key, which is told only now, what it sends to POST /api/v1/hooks/{name}/SCRIPT")
    });
    printer.line(secret)?;
    Ok(Exit::Ok)
}

fn list(flags: &Flags, asking: &Asking) -> Result<Exit, Trouble> {
    let answer = asking.ask(flags, "CALLERS", &json!({ "do": "list" }))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let mut table = Table::new(["~NAME", "SHOWS", "~SCRIPTS", "~OF", "COMMANDS"]);
    let records = answer.records();
    for (raw, caller) in &records {
        if asking.json {
            printer.json(raw.get())?;
        }
        table.row(row(caller));
    }
    if asking.json {
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        printer.note("nobody may ask this daemon over HTTP by a token; for one: ws-daemon callers add NAME");
        return Ok(Exit::Ok);
    }
    table.print(&mut printer)?;
    Ok(Exit::Ok)
}

fn row(caller: &Value) -> [Cell; 5] {
    let shows = text(caller, "hmac").map_or_else(|| "a token".to_owned(), |header| format!("a signature in {header}"));
    let rule = caller.get("rule");
    let words = |key: &str, none: &str| {
        let found = rule.and_then(|rule| rule.get(key));
        let words = match found {
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Some(Value::String(word)) => word.clone(),
            _ => if rule.is_some() { none } else { "by the rules" }.to_owned(),
        };
        Cell::new(&words)
    };
    let name = Cell::new(text(caller, "name").unwrap_or_default());
    [name, Cell::new(&shows), words("scripts", "none"), words("targets", "anyone"), words("commands", "none")]
}
