//! Networks and files that exist for one test alone, in namespaces of Linux: what is started inside sees them, the
//! machine does not. They belong to no file and no process, so they are gone when the test's last handle is, whatever
//! way it ends.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::process::run;

/// A network with a loopback of its own and no way out but the cables laid to it.
pub struct Network(File);

impl Network {
    pub fn new() -> Self {
        Self(apart(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("need_namespaces has seen that it can be");
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network")
        }))
    }

    /// Does `work` inside; sockets that it opens and processes that it starts stay there.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        apart(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("who made it may enter it");
            work()
        })
    }

    /// Lays a cable to `other`; both ends get an address with its network, like 10.0.0.1/24.
    pub fn connect(&self, address: &str, other: &Self, other_address: &str) {
        let there = format!("/proc/{}/fd/{}", process::id(), other.0.as_raw_fd());
        self.inside(|| {
            ip(&format!("link add cable type veth peer name cable netns {there}"));
        });
        for (network, address) in [(self, address), (other, other_address)] {
            network.inside(|| {
                ip(&format!("addr add {address} dev cable"));
                ip("link set cable up");
            });
        }
    }
}

impl Network {
    /// Does with packets what `rules` say, in the words of nft: of a chain `in` for what comes and a chain `out` for what goes.
    pub fn filter(&self, rules: &[&str]) {
        let chain = |name: &str, hook: &str| format!("add chain ip fault {name} {{ type filter hook {hook} priority 0; }}");
        let mut script = format!("add table ip fault; {}; {}; ", chain("in", "input"), chain("out", "output"));
        for rule in rules {
            script += &format!("add rule ip fault {rule}; ");
        }
        self.inside(|| succeed_in("nft", &[&script]));
    }

    /// Lets all packets pass again.
    pub fn filter_no_more(&self) {
        self.inside(|| succeed_in("nft", &["delete table ip fault"]));
    }

    /// Lets no more than so much out through the cable.
    pub fn narrow(&self, rate: &str) {
        let words = format!("qdisc replace dev cable root tbf rate {rate} burst 16kb latency 400ms");
        self.inside(|| succeed_in("tc", &words.split(' ').collect::<Vec<_>>()));
    }
}

/// Does `work` where /etc/hosts is `hosts`; processes that it starts keep seeing it so.
#[track_caller]
pub fn with_hosts<T: Send>(hosts: &Path, work: impl FnOnce() -> T + Send) -> T {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("need_namespaces has seen that it can be");
        let mut private = Command::new("mount");
        private.args(["--make-rprivate", "/"]);
        succeed(private);
        let mut bind = Command::new("mount");
        bind.arg("--bind").arg(hosts).arg("/etc/hosts");
        succeed(bind);
        work()
    })
}

/// This machine's files, as they are, and what is done to them here alone.
pub struct Copied {
    /// What is / for whoever is started in it.
    pub root: PathBuf,
    /// What is other than on the machine.
    pub changes: PathBuf,
}

impl Copied {
    /// A program with its words, for which the copy is the machine. It has no environment but PATH.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).args(words).current_dir("/").env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// Does `work` with a copy of the machine; processes that it starts may be started in it.
#[track_caller]
pub fn with_copy_of_machine<T: Send>(work: impl FnOnce(&Copied) -> T + Send) -> T {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    apart(|| work(&copy(folder.path()).expect("need_packager has seen that it can be")))
}

/// On this thread alone.
fn copy(folder: &Path) -> Result<Copied, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string())?;
    let mount = |words: &[&str], at: &Path| {
        let mut mount = Command::new("mount");
        mount.args(words).arg(at);
        let said = run(mount);
        if said.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said.stderr).into_owned()) }
    };
    mount(&["--make-rprivate"], Path::new("/"))?;
    mount(&["-t", "tmpfs", "none"], folder)?;
    let [root, changes, work] = ["root", "changes", "work"].map(|name| folder.join(name));
    for made in [&root, &changes, &work] {
        fs::create_dir(made).map_err(|error| error.to_string())?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", changes.display(), work.display());
    mount(&["-t", "overlay", "none", "-o", &layers], &root)?;
    mount(&["-t", "proc", "none"], &root.join("proc"))?;
    mount(&["--rbind", "/dev"], &root.join("dev"))?;
    mount(&["-t", "tmpfs", "none"], &root.join("run"))?;
    Ok(Copied { root, changes })
}

/// Whether this user may lay changes over the machine's files.
pub fn may_overlay() -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    apart(|| copy(folder.path()).is_ok())
}

/// Whether this user may make namespaces.
pub fn may_make() -> bool {
    apart(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_ok())
}

/// On a thread of its own: a namespace is entered by a thread and left by its end.
#[track_caller]
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    succeed(command);
}

fn succeed_in(program: &str, words: &[&str]) {
    let mut command = Command::new(program);
    command.args(words);
    succeed(command);
}

fn succeed(command: Command) {
    let shown = format!("{command:?}");
    let output = run(command);
    assert!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr));
}
