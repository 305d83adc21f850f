//! `ws-daemon explain`: who may ask for a script, which rule says so, and who would get it.

use serde_json::{Value, json};

use super::clean::clean;
use super::conversation::{Asking, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `explain` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if it is allowed, 77 if not.

Examples:
  ws-daemon explain --as till-3 sms/send                 may this peer have it run here?
  ws-daemon explain --as till-3 --to web-1 deploy        may it have it passed on?
  ws-daemon explain --as user:deploy --to 'web-*' deploy  may this user ask, and who would get it?")]
pub struct Arguments {
    /// Who asks: a peer by name, anonymous, server, user:NAME or user:UID, tcp.
    #[arg(long = "as", value_name = "WHO")]
    actor: String,
    /// Who is to run it, as in a request: a name, a glob, tag:NAME. Of a peer: whom it is to be passed on to.
    #[arg(long, value_name = "TARGET")]
    to: Vec<String>,
    /// The script.
    name: String,
    #[command(flatten)]
    asking: Asking,
}

/// Asks, and tells.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut query = json!({ "as": arguments.actor, "name": arguments.name });
    match &arguments.to[..] {
        [] => {}
        [one] => query["to"] = one.as_str().into(),
        many => query["to"] = many.into(),
    }
    let answer = arguments.asking.ask(flags, "EXPLAIN", &query)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let Some(result) = answer.result() else {
        return Err(Trouble::new(Exit::Failed, "the daemon answered without a verdict"));
    };
    let said = answer.value.get("result").unwrap_or(&Value::Null);
    let allowed = said.get("allowed").and_then(Value::as_bool).unwrap_or_default();
    if arguments.asking.json {
        printer.json(result.get())?;
    } else {
        for line in words(said, allowed) {
            printer.line(line)?;
        }
    }
    Ok(if allowed { Exit::Ok } else { Exit::Denied })
}

fn words(said: &Value, allowed: bool) -> Vec<String> {
    let word = |key| text(said, key).map(clean).unwrap_or_default();
    let to = said.get("to").map(|to| format!(" of {}", clean(&to.to_string()))).unwrap_or_default();
    let verdict = if allowed { "may" } else { "may not" };
    let mut lines = vec![format!("{} {verdict} ask for {}{to}: {}", word("as"), word("name"), word("why"))];
    if said.get("note").is_some() {
        lines.push(format!("note: {}", word("note")));
    }
    let Some(peers) = said.get("peers").and_then(Value::as_array).filter(|_| allowed) else { return lines };
    if peers.is_empty() {
        lines.push("nobody who matches was ever connected here".to_owned());
    }
    for peer in peers {
        let is = |key: &str| peer.get(key).and_then(Value::as_bool).unwrap_or_default();
        let state = match (is("next"), is("connected")) {
            (true, _) => "connected, and next",
            (false, true) => "connected",
            (false, false) => "absent",
        };
        lines.push(format!("  {}: {state}", text(peer, "name").map(clean).unwrap_or_default()));
    }
    if let Some(more) = said.get("more").and_then(Value::as_u64) {
        lines.push(format!("  and {more} more"));
    }
    lines
}
