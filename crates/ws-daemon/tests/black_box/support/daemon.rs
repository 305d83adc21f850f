//! A daemon in a temporary prefix: ours, or the seed daemon's stand-in, which is set up and waited for alike. It
//! owns the prefix, the process and what it was seen to bind; it never looks inside either.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::DEADLINE;
use super::command::{command, is_foreign, ran};
use super::config::merge;
use super::local::Local;
use super::log::Log;
use super::process::{Process, write_executable};
use super::{sentinel, stand_in};

/// A daemon that runs; dropped, it is killed with all that it started.
pub struct Daemon {
    plan: DaemonPlan,
    process: Process,
    socket: PathBuf,
    port: Option<u16>,
}

/// A daemon that is yet to start, or to start again: its prefix, config and environment. Clones share the prefix.
#[derive(Clone)]
pub struct DaemonPlan {
    program: Program,
    title: &'static str,
    prefix: Arc<TempDir>,
    config: Value,
    env: Vec<(String, String)>,
    /// The words of a program that starts the daemon: a shell, `unshare`.
    starter: Vec<String>,
    arguments: Vec<String>,
    /// Whether a client has no token, even where the whole suite is searched for one.
    without_token: bool,
}

#[derive(Clone, Copy)]
enum Program {
    Ours,
    SeedStandIn,
}

/// A server and a client of ours with a live link between them.
pub fn pair() -> (Daemon, Daemon) {
    let server = Daemon::server().start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    server.wait_log("link up");
    (server, client)
}

impl Daemon {
    /// Ours as a server on a free port of the loopback.
    pub fn server() -> DaemonPlan {
        DaemonPlan::new(Program::Ours, "our server", json!({ "mode": "server", "port": 0, "listen": "127.0.0.1" }))
    }

    /// Ours as a client of `server`.
    pub fn client(server: &Daemon) -> DaemonPlan {
        Self::client_of(server.port())
    }

    /// Ours as a client of whoever listens on `port` of the loopback; it dials again soon.
    pub fn client_of(port: u16) -> DaemonPlan {
        let times = json!({ "backoff_min": "20ms", "backoff_max": "200ms" });
        let config = json!({ "mode": "client", "proxy": "127.0.0.1", "port": port, "times": times });
        DaemonPlan::new(Program::Ours, "our client", config)
    }

    /// The seed daemon's stand-in as a server on a free port of the loopback.
    pub fn seed_server() -> DaemonPlan {
        let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1" });
        DaemonPlan::new(Program::SeedStandIn, "seed server", config)
    }

    /// The seed daemon's stand-in as a client of `server`.
    pub fn seed_client(server: &Daemon) -> DaemonPlan {
        Self::seed_client_of(server.port())
    }

    /// The seed daemon's stand-in as a client of whoever listens on `port` of the loopback.
    pub fn seed_client_of(port: u16) -> DaemonPlan {
        let config = json!({ "mode": "client", "proxy": "127.0.0.1", "port": port });
        DaemonPlan::new(Program::SeedStandIn, "seed client", config)
    }

    /// The port that a server bound.
    pub fn port(&self) -> u16 {
        self.port.expect("only a server has a port")
    }

