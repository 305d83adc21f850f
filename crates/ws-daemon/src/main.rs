//! The program: hands over to the command line and returns its exit code. Nothing else ends the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    ws_daemon::cli::main()
}
