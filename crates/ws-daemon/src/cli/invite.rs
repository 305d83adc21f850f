//! `ws-daemon invite`: one line that makes another machine a peer of this server. Only that line is printed on stdout.

use std::time::Duration;

use serde_json::json;
use ws_daemon_protocol::time;

use super::conversation::{Asking, Line, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use super::when;

/// What `invite` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The line is a secret until it was used or its time is over. On the other machine: ws-daemon join LINE\n\n\
                  Examples:\n  ws-daemon invite web-1\n  ws-daemon invite till --uses 20 --ttl 7d --tag shop --allow 'sms/*'\n  \
                  ws-daemon invite web-1 --url ws://203.0.113.7:3006 | ssh web-1 ws-daemon join -"
)]
pub struct Arguments {
    /// What the peer will be called. With --uses its followers get -2, -3, …
    #[arg(value_name = "NAME")]
    name: String,
    /// A tag that it gets, and that no other peer can take. May be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A script that it may ask for here, or a glob like 'sms/*'. May be given several times; without it the rules alone decide.
    #[arg(long, value_name = "GLOB")]
    allow: Vec<String>,
    #[command(flatten)]
    terms: Terms,
    /// How many machines may use the line.
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    #[command(flatten)]
    asking: Asking,
}

/// What every invitation takes.
#[derive(Debug, clap::Args)]
pub struct Terms {
    /// How long the line is good for: 30s, 10m, 1h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time::parse)]
    pub ttl: Duration,
    /// How the other machine reaches this server, if not by this machine's host name. Given several times, they are tried in order.
    #[arg(long = "url", value_name = "URL")]
    pub urls: Vec<String>,
}

impl Terms {
    /// The same as the data of a command has it.
    pub fn ttl_ms(&self) -> u64 {
        u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Asks for the line and prints it.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let Arguments { name, tags, allow, terms, uses, asking } = arguments;
    let mut data = json!({ "name": name, "tags": tags, "ttl": terms.ttl_ms(), "uses": uses, "url": terms.urls });
    if !allow.is_empty() {
        data["allow"] = json!(allow);
    }
    let answer = asking.ask(flags, "INVITE", &data)?;
    let who = if *uses == 1 { format!("{name:?} is invited") } else { format!("{uses} machines are invited as {name:?}") };
    show(asking, &answer, &who)
}

/// Prints the line of an invitation on stdout, and what to do with it on stderr.
pub fn show(asking: &Asking, answer: &Line, who: &str) -> Result<Exit, Trouble> {
    let mut printer = Printer::new(Some(Exit::Ok));
    if asking.json {
        printer.json(&answer.text)?;
        return Ok(Exit::Ok);
    }
    let result = answer.value.get("result").cloned().unwrap_or_default();
    let urls = result.get("urls").cloned().and_then(|urls| serde_json::from_value::<Vec<String>>(urls).ok());
    let (Some(code), Some(urls)) = (text(&result, "code"), urls) else {
        return Err(Trouble::new(Exit::Failed, "the daemon's answer is not understood"));
    };
    let until = result.get("expires").and_then(serde_json::Value::as_i64).unwrap_or_default();
    let left = when::ago(until.saturating_add(500), when::now_ms()).replacen("in ", "", 1);
    printer.note(format_args!("{who} to {} for {left}, until {}", urls.join(", "), when::clock(until)));
    printer.note("on the other machine, with the line below:\n    ws-daemon join LINE");
    if urls.iter().any(|url| url.starts_with("ws://")) {
        printer.note("this server does not encrypt: line and tokens can be read by whoever is on the way");
    }
    if let [url] = &urls[..] {
        let host = url.split("://").nth(1).unwrap_or_default().split([':', '/']).next().unwrap_or_default();
        if !host.contains('.') && !host.starts_with('[') && host != "localhost" {
            printer
                .note(format_args!("if the other machine does not know the name {host:?}, say how it reaches this one: --url"));
        }
    }
    printer.line(code)?;
    Ok(Exit::Ok)
}
