//! The Debian package, in a copy of this machine that is gone with the test: installed with dpkg, started by the command line of its
//! unit, used, installed again, removed, purged.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Copied, DEADLINE, Process, Ran, need_packager, ran, run, with_copy_of_machine, write_executable};

const ETC: &str = "etc/ws-daemon/config.json";
const PREFIX: &str = "var/lib/ws-daemon";

/// The package, of the program that is tested; made once.
fn package() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ws-daemon.deb");
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/package.sh"));
        script.arg(&package).arg("dev");
        let said = run(script);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        package
    })
}

/// The package, and the copy of the machine that it comes to.
struct Machine<'a>(&'a Copied);

impl Machine<'_> {
    /// A command that succeeds.
    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let said = run(self.0.command(words));
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{words:?}: {out}{err}");
        format!("{out}{err}")
    }

    fn ran(&self, words: &[&str], stdin: &str) -> Ran {
        ran(self.0.command(words), stdin)
    }

    /// The command line of the unit, as its user, in its environment.
    fn start_by_unit(&self) -> Process {
        let unit = self.read("usr/lib/systemd/system/ws-daemon.service");
        let values = |name: &str| -> Vec<String> {
            unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned).collect()
        };
        let ([user], [start]) = (&values("User")[..], &values("ExecStart")[..]) else { panic!("{unit}") };
        let user = [format!("--reuid={user}"), format!("--regid={user}")];
        let words = ["setpriv", &user[0], &user[1], "--init-groups", "--no-new-privs"].into_iter().chain(start.split(' '));
        let mut command = self.0.command(&words.collect::<Vec<_>>());
        command.envs(values("Environment").iter().map(|pair| pair.split_once('=').expect("a name and a value")));
        Process::start("by its unit", command)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.root.join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn config(&self) -> Value {
        serde_json::from_str(&self.read(ETC)).expect("JSON")
    }

    /// What is there and was not before, by its path, if it has our name.
    fn ours(&self) -> Vec<String> {
        let (mut found, mut folders) = (Vec::new(), vec![self.0.changes.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("it is there") {
                let entry = entry.expect("readable");
                // What is hidden from the copy is a device.
                let kind = entry.file_type().expect("readable");
                if kind.is_dir() {
                    folders.push(entry.path());
                }
                let path = entry.path().strip_prefix(&self.0.changes).expect("found there").display().to_string();
                if (kind.is_dir() || kind.is_file() || kind.is_symlink()) && path.contains("ws-daemon") {
                    found.push(path);
                }
            }
        }
        found
    }

    fn has_user(&self) -> bool {
        self.read("etc/passwd").contains("\nws-daemon:") || self.read("etc/group").contains("\nws-daemon:")
    }
}

#[test]
fn the_package_is_installed_used_removed_and_purged_with_nothing_left() {
    if !need_packager() {
        return;
    }
    let package = package();
    with_copy_of_machine(|copied| {
        let machine = Machine(copied);
        fs::copy(package, machine.at("package.deb")).expect("the copy is ours");
        assert!(!machine.has_user() && machine.ours().is_empty(), "this machine has the package already");
        machine.run(&["dpkg", "-i", "/package.deb"]);
        what_is_installed(&machine);

        // Nobody has said yet which end it is.
        let mut unsaid = machine.start_by_unit();
        assert_eq!(unsaid.wait_exit(DEADLINE).code(), Some(78));
        unsaid.log().wait("init server");
        let said = machine.run(&["ws-daemon", "init", "server", "--port", "0", "--listen", "127.0.0.1"]);
        assert!(said.contains("systemctl enable --now ws-daemon"), "{said}");
        let expected = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1" });
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&machine.config()[key], value);
        }
        assert_eq!(machine.config()["socket_group"], "ws-daemon", "what stood there stands there");
        assert!(machine.at(PREFIX).join("config.json").is_symlink());
        it_is_used(&machine);

        // The same again is as an upgrade: what is the administrator's stays.
        let before = machine.read(ETC);
        fs::set_permissions(machine.at("etc/ws-daemon"), fs::Permissions::from_mode(0o755)).expect("ours");
        machine.run(&["dpkg", "-i", "/package.deb"]);
        assert_eq!(machine.read(ETC), before);
        let look = fs::metadata(machine.at("etc/ws-daemon")).expect("there");
        assert!(look.mode() & 0o777 == 0o755 && look.uid() != 0);

        machine.run(&["dpkg", "-r", "ws-daemon"]);
        for gone in ["usr/bin/ws-daemon", "usr/lib/systemd/system/ws-daemon.service", "var/lib/ws-daemon/scripts/hello"] {
            assert!(!machine.at(gone).exists(), "{gone}");
        }
        for kept in [ETC, "var/lib/ws-daemon/keys/peers.json", "var/lib/ws-daemon/spool-server-0.db"] {
            assert!(machine.at(kept).exists(), "{kept}");
        }
        machine.run(&["dpkg", "-P", "ws-daemon"]);
        assert_eq!(machine.ours(), Vec::<String>::new());
        assert!(!machine.has_user());
    });
}

