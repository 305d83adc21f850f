//! `ws-daemon join`: an invitation becomes this machine's config, its own token, and a first link. Nothing is written to the config
//! before the server has said yes; what fails can be tried again with the same line.

mod first_link;

use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::clean::clean;
use super::exit::{Exit, Trouble};
use super::gather::{self, Flags};
use super::owner::become_owner_of;
use super::printer::Printer;
use super::token::TOKEN;
use super::when::took;
use crate::config::{Credentials, Role, ServerUrl, Servers, Settings};
use crate::daemon::identity;
use crate::invitation::{BadCode, CODE_BYTES, Invitation};
use crate::link::{Answer, DialFault, trade};
use crate::secret::{Digest, Secret, write_private};
use crate::spool::{Spool, SpoolFault};
use crate::tls::{ClientTls, Pin};
use first_link::{Found, link_once};

/// Which line was used, in the prefix: used again, after a lost answer too, it brings the same token.
const DRAFT: &str = "keys/joining.json";

/// The roots that the server's certificate is under, in the prefix.
const ROOTS: &str = "keys/server-roots.pem";

/// How often a server that did not answer is asked again.
const TRIES: u32 = 3;

/// What `join` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if this machine is a peer now and its link works, 65 for a line that is none, 69 if the server is not reached,
77 if it refuses the line, 78 if this folder is a server's.

Examples:
  ws-daemon join wsd1.eyJ1Ijpb…
  ws-daemon join - < line
  ws-daemon join wsd1.eyJ1Ijpb… --prefix /srv/ws-daemon --name till-berlin")]
pub struct Arguments {
    /// The line that \"ws-daemon invite\" printed on the server; - reads it from stdin.
    #[arg(value_name = "LINE")]
    code: String,
    /// The name to ask for, if the line is for several machines: it begins with theirs, like till-berlin for till.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// For a client of the seed's version: print its \"proxy\", with name and token, and write nothing.
    #[arg(long)]
    seed: bool,
}

/// What the line says.
struct Offer {
    invitation: Invitation,
    /// Where it may be traded.
    servers: Servers,
    /// By what the server is believed.
    pin: Option<Pin>,
}

/// What the server gave.
#[derive(Debug, Deserialize)]
struct Given {
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    roots: String,
}

/// The token that is offered, and by which line.
#[derive(Serialize, Deserialize)]
struct Draft {
    line_sha256: Digest,
    /// `None` once it stands in its own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Trades the line, writes what came of it, and links once.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let code = if arguments.code == "-" { from_stdin()? } else { arguments.code.clone() };
    let invitation = Invitation::decode(&code).map_err(|bad| Trouble::new(Exit::BadMessage, bad))?;
    let servers = Servers::parse(&invitation.urls, None)
        .map_err(|fault| Trouble::new(Exit::BadMessage, format_args!("the line names no server: what it has {fault}")))?;
    let pin: Option<Pin> =
        invitation.pin.as_deref().map(str::parse).transpose().map_err(|_| Trouble::new(Exit::BadMessage, BadCode::Mistyped))?;
    let offer = Offer { invitation, servers, pin };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Trouble::new(Exit::Failed, format_args!("no runtime: {error}")))?;
    runtime.block_on(async {
        if arguments.seed {
            return for_seed(arguments, offer).await;
        }
        Joining::new(flags, arguments, offer)?.join().await
    })
}

fn from_stdin() -> Result<String, Trouble> {
    let mut code = String::new();
    let read = io::stdin().take(2 * CODE_BYTES as u64).read_to_string(&mut code);
    read.map_err(|error| Trouble::new(Exit::BadMessage, format_args!("stdin holds no line: {error}")))?;
    Ok(code)
}