    /// The Unix socket that it said it made.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn prefix(&self) -> &Path {
        self.plan.prefix.path()
    }

    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// What the command line prints for these words, which go well.
    #[track_caller]
    pub fn told(&self, words: &[&str]) -> String {
        let mut command = command(words);
        command.env("WSDAEMON_PREFIX", self.prefix());
        let said = ran(command, "");
        assert_eq!(said.code, 0, "{said:?}\n{}", self.log());
        said.out.trim().to_owned()
    }

    /// Adds or replaces a script while it runs.
    pub fn script(&self, name: &str, body: &str) {
        self.plan.write_script(name, body);
    }

    /// A local connection through the Unix socket, known to the daemon when this returns: it has answered once.
    #[track_caller]
    pub fn connect(&self) -> Local {
        Local::unix(&self.socket, self.log())
    }

    /// A local connection of another user, in these groups, whom the folder and the socket are opened to; asks for
    /// [`need_root`](super::need_root).
    #[track_caller]
    pub fn connect_as(&self, user: u32, groups: &[u32]) -> Local {
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("they are ours");
        open(self.prefix(), 0o711);
        open(&self.socket, 0o666);
        Local::unix_as(user, groups, &self.socket, self.log())
    }

    /// A local connection through TCP, as in a container; asks for `.env("WSDAEMON_LOCAL", "127.0.0.1:0")`.
    pub fn connect_tcp(&self) -> Local {
        Local::tcp(&self.local_address(), self.log())
    }

    /// Where the local conversation is spoken over TCP.
    pub fn local_address(&self) -> String {
        field(&self.wait_log("local TCP ready"), "address")
    }

    /// The first line of its log that holds `needle`, waited for.
    #[track_caller]
    pub fn wait_log(&self, needle: &str) -> String {
        self.log().wait(needle)
    }

    /// The `times`th line of its log that holds `needle`, waited for.
    #[track_caller]
    pub fn wait_log_times(&self, needle: &str, times: usize) -> String {
        self.log().wait_times(needle, times)
    }

    /// The most memory that it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Lays `more` over its config.json while it runs, as an editor does that replaces the file.
    pub fn reconfigure(&self, more: Value) {
        let path = self.prefix().join("config.json");
        let text = fs::read_to_string(&path).expect("it was written at the start");
        let mut config = serde_json::from_str(&text).expect("a test's config is JSON");
        merge(&mut config, more);
        self.write_config(&config.to_string());
    }

    /// Puts this text in the place of its config.json.
    pub fn write_config(&self, text: &str) {
        let draft = tempfile::NamedTempFile::new_in(self.prefix()).expect("the prefix is ours to write");
        fs::write(&draft, text).expect("the draft is ours to write");
        draft.persist(self.prefix().join("config.json")).expect("both names are in one folder");
    }

    /// The process that was started: the daemon, or its starter where that stays.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The plan of one more daemon in the same prefix.
    pub fn twin(&self) -> DaemonPlan {
        self.plan.clone()
    }

    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        self.process.wait_exit(within)
    }

    /// Kills the daemon alone, as a crash does: what it started lives on. Returns the plan it ran by, with the port it had.
    pub fn crash(mut self) -> DaemonPlan {
        // Ended already is as good.
        let _ = kill_process(self.pid(), Signal::KILL);
        self.wait_exit(DEADLINE);
        self.kill()
    }

    /// Waits until it has ended by itself, and returns the plan it ran by, with the port it had.
    #[track_caller]
    pub fn ended(mut self) -> DaemonPlan {
        self.wait_exit(DEADLINE);
        self.kill()
    }

    /// Kills it (unless it has ended) and returns the plan it ran by, with the port it had.
    pub fn kill(mut self) -> DaemonPlan {
        self.process.kill();
        if let Some(port) = self.port {
            merge(&mut self.plan.config, json!({ "port": port }));
        }
        self.plan.clone()
    }
}

impl DaemonPlan {
    fn new(program: Program, title: &'static str, config: Value) -> Self {
        let level = if sentinel::is_on() { "trace" } else { "debug" };
        let prefix = tempfile::Builder::new().prefix("ws-daemon-test-").tempdir().expect("a temporary folder can be made");
        Self {
            program,
            title,
            prefix: Arc::new(prefix),
            config,
            starter: Vec::new(),
            arguments: Vec::new(),
            without_token: false,
            env: vec![("WSDAEMON_LOCAL".into(), "off".into()), ("WSDAEMON_LOG".into(), level.into())],
        }
    }

    /// Lays `more` over the config: key by key, `null` removes.
    pub fn config(mut self, more: Value) -> Self {
        merge(&mut self.config, more);
        self
    }

    /// Goes by the config.json that stands in its prefix, but for the times, which are a test's, and by its own token.
    pub fn config_as_written(mut self) -> Self {
        let text = fs::read_to_string(self.prefix().join("config.json")).expect("there is one");
        let written = serde_json::from_str(&text).expect("it is JSON");
        let times = std::mem::replace(&mut self.config, written)["times"].take();
        merge(&mut self.config, json!({ "times": times }));
        self.without_token()
    }