#[test]
fn what_the_administrator_put_in_place_is_not_purged() {
    if !need_packager() {
        return;
    }
    let package = package();
    with_copy_of_machine(|copied| {
        let machine = Machine(copied);
        fs::copy(package, machine.at("package.deb")).expect("the copy is ours");
        machine.run(&["dpkg", "-i", "/package.deb"]);
        write_executable(&machine.at("var/lib/ws-daemon/scripts/mine"), "#!/bin/sh\n");
        let said = machine.run(&["dpkg", "-P", "ws-daemon"]);
        assert!(said.contains("is not empty and is left as it is"), "{said}");
        assert_eq!(machine.read("var/lib/ws-daemon/scripts/mine"), "#!/bin/sh\n");
        assert!(machine.has_user() && !machine.at("etc/ws-daemon").exists());
        let left = ["var/lib/ws-daemon", "var/lib/ws-daemon/scripts", "var/lib/ws-daemon/scripts/mine"];
        let mut found = machine.ours();
        found.sort();
        assert_eq!(found, left);
    });
}

fn what_is_installed(machine: &Machine) {
    let files = machine.run(&["dpkg", "-L", "ws-daemon"]);
    for file in [
        "/usr/bin/ws-daemon",
        "/usr/share/bash-completion/completions/ws-daemon",
        "/usr/share/zsh/vendor-completions/_ws-daemon",
        "/usr/share/fish/vendor_completions.d/ws-daemon.fish",
        "/usr/share/man/man1/ws-daemon.1.gz",
        "/usr/share/man/man1/ws-daemon-exec.1.gz",
        "/usr/share/doc/ws-daemon/README.md",
        "/usr/share/doc/ws-daemon/docs/recipes/cron-with-memory.md",
        "/usr/share/doc/ws-daemon/copyright",
        "/usr/share/doc/ws-daemon/examples/nginx/ws-daemon.conf",
        "/usr/share/doc/ws-daemon/examples/prometheus/alerts.yml",
    ] {
        assert!(files.lines().any(|line| line == file), "{file} is not among {files}");
    }
    let conffiles = machine.run(&["dpkg-query", "-W", "-f", "${Conffiles}", "ws-daemon"]);
    assert!(conffiles.contains("/etc/ws-daemon/config.json"), "{conffiles}");
    let schema = machine.config()["$schema"].as_str().and_then(|url| url.strip_prefix("file:///")).expect("a file").to_owned();
    assert_eq!(machine.read(&schema), machine.run(&["ws-daemon", "schema", "config"]));
    for (path, mode, is_root) in [
        (PREFIX, 0o750, false),
        ("var/lib/ws-daemon/scripts", 0o755, true),
        ("var/lib/ws-daemon/scripts/hello", 0o755, true),
        ("etc/ws-daemon", 0o750, false),
        (ETC, 0o640, false),
    ] {
        let look = fs::metadata(machine.at(path)).expect("it is there");
        assert_eq!((look.mode() & 0o7777, look.uid() == 0), (mode, is_root), "{path}");
    }
    assert!(machine.has_user());
    let page = machine.run(&["sh", "-c", "gzip -dc /usr/share/man/man1/ws-daemon-join.1.gz"]);
    assert!(page.contains("ws\\-daemon"), "{page}");
}

/// A peer joins, and each side has a script of the other's run; somebody in the group asks, somebody else may not.
fn it_is_used(machine: &Machine) {
    let mut server = machine.start_by_unit();
    let line = server.log().wait("listening address=");
    let port = line.rsplit(':').next().expect("an address ends in its port").to_owned();
    server.log().wait("local socket ready");
    // Root needs no --prefix: there is but one.
    let invited = machine.ran(&["ws-daemon", "invite", "web-1", "--url", &format!("wss://127.0.0.1:{port}")], "");
    assert_eq!(invited.code, 0, "{}", invited.err);
    let line = invited.out.lines().find(|line| line.starts_with("wsd1.")).expect("a line to join by");
    machine.run(&["install", "-d", "/srv/ws-daemon-client"]);
    let joined = machine.ran(&["ws-daemon", "join", "-", "--prefix", "/srv/ws-daemon-client"], line);
    assert_eq!(joined.code, 0, "{}", joined.err);
    write_executable(&machine.at("srv/ws-daemon-client/scripts/seven"), "#!/bin/sh\nexit 7\n");
    let client = Process::start("its client", machine.0.command(&["ws-daemon", "--prefix", "/srv/ws-daemon-client"]));
    client.log().wait("link up");
    server.log().wait("link up");
    let asked = machine.ran(&["ws-daemon", "exec", "hello", "{\"a\":1}", "--prefix", "/srv/ws-daemon-client"], "");
    assert_eq!((asked.code, &*asked.err), (0, ""));
    server.log().wait("hello, web-1");
    let by = |group: &str| {
        let group = format!("--regid={group}");
        let words = ["setpriv", "--reuid=12345", &group, "--clear-groups", "ws-daemon", "exec", "seven"];
        machine.ran(&[&words[..], &["--prefix", "/var/lib/ws-daemon"]].concat(), "")
    };
    assert_eq!(by("ws-daemon").code, 7);
    let stranger = by("12345");
    assert!(stranger.code == 69 && stranger.err.contains("socket_group"), "{stranger:?}");
    server.signal(Signal::TERM);
    assert!(server.wait_exit(DEADLINE).success());
    drop(client);
    fs::remove_dir_all(machine.at("srv/ws-daemon-client")).expect("the copy is ours");
}