/// The seed's clients have no instance and no files of ours: their token is in their `proxy`.
async fn for_seed(arguments: &Arguments, mut offer: Offer) -> Result<Exit, Trouble> {
    let token = Secret::random().map_err(|error| Trouble::new(Exit::Failed, error))?;
    offer.find_ways(None)?;
    let (server, given) = offer.trade(arguments.name.as_deref(), None, &token).await?;
    let mut printer = Printer::new(Some(Exit::Ok));
    printer.note("the \"proxy\" of that client's config.json; it holds its token:");
    let (scheme, rest) = if server.tls { ("wss", server.to_string()) } else { ("ws", server.to_string()) };
    let rest = rest.split_once("://").map_or("", |(_, rest)| rest);
    printer.line(format_args!("{scheme}://{}:{}@{rest}", given.name, token.text()))?;
    Ok(Exit::Ok)
}

/// A join on its way.
struct Joining<'a> {
    flags: &'a Flags,
    offer: Offer,
    wish: Option<&'a str>,
    prefix: PathBuf,
    /// config.json as it is; empty if it is not there.
    config: Map<String, Value>,
}

impl<'a> Joining<'a> {
    fn new(flags: &'a Flags, arguments: &'a Arguments, mut offer: Offer) -> Result<Self, Trouble> {
        let (prefix, _) = flags.prefix();
        let prefix = std::path::absolute(&prefix).unwrap_or(prefix);
        become_owner_of(&prefix)?;
        let path = prefix.join("config.json");
        let config = match std::fs::read_to_string(&path) {
            Ok(text) => {
                // As a daemon would take it; what it does not understand is not to be written over.
                gather::parse(&path, &text)?;
                serde_json::from_str(&text).map_err(|error| Trouble::new(Exit::Config, error))?
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Map::new(),
            Err(error) => return Err(Trouble::new(Exit::Config, format_args!("{} cannot be read: {error}", path.display()))),
        };
        if config.get("mode").is_some_and(|mode| mode == "server") {
            let said = format_args!(
                "{} is a server's, and a server joins nobody. To have a client on this machine too, give it a folder of its own: \
                 ws-daemon join LINE --prefix DIR",
                path.display()
            );
            return Err(Trouble::new(Exit::Config, said));
        }
        offer.find_ways(config.get("http_proxy").and_then(Value::as_str))?;
        Ok(Self { flags, offer, wish: arguments.name.as_deref(), prefix, config })
    }

    async fn join(mut self) -> Result<Exit, Trouble> {
        let failed = |error: io::Error| Trouble::new(Exit::Failed, format_args!("{}: {error}", self.prefix.display()));
        // Whatever the umask: scripts in a folder that others may write would not be run.
        DirBuilder::new().recursive(true).mode(0o755).create(self.prefix.join("scripts")).map_err(failed)?;
        let spool = self.spool()?;
        let instance = spool.identity().instance.to_string();
        spool.close().await;
        let token = self.token()?;
        let (server, given) = self.offer.trade(self.wish, Some(&instance), &token).await?;
        let changed = self.write(&given, &token)?;
        let mut printer = Printer::new(Some(Exit::Ok));
        printer.line(format_args!("joined {} as {}", server.authority(), clean(&given.name)))?;
        for line in changed {
            printer.line(format_args!("  {line}"))?;
        }
        let settings = Settings { name: Some(given.name.clone()), ..self.settings()? };
        let credentials = Credentials { name: given.name.clone(), token: token.text().into() };
        let server = ServerUrl { credentials: Some(credentials), ..server };
        let found = link_once(&settings, &server).await.map_err(|(exit, why)| {
            let said = format_args!(
                "this machine is the peer {} now, and its files are written, but a first link failed: {why}. Once that is mended, \
                 start the daemon: {}",
                clean(&given.name),
                gather::how_to_run(&self.prefix)
            );
            Trouble::new(exit, said)
        })?;
        self.say_what_was_found(&mut printer, &server, &given, &found)?;
        Ok(Exit::Ok)
    }

    /// The spool that the daemon will have, and so its instance.
    fn spool(&self) -> Result<Spool, Trouble> {
        identity::try_spool(&self.settings()?).map_err(|fault| match fault {
            SpoolFault::Locked(_) => {
                let said = format_args!(
                    "a daemon runs in {}: stop it, join, and start it again. Until then nothing is lost: the line stays good",
                    self.prefix.display()
                );
                Trouble::new(Exit::Unavailable, said)
            }
            fault => Trouble::new(Exit::Failed, fault),
        })
    }

    /// What the daemon would go by.
    fn settings(&self) -> Result<Settings, Trouble> {
        let config = self.config_with(None);
        let path = self.prefix.join("config.json");
        let (settings, _) = self.flags.settings_by(Some(gather::parse(&path, &Value::Object(config).to_string())?))?;
        match &settings.role {
            Role::Client { servers } if *servers == self.offer.servers => Ok(settings),
            _ => {
                let said = "a flag or the environment says otherwise than the invitation (WSDAEMON_MODE, WSDAEMON_PROXY, --mode, \
                            --proxy): the daemon would not go by what is written here";
                Err(Trouble::new(Exit::Config, said))
            }
        }
    }

    fn config_with(&self, name: Option<&str>) -> Map<String, Value> {
        let mut config = self.config.clone();
        // The URL has its port, and the token its own place.
        for key in ["port", "token_file"] {
            config.remove(key);
        }
        config.insert("mode".into(), "client".into());
        let Servers { first, others } = &self.offer.servers;
        let proxy = if others.is_empty() {
            first.to_string().into()
        } else {
            self.offer.servers.iter().map(ToString::to_string).collect()
        };
        config.insert("proxy".into(), proxy);
        if let Some(name) = name {
            config.insert("name".into(), name.into());
        }
        config
    }

    /// The token that this line brought before, if it did; else a new one, on disk before the server knows its digest.
    fn token(&self) -> Result<Secret, Trouble> {
        let read = |name| std::fs::read_to_string(self.prefix.join(name)).ok();
        let draft = read(DRAFT).and_then(|text| serde_json::from_str::<Draft>(&text).ok());
        let draft = draft.filter(|draft| draft.line_sha256 == Digest::of(&self.offer.invitation.secret));
        if let Some(token) = draft.and_then(|draft| draft.token.or_else(|| read(TOKEN))) {
            return Ok(Secret::from(token.trim()));
        }
        let token = Secret::random().map_err(|error| Trouble::new(Exit::Failed, error))?;
        self.write_draft(Some(token.text().into()))?;
        Ok(token)
    }

    fn write_draft(&self, token: Option<String>) -> Result<(), Trouble> {
        let draft = Draft { line_sha256: Digest::of(&self.offer.invitation.secret), token };
        self.write_file(DRAFT, &serde_json::to_string(&draft).map_err(|error| Trouble::new(Exit::Failed, error))?)
    }

    fn write_file(&self, name: &str, text: &str) -> Result<(), Trouble> {
        let path = self.prefix.join(name);
        let failed = |error| Trouble::new(Exit::Failed, format_args!("{} cannot be written: {error}", path.display()));
        // A link to where it stands stays one.
        let path = path.canonicalize().unwrap_or(path.clone());
        write_private(&path, text.as_bytes()).map_err(failed)
    }

    /// Writes what the daemon needs; a line for each file that says what is new in it.
    fn write(&mut self, given: &Given, token: &Secret) -> Result<Vec<String>, Trouble> {
        let shown = |name: &str| self.prefix.join(name).display().to_string();
        let mut lines = Vec::new();
        let before = std::fs::read_to_string(self.prefix.join(TOKEN)).ok();
        let replaces = before.is_some_and(|before| before.trim() != token.text());
        self.write_file(TOKEN, &format!("{}\n", token.text()))?;
        let instead = if replaces { ", in place of the one that was there" } else { "" };
        lines.push(format!("{}: this machine's own token{instead}", shown(TOKEN)));
        if given.roots.is_empty() {
            match std::fs::remove_file(self.prefix.join(ROOTS)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Trouble::new(Exit::Failed, format_args!("{}: {error}", shown(ROOTS))));
                }
                _ => {}
            }
        } else {
            self.write_file(ROOTS, &given.roots)?;
            lines.push(format!("{}: whom to trust as the server", shown(ROOTS)));
        }
        let config = self.config_with(Some(&given.name));
        let was_there = !self.config.is_empty();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), clean);
        // What stands in proxy may be a token.
        let before = |key: &str, value: &Value| if key == "proxy" { "another server".into() } else { text(value) };
        let mut changes: Vec<String> = Vec::new();
        for (key, value) in &config {
            match self.config.get(key) {
                Some(old) if old == value => {}
                Some(old) if was_there => changes.push(format!("{key} {} (was {})", text(value), before(key, old))),
                _ => changes.push(format!("{key} {}", text(value))),
            }
        }
        let gone = self.config.keys().filter(|key| !config.contains_key(*key));
        changes.extend(gone.map(|key| format!("without {key}")));
        self.write_file("config.json", &format!("{:#}\n", Value::Object(config.clone())))?;
        let changes = if changes.is_empty() { "as it was".to_owned() } else { changes.join(", ") };
        lines.push(format!("{}: {changes}", shown("config.json")));
        self.config = config;
        self.write_draft(None)?;
        Ok(lines)
    }

    fn say_what_was_found(
        &self,
        printer: &mut Printer,
        server: &ServerUrl,
        given: &Given,
        found: &Found,
    ) -> Result<(), Trouble> {
        let encrypted = if server.tls { "yes" } else { "no: tokens and requests can be read on the way" };
        let tags = if given.tags.is_empty() { "none".to_owned() } else { clean(&given.tags.join(", ")) };
        printer.line("a first link was made:")?;
        for (what, found) in [
            ("server", format!("{} (ws-daemon {}) at {server}", clean(&found.name), clean(&found.version))),
            ("encrypted", encrypted.to_owned()),
            ("round trip", took(found.round_trip)),
            ("known there as", format!("{}, tags: {tags}", clean(&given.name))),
        ] {
            printer.line(format_args!("  {what:14}  {found}"))?;
        }
        printer.line(format_args!("start the daemon:\n  {}", gather::how_to_run(&self.prefix)))
    }
}

