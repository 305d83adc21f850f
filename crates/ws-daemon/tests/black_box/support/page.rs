//! A page as a person reads it who does what it says: its fenced blocks, by the mark on the line before each. They are done in their
//! order, in one shell, in a folder that is gone afterwards.
//!
//! | mark | what is done with the block |
//! | --- | --- |
//! | `run` | run: `sh`, `python`, `php` or `js`; it must end well |
//! | `prints` | what the one before it has printed |
//! | `file PATH` | written there; executable if its first line says by what |

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::DEADLINE;
use super::command::ran_within;
use super::tool::need_tool;

/// How long a page may take: it starts programs by the dozen.
const PAGE_DEADLINE: Duration = DEADLINE.saturating_mul(4);

/// A fenced block.
#[derive(Debug, Default)]
pub struct Block {
    /// What the comment on the line before it says, if there is one.
    pub mark: String,
    pub language: String,
    pub text: String,
}

/// The folder of the repository, from which pages are named.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fenced blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let page = fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let (mut blocks, mut mark, mut open): (Vec<Block>, _, Option<Block>) = (Vec::new(), String::new(), None);
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some(Block { mark: mark.clone(), language: language.into(), ..Block::default() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
        mark = String::from(line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")).unwrap_or_default());
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

/// Those of them that have a mark.
pub fn marked_blocks(page: &str) -> Vec<Block> {
    blocks(page).into_iter().filter(|block| !block.mark.is_empty()).collect()
}

/// Behind a block that starts daemons. What a person sees in the log, a shell asks for until it is so, and the deadline is the test's.
fn until_ready(block: &str) -> String {
    let started = block.lines().filter_map(|line| line.strip_prefix("ws-daemon ")?.trim_end().strip_suffix(" &"));
    let prefix = |words: &str| words.split(' ').skip_while(|word| *word != "--prefix").nth(1).map(str::to_owned);
    let wait = |prefix: String| {
        let is_client = format!("ws-daemon check --json --prefix {prefix} | grep -q '\"mode\":{{[^}}]*\"client\"'");
        let until = |words: &str| format!("until ws-daemon {words} --prefix {prefix}; do :; done >/dev/null 2>&1");
        format!("{}\nif {is_client}; then {}; fi\n", until("health"), until("ping"))
    };
    let is_daemon = |words: &&str| words.starts_with("run ") || words.starts_with("--prefix ");
    started.filter(is_daemon).filter_map(prefix).map(wait).collect()
}

/// Does what the page says, if the machine has what it takes, and looks at what it says that comes of it. Returns how many blocks were
/// run, and of how many the output was looked at.
pub fn play(page: &str) -> Option<(usize, usize)> {
    let blocks = marked_blocks(page);
    let programs = [("sh", "bash"), ("python", "python3"), ("php", "php"), ("js", "node")];
    let program = |language: &str| programs.iter().find(|(name, _)| *name == language).map(|(_, program)| *program);
    let of_shebang = |text: &str| {
        let first = text.lines().next().filter(|line| line.starts_with("#!"))?;
        first.rsplit([' ', '/']).next().map(str::to_owned)
    };
    for block in &blocks {
        let needed = match block.mark.as_str() {
            "run" => Some(program(&block.language).unwrap_or_else(|| panic!("nobody here runs {}", block.language)).to_owned()),
            mark if mark.starts_with("file ") => of_shebang(&block.text),
            _ => None,
        };
        let asked = ["nc", "git"].into_iter().filter(|tool| block.text.contains(&format!("{tool} ")));
        if !needed.iter().map(String::as_str).chain(asked).all(need_tool) {
            return None;
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let port = port_of_its_own().to_string();
    let (mut script, mut printed, mut runs) = (String::new(), Vec::new(), 0);
    let at = |run: usize, what: &str| folder.path().join(format!("{run}.{what}"));
    for block in &blocks {
        let text = block.text.replace("3006", &port);
        match (block.mark.as_str(), block.mark.strip_prefix("file ")) {
            ("run", _) => {
                runs += 1;
                let body = match (&*block.language, program(&block.language)) {
                    ("sh", _) | (_, None) => text.clone(),
                    (_, Some(program)) => format!("{program} <<'END OF BLOCK'\n{text}END OF BLOCK\n"),
                };
                script.push_str(&format!(
                    "{{\n{body}}} >{}\necho $? >{}\n",
                    at(runs, "out").display(),
                    at(runs, "status").display()
                ));
                if !text.contains("kill $(jobs -p)") {
                    script.push_str(&until_ready(&text));
                }
            }
            ("prints", _) => printed.push((runs, text)),
            (_, Some(path)) => {
                let mode = if of_shebang(&text).is_some() { "755" } else { "644" };
                script.push_str(&format!("mkdir -p \"$(dirname {path})\"\ncat >{path} <<'END OF FILE'\n{text}END OF FILE\n"));
                script.push_str(&format!("chmod {mode} {path}\n"));
            }
            _ => {}
        }
    }
    script.push_str("kill $(jobs -p) 2>/dev/null; wait\n");
    let mut shell = Command::new("bash");
    let program = Path::new(env!("CARGO_BIN_EXE_ws-daemon")).parent().expect("it stands in a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("there is one"));
    shell.arg("-s").current_dir(folder.path()).env("PATH", path).env("TMPDIR", folder.path()).env("HOME", folder.path());
    for name in ["WSDAEMON_PREFIX", "WSDAEMON_MODE", "WSDAEMON_PROXY", "WSDAEMON_SOCKET"] {
        shell.env_remove(name);
    }
    shell.env("WSDAEMON_PORT", &port).env("WSDAEMON_LOCAL", "off");
    let said = ran_within(PAGE_DEADLINE, shell, &script);
    for run in 1..=runs {
        let status = fs::read_to_string(at(run, "status")).unwrap_or_default();
        assert_eq!(status.trim(), "0", "{page}: block {run} of those that are run\n{}", said.err);
    }
    for (run, expected) in &printed {
        let found = fs::read_to_string(at(*run, "out")).expect("the block has run");
        assert_eq!(&found, expected, "{page}: block {run} of those that are run\n{}", said.err);
    }
    assert!(!said.err.contains("command not found"), "{page}: {}", said.err);
    Some((runs, printed.len()))
}

/// A port that is free, and stays so until it is bound: below those that systems give to whoever asks for any, and each once.
fn port_of_its_own() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    // Another process that runs these tests begins elsewhere.
    let ports =
        std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(101)));
    let mut ports = ports.map(|number| FIRST + u16::try_from(number % PORTS).expect("it is small"));
    ports.find(is_free).expect("there are thousands")
}
