//! `ws-daemon man`: a manual page for each command. What stands there of a command is what its --help says; it knows none by name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit::{Exit, Trouble};

/// What `man` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder for the pages; to have man find them: /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// The files that the daemon goes by or makes, under its prefix.
const FILES: [(&str, &str); 8] = [
    ("config.json", "The settings. ws-daemon schema config prints what may stand there."),
    ("scripts/", "What peers may ask for: every executable file, by its path in this folder."),
    ("scripts/NAME.json", "The contract of the script NAME. ws-daemon schema contract prints what may stand there."),
    ("ws-daemon.sock", "The socket on which local processes ask."),
    ("keys/", "Tokens, keys and certificates, and the register of peers."),
    ("spool-MODE-PORT.db", "What is queued, and who this daemon is to its peers."),
    ("audit.jsonl", "Who asked for what, if \"audit\" says so."),
    ("setup.sh", "Run first by ws-daemon container."),
];

/// What every command may exit with, beside what its own page says.
const STATUSES: [(&str, &str); 15] = [
    ("0", "All went well; the daemon: it was told to stop."),
    ("1", "Something failed."),
    ("64", "The words on the command line are wrong."),
    ("65", "The request, its params or its result are wrong."),
    ("66", "There is no such run."),
    ("69", "There is no peer or no daemon, or a port is taken."),
    ("74", "Nobody knows what came of it: it may have run."),
    ("75", "Too busy or stopping; try again later."),
    ("77", "Not allowed."),
    ("78", "The settings are wrong or missing."),
    ("124", "It took too long."),
    ("125", "A daemon stopped it."),
    ("126", "The script is there and cannot be executed."),
    ("127", "There is no such script."),
    ("141", "Whoever reads what is printed is gone."),
];

/// Writes the pages.
pub fn run(arguments: &Arguments) -> Result<Exit, Trouble> {
    let folder = &arguments.folder;
    let failed = |error: io::Error| Trouble::new(Exit::Failed, format_args!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut all = super::Arguments::command().disable_help_subcommand(true);
    all.build();
    write(&all, folder).map_err(failed)?;
    super::print(format_args!("wrote the pages of ws-daemon into {}", folder.display()));
    Ok(Exit::Ok)
}

/// Writes the page of a command, and those of its parts.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let source = concat!("ws-daemon ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_ascii_uppercase()).source(source).manual("ws-daemon");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut more = Roff::new();
    if command.get_name() == "ws-daemon" {
        section(&mut more, "FILES", "In the folder that --prefix names:", &FILES);
        section(&mut more, "EXIT STATUS", "ws-daemon exec exits with the script's own status. Else:", &STATUSES);
    } else {
        more.control("SH", ["SEE ALSO"]).text([bold("ws-daemon"), roman("(1)")]);
    }
    more.to_writer(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    command.get_subcommands().filter(|part| !part.is_hide_set()).try_for_each(|part| write(part, folder))
}

fn section(page: &mut Roff, title: &str, opening: &str, rows: &[(&str, &str)]) {
    page.control("SH", [title]).text([roman(opening)]);
    for (name, what) in rows {
        page.control("TP", []).text([bold(*name)]).text([roman(*what)]);
    }
}