impl Offer {
    /// The proxies on the way, by the environment and by what config.json says.
    fn find_ways(&mut self, set: Option<&str>) -> Result<(), Trouble> {
        let proxies = gather::proxies();
        for server in self.servers.iter_mut() {
            server.via = proxies.way(server, set).map_err(|fault| Trouble::new(Exit::Config, fault))?;
        }
        Ok(())
    }

    /// Trades the line at the first server that answers.
    async fn trade(&self, wish: Option<&str>, instance: Option<&str>, token: &Secret) -> Result<(ServerUrl, Given), Trouble> {
        const WITHIN: Duration = Duration::from_secs(10);
        let Self { invitation, servers, pin } = self;
        let body = json!({
            "name": wish.unwrap_or(&invitation.name), "secret": invitation.secret, "instance": instance,
            "token_sha256": token.digest(),
        });
        let body = body.to_string();
        // Without a pin it is by the roots of the system: a proxy before the server.
        let systems = ClientTls::of_the_system();
        let mut last = None;
        for server in servers.iter() {
            for _ in 0..TRIES {
                match trade(server, *pin, &systems, &body, Instant::now() + WITHIN, WITHIN).await {
                    Ok(answer) => return understood(server, &answer).map(|given| (server.clone(), given)),
                    Err(fault) => {
                        // Only an answer that was lost is worth asking for again at once.
                        let is_lost = matches!(fault, DialFault::NoAnswer(_));
                        last = Some((server, fault));
                        if !is_lost {
                            break;
                        }
                    }
                }
            }
        }
        Err(match last {
            Some((server, fault)) => unreached(server, &fault),
            None => Trouble::new(Exit::BadMessage, "the line names no server"),
        })
    }
}

