//! Names that lead to scripts and names that must not, by the hundred: asked through a pair of daemons, with what is
//! answered, what the log says, and that nothing else has run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use crate::support::{Daemon, Fifo, Local, need_root, pair, run, write_executable};

const GOOD: &str = "#!/bin/sh\nexit 7\n";

/// Leaves a file behind that must not be there.
const BAD: &str = "#!/bin/sh\necho \"$0\" >> \"$WSDAEMON_PREFIX/owned\"\n";

const STRAIGHT: &str = "a name must lead straight down from scripts/";
const NUL: &str = "a name cannot hold a NUL";
const MISSING: &str = "there is no such script in ";
const OUT: &str = "a symbolic link leads out of scripts/";
const CIRCLE: &str = "its symbolic links go in a circle";
const FOLDER: &str = "this is a folder";
const IRREGULAR: &str = "this is no regular file";
const PLAIN: &str = "mend it with: chmod +x ";
const RIGHTS: &str = "mend it with: chmod ug-s ";
const WRITABLE: &str = "mend it with: chmod go-w ";

/// A user that is nobody here.
const STRANGER: u32 = 12_345;

#[test]
fn no_name_leads_to_anything_but_an_executable_file_beneath_scripts() {
    let (server, client) = pair();
    furnish(&client);
    let mut asker = server.connect();
    let mut asked = 0;
    let table = refused(client.prefix().to_str().expect("the prefix is UTF-8"));
    assert!(table.len() >= 200, "{} names", table.len());
    for (name, error, words) in table {
        asked += 1;
        is_refused(&mut asker, &client, asked, &json!(name).to_string(), error, words);
    }
    // As JSON may write them.
    for (name, error, words) in [
        (r#""\u002e\u002e\u002foutside""#, "forbidden", STRAIGHT),
        (r#""\u002E\u002E/outside""#, "forbidden", STRAIGHT),
        (r#""..\/outside""#, "forbidden", STRAIGHT),
        (r#""\/bin\/sh""#, "forbidden", STRAIGHT),
        (r#""run\u0000""#, "forbidden", NUL),
        (r#""\\u002e\\u002e/outside""#, "not_found", MISSING),
    ] {
        asked += 1;
        is_refused(&mut asker, &client, asked, name, error, words);
    }
    assert_nothing_else_ran(&client);
}

#[test]
fn names_with_dots_spaces_dashes_and_any_script_of_the_world_run() {
    let (server, client) = pair();
    furnish(&client);
    let scripts = client.prefix().join("scripts");
    let longest = "x".repeat(255);
    let names = [
        "dots.in.name.sh",
        ".hidden",
        "...",
        "..hidden",
        "a..b",
        "hidden..",
        "a b",
        " before",
        "after ",
        "new\nline",
        "tab\tand\rreturn",
        "\u{1b}[2J",
        "-dash",
        "--help",
        "--",
        "café",
        "日本語",
        "😀",
        "שלום",
        "sms∕send",
        "‥",
        "quote'\"s",
        "back\\slash",
        "$(touch owned)",
        "`touch owned`",
        "a;b|c&d>e",
        "*",
        "%2e%2e%2foutside",
        "folder with spaces/ü",
        &longest,
    ];
    for name in names {
        let path = scripts.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the prefix is ours to write");
        // One file under many names.
        fs::hard_link(scripts.join("run"), &path).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
    let roundabout = [
        "run",
        "./run",
        "././/./run",
        "sms/send",
        "sms//send",
        "sms/./send",
        "./sms/send",
        "in",
        "in-absolute",
        "in-folder/send",
        "in-chain",
        "sms/up/run",
        "sms/up/in-folder/up/in",
    ];
    let mut asker = server.connect();
    for name in names.into_iter().chain(roundabout) {
        let answer = asker.ask(&json!({ "name": name, "id": 1 }).to_string());
        assert_eq!(answer, r#"{"status":7,"id":1}"#, "{name:?}");
    }
    assert_nothing_else_ran(&client);
}

#[test]
fn what_others_may_write_on_the_way_to_a_script_is_refused_until_it_is_mended() {
    let (server, client) = pair();
    client.script("sms/deep/send", GOOD);
    let mut asker = server.connect();
    let prefix = client.prefix();
    for place in ["", "scripts", "scripts/sms", "scripts/sms/deep", "scripts/sms/deep/send"] {
        let path = prefix.join(place);
        for bits in [0o020, 0o002, 0o022] {
            writable(&path, 0o755 | bits);
            let answer = asker.ask(r#"{"name":"sms/deep/send"}"#);
            let (error, message) = failure(&answer);
            assert_eq!(error, "forbidden", "{place} {bits:o}: {answer}");
            // The words are as good as they read.
            let (said, mend) = message.split_once("; mend it with: ").unwrap_or_else(|| panic!("{message}"));
            let shown = path.to_str().expect("the prefix is UTF-8").trim_end_matches('/');
            assert!(said.contains(&format!("{shown} can be written by ")), "{message}");
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", mend]);
            assert!(run(shell).status.success(), "{mend}");
            assert_eq!(asker.ask(r#"{"name":"sms/deep/send"}"#), r#"{"status":7}"#, "{place} is mended");
        }
    }
    // As /tmp is: others can add to it, but not move what is there.
    mode(prefix, 0o1777);
    assert_eq!(asker.ask(r#"{"name":"sms/deep/send"}"#), r#"{"status":7}"#);
}

#[test]
fn what_belongs_to_another_user_and_devices_are_refused() {
    if !need_root() {
        return;
    }
    let (server, client) = pair();
    let prefix = client.prefix().to_owned();
    let scripts = prefix.join("scripts");
    for name in ["run", "sms/send", "theirs", "of-a-group"] {
        client.script(name, GOOD);
    }
    let devices = [("zero", FileType::CharacterDevice, makedev(1, 5)), ("loop", FileType::BlockDevice, makedev(7, 0))];
    for (name, kind, device) in devices {
        mknodat(CWD, scripts.join(name), kind, Mode::from_raw_mode(0o755), device).expect("root may");
        mode(&scripts.join(name), 0o777);
    }
    symlink("run", scripts.join("link")).expect("the prefix is ours to write");
    symlink("/dev/zero", scripts.join("out")).expect("the prefix is ours to write");
    chown(scripts.join("theirs"), Some(STRANGER), None).expect("root may");
    chown(scripts.join("sms"), Some(STRANGER), None).expect("root may");
    lchown(scripts.join("link"), Some(STRANGER), None).expect("root may");
    // Of a group that may only read it.
    chown(scripts.join("of-a-group"), None, Some(STRANGER)).expect("root may");

    let mut asker = server.connect();
    let theirs = "can be written by user 12345; mend it with: chown ";
    let table = [
        ("theirs", "forbidden", theirs),
        ("sms/send", "forbidden", theirs),
        ("link", "forbidden", theirs),
        ("out", "forbidden", OUT),
        ("zero", "not_executable", IRREGULAR),
        ("loop", "not_executable", IRREGULAR),
    ];
    for (at, (name, error, words)) in table.into_iter().enumerate() {
        is_refused(&mut asker, &client, at + 1, &json!(name).to_string(), error, words);
    }
    for name in ["run", "of-a-group"] {
        assert_eq!(asker.ask(&json!({ "name": name }).to_string()), r#"{"status":7}"#, "{name}");
    }
    // In a sticky prefix a stranger's link stands for the folder of scripts.
    mode(&prefix, 0o1777);
    fs::rename(&scripts, prefix.join("old")).expect("both are ours");
    symlink("/bin", &scripts).expect("the prefix is ours to write");
    lchown(&scripts, Some(STRANGER), None).expect("root may");
    let (error, message) = failure(&asker.ask(r#"{"name":"true"}"#));
    assert!(error == "forbidden" && message.contains(theirs), "{message}");
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// Scripts that are good, and all that a name could lead to and must not.
fn furnish(daemon: &Daemon) {
    let prefix = daemon.prefix();
    let scripts = prefix.join("scripts");
    daemon.script("run", GOOD);
    daemon.script("sms/send", GOOD);
    daemon.script("deep/er/run", GOOD);
    for outside in ["outside", "elsewhere/file", "scripts-not/run"] {
        write_executable(&prefix.join(outside), BAD);
    }
    let modes = [
        ("plain", 0o644),
        ("nothing", 0o000),
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("both", 0o6755),
        ("setuid-plain", 0o4644),
        ("by-group", 0o775),
        ("by-others", 0o757),
        ("by-all", 0o777),
        ("plain-by-all", 0o666),
        ("folder-group/run", 0o755),
        ("folder-others/run", 0o755),
        ("folder-sticky/run", 0o755),
        ("folder-others/deep/run", 0o755),
    ];
    for (name, bits) in modes {
        daemon.script(name, BAD);
        writable(&scripts.join(name), bits);
    }
    for (name, bits) in [("folder-group", 0o775), ("folder-others", 0o757), ("folder-sticky", 0o1777)] {
        writable(&scripts.join(name), bits);
    }
    for name in ["pipe", "sms/pipe"] {
        Fifo::new(&scripts, name);
        mode(&scripts.join(name), 0o777);
    }
    UnixListener::bind(scripts.join("socket")).expect("the prefix is ours to write");
    let links = [
        ("in", "sms/send"),
        ("in-folder", "sms"),
        ("in-chain", "in"),
        ("sms/up", ".."),
        ("out", "../outside"),
        ("out-chain", "out"),
        ("out-absolute", "/bin/sh"),
        ("out-folder", "../elsewhere"),
        ("out-and-back", "../scripts/run"),
        ("sms/out", "../../outside"),
        ("sms/out-by-up", "up/../outside"),
        ("up", ".."),
        ("root", "/"),
        ("near", "../scripts-not"),
        ("proc", "/proc/self/root"),
        ("proc-exe", "/proc/self/exe"),
        ("descriptor", "/dev/fd/0"),
        ("shell", "/bin"),
        ("circle", "circle"),
        ("ping", "pong"),
        ("pong", "ping"),
        ("dangling", "nowhere"),
        ("dangling-folder", "sms/nowhere/x"),
        ("through-file", "run/x"),
        ("to-plain", "plain"),
        ("to-pipe", "pipe"),
        ("to-writable", "folder-others/run"),
        ("through-writable", "folder-others/../run"),
        ("to-setuid", "setuid"),
        ("link0", "run"),
    ];
    for (link, target) in links {
        symlink(target, scripts.join(link)).expect("the prefix is ours to write");
    }
    symlink(scripts.join("run"), scripts.join("in-absolute")).expect("the prefix is ours to write");
    symlink(prefix.join("scripts-not/run"), scripts.join("near-absolute")).expect("the prefix is ours to write");
    // One link more than the system follows.
    for n in 1..=40 {
        symlink(format!("link{}", n - 1), scripts.join(format!("link{n}"))).expect("the prefix is ours to write");
    }
}

/// Every name, with the error it meets and what the log says of it.
fn refused(prefix: &str) -> Vec<(String, &'static str, &'static str)> {
    let mut table = Vec::new();
    let mut all = |error, words, names: &[&str]| {
        table.extend(names.iter().map(|&name| (name.to_owned(), error, words)));
    };
    all("not_found", "the name of the script is empty", &[""]);
    all(
        "forbidden",
        STRAIGHT,
        &[
            "..",
            "../",
            "./..",
            "../.",
            "../outside",
            "../../outside",
            "./../outside",
            ".//../outside",
            "sms/..",
            "sms/../run",
            "sms/../../outside",
            "sms/./../../outside",
            "sms/send/../../../outside",
            "sms/up/..",
            "sms/up/../outside",
            "run/..",
            "run/../run",
            "run/../../outside",
            "none/../run",
            "none/../../outside",
            "../scripts/run",
            "../elsewhere/file",
            "../..",
            "in-folder/../../outside",
            "up/../outside",
            "//../outside",
            "/",
            "//",
            "/.",
            "/..",
            "/bin/sh",
            "//bin/sh",
            "///bin/sh",
            "/./bin/sh",
            "/bin/../bin/sh",
            "/proc/self/exe",
            "/proc/self/root/bin/sh",
            "/dev/fd/0",
            "/dev/null",
            "/etc/passwd",
            "/run",
            "/sms/send",
            "/outside",
            "..//outside",
            "../\n",
            "\n/../../outside",
            "-/../../outside",
            "café/../../outside",
        ],
    );
    for depth in [3, 5, 10, 40, 1_000] {
        all("forbidden", STRAIGHT, &[&format!("{}bin/sh", "../".repeat(depth)), &format!("sms/{}bin/sh", "../".repeat(depth))]);
    }
    all("forbidden", STRAIGHT, &[&format!("{prefix}/outside"), &format!("{prefix}/scripts/run")]);
    all(
        "forbidden",
        NUL,
        &["\0", "run\0", "\0run", "run\0.sh", "run\0/../../outside", "sms\0/send", "sms/\0send", "../\0", "/bin/sh\0", "\0\0"],
    );
    // Nobody decodes a name, and nobody reads it as a shell does.
    all(
        "not_found",
        MISSING,
        &[
            "%2e%2e/outside",
            "%2e%2e%2foutside",
            "..%2foutside",
            "..%2Foutside",
            "%2E%2E/outside",
            "%252e%252e%252foutside",
            "..%252foutside",
            "..%c0%afoutside",
            "%c0%ae%c0%ae/outside",
            "%c0%2e%c0%2e/outside",
            "..%u2215outside",
            "%u002e%u002e/outside",
            "..%5coutside",
            "..\\outside",
            "..\\..\\outside",
            "sms\\send",
            "sms\\..\\run",
            "\\bin\\sh",
            "\\\\host\\share",
            "C:\\run",
            "file:///bin/sh",
            "&#46;&#46;/outside",
            "&period;&period;/outside",
            "\\x2e\\x2e/outside",
            "\\056\\056/outside",
            "Li4vb3V0c2lkZQ==",
            "+AC4ALg-/outside",
            "%00",
            "run%00",
            "run%20",
            "%2fbin%2fsh",
            "bin%2fsh",
        ],
    );
    all(
        "not_found",
        MISSING,
        &[
            "$(echo run)",
            "`echo run`",
            "run;true",
            "run|cat",
            "run&",
            "run && true",
            "run > owned",
            "~/outside",
            "~root/outside",
            "$HOME",
            "$WSDAEMON_PREFIX/outside",
            "*",
            "ru?",
            "ru[n]",
            "{run,run}",
            "'run'",
            "\"run\"",
            "run #",
            "!run",
            "-",
            "--",
            "-c",
            "--help",
            "-rf",
            "-run",
            "--prefix=/",
        ],
    );
    all(
        "not_found",
        MISSING,
        &[
            "run\n",
            "\nrun",
            "run\r\n",
            "run\r",
            "run ",
            " run",
            "run\t",
            "ru\nn",
            "run\n../outside",
            "run\u{1b}[2J",
            "run\u{7f}",
            "RUN",
            "Run",
            "run.",
            "run~",
            ".run",
            "run.sh",
            "...",
            "..../outside",
            ".../outside",
            "....//outside",
            ".. /outside",
            " ../outside",
            "..\t/outside",
            "..;/outside",
            "..\n/outside",
            "..\r/outside",
            "\u{8}../outside",
        ],
    );
    for slash in ['∕', '⁄', '／', '⧸', '╱', '⟋', '＼', '﹨', '⧵'] {
        all("not_found", MISSING, &[&format!("..{slash}outside"), &format!("sms{slash}send")]);
    }
    all(
        "not_found",
        MISSING,
        &[
            "‥/outside",
            "．．/outside",
            "․․/outside",
            "。。/outside",
            "..\u{200b}/outside",
            "\u{200b}../outside",
            ".\u{200d}./outside",
            "\u{feff}run",
            "ru\u{200d}n",
            "\u{202e}nur",
            "ｒｕｎ",
            "rυn",
            "run\u{301}",
            "\u{a0}run",
            "run\u{2028}",
            "run\u{ad}",
        ],
    );
    all(
        "not_found",
        MISSING,
        &[
            "none",
            "run/",
            "run//",
            "run/.",
            "run/./",
            "run/x",
            "run/run",
            "sms/none",
            "sms/run",
            "none/run",
            "none/none/none",
            "in/x",
            "in-absolute/",
            "dangling",
            "dangling/x",
            "dangling-folder",
            "through-file",
            "pipe/x",
            "socket/",
            "plain/",
        ],
    );
    for length in [255, 256, 4_095, 4_096, 4_097, 100_000] {
        all("not_found", MISSING, &[&"x".repeat(length)]);
    }
    all(
        "not_found",
        MISSING,
        &[&format!("{}run", "./".repeat(2_040)), &"x/".repeat(2_000), &format!("sms/{}", "x".repeat(4_096))],
    );
    all(
        "not_executable",
        FOLDER,
        &[".", "./", "./.", "sms", "sms/", "sms//", "sms/.", "./sms", "deep/er", "in-folder", "in-folder/", "sms/up"],
    );
    all("not_executable", IRREGULAR, &["pipe", "./pipe", "sms/pipe", "to-pipe", "socket"]);
    all("not_executable", PLAIN, &["plain", "./plain", "nothing", "to-plain", "sms/up/plain"]);
    all(
        "forbidden",
        OUT,
        &[
            "out",
            "./out",
            "out/",
            "out-chain",
            "out-absolute",
            "out-folder",
            "out-folder/file",
            "out-folder/none",
            "out-and-back",
            "sms/out",
            "sms/out-by-up",
            "sms/up/out",
            "in-folder/out",
            "up",
            "up/outside",
            "up/scripts/run",
            "root",
            "root/bin/sh",
            "near",
            "near/run",
            "near-absolute",
            "proc",
            "proc/bin/sh",
            "proc-exe",
            "descriptor",
            "shell",
            "shell/sh",
        ],
    );
    all("forbidden", CIRCLE, &["circle", "circle/x", "ping", "pong", "link40"]);
    all("forbidden", RIGHTS, &["setuid", "setgid", "both", "setuid-plain", "to-setuid"]);
    all(
        "forbidden",
        WRITABLE,
        &[
            "by-group",
            "by-others",
            "by-all",
            "plain-by-all",
            "folder-group/run",
            "folder-group/none",
            "folder-others/run",
            "folder-others/deep/run",
            "folder-others",
            "folder-sticky/run",
            "to-writable",
            "through-writable",
            "sms/up/by-all",
        ],
    );
    table
}

/// Asks for the `asked`th run that there is, which must be refused so, with a line in the log that says why.
#[track_caller]
fn is_refused(asker: &mut Local, client: &Daemon, asked: usize, name: &str, error: &str, words: &str) {
    let answer = asker.ask(&format!(r#"{{"name":{name},"id":{asked}}}"#));
    let shown: String = name.chars().take(100).collect();
    assert!(answer.starts_with(&format!(r#"{{"status":-1,"id":{asked},"error":"{error}","message":""#)), "{shown}: {answer}");
    assert!(failure(&answer).1.contains(words), "{shown}: {answer}");
    assert!(answer.len() < 2_000, "a long name is told in short: {} bytes", answer.len());
    let line = client.wait_log_times("run ended", asked);
    assert!(line.contains(words), "{shown}: {line}");
}

fn failure(answer: &str) -> (String, String) {
    let found: Value = serde_json::from_str(answer).expect("an answer is JSON");
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (word("error"), word("message"))
}

#[track_caller]
fn assert_nothing_else_ran(daemon: &Daemon) {
    let owned = fs::read_to_string(daemon.prefix().join("owned")).unwrap_or_default();
    assert_eq!(owned, "", "what must not run has run");
    assert!(!Path::new("owned").exists(), "a name was read by a shell");
}

#[track_caller]
/// Sets a mode; where a group may write, that is not the user's own, which may be trusted.
fn writable(path: &Path, bits: u32) {
    if bits & 0o020 == 0 {
        return mode(path, bits);
    }
    if rustix::process::geteuid().is_root() {
        chown(path, None, Some(STRANGER)).expect("root may");
        return mode(path, bits);
    }
    mode(path, bits | 0o002);
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
