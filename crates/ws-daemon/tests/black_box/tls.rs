//! Encryption as both ends meet it: one port for TLS and plain, who is believed and who is not and in which words, and keys that
//! change under live links.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::support::{
    CertificateAuthority, CertificateFiles, DEADLINE, Daemon, DaemonPlan, EXIT, Network, Peer, PeerListener, Process, command,
    daemons_say, need_networks, need_tool, ran, run, wait_for,
};

const HOUR: i64 = 3600;

fn shown(path: &Path) -> Value {
    path.to_str().expect("plain").into()
}

fn files(files: &CertificateFiles) -> Value {
    json!({ "certificate": shown(&files.certificate), "key": shown(&files.key) })
}

/// A client that dials `server` by wss and believes what is under `roots`.
fn client_of(server: &Daemon, roots: &Path) -> DaemonPlan {
    Daemon::client(server)
        .config(json!({ "proxy": format!("wss://127.0.0.1:{}", server.port()), "tls": { "roots": shown(roots) } }))
        .script("exit", EXIT)
}

/// A server with keys of its own, and its root.
fn server() -> (Daemon, std::path::PathBuf) {
    let server = Daemon::server().config(json!({ "tls": true })).start();
    let root = server.prefix().join("keys/root.pem");
    (server, root)
}

fn exit_status(daemon: &Daemon, status: u8) -> Value {
    let (_, last) = daemon.connect().run(&json!({ "name": "exit", "id": 1, "params": status, "timeout": "10s" }));
    last["status"].clone()
}

// ---- One port, two ways ----------------------------------------------------------------------------------------

#[test]
fn one_port_takes_tls_and_plain_links_side_by_side() {
    let (server, root) = server();
    let encrypted = client_of(&server, &root).start();
    encrypted.wait_log("link up");
    let plain = Daemon::client(&server).script("exit", EXIT).start();
    plain.wait_log("link up");
    server.wait_log_times("link up", 2);
    assert_eq!((exit_status(&server, 3), exit_status(&server, 4)), (json!(3), json!(4)));
    let done = server.wait_log("TLS handshake done");
    assert!(done.contains("TLSv1_3") && done.contains("X25519MLKEM768"), "the exchange is not the preferred one: {done}");
    assert_eq!(server.log().count("TLS handshake done"), 1);
}

#[test]
fn a_tls_hello_to_a_server_without_tls_is_closed_and_both_logs_say_how_to_switch_it_on() {
    let ca = CertificateAuthority::new("nobody's");
    let server = Daemon::server().start();
    let client = client_of(&server, &ca.certificate()).start();
    let line = server.wait_log("a TLS connection was closed");
    assert!(line.contains("\"tls\": true") && line.contains("ws-daemon invite"), "{line}");
    let line = client.wait_log("no link");
    assert!(line.contains("\"tls\": true in its config.json"), "{line}");
}

#[test]
fn a_client_that_dials_something_without_tls_is_told_so() {
    let ca = CertificateAuthority::new("nobody's");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let plan = Daemon::client_of(port);
    let proxy = format!("wss://127.0.0.1:{port}");
    let client = plan.config(json!({ "proxy": proxy, "tls": { "roots": shown(&ca.certificate()) } })).start();
    let (mut stream, _) = listener.accept().expect("it dials");
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it is open");
    let line = client.wait_log("no link");
    assert!(line.contains("what answers there speaks no TLS: dial it by ws://"), "{line}");
}

