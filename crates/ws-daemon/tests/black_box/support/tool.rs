//! Programs that a test needs and a machine may lack. In CI a missing one is a failure; by hand the test is skipped
//! and says so, in the file that `WSDAEMON_TEST_SKIPS` names too, so that whoever ran the tests can count them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs, thread};

use super::process::run;
use super::{namespace, stand_in};

/// Whether `name` is on the PATH; a test that gets `false` returns at once.
pub fn need_tool(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    have(env::split_paths(&path).any(|folder| is_executable(&folder.join(name))), name)
}

/// Whether the stand-ins can run: Node with the packages they need, and Python.
pub fn need_stand_ins() -> bool {
    let installed = stand_in::folder().join("node_modules/reconnecting-websocket").is_dir();
    need_tool("node") && need_tool("python3") && have(installed, "npm ci in tests/stand-ins")
}

/// A Python program that has an environment of its own in target/; a test that gets `None` returns at once.
pub fn need_python(name: &str) -> Option<std::path::PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(name).join("bin").join(name);
    have(is_executable(&program), name).then_some(program)
}

/// The library that lies about the time to whoever loads it; a test that gets `None` returns at once. Not the program that loads it: that
/// one gives up where a process of the same number was killed under it before.
pub fn need_faketime() -> Option<String> {
    need_tool("faketime").then(|| {
        let folders = fs::read_dir("/usr/lib").expect("a system has libraries").flatten();
        let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|library| library.exists());
        found.expect("faketime comes with its library").to_string_lossy().into_owned()
    })
}

/// Whether namespaces can be made, as a container has them.
pub fn need_namespaces() -> bool {
    let may = || {
        let mut trial = Command::new("unshare");
        trial.args(["--pid", "--net", "--fork", "--mount-proc", "--kill-child", "true"]);
        run(trial).status.success()
    };
    need_tool("unshare") && need_tool("nsenter") && need_tool("ip") && have(may(), "the right to make namespaces (root)")
}

/// Whether networks and mounts of a test's own can be made: by root on Linux, with iproute2.
pub fn need_networks() -> bool {
    need_tool("ip") && need_tool("mount") && have(namespace::may_make(), "the right to make namespaces")
}

/// Whether the daemon, and bash, can be started as another user: by root, from where all users may read.
pub fn need_other_users() -> bool {
    let may = || {
        let mut trial = Command::new("setpriv");
        trial.args(["--reuid=65534", "--clear-groups", env!("CARGO_BIN_EXE_ws-daemon"), "--version"]);
        run(trial).status.success()
    };
    need_tool("setpriv") && need_tool("bash") && have(may(), "the right to start the daemon as another user (root)")
}

/// Whether the Debian package can be made, and installed where the machine does not notice.
pub fn need_packager() -> bool {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/cargo-deb");
    let tools = ["dpkg-deb", "dpkg-shlibdeps", "adduser", "strip", "xz", "chroot", "setpriv"];
    tools.into_iter().all(need_tool)
        && (is_executable(&target) || need_tool("cargo-deb"))
        && need_networks()
        && have(namespace::may_overlay(), "overlayfs")
}

/// Whether files of other users, and devices, can be made.
pub fn need_root() -> bool {
    have(rustix::process::geteuid().is_root(), "root")
}

fn have(found: bool, what: &str) -> bool {
    if found {
        return true;
    }
    assert!(env::var_os("CI").is_none(), "{what} is missing, and in CI every test runs");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test} needs {what}");
    if let Some(list) = env::var_os("WSDAEMON_TEST_SKIPS") {
        let mut list = fs::OpenOptions::new().create(true).append(true).open(list).expect("the list of skips can be written");
        // In one write: tests run side by side.
        let line = format!("{test}: needs {what}\n");
        list.write_all(line.as_bytes()).expect("the list of skips can be written");
    }
    false
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