    /// For a test of what a client says that has no token.
    pub fn without_token(self) -> Self {
        Self { without_token: true, ..self }
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Lets a program start the daemon: its words, to which those of the daemon are added.
    pub fn started_by(mut self, words: &[&str]) -> Self {
        self.starter = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn arguments(mut self, words: &[&str]) -> Self {
        self.arguments = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds an executable script.
    pub fn script(self, name: &str, body: &str) -> Self {
        self.write_script(name, body);
        self
    }

    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    /// Starts the daemon and waits until it has bound what it was asked to bind.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let process = self.spawn();
        process.log().wait("local socket ready");
        self.bound(process)
    }

    /// The same for a daemon that may be killed before: then its plan is back.
    ///
    /// # Errors
    /// It has ended.
    #[track_caller]
    pub fn try_start(self) -> Result<Daemon, Box<Self>> {
        let mut process = self.spawn();
        match process.log().wait_or_end("local socket ready") {
            Some(_) => Ok(self.bound(process)),
            None => {
                process.wait_exit(DEADLINE);
                Err(Box::new(self))
            }
        }
    }

    fn bound(self, process: Process) -> Daemon {
        let socket = field(&process.log().wait("local socket ready"), "path").into();
        let port = (self.config["mode"] == "server").then(|| {
            let says_where = |line: &&String| line.contains("listening") && line.contains("address");
            let line = process.log().wait_until(DEADLINE, "where it listens", |lines| lines.iter().find(says_where).cloned());
            let address = field(&line, "address");
            let (_, port) = address.rsplit_once(':').expect("an address ends in its port");
            port.parse().expect("a port is a number")
        });
        Daemon { plan: self, process, socket, port }
    }

    /// Starts the program and waits for nothing: for daemons that are not expected to come up.
    pub fn spawn(&self) -> Process {
        self.write_config();
        Process::start(self.title, self.command())
    }

    /// The program with its config written: for those that say no.
    pub fn written(&self) -> Command {
        self.write_config();
        self.command()
    }

    fn write_config(&self) {
        let mut config = self.config.clone();
        if self.is_searched() && !self.without_token {
            sentinel::equip(&mut config);
        }
        let config = serde_json::to_string_pretty(&config).expect("a value is always JSON");
        // Whole when it appears: a daemon of the same prefix may be reading it just now.
        let draft = tempfile::NamedTempFile::new_in(&*self.prefix).expect("the prefix is ours to write");
        fs::write(&draft, config).expect("the draft is ours to write");
        draft.persist(self.prefix().join("config.json")).expect("both names are in one folder");
    }

    /// The program with its environment; for ours subcommands may be added.
    pub fn command(&self) -> Command {
        const OURS: &str = env!("CARGO_BIN_EXE_ws-daemon");
        let mut command = match (self.program, self.starter.split_first()) {
            (Program::Ours, None) => Command::new(OURS),
            (Program::Ours, Some((starter, words))) => {
                let mut command = Command::new(starter);
                command.args(words).arg(OURS);
                command
            }
            (Program::SeedStandIn, _) => stand_in::node("seed_daemon.js"),
        };
        command.args(&self.arguments);
        let foreign = |key: &str| is_foreign(key) || matches!(key, "NOTIFY_SOCKET" | "WATCHDOG_USEC");
        for (key, _) in env::vars_os().filter(|(key, _)| key.to_str().is_some_and(foreign)) {
            command.env_remove(key);
        }
        command.env("WSDAEMON_PREFIX", self.prefix()).envs(self.env.iter().cloned());
        command
    }

    /// Whether all that it leaves is searched for a secret.
    fn is_searched(&self) -> bool {
        sentinel::is_on() && matches!(self.program, Program::Ours)
    }

    fn write_script(&self, name: &str, body: &str) {
        write_executable(&self.prefix().join("scripts").join(name), body);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.plan.is_searched() {
            // It does nothing more while the search takes its time. Gone already is as good.
            let _ = kill_process(self.pid(), Signal::STOP);
            sentinel::search_all(self.plan.prefix(), self.log(), self.pid());
        }
    }
}

/// The value of `key=value` in a log line, or of `"key":"value"` in one that is JSON.
fn field(line: &str, key: &str) -> String {
    if let Ok(Value::Object(object)) = serde_json::from_str(line) {
        return object[key].as_str().unwrap_or_else(|| panic!("no {key} in {line:?}")).to_owned();
    }
    let (_, value) = line.split_once(&format!("{key}=")).unwrap_or_else(|| panic!("no {key}= in {line:?}"));
    let value = value.split_whitespace().next().unwrap_or_default();
    value.trim_matches('"').to_owned()
}
