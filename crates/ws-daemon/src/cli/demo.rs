//! `ws-daemon demo`: the main job, shown with nothing but this program. Two daemons run in temporary prefixes as processes of
//! their own, and what travels between them is read on its way by a tap that stands in the middle of their link.

mod stage;
mod tap;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use owo_colors::OwoColorize;

use super::exit::{Exit, Trouble};
use stage::Stage;

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the two daemons running at the end, to try things by hand; Ctrl-C ends them.
    #[arg(long)]
    stay: bool,
}

/// What is shown: who is asked for what.
const REQUESTS: [(&str, &str, &str); 4] = [
    (
        "server",
        r#"{"name":"hello","id":"1","params":{"who":"world"}}"#,
        "a process on the server asks; the client's script runs",
    ),
    ("client", r#"{"name":"add","id":2,"params":[20,22]}"#, "the other way round; 42 is the script's exit status"),
    ("server", r#"{"name":"nowhere","id":"3"}"#, "a script that is not there: an answer, not silence"),
    ("server", r#"{"name":"stumble","id":"4"}"#, "a script that dies of a signal: 128 and the signal's number"),
];

/// Shows it all and cleans up.
pub fn run(arguments: &Arguments) -> Result<Exit, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let shown = runtime.block_on(async {
        tokio::select! {
            shown = show(arguments) => shown,
            // What was started is stopped and removed by being dropped.
            _ = tokio::signal::ctrl_c() => Ok(Exit::Script(130)),
        }
    });
    Ok(shown?)
}

async fn show(arguments: &Arguments) -> anyhow::Result<Exit> {
    title("two daemons on this machine: a server, and a client that dials it");
    let mut stage = Stage::set_up().await?;
    super::print(format_args!("  server  {}   listens on 127.0.0.1:{}", stage.server.prefix.display(), stage.server_port));
    super::print(format_args!("  client  {}   dials it", stage.client.prefix.display()));
    for (side, request, what) in REQUESTS {
        title(what);
        let prefix = if side == "server" { &stage.server.prefix } else { &stage.client.prefix };
        say(side, "socket", "◄", request);
        let answer = ask(&prefix.join("ws-daemon.sock"), request).await?;
        // The link is between the question and the answer, and so is what the tap saw of it.
        for frame in stage.frames() {
            say("", &format!("{} ► {}", frame.from, frame.to), "│", &frame.text);
        }
        say(side, "socket", "►", answer.trim_end());
    }
    by_hand(&stage);
    if arguments.stay {
        title("both stay until Ctrl-C");
        return std::future::pending().await;
    }
    stage.clear().await?;
    title("both daemons have stopped and their files are gone");
    Ok(Exit::Ok)
}

async fn ask(socket: &Path, request: &str) -> anyhow::Result<String> {
    let (socket, request) = (socket.to_owned(), request.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(request.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map(|_| line)
    });
    asked.await?.context("a daemon of the demo does not answer")
}

fn title(text: &str) {
    if super::colours(&std::io::stdout()) {
        super::print(format_args!("\n{}", text.bold()));
    } else {
        super::print(format_args!("\n{text}"));
    }
}

fn say(side: &str, place: &str, arrow: &str, text: &str) {
    let place = format!("{side:6} {place:15} {arrow}");
    if super::colours(&std::io::stdout()) {
        super::print(format_args!("  {} {text}", place.dimmed()));
    } else {
        super::print(format_args!("  {place} {text}"));
    }
}

fn by_hand(stage: &Stage) {
    title("the same by hand");
    let (server, program) = (stage.server.prefix.display(), super::program());
    super::print(format_args!(
        "  {program} demo --stay    # in one terminal; in another, with the paths it prints:\n  \
         echo '{{\"name\":\"hello\",\"id\":\"1\"}}' | nc -UN {server}/ws-daemon.sock\n  \
         {program} exec hello '{{\"who\":\"me\"}}' --prefix {server}; echo $?"
    ));
    title("for good");
    super::print(format_args!(
        "  {program} init server && {program} run    # on the machine that the others can reach\n  \
         {program} invite NAME                # there too, once for each of the others: it prints a line\n  \
         {program} join LINE && {program} run      # on that other one, with the line"
    ));
}