#[test]
fn without_plain_only_this_machine_comes_in_by_ws() {
    if !need_networks() {
        return;
    }
    let (here, there) = (Network::new(), Network::new());
    here.connect("10.78.0.1/24", &there, "10.78.0.2/24");
    let plan =
        Daemon::server().config(json!({ "listen": "::", "open": true, "tls": { "plain": false, "names": ["10.78.0.1"] } }));
    let server = here.inside(|| plan.start());
    let refused = there.inside(|| {
        let refused = Peer::try_dial_at(&format!("10.78.0.1:{}", server.port()), server.log(), "/", &[]);
        refused.err().expect("it is not to be taken")
    });
    assert_eq!(refused.status, 426);
    assert!(refused.body.contains("dial it by wss://"), "{}", refused.body);
    let near = here.inside(|| Daemon::client(&server).start());
    near.wait_log("link up");
    let root = server.prefix().join("keys/root.pem");
    let far = client_of(&server, &root).config(json!({ "proxy": format!("wss://10.78.0.1:{}", server.port()) }));
    let far = there.inside(|| far.start());
    far.wait_log("link up");
}

#[test]
fn half_a_hello_is_closed_when_the_handshakes_time_is_over() {
    let server = Daemon::server().config(json!({ "tls": true, "times": { "handshake": "300ms" } })).start();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream.write_all(&[0x16, 3, 1, 2]).expect("it is open");
    assert_eq!(stream.read(&mut [0; 16]).expect("it is closed in time"), 0);
    server.wait_log("no handshake in time");
}

// ---- Who is believed -------------------------------------------------------------------------------------------

/// What a client's log says that dials a server with this certificate and believes `roots`.
fn said_of(certificate: &CertificateFiles, roots: &Path) -> String {
    let server = Daemon::server().config(json!({ "tls": files(certificate) })).start();
    let client = client_of(&server, roots).start();
    let line = client.wait_log("no link");
    server.wait_log("no TLS with this connection");
    assert_eq!(client.log().count("link up"), 0, "{line}");
    line
}

#[test]
fn a_server_under_another_root_is_refused() {
    let (ca, other) = (CertificateAuthority::new("one"), CertificateAuthority::new("other"));
    let line = said_of(&ca.server(&["127.0.0.1"]), &other.certificate());
    assert!(line.contains("is not signed by a root in") && line.contains("join again with a new invitation"), "{line}");
    // Of the same name, so that only the signature tells them apart.
    let twin = CertificateAuthority::new("one");
    let line = said_of(&ca.server(&["127.0.0.1"]), &twin.certificate());
    assert!(line.contains("is not signed by a root in"), "{line}");
}

#[test]
fn a_certificate_that_has_expired_or_has_not_begun_is_refused_with_its_date() {
    let ca = CertificateAuthority::new("ours");
    let line = said_of(&ca.server_between(&["127.0.0.1"], -2 * HOUR, -HOUR), &ca.certificate());
    assert!(line.contains("has expired on ") && line.contains("ws-daemon keys renew"), "{line}");
    let line = said_of(&ca.server_between(&["127.0.0.1"], HOUR, 2 * HOUR), &ca.certificate());
    assert!(line.contains("is not valid yet but from ") && line.contains("correct the clock"), "{line}");
}

#[test]
fn a_certificate_for_another_name_is_refused_with_the_names_that_it_is_for() {
    let ca = CertificateAuthority::new("ours");
    let line = said_of(&ca.server(&["a.example", "192.0.2.7"]), &ca.certificate());
    assert!(line.contains("is for a.example, 192.0.2.7, not for 127.0.0.1"), "{line}");
    assert!(line.contains("\\\"names\\\" under") || line.contains("\"names\" under"), "{line}");
}

