//! `ws-daemon peers`: who is connected, and who was; who may enter no more, or by another token.

use serde_json::{Value, json};

use super::conversation::{Asking, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::invite::{Terms, show};
use super::printer::Printer;
use super::table::{Cell, Table};
use super::when;

/// What `peers` takes.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  ws-daemon peers\n  ws-daemon peers --json | jq -r 'select(.connected).name'\n  ws-daemon peers revoke web-1\n  \
                  ws-daemon peers rotate web-1"
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
    /// Let a peer enter no more: its links are closed now, and its token is refused.
    Revoke {
        /// The peer, or who is invited.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Print a line by which a peer gets another token, on the same machine or on another; its old one is good until then.
    Rotate {
        /// The peer.
        #[arg(value_name = "NAME")]
        name: String,
        /// The old token is good for nothing from now on: somebody may have read it.
        #[arg(long)]
        at_once: bool,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        asking: Asking,
    },
}

/// Does what is said.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    match &arguments.what {
        None => list(flags, &arguments.asking),
        Some(What::List { asking }) => list(flags, asking),
        Some(What::Revoke { name, asking }) => revoke(flags, name, asking),
        Some(What::Rotate { name, at_once, terms, asking }) => {
            let data = json!({ "name": name, "at_once": at_once, "ttl": terms.ttl_ms(), "url": terms.urls });
            let answer = asking.ask(flags, "ROTATE", &data)?;
            let until = if *at_once { "has no token now, and" } else { "keeps its token until it" };
            show(asking, &answer, &format!("{name:?} {until} gets another; it is invited again"))
        }
    }
}

fn revoke(flags: &Flags, name: &str, asking: &Asking) -> Result<Exit, Trouble> {
    let answer = asking.ask(flags, "REVOKE", &json!({ "name": name }))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if asking.json {
        printer.json(&answer.text)?;
    } else if answer.value["result"]["was_peer"] == true {
        printer.line(format_args!(
            "{name:?} is revoked: its links are closed, its token is refused, and what it had is settled"
        ))?;
    } else {
        printer.line(format_args!("the invitation of {name:?} is void; no such peer had joined"))?;
    }
    Ok(Exit::Ok)
}

fn list(flags: &Flags, asking: &Asking) -> Result<Exit, Trouble> {
    let answer = asking.ask(flags, "PEERS", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let now = when::now_ms();
    let mut table = Table::new(["~NAME", "STATE", "~ADDRESS", "~TAGS", "LAST SEEN", "RUNS", "VERSION"]);
    let records = answer.records();
    for (raw, peer) in &records {
        if asking.json {
            printer.json(raw.get())?;
        }
        table.row(row(peer, now));
    }
    if asking.json {
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        printer.note("no peer was ever connected to this daemon");
        return Ok(Exit::Ok);
    }
    table.print(&mut printer)?;
    Ok(Exit::Ok)
}

fn row(peer: &Value, now: i64) -> [Cell; 7] {
    let word = |key| Cell::new(text(peer, key).unwrap_or_default());
    let is = |key: &str| peer.get(key).and_then(Value::as_bool).unwrap_or_default();
    let number = |key: &str| peer.get(key).and_then(Value::as_u64);
    let state = match () {
        () if is("connected") => Cell::good("connected"),
        () if is("revoked") => Cell::bad("revoked"),
        () => Cell::bad("absent"),
    };
    let seen = match peer.get("last_seen").and_then(Value::as_i64) {
        _ if is("connected") => "now".to_owned(),
        Some(then) => when::ago(then, now),
        None => "never".to_owned(),
    };
    let tags: Vec<&str> = peer.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let runs = match (number("in_flight"), number("capacity")) {
        (Some(runs), Some(capacity)) => format!("{runs}/{capacity}"),
        (Some(runs), None) => runs.to_string(),
        _ => String::new(),
    };
    let version = if is("seed") { Cell::new("seed") } else { word("version") };
    [word("name"), state, word("address"), Cell::new(&tags.join(", ")), Cell::new(&seen), Cell::new(&runs), version]
}
