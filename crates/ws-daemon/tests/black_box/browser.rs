//! A real browser, headless, with a page that tries all it may to get into a daemon of its machine: from another origin, and from the
//! daemon's own, as after DNS rebinding (a name that was pointed here once the page had been loaded; docs/adr/0013 says why the Host
//! is not checked). The page reports how each of its attempts ended; that it made them is asserted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::support::{Daemon, DaemonPlan, Peer, Process, need_tool, wait_for};

/// How long a browser may take to start and to load a page, on a machine that is busy.
const BROWSER: Duration = Duration::from_mins(1);

/// The attempts of a page on one target.
const ATTEMPTS: usize = 12;

/// What a page does once it is told to go: each attempt ends in a word, or in none within a while.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>a page</title><iframe name="sink"></iframe><script>
const control = "CONTROL", targets = TARGETS, ask = '{"name":"ran","id":"page"}';
const said = {};
const wait = (word) => new Promise((done) => setTimeout(() => done(word), 3000));
const socket = (url, protocols) => new Promise((done) => {
    try {
        const socket = new WebSocket(url, protocols);
        socket.onopen = () => { socket.send(ask); done("open"); };
        socket.onclose = (event) => done("closed " + event.code);
    } catch (error) { done("thrown " + error.name); }
});
const request = async (url, options) => {
    try {
        const answer = await fetch(url, options);
        return `${answer.type} ${answer.status} ${await answer.text()}`;
    } catch (error) { return error.name; }
};
const form = (url) => new Promise((done) => {
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "POST", enctype: "text/plain", target: "sink" });
    const input = document.createElement("input");
    [input.name, input.value] = ['{"name":"ran","id":"', 'form"}'];
    form.append(input);
    document.body.append(form);
    document.querySelector("iframe").onload = () => done("loaded");
    form.submit();
});
const image = (url) => new Promise((done) => {
    const image = new Image();
    [image.onload, image.onerror] = [() => done("loaded"), () => done("error")];
    image.src = url;
});
const attempts = {
    "socket": (target) => socket(`ws://${target}/`, []),
    "socket with a subprotocol": (target) => socket(`ws://${target}/`, ["ws-daemon"]),
    "socket with two": (target) => socket(`ws://${target}/?x=${encodeURIComponent(ask)}`, ["2", "chat"]),
    "get": (target) => request(`http://${target}/`),
    "get no-cors": (target) => request(`http://${target}/`, { mode: "no-cors" }),
    "post": (target) => request(`http://${target}/`, { method: "POST", body: ask }),
    "post no-cors": (target) => request(`http://${target}/`, { method: "POST", mode: "no-cors", body: ask }),
    "post of json": (target) =>
        request(`http://${target}/`, { method: "POST", headers: { "content-type": "application/json" }, body: ask }),
    "put": (target) => request(`http://${target}/`, { method: "PUT", body: ask }),
    "get that would be a handshake": (target) =>
        request(`http://${target}/`, { headers: { "Upgrade": "websocket", "Sec-WebSocket-Version": "13" } }),
    "form": (target) => form(`http://${target}/`),
    "image": (target) => image(`http://${target}/?${encodeURIComponent(ask)}`),
};
(async () => {
    await fetch(control + "/go");
    for (const target of targets) {
        for (const [name, attempt] of Object.entries(attempts)) {
            said[`${target} ${name}`] = await Promise.race([attempt(target), wait("no answer")]);
        }
        navigator.sendBeacon(`http://${target}/`, ask);
    }
    await fetch(control + "/report", { method: "POST", body: JSON.stringify(said) });
})();
</script>"#;

#[test]
fn a_page_of_another_origin_opens_no_link_and_runs_nothing() {
    if !need_tool("chromium") {
        return;
    }
    let server = plan().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let (link, local) = (format!("127.0.0.1:{}", server.port()), server.local_address());
    let (control, page) = (Site::start(""), Site::start_empty());
    let site = page.serve(&page_for(&control, &[&link, &local]));
    let _browser = browser(&format!("http://127.0.0.1:{}/", site.port()));
    control.release();
    let said = control.report();
    assert_eq!(said.len(), 2 * ATTEMPTS, "{said:#?}");
    for (attempt, end) in &said {
        let expected: &[&str] = match attempt.split_once(' ').expect("a target and a name").1 {
            name if name.starts_with("socket") => &["closed 1006"],
            // Whatever came, the page may not see it.
            name if name.ends_with("no-cors") => &["opaque 0 ", "TypeError"],
            "form" => &["loaded", "no answer"],
            "image" => &["error"],
            _ => &["TypeError"],
        };
        assert!(expected.contains(&end.as_str()), "{attempt}: {end}\n{}", server.log());
    }
    assert_untouched(&server, 3);
}

#[test]
fn a_page_whose_name_was_pointed_here_after_it_was_loaded_opens_no_link_and_runs_nothing() {
    if !need_tool("chromium") {
        return;
    }
    for takes_over in ["link", "local"] {
        let (control, page) = (Site::start(""), Site::start_empty());
        let own = format!("rebound.example:{}", page.port());
        let site = page.serve(&page_for(&control, &[&own]));
        let browser = browser(&format!("http://{own}/"));
        control.wait_for_page(&browser);
        // The page is there; from here on its own name and port are the daemon's.
        let port = site.stop();
        let server = match takes_over {
            "link" => plan().config(json!({ "port": port })).start(),
            _ => plan().env("WSDAEMON_LOCAL", &format!("127.0.0.1:{port}")).start(),
        };
        control.release();
        let said = control.report();
        assert_eq!(said.len(), ATTEMPTS, "{said:#?}");
        for (attempt, end) in &said {
            let words = "basic 426 this port of ws-daemon takes WebSocket links; point a client's \"proxy\" here\n";
            let expected: &[&str] = match (attempt.split_once(' ').expect("a target and a name").1, takes_over) {
                (name, _) if name.starts_with("socket") => &["closed 1006"],
                ("form", _) => &["loaded", "no answer"],
                ("image", _) => &["error"],
                // Its own origin: it may read the answer, which tells nothing of this daemon.
                (_, "link") => &[words],
                _ => &["TypeError"],
            };
            assert!(expected.contains(&end.as_str()), "{takes_over}: {attempt}: {end}\n{}", server.log());
        }
        assert_untouched(&server, if takes_over == "link" { 3 } else { 0 });
    }
}

