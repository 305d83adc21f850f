//! Any name, in a real folder with links of every kind: what it leads to is a file inside the folder, nothing else is found, and by
//! whatever name a script is found, it has its contract.

#![no_main]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ws_daemon::exec::{Scripts, Writers};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

/// Short names, so that a fuzzer finds them.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("ws-daemon-fuzz-{}", std::process::id()));
    let scripts = root.join("s");
    fs::create_dir_all(scripts.join("d/e")).expect("the folder can be made");
    for file in ["s/a", "s/d/b", "s/d/e/c", "o", "s/d/b.json"] {
        let path = root.join(file);
        fs::write(&path, if file.ends_with(".json") { "{\"at_once\":1}" } else { "#!/bin/sh\n" }).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }
    let links = [
        ("s/l", "d"),
        ("s/d/u", ".."),
        ("s/x", "../o"),
        ("s/d/x", "u/../o"),
        ("s/y", "/bin/sh"),
        ("s/r", "/"),
        ("s/p", "/proc/self/root"),
        ("s/q", "q"),
    ];
    for (link, target) in links {
        symlink(target, root.join(link)).expect("the folder is ours");
    }
    symlink(scripts.join("d/b"), root.join("s/i")).expect("the folder is ours");
    scripts.canonicalize().expect("it was just made")
});

fuzz_target!(|name: &str| {
    let scripts = Scripts::new(FOLDER.clone(), Writers::Anyone);
    match scripts.resolve(name) {
        Ok(script) => {
            let real = script.path.canonicalize().expect("what was found is there");
            assert!(real.starts_with(&*FOLDER) && real.is_file(), "{name:?} leads to {}", real.display());
            assert!(real.extension().is_none(), "{name:?} is a contract");
            assert_eq!(script.terms.is_some(), real.ends_with("d/b"), "{name:?} leads round its contract");
        }
        Err(Outcome::Failed(code, _)) => {
            assert!(
                matches!(code, ErrorCode::NotFound | ErrorCode::NotExecutable | ErrorCode::Forbidden),
                "{name:?}: {code:?}"
            );
        }
        Err(other) => panic!("{name:?}: {other:?}"),
    }
});