fn unreached(server: &ServerUrl, fault: &DialFault) -> Trouble {
    let advice = match fault {
        DialFault::LookUp(..) => {
            "this machine does not know that name: have the invitation made with --url and a name or an address that it knows"
        }
        DialFault::Connect(..) | DialFault::TooSlow(_) => {
            "is that address right, the server running, and its port open from here? An address that is right from here is given \
             to \"ws-daemon invite\" with --url"
        }
        // They say themselves what to do.
        DialFault::Proxy(..) => {
            let said = format_args!("{server} is not reached: {fault}. The line stays good until its time is over");
            return Trouble::new(Exit::Unavailable, said);
        }
        DialFault::Tls(_) => {
            return Trouble::new(Exit::Unavailable, format_args!("{server} is not believed: {fault}"));
        }
        _ => "is that the port of a ws-daemon server?",
    };
    Trouble::new(
        Exit::Unavailable,
        format_args!("{server} did not answer: {fault}; {advice}. The line stays good until its time is over"),
    )
}

/// What the server's answer means.
fn understood(server: &ServerUrl, answer: &Answer) -> Result<Given, Trouble> {
    const SHOWN_CHARS: usize = 500;
    let words: String = clean(answer.body.trim()).chars().take(SHOWN_CHARS).collect();
    match answer.status {
        200 => serde_json::from_str(&answer.body).map_err(|error| {
            Trouble::new(
                Exit::Failed,
                format_args!("the answer of {server} is not understood: {error}; is it of a later version?"),
            )
        }),
        401 => Err(Trouble::new(
            Exit::Denied,
            format_args!(
                "{server} does not know this invitation: a later one for the same name has replaced it, it was revoked, or its time \
                 was over long ago; ask for a new one (ws-daemon invite NAME, on the server)"
            ),
        )),
        409 | 410 => Err(Trouble::new(Exit::Denied, words)),
        503 => Err(Trouble::new(Exit::Busy, format_args!("{server} cannot do it now: {words}"))),
        404 | 426 | 400 => Err(Trouble::new(
            Exit::Unavailable,
            format_args!("{server} knows no invitations: is it a ws-daemon server of this version? It said: {words}"),
        )),
        status => Err(Trouble::new(Exit::Failed, format_args!("{server} refused: {status} {words}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_says_what_to_do() {
        let server = ServerUrl::parse("ws://hub:3006", None).expect("a URL");
        let said = |status, body: &str| {
            understood(&server, &Answer { status, date: None, body: body.into() })
                .map(|given| given.name)
                .map_err(|trouble| trouble.said().to_owned())
        };
        assert_eq!(said(200, r#"{"name":"web","more":1}"#).as_deref(), Ok("web"));
        for (status, body, words) in [
            (200, "hello", "later version"),
            (401, "x", "ask for a new one"),
            (410, "this invitation is over: ask\u{1b}[2J", "this invitation is over: ask"),
            (409, "for the name \"web\"", "for the name"),
            (503, "disk", "cannot do it now"),
            (426, "this port", "is it a ws-daemon server"),
            (500, "", "refused: 500"),
        ] {
            let said = said(status, body).expect_err("refused");
            assert!(said.contains(words) && !said.contains('\u{1b}'), "{said}");
        }
    }

    #[test]
    fn a_server_that_is_not_reached_is_named_with_what_to_do() {
        let server = ServerUrl::parse("ws://hub:3006", None).expect("a URL");
        for (fault, words) in [
            (DialFault::LookUp("hub".into(), ErrorKind::NotFound.into()), "does not know that name"),
            (DialFault::Connect(([192, 0, 2, 1], 3006).into(), ErrorKind::TimedOut.into()), "192.0.2.1:3006"),
            (DialFault::TooSlow(Duration::from_secs(10)), "port open from here"),
            (DialFault::NoAnswer(ErrorKind::UnexpectedEof.into()), "is that the port"),
        ] {
            let trouble = unreached(&server, &fault);
            assert!(trouble.said().contains(words) && trouble.said().contains("ws://hub:3006/"), "{}", trouble.said());
        }
    }
}