/// As open as can be, with a script that leaves a file.
fn plan() -> DaemonPlan {
    Daemon::server().config(json!({ "open": true })).script("ran", "#!/bin/sh\n: > ran\n")
}

fn page_for(control: &Site, targets: &[&str]) -> String {
    let control = format!("http://127.0.0.1:{}", control.port());
    PAGE.replace("CONTROL", &control).replace("TARGETS", &json!(targets).to_string())
}

/// So many handshakes of sockets came and were refused, no link was made, and nothing ran.
#[track_caller]
fn assert_untouched(server: &Daemon, sockets: usize) {
    Peer::dial(server).nothing_waiting();
    let connections = &server.connect().result("STATS", &json!(null))["connections"];
    assert_eq!((&connections["forbidden"], &connections["linked"]), (&json!(sockets), &json!(1)), "{connections}");
    assert!(sockets == 0 || connections["bad_handshake"].as_u64() >= Some(5), "requests came as well: {connections}");
    assert!(!fs::exists(server.prefix().join("ran")).expect("the prefix is ours to read"), "{}", server.log());
}

// ---- The browser -----------------------------------------------------------------------------------------------

struct Browser {
    process: Process,
    _profile: tempfile::TempDir,
}

/// Chromium with a page; it knows no names but its own machine's, so that it talks to nobody else.
fn browser(url: &str) -> Browser {
    let profile = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-extensions", "--disable-sync", "--disable-component-update", "--disable-background-networking"]);
    command.arg("--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.env("HOME", profile.path()).arg(url);
    Browser { process: Process::start("chromium", command), _profile: profile }
}

// ---- The sites -------------------------------------------------------------------------------------------------

/// A tiny HTTP server on a port of the loopback: a page, and for the one that controls, what pages ask and report.
struct Site {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    reports: Receiver<String>,
    asked: Receiver<()>,
}

struct Shared {
    address: SocketAddr,
    page: String,
    stopped: AtomicBool,
    released: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    report: Mutex<Sender<String>>,
    asked: Mutex<Sender<()>>,
}

/// A port that is bound, before it is known what is served there.
struct Bound(TcpListener);

impl Bound {
    fn port(&self) -> u16 {
        self.0.local_addr().expect("it is bound").port()
    }

    fn serve(self, page: &str) -> Site {
        let ((report, reports), (ask, asked)) = (channel(), channel());
        let shared = Arc::new(Shared {
            address: self.0.local_addr().expect("it is bound"),
            page: page.to_owned(),
            stopped: AtomicBool::new(false),
            released: AtomicBool::new(false),
            connections: Mutex::default(),
            report: Mutex::new(report),
            asked: Mutex::new(ask),
        });
        let site = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in self.0.incoming().map_while(Result::ok) {
                if site.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let site = Arc::clone(&site);
                site.connections.lock().expect("nobody panics with it").push(stream.try_clone().expect("a descriptor"));
                // A browser that goes away in between is none of the test's business.
                thread::spawn(move || drop(site.answer(stream)));
            }
        });
        Site { shared, accepting: Some(accepting), reports, asked }
    }
}

impl Site {
    fn start_empty() -> Bound {
        Bound(TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port"))
    }

    fn start(page: &str) -> Self {
        Self::start_empty().serve(page)
    }

    fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// Waits until a page is loaded and asks whether it may go.
    #[track_caller]
    fn wait_for_page(&self, browser: &Browser) {
        self.asked.recv_timeout(BROWSER).unwrap_or_else(|_| panic!("no page was loaded\n{}", browser.process.log()));
    }

    /// Pages may go.
    fn release(&self) {
        self.shared.released.store(true, Ordering::SeqCst);
    }

    /// What a page reports, waited for.
    #[track_caller]
    fn report(&self) -> BTreeMap<String, String> {
        let said = self.reports.recv_timeout(BROWSER * 2).expect("the page reports");
        serde_json::from_str(&said).expect("it reports JSON")
    }

    /// Nobody listens there any more, and nobody is connected; the port that has become free.
    fn stop(mut self) -> u16 {
        self.end();
        self.port()
    }

    fn end(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes who accepts.
        drop(TcpStream::connect(self.shared.address));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("it only accepts");
        }
        for connection in self.shared.connections.lock().expect("nobody panics with it").drain(..) {
            // Gone already is as good.
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.release();
        self.end();
    }
}

impl Shared {
    /// One request of one connection.
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or_default();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (mut kind, mut answer) = ("text/plain", "");
        match first.split_whitespace().nth(1) {
            Some("/") => (kind, answer) = ("text/html", &self.page),
            Some("/go") => {
                let _ = self.asked.lock().expect("nobody panics with it").send(());
                wait_for("the test", || self.released.load(Ordering::SeqCst));
            }
            Some("/report") => {
                let said = String::from_utf8_lossy(&body).into_owned();
                drop(self.report.lock().expect("nobody panics with it").send(said));
            }
            _ => {}
        }
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\nCache-Control: no-store\r\n";
        let mut stream = stream;
        stream
            .write_all(format!("{head}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).as_bytes())?;
        stream.shutdown(Shutdown::Write)
    }
}
