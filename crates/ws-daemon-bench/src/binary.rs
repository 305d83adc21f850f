//! Where the daemon's binary is: named by flag, built by the cargo that started
//! us, or beside our own.
//!
//! It knows cargo, and nothing of the daemon but its name.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

const NAME: &str = "ws-daemon";

/// The release binary to measure.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return path.canonicalize().with_context(|| format!("no daemon at {}", path.display()));
    }
    if let Some(cargo) = env::var_os("CARGO") {
        return build(Path::new(&cargo));
    }
    let beside = env::current_exe()?.with_file_name(NAME);
    ensure!(beside.exists(), "no {} here; start me through cargo, which builds it, or say --daemon PATH", beside.display());
    Ok(beside)
}

fn build(cargo: &Path) -> Result<PathBuf> {
    eprintln!("building {NAME} (release)");
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", NAME, "--bin", NAME])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", cargo.display()))?;
    ensure!(output.status.success(), "cargo could not build {NAME}");
    executable(&output.stdout).context("cargo named no executable")
}

/// One line of what cargo says; the other kinds have no `executable`.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
}

fn executable(messages: &[u8]) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .find_map(|message| message.executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"ws-daemon"},"executable":"/t/ws-daemon"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        assert_eq!(executable(messages.as_bytes()), Some(PathBuf::from("/t/ws-daemon")));
        assert_eq!(executable(b""), None);
    }
}