/// A server of openssl's that speaks `version` alone.
fn old_server(ca: &CertificateAuthority, version: &str) -> (Process, u16) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let certificate = ca.server(&["127.0.0.1"]);
    let mut command = Command::new("openssl");
    command.args(["s_server", "-www", version, "-cipher", "DEFAULT@SECLEVEL=0", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-cert").arg(&certificate.certificate).arg("-key").arg(&certificate.key);
    let process = Process::start("an old server", command);
    process.log().wait("ACCEPT");
    (process, port)
}

#[test]
fn tls_1_1_is_refused_from_both_sides() {
    if !need_tool("openssl") {
        return;
    }
    let (server, _) = server();
    let mut hello = Command::new("openssl");
    hello.args(["s_client", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect", &format!("127.0.0.1:{}", server.port())]);
    let refused = run(hello);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("alert"), "{said}");
    server.wait_log("no TLS with this connection");
    for (version, is_taken) in [("-tls1_1", false), ("-tls1_2", true)] {
        let ca = CertificateAuthority::new("ours");
        let (_old, port) = old_server(&ca, version);
        let plan = Daemon::client_of(port);
        let proxy = format!("wss://127.0.0.1:{port}");
        let client = plan.config(json!({ "proxy": proxy, "tls": { "roots": shown(&ca.certificate()) } })).start();
        let line = client.wait_log("no link");
        // What is taken gets as far as an answer that is no link.
        let words = if is_taken { "no WebSocket there" } else { "the server is too old: it speaks no TLS 1.2" };
        assert!(line.contains(words), "{version}: {line}");
    }
}

#[test]
fn a_broken_pair_stops_the_start_and_says_which_file_is_wrong() {
    let (ca, other) = (CertificateAuthority::new("ours"), CertificateAuthority::new("other"));
    let (good, strange) = (ca.server(&["127.0.0.1"]), other.server(&["127.0.0.1"]));
    let table = [
        (
            json!({ "certificate": shown(&good.certificate), "key": shown(&strange.key) }),
            "server.key: it is not the key of the",
        ),
        (json!({ "certificate": shown(&good.key), "key": shown(&good.key) }), "server.key: it holds no certificate"),
        (
            json!({ "certificate": shown(&good.certificate), "key": shown(&good.certificate) }),
            "server.pem: it holds no private",
        ),
        (json!({ "certificate": "gone.pem", "key": shown(&good.key) }), "gone.pem: it cannot be read"),
        (json!({ "clients": "gone.pem" }), "gone.pem: it cannot be read"),
    ];
    for (tls, words) in table {
        let plan = Daemon::server().config(json!({ "tls": tls }));
        let mut process = plan.spawn();
        process.log().wait(words);
        assert_eq!(process.wait_exit(DEADLINE).code(), Some(78), "{words}");
    }
    let tls = json!({ "certificate": shown(&good.certificate), "key": shown(&strange.key) });
    let plan = Daemon::client_of(1).config(json!({ "proxy": "wss://127.0.0.1", "tls": tls }));
    let mut process = plan.spawn();
    process.log().wait("server.key: it is not the key of the");
    assert_eq!(process.wait_exit(DEADLINE).code(), Some(78));
}

// ---- Who a client is -------------------------------------------------------------------------------------------

/// A server that asks clients for certificates under `ca`.
fn asking_server(ca: &CertificateAuthority) -> (Daemon, std::path::PathBuf) {
    let server = Daemon::server().config(json!({ "tls": { "clients": shown(&ca.certificate()) } })).start();
    let root = server.prefix().join("keys/root.pem");
    (server, root)
}

fn proving(plan: DaemonPlan, certificate: &CertificateFiles) -> DaemonPlan {
    // One proof is the test's.
    plan.without_token().config(json!({ "tls": files(certificate) }))
}

fn names_of_peers(server: &Daemon) -> Vec<Value> {
    let peers = server.connect().result("PEERS", &Value::Null);
    peers.as_array().expect("a list").iter().filter(|peer| peer["connected"] == true).map(|peer| peer["name"].clone()).collect()
}

#[test]
fn a_client_goes_by_the_name_in_its_certificate_and_may_not_claim_another() {
    let ca = CertificateAuthority::new("the clients'");
    let (server, root) = asking_server(&ca);
    let alice = proving(client_of(&server, &root), &ca.client("alice")).start();
    alice.wait_log("link up");
    assert_eq!(names_of_peers(&server), ["alice"]);
    // Certificate alice, name bob.
    let mallory = proving(client_of(&server, &root), &ca.client("alice")).config(json!({ "name": "bob" })).start();
    let line = mallory.wait_log("no link");
    assert!(line.contains("certificate or token is for another name") && line.contains("claims to be bob"), "{line}");
    let line = server.wait_log("a link was refused");
    assert!(line.contains("alice") && line.contains("bob") && line.contains("correct"), "{line}");
    drop(mallory);
    // Another machine with the same certificate.
    let twin = proving(client_of(&server, &root), &ca.client("alice")).start();
    let line = twin.wait_log("no link");
    assert!(line.contains("refused for its name"), "{line}");
    // One that has no proof and wants the name.
    let eve = client_of(&server, &root).config(json!({ "name": "alice" })).without_token().start();
    let line = eve.wait_log("no link");
    assert!(line.contains("refused for its name"), "{line}");
    assert_eq!(names_of_peers(&server), ["alice"]);
    assert_eq!(alice.log().count("link down"), 0);
}

#[test]
fn who_has_proved_a_name_takes_it_from_one_that_has_not() {
    let ca = CertificateAuthority::new("the clients'");
    let (server, root) = asking_server(&ca);
    let eve = client_of(&server, &root).config(json!({ "name": "alice" })).without_token().start();
    eve.wait_log("link up");
    let alice = proving(client_of(&server, &root), &ca.client("alice")).start();
    alice.wait_log("link up");
    eve.wait_log("link down");
    eve.wait_log("refused for its name");
    assert_eq!(names_of_peers(&server), ["alice"]);
}

#[test]
fn a_certificate_that_proves_nothing_ends_the_handshake_and_the_client_is_told_why() {
    let (ca, other) = (CertificateAuthority::new("the clients'"), CertificateAuthority::new("strangers"));
    let (server, root) = asking_server(&ca);
    let table = [
        (other.client("alice"), "signed by nobody whom the server trusts"),
        (ca.client_between("alice", -2 * HOUR, -HOUR), "it has expired"),
        (ca.client_between("alice", HOUR, 2 * HOUR), "it has expired, or is not valid yet"),
        (ca.server(&["alice"]), "it is not good for a client"),
    ];
    for (certificate, words) in table {
        let client = proving(client_of(&server, &root), &certificate).start();
        let line = client.wait_log("no link");
        assert!(line.contains("the server refuses this client's certificate: ") && line.contains(words), "{words}: {line}");
    }
    assert_eq!(server.log().count("link up"), 0);
    // It is asked for, not required.
    client_of(&server, &root).start().wait_log("link up");
}

#[test]
fn a_session_does_not_outlive_the_certificate_that_it_was_made_with() {
    let ca = CertificateAuthority::new("the clients'");
    let (server, root) = asking_server(&ca);
    let certificate = ca.client_between("alice", -HOUR, 3);
    let end = Instant::now() + Duration::from_secs(4);
    let alice = proving(client_of(&server, &root), &certificate).start();
    alice.wait_log("link up");
    wait_for("the certificate's end", || Instant::now() > end);
    alice.connect().send(r#"{"name":"+cmd","params":{"code":"PAUSE","data":1}}"#);
    // What is resumed is refused, and once no ticket is left, so is a handshake.
    server.wait_log("invalid peer certificate");
    alice.wait_log("kind=Some(Resumed)");
    alice.wait_log("the server refuses this client's certificate: it has expired");
    assert_eq!(alice.log().count("link up"), 1);
}

#[test]
fn a_client_without_a_key_is_told_that_it_needs_one() {
    let (ca, clients) = (CertificateAuthority::new("ours"), CertificateAuthority::new("the clients'"));
    let certificate = ca.server(&["127.0.0.1"]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(clients.certificate()).expect("just made")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().expect("whole");
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("it has them");
    let chain = vec![CertificateDer::from_pem_file(&certificate.certificate).expect("just made")];
    let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("just made");
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let tls = json!({ "roots": shown(&ca.certificate()) });
    let client = Daemon::client_of(port).config(json!({ "proxy": format!("wss://127.0.0.1:{port}"), "tls": tls })).start();
    let (stream, _) = listener.accept().expect("it dials");
    let connection = ServerConnection::new(Arc::new(config)).expect("whole");
    let mut stream = StreamOwned::new(connection, stream);
    assert!(stream.read(&mut [0; 1]).is_err(), "it has a certificate");
    drop(stream.sock.shutdown(std::net::Shutdown::Write));
    drop(stream.sock.read_to_end(&mut Vec::new()));
    let line = client.wait_log("no link");
    assert!(line.contains("wants a client certificate, and this client has none: set \"certificate\" and \"key\""), "{line}");
}

#[test]
fn a_certificate_opens_a_protected_server_and_who_has_none_is_told() {
    if !need_networks() {
        return;
    }
    let ca = CertificateAuthority::new("the clients'");
    let (here, there) = (Network::new(), Network::new());
    here.connect("10.79.0.1/24", &there, "10.79.0.2/24");
    let tls = json!({ "clients": shown(&ca.certificate()), "names": ["10.79.0.1"] });
    let server = here.inside(|| Daemon::server().config(json!({ "listen": "::", "tls": tls })).start());
    let root = server.prefix().join("keys/root.pem");
    let proxy = json!({ "proxy": format!("wss://10.79.0.1:{}", server.port()) });
    let alice = proving(client_of(&server, &root).config(proxy.clone()), &ca.client("alice"));
    let alice = there.inside(|| alice.start());
    alice.wait_log("link up");
    let eve = client_of(&server, &root).config(proxy).without_token();
    let eve = there.inside(|| eve.start());
    let line = eve.wait_log("no link");
    assert!(line.contains("403") && line.contains("wants a client certificate, and this client has none"), "{line}");
    assert_eq!(names_of_peers(&server), ["alice"]);
}

// ---- Keys that change under live links -------------------------------------------------------------------------

#[test]
fn what_a_server_keeps_is_for_its_user_alone() {
    let (server, root) = server();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    let keys = server.prefix().join("keys");
    assert_eq!(mode(&keys), 0o700);
    for key in ["root.key", "leaf.key"] {
        assert_eq!(mode(&keys.join(key)), 0o600, "{key}");
    }
    assert_eq!(fs::read_dir(&keys).expect("there").count(), 4, "nothing else is left there");
    let before = fs::read(&root).expect("there");
    let (server, leaf) = (server.kill(), keys.join("leaf.pem"));
    let shown = fs::read(&leaf).expect("there");
    let server = server.start();
    assert_eq!((fs::read(&root).expect("there"), fs::read(&leaf).expect("there")), (before.clone(), shown.clone()));
    // A leaf that is broken, or whose names are too few, is made anew under the same root.
    let server = server.kill();
    fs::write(&leaf, "cut").expect("ours");
    let server = server.config(json!({ "tls": { "names": ["more.example"] } })).start();
    server.wait_log("more.example");
    assert_eq!(fs::read(&root).expect("there"), before);
    assert_ne!(fs::read(&leaf).expect("there"), shown);
}

#[test]
fn a_session_is_resumed_when_a_client_comes_back() {
    let (server, root) = server();
    let client = client_of(&server, &root).start();
    client.wait_log("link up");
    let mut process = client.connect();
    process.send(r#"{"name":"+cmd","params":{"code":"PAUSE","data":1}}"#);
    client.wait_log_times("link up", 2);
    client.wait_log("kind=Some(Resumed)");
    server.wait_log("resumed=true");
    assert_eq!(server.log().count("resumed=false"), 1);
}

#[test]
fn own_files_are_read_again_without_a_link_being_dropped_and_kept_when_they_do_not_fit() {
    let (ca, other) = (CertificateAuthority::new("ours"), CertificateAuthority::new("other"));
    let plan = Daemon::server().config(json!({ "tls": { "certificate": "a.pem", "key": "a.key" } }));
    let (certificate, key) = (plan.prefix().join("a.pem"), plan.prefix().join("a.key"));
    ca.server(&["127.0.0.1"]).install(&certificate, &key);
    let server = plan.start();
    let first = client_of(&server, &ca.certificate()).start();
    first.wait_log("link up");
    server.wait_log("link up");
    // The key alone is new: they do not fit, and those before are shown on.
    fs::copy(other.server(&["127.0.0.1"]).key, &key).expect("copied");
    let refused = server.connect().command("RELOAD", &Value::Null);
    let message = refused["message"].as_str().expect("words");
    assert!(refused["status"] == -3 && message.contains("a.key: it is not the key of the certificate in"), "{refused}");
    let second = client_of(&server, &ca.certificate()).config(json!({ "name": "second" })).start();
    second.wait_log("link up");
    other.server(&["127.0.0.1"]).install(&certificate, &key);
    server.connect().result("RELOAD", &Value::Null);
    let third = client_of(&server, &other.certificate()).config(json!({ "name": "third" })).start();
    third.wait_log("link up");
    client_of(&server, &ca.certificate()).start().wait_log("is not signed by a root in");
    assert_eq!(exit_status(&server, 5), 5);
    assert_eq!(server.log().count("link down"), 0);
}

/// A seed client over TLS that answers what it is told to.
struct LightClient(WebSocket<StreamOwned<ClientConnection, TcpStream>>);

impl LightClient {
    fn dial(port: u16, config: &Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::clone(config), name).expect("whole");
        let (socket, _) = client("ws://localhost/", StreamOwned::new(connection, stream)).expect("a link");
        Self(socket)
    }

    /// Answers the next request with status 0.
    fn answer(&mut self) {
        let request = loop {
            if let Message::Text(text) = self.0.read().expect("the link is up") {
                break serde_json::from_str::<Value>(&text).expect("JSON");
            }
        };
        let data = json!({ "status": 0, "id": request["id"] });
        let status = json!({ "name": "&cmd", "params": { "code": "STATUS", "data": data } });
        self.0.send(Message::text(status.to_string())).expect("the link is up");
    }
}

#[test]
fn a_leaf_is_renewed_under_a_hundred_live_clients_and_all_come_back_after_a_restart() {
    const LIGHT: usize = 98;
    let server = Daemon::server().config(json!({ "tls": { "lifetime": "6s" } })).start();
    let root = server.prefix().join("keys/root.pem");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&root).expect("the server's root")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("it has them");
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let full: Vec<Daemon> =
        (0..2).map(|number| client_of(&server, &root).config(json!({ "name": format!("full-{number}") })).start()).collect();
    let mut light: Vec<LightClient> = (0..LIGHT).map(|_| LightClient::dial(server.port(), &config)).collect();
    server.wait_log_times("link up", LIGHT + full.len());
    let leaf = server.prefix().join("keys/leaf.pem");
    let before = fs::read(&leaf).expect("there");
    let made = server.log().count("the server's certificate is new");
    server.wait_log_times("the server's certificate is new", made + 2);
    assert_ne!(fs::read(&leaf).expect("there"), before);
    let all_answer = |server: &Daemon, light: &mut Vec<LightClient>| {
        let mut process = server.connect();
        for id in 0..LIGHT + full.len() {
            process.send(json!({ "name": "exit", "id": id, "params": 0 }).to_string());
        }
        // One request each, in turn.
        light.iter_mut().for_each(LightClient::answer);
        for _ in 0..LIGHT + full.len() {
            assert_eq!(process.said()["status"], 0);
        }
    };
    all_answer(&server, &mut light);
    assert_eq!(server.log().count("link down"), 0, "a renewal has dropped a link");
    let server = server.kill().start();
    drop(light);
    for client in &full {
        client.wait_log_times("link up", 2);
    }
    let mut light: Vec<LightClient> = (0..LIGHT).map(|_| LightClient::dial(server.port(), &config)).collect();
    server.wait_log_times("link up", LIGHT + full.len());
    all_answer(&server, &mut light);
}

// ---- From one root to the next ---------------------------------------------------------------------------------

/// A client that has pinned the root that `server` has now, as `join` leaves it.
fn pinning(server: &Daemon, name: &str) -> DaemonPlan {
    let plan = Daemon::client(server)
        .config(json!({ "proxy": format!("wss://127.0.0.1:{}", server.port()), "name": name }))
        .script("exit", EXIT);
    let keys = plan.prefix().join("keys");
    fs::create_dir(&keys).expect("the prefix is ours");
    fs::copy(server.prefix().join("keys/root.pem"), keys.join("server-roots.pem")).expect("copied");
    plan
}

fn pinned(client: &Path) -> usize {
    let text = fs::read_to_string(client.join("keys/server-roots.pem")).expect("it is there");
    text.matches("BEGIN CERTIFICATE").count()
}

fn keys(server: &Daemon, task: &str) -> Value {
    server.connect().result("KEYS", &json!({ "do": task }))
}

/// Who has the present root, and the next one, by name, once that is so.
#[track_caller]
fn wait_holders(server: &Daemon, expected: &Value) {
    wait_for("who has which root", || {
        let shown = keys(server, "show");
        let holders = shown["holders"].as_array().expect("a list").iter();
        let mut holders: Vec<Value> = holders.map(|one| json!([one["name"], one["root"], one["next"]])).collect();
        holders.sort_by_key(ToString::to_string);
        Value::from(holders) == *expected
    });
}

#[test]
fn a_root_is_replaced_while_all_clients_are_there_and_none_notices() {
    let (server, root) = server();
    let first = fs::read(&root).expect("there");
    let (one, two) = (pinning(&server, "one").start(), pinning(&server, "two").start());
    // Others neither pin nor wait for anything.
    let plain = Daemon::client(&server).start();
    server.wait_log_times("link up", 3);
    wait_holders(&server, &json!([["one", true, null], ["two", true, null]]));
    keys(&server, "rotate");
    server.wait_log("under the next root from here on");
    assert_ne!(fs::read(&root).expect("there"), first);
    assert!(!server.prefix().join("keys/next-root.pem").exists() && !server.prefix().join("keys/next-root.key").exists());
    // Both roots while it lasts, the new one alone behind it.
    for client in [&one, &two] {
        client.wait_log_times("the server has announced its roots", 2);
        assert_eq!(pinned(client.prefix()), 1);
        assert_eq!(fs::read(client.prefix().join("keys/server-roots.pem")).expect("there"), fs::read(&root).expect("there"));
    }
    wait_holders(&server, &json!([["one", true, null], ["two", true, null]]));
    assert_eq!(server.log().count("link down"), 0);
    let server = server.kill().start();
    for client in [&one, &two, &plain] {
        client.wait_log_times("link up", 2);
    }
    server.wait_log_times("link up", 3);
}

/// Whether one of them has two roots.
fn two_pins(holders: &str) -> bool {
    let holders: Value = serde_json::from_str(holders).expect("JSON");
    holders.as_object().expect("an object").values().any(|one| one["pins"].as_array().is_some_and(|pins| pins.len() == 2))
}

#[test]
fn a_client_that_was_away_is_waited_for_and_after_finish_told_what_to_do() {
    let (server, root) = server();
    let here = pinning(&server, "here").start();
    let away = pinning(&server, "away").start();
    let other = pinning(&server, "other").start();
    wait_holders(&server, &json!([["away", true, null], ["here", true, null], ["other", true, null]]));
    let (away, other) = (away.kill(), other.kill());
    server.wait_log_times("link down", 2);
    let shown = keys(&server, "rotate");
    assert!(shown["next"]["pin"].is_string() && shown["next"]["pin"] != shown["root"]["pin"], "{shown}");
    here.wait_log("the server has announced its roots");
    assert_eq!(pinned(here.prefix()), 2);
    wait_holders(&server, &json!([["away", true, false], ["here", true, true], ["other", true, false]]));
    // That outlives the server, and so does the next root; who comes in time gets it then.
    let holders = server.prefix().join("keys/holders.json");
    let saved = || fs::read_to_string(&holders).is_ok_and(|text| text.matches("pins").count() == 3 && two_pins(&text));
    wait_for("it is on disk who has which root", saved);
    let server = server.crash().start();
    here.wait_log_times("link up", 2);
    wait_holders(&server, &json!([["away", true, false], ["here", true, true], ["other", true, false]]));
    let other = other.start();
    other.wait_log("the server has announced its roots");
    wait_holders(&server, &json!([["away", true, false], ["here", true, true], ["other", true, true]]));
    assert_eq!(keys(&server, "show")["next"]["pin"], shown["next"]["pin"]);
    assert_eq!(keys(&server, "finish")["root"]["pin"], shown["next"]["pin"]);
    let again = server.connect().command("KEYS", &json!({ "do": "finish" }));
    assert!(again["message"].as_str().is_some_and(|said| said.contains("no next root")), "{again}");
    let away = away.start();
    let line = away.wait_log("no link");
    assert!(line.contains("its root was changed while this client was away"), "{line}");
    assert!(line.contains("join again with a new invitation, or copy keys/root.pem"), "{line}");
    // It does the latter.
    fs::copy(&root, away.prefix().join("keys/server-roots.pem")).expect("copied");
    away.wait_log("link up");
    assert_eq!(here.log().count("link down") + other.log().count("link down"), 1, "only by the restart");
}

#[test]
fn roots_are_believed_from_the_server_over_tls_alone() {
    let ca = CertificateAuthority::new("the attacker's");
    let listener = PeerListener::bind();
    let plan = Daemon::client_of(listener.port());
    let keys = plan.prefix().join("keys");
    fs::create_dir(&keys).expect("the prefix is ours");
    let own = CertificateAuthority::new("the server's");
    fs::copy(own.certificate(), keys.join("server-roots.pem")).expect("copied");
    let client = plan.start();
    let mut peer = listener.accept_as(&client, Some("2"));
    peer.hello();
    peer.send_hello(&json!({ "name": "server", "instance": "s", "epoch": 1 }));
    client.wait_log("link up");
    let both: Vec<String> = [&own, &ca].map(|ca| fs::read_to_string(ca.certificate()).expect("there")).into();
    peer.send_text(&daemons_say("ROOTS", &json!({ "roots": both })));
    client.wait_log("roots were said by who is not to say them");
    assert_eq!(pinned(client.prefix()), 1);
    // And a local process is no server.
    let refused = client.connect().ask(r#"{"name":"&cmd","id":1,"params":{"code":"ROOTS","data":{"roots":[]}}}"#);
    assert!(refused.contains("comes from daemons only"), "{refused}");
}

#[test]
fn keys_are_shown_and_renewed_by_the_command_line() {
    let (server, _) = server();
    let said = |arguments: &[&str]| {
        let mut words = command(arguments);
        words.env("WSDAEMON_PREFIX", server.prefix());
        ran(words, "")
    };
    let before = keys(&server, "show");
    let shown = said(&["keys"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in ["leaf", "root"] {
        let fingerprint = before[part]["fingerprint"].as_str().expect("text");
        assert!(shown.out.contains(fingerprint), "{part}: {shown:?}");
    }
    assert!(shown.out.contains("localhost, 127.0.0.1"), "{shown:?}");
    assert_eq!(said(&["keys", "renew"]).code, 0);
    let after = keys(&server, "show");
    assert_ne!(before["leaf"]["fingerprint"], after["leaf"]["fingerprint"]);
    assert_eq!(before["root"], after["root"]);
    let off = Daemon::server().config(json!({ "tls": false })).start();
    assert_eq!(keys(&off, "show"), json!({ "on": false }));
    let refused = off.connect().command("KEYS", &json!({ "do": "rotate" }));
    assert!(refused["message"].as_str().is_some_and(|said| said.contains("\"tls\" is false")), "{refused}");
    let client = Daemon::client(&server).start();
    let refused = client.connect().command("KEYS", &json!({ "do": "show" }));
    assert!(refused["message"].as_str().is_some_and(|said| said.contains("this daemon is a client")), "{refused}");
}
