//! The demo's two daemons with their prefixes, scripts and tap. Cleared in good order by [`Stage::clear`]; dropped otherwise, its
//! processes are killed and its files removed.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tap::{Frame, Tap};

/// How long a daemon of the demo may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

const HELLO: &str = "#!/bin/sh\necho \"hello from $0, asked by $WSDAEMON_PEER with $1\"\n";
const ADD: &str = "#!/bin/sh\nset -- $(echo \"$1\" | tr -c '0-9' ' ')\nexit $(($1 + $2))\n";
const STUMBLE: &str = "#!/bin/sh\nkill -SEGV $$\n";

/// The whole demo.
#[derive(Debug)]
pub struct Stage {
    /// The side that is dialled.
    pub server: Side,
    /// The side that dials.
    pub client: Side,
    /// Where the server listens.
    pub server_port: u16,
    frames: Receiver<Frame>,
    tap: JoinSet<anyhow::Result<()>>,
    _folder: Folder,
}

/// One of the daemons.
#[derive(Debug)]
pub struct Side {
    /// Its prefix.
    pub prefix: PathBuf,
    daemon: Child,
    log: tokio::io::Lines<BufReader<ChildStderr>>,
}

/// A temporary folder, removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for such things.
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Stage {
    /// Starts both daemons and waits until they are linked.
    pub async fn set_up() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ws-daemon-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let folder = Folder(path.clone());
        let config = json!({ "mode": "server", "listen": "127.0.0.1", "port": 0 });
        let mut server = Side::start(path.join("server"), &config, &[("add", ADD)])?;
        let line = server.wait_for("listening address=").await?;
        let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        let server_port = port.with_context(|| format!("no port in {line:?}"))?;

        let tap = Tap::bind(server_port).await?;
        let config = json!({ "mode": "client", "proxy": "127.0.0.1", "port": tap.port()? });
        let (copies, frames) = Tap::copies();
        let mut tapping = JoinSet::new();
        tapping.spawn(tap.pass_on(copies));
        let scripts = [("hello", HELLO), ("stumble", STUMBLE)];
        let mut client = Side::start(path.join("client"), &config, &scripts)?;
        client.wait_for("link up").await?;
        server.wait_for("link up").await?;
        Ok(Self { server, client, server_port, frames, tap: tapping, _folder: folder })
    }

    /// The frames that went by since the last time.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.try_iter().collect()
    }

    /// Stops both daemons.
    pub async fn clear(&mut self) -> anyhow::Result<()> {
        self.client.stop().await?;
        self.server.stop().await?;
        self.tap.abort_all();
        Ok(())
    }
}

impl Side {
    fn start(prefix: PathBuf, config: &serde_json::Value, scripts: &[(&str, &str)]) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(prefix.join("scripts"))?;
        fs::write(prefix.join("config.json"), config.to_string())?;
        for (name, text) in scripts {
            write_script(&prefix.join("scripts").join(name), text)?;
        }
        let mut command = Command::new(std::env::current_exe().context("the program's own path is unknown")?);
        // What is set for a real daemon is not for these.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WSDAEMON_")) {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1").args(["run", "--local", "off", "--log", "info", "--prefix"]).arg(&prefix);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut daemon = command.spawn().context("a daemon of the demo did not start")?;
        let log = daemon.stderr.take().context("a daemon was started without its log")?;
        Ok(Self { prefix, daemon, log: BufReader::new(log).lines() })
    }

    /// The first line of the log that has `words`.
    async fn wait_for(&mut self, words: &str) -> anyhow::Result<String> {
        let mut seen = String::new();
        let found = async {
            while let Some(line) = self.log.next_line().await? {
                if line.contains(words) {
                    return Ok(line);
                }
                seen.push_str(&line);
                seen.push('\n');
            }
            bail!("a daemon of the demo ended too early; it said:\n{seen}")
        };
        timeout(PATIENCE, found).await.context("a daemon of the demo takes too long to start")?
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.daemon.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        let status = timeout(PATIENCE, self.daemon.wait()).await.context("a daemon of the demo does not stop")??;
        if !status.success() {
            bail!("a daemon of the demo ended with {status}");
        }
        Ok(())
    }
}

fn write_script(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
