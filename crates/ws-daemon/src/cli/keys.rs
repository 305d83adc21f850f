//! `ws-daemon keys`: what a server's certificates are, and how they change.

use serde_json::{Value, json};

use super::clean::clean;
use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use super::table::{Cell, Table};
use super::when;

/// What `keys` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A leaf is renewed by itself when a third of its life is left. A root is replaced in two steps, and no client
loses its link: rotate announces the next root to all clients that have pinned the present one; when the last
of them has it, or at finish, the server goes over to it. Who was away all the time has to join again.

Examples:
  ws-daemon keys
  ws-daemon keys rotate && ws-daemon keys show
  ws-daemon keys finish")]
pub struct Arguments {
    /// What to do.
    #[arg(value_enum, default_value_t = Task::Show)]
    task: Task,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Task {
    /// Show the root, the leaf, and which clients have which root.
    Show,
    /// Make a new leaf now.
    Renew,
    /// Make the next root and announce it.
    Rotate,
    /// Go over to the next root, also if some clients do not have it.
    Finish,
}

/// Does it, and shows what there is then.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let task = match arguments.task {
        Task::Show => "show",
        Task::Renew => "renew",
        Task::Rotate => "rotate",
        Task::Finish => "finish",
    };
    let answer = arguments.asking.ask(flags, "KEYS", &json!({ "do": task }))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        if let Some(result) = answer.result() {
            printer.json(result.get())?;
        }
        return Ok(Exit::Ok);
    }
    let keys = answer.value.get("result").unwrap_or(&Value::Null);
    if keys["on"] != true {
        printer.note("this server has no TLS: the first ws-daemon invite switches it on, or \"tls\": true in config.json");
        return Ok(Exit::Ok);
    }
    for (name, title) in [("leaf", "certificate"), ("root", "root"), ("next", "next root")] {
        certificate(&mut printer, title, &keys[name])?;
    }
    if let Some(renewal) = keys["renewal"].as_i64() {
        printer.line(format_args!("renewed      {}", when::clock(renewal)))?;
    }
    holders(&mut printer, keys)
}

fn certificate(printer: &mut Printer, title: &str, shown: &Value) -> Result<(), Trouble> {
    if shown.is_null() {
        return Ok(());
    }
    let text = |key: &str| clean(shown[key].as_str().unwrap_or_default());
    let until = when::clock(shown["until"].as_i64().unwrap_or_default());
    printer.line(format_args!("{title:<12} until {until}"))?;
    printer.line(format_args!("             sha256 {}", text("fingerprint")))?;
    printer.line(format_args!("             pin {}", text("pin")))?;
    let names: Vec<String> = shown["names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    if !names.is_empty() {
        printer.line(format_args!("             for {}", names.join(", ")))?;
    }
    Ok(())
}

fn holders(printer: &mut Printer, keys: &Value) -> Result<Exit, Trouble> {
    let holders = keys["holders"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |value: &Value| match value.as_bool() {
        Some(true) => Cell::good("yes"),
        Some(false) => Cell::bad("no"),
        None => Cell::new(""),
    };
    let mut table = Table::new(["~CLIENT", "INSTANCE", "ROOT", "NEXT ROOT"]);
    for holder in holders {
        let text = |key: &str| Cell::new(holder[key].as_str().unwrap_or_default());
        table.row([text("name"), text("instance"), has(&holder["root"]), has(&holder["next"])]);
    }
    if !holders.is_empty() {
        table.print(printer)?;
    }
    let lacking = holders.iter().filter(|holder| holder["next"] == false).count();
    if !keys["next"].is_null() {
        printer.note(format_args!(
            "{lacking} clients lack the next root; it is gone over to when they have it, or by: ws-daemon keys finish"
        ));
    }
    Ok(Exit::Ok)
}
