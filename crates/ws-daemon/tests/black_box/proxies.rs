//! What stands between two daemons: HTTP proxies on the way to the server, and several ways of which one is good.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    CertificateAuthority, Daemon, DaemonPlan, ForwardProxy, Network, PeerListener, Process, Ran, Way, command, need_networks,
    need_tool, ran, run, wait_for, with_hosts,
};

const SEVEN: &str = "#!/bin/sh\nexit 7\n";

/// A name that nobody on this machine can look up: what is at its end is the proxy's to find.
const HUB: &str = "hub.example.invalid";

// ---- HTTP proxies on the way -----------------------------------------------------------------------------------

#[test]
fn a_client_reaches_its_server_through_an_http_proxy_that_alone_sees_the_password() {
    let server = Daemon::server().start();
    let proxy = ForwardProxy::start(Way::To(server.port()));
    let client = client(&format!("ws://{HUB}:81/any/path"))
        .env("http_proxy", &format!("http://till:s3cr%40t@127.0.0.1:{}", proxy.port()))
        .env("NO_PROXY", "other.example.org, 10.0.0.0/8")
        .script("seven", SEVEN)
        .start();
    client.wait_log("link up");
    let asked = proxy.asked();
    let head = format!("CONNECT {HUB}:81 HTTP/1.1\r\nHost: {HUB}:81\r\nProxy-Authorization: Basic dGlsbDpzM2NyQHQ=\r\n\r\n");
    assert_eq!(asked, head);
    assert_eq!(tool(&server, &["exec", "seven"]).code, 7);
    let checked = checked(&client);
    assert_eq!(
        checked["http_proxy"],
        json!({ "value": format!("http://127.0.0.1:{}", proxy.port()), "source": "environment" })
    );
    for secret in ["s3cr", "dGlsbDpz"] {
        assert_eq!(client.log().count(secret), 0, "{}", client.log());
        assert!(!checked.to_string().contains(secret), "{checked}");
    }
}

#[test]
fn a_machine_that_can_only_go_through_a_proxy_joins_and_links_by_https_proxy() {
    let server = Daemon::server().start();
    let proxy = ForwardProxy::start(Way::To(server.port()));
    let way = format!("127.0.0.1:{}", proxy.port());
    let line = tool(&server, &["invite", "web", "--url", &format!("wss://{HUB}")]).out;
    let plan = client(HUB).env("HTTPS_PROXY", &way);
    let mut join = command(&["join", line.trim()]);
    join.env("WSDAEMON_PREFIX", plan.prefix()).env("HTTPS_PROXY", &way);
    let joined = ran(join, "");
    assert_eq!(joined.code, 0, "{joined:?}");
    assert!(joined.out.contains(&format!("joined {HUB}:")), "{joined:?}");
    let client = plan.config_as_written().script("seven", SEVEN).start();
    client.wait_log("link up");
    assert_eq!(tool(&server, &["exec", "seven", "--to", "web"]).code, 7);
    // The trade, the first link, and the daemon's.
    for _ in 0..3 {
        assert!(proxy.asked().starts_with(&format!("CONNECT {HUB}:")));
    }
}

#[test]
fn a_proxy_is_spoken_to_over_tls_where_its_url_says_so_and_believed_by_the_systems_roots() {
    let server = Daemon::server().start();
    let authority = CertificateAuthority::new("the proxy's");
    let proxy = ForwardProxy::start_encrypted(Way::To(server.port()), &authority.server(&["localhost"]));
    let plan = client(&format!("ws://{HUB}")).config(json!({ "http_proxy": format!("https://localhost:{}", proxy.port()) }));
    let plan = plan.env("SSL_CERT_DIR", "");
    let roots = |plan: DaemonPlan, authority: &CertificateAuthority| {
        plan.env("SSL_CERT_FILE", authority.certificate().to_str().expect("plain")).start()
    };
    let doubtful = roots(plan, &CertificateAuthority::new("another"));
    let line = doubtful.wait_log("no link");
    let named = format!("no way through the proxy https://localhost:{}, which http_proxy names: ", proxy.port());
    assert!(line.contains(&named) && line.contains("no encrypted connection to it"), "{line}");
    let client = roots(doubtful.kill(), &authority);
    client.wait_log("link up");
    assert!(proxy.asked().starts_with("CONNECT"));
}

#[test]
fn what_a_proxy_answers_is_told_with_what_to_do() {
    let table = [
        ("HTTP/1.1 407 Who are you\r\n\r\n", "", "407 Who are you: it wants a name and a password"),
        ("HTTP/1.1 407 No\r\n\r\n", "till:s3cret@", "does not take the name and the password that stand in http_proxy"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "", "does not let this machine reach hub.example.invalid:3006"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "", "it cannot reach hub.example.invalid:3006. Does the server run"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "", "what answers there is no HTTP proxy"),
        ("", "", "it closed the connection without an answer"),
    ];
    for (answer, credentials, words) in table {
        let proxy = ForwardProxy::start(Way::Says(answer));
        let client = client(HUB).env("http_proxy", &format!("http://{credentials}127.0.0.1:{}", proxy.port())).start();
        let line = client.wait_log("no link");
        assert!(line.contains(words), "{words:?} is not in {line}");
        assert_eq!(client.log().count("s3cret"), 0);
    }
    let nobody = dead_port();
    let client_of_nobody = client(HUB).env("http_proxy", &format!("127.0.0.1:{nobody}")).start();
    let line = client_of_nobody.wait_log("no link");
    assert!(
        line.contains(&format!("through the proxy http://127.0.0.1:{nobody}, which http_proxy names: cannot connect")),
        "{line}"
    );
    let mute = ForwardProxy::start(Way::Mute);
    let hasty = json!({ "times": { "handshake": "300ms" } });
    let waiting = client(HUB).config(hasty).env("http_proxy", &format!("127.0.0.1:{}", mute.port())).start();
    waiting.wait_log("no link within 300ms");
}

#[test]
fn a_proxy_is_passed_by_on_this_machine_by_no_proxy_and_by_the_setting() {
    let proxy = ForwardProxy::start(Way::Says("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let way = format!("http://127.0.0.1:{}", proxy.port());
    let listener = PeerListener::bind();
    let here = || Daemon::client_of(listener.port()).env("all_proxy", &way);
    for setting in [Value::Null, json!(way)] {
        let daemon = here().config(json!({ "http_proxy": setting })).start();
        drop((listener.accept(&daemon), daemon));
    }
    for (variable, words, setting) in
        [("NO_PROXY", "example.invalid", Value::Null), ("no_proxy", "*", Value::Null), ("NO_PROXY", "", json!("none"))]
    {
        let plan = client(HUB).env("all_proxy", &way).env(variable, words).config(json!({ "http_proxy": setting }));
        let line = plan.start().wait_log("no link");
        assert!(line.contains(&format!("no address for {HUB}")), "{line}");
    }
    proxy.assert_unasked();
    let strange = client(HUB).env("all_proxy", "socks5://u:s3cret@h");
    let said = ran(strange.written(), "");
    assert!(said.code == 78 && said.err.contains("all_proxy names a proxy by socks5://"), "{said:?}");
    assert!(!said.err.contains("s3cret"));
}

// ---- Several servers -------------------------------------------------------------------------------------------

#[test]
fn the_next_server_is_dialled_at_once_and_the_first_one_first_again_when_the_link_is_lost() {
    let (first, second) = (Daemon::server().start(), Daemon::server().start());
    let ports = [first.port(), second.port()];
    let first = first.kill();
    let client = of_ports(&ports).start();
    assert_eq!(linked_to(&client, 1), ports[1]);
    let log = client.log().to_string();
    assert!(log.contains(&format!("no link server=ws://127.0.0.1:{}/", ports[0])) && !log.contains("dialling again"), "{log}");
    let first = first.start();
    drop(second);
    assert_eq!(linked_to(&client, 2), ports[0]);
    drop(first);
    // Neither is there: a round of both, and a wait, and so on.
    client.wait_log_times("dialling again", 3);
    let lines = client.log().lines("");
    let told = lines.iter().filter_map(|line| match line {
        line if line.contains("dialling again") => Some(0),
        line if line.contains("no link") => ports.iter().position(|port| line.contains(&format!(":{port}/"))).map(|at| at + 1),
        _ => None,
    });
    let told: Vec<usize> = told.collect();
    assert!(
        told.ends_with(&[0, 1, 2, 0]) || told.ends_with(&[0, 1, 2, 0, 1]) || told.ends_with(&[0, 1, 2, 0, 1, 2]),
        "{told:?}"
    );
}

#[test]
fn a_server_that_never_answers_holds_up_the_next_no_longer_than_a_handshake_may_take() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = Daemon::server().start();
    let ports = [silent.local_addr().expect("bound").port(), second.port()];
    let client = of_ports(&ports).config(json!({ "times": { "handshake": "200ms" } })).start();
    assert_eq!(linked_to(&client, 1), ports[1]);
    client.wait_log("no link within 200ms");
}

#[test]
fn several_servers_are_named_by_config_flag_and_environment_and_each_gets_its_own_token() {
    let listeners = [PeerListener::bind(), PeerListener::bind()];
    let ports = listeners.each_ref().map(PeerListener::port);
    let urls = [format!("ws://web:one@127.0.0.1:{}/a", ports[0]), format!("127.0.0.1:{}", ports[1])];
    let shown = json!([format!("ws://127.0.0.1:{}/a", ports[0]), format!("ws://127.0.0.1:{}/", ports[1])]);
    let plan =
        Daemon::client_of(1).config(json!({ "proxy": urls, "name": "web" })).env("WSDAEMON_TOKEN", "two").without_token();
    let client = plan.start();
    for (listener, header) in listeners.iter().zip(["Basic d2ViOm9uZQ==", "Basic d2ViOnR3bw=="]) {
        // It is gone at once, and so is as good as not reached.
        assert_eq!(listener.accept(&client).header("authorization"), Some(header));
    }
    let rows = checked(&client);
    assert_eq!(rows["proxy"], json!({ "value": shown, "source": "config.json" }));
    let prefix = tempfile::tempdir().expect("a temporary folder can be made");
    for (words, variable, source) in
        [(&["--proxy", &*urls.join(", ")][..], None, "flag"), (&[], Some(urls.join(",")), "environment")]
    {
        let mut check = command(&["check", "--json", "--mode", "client"]);
        check.args(words).env("WSDAEMON_PREFIX", prefix.path()).envs(variable.map(|urls| ("WSDAEMON_PROXY", urls)));
        let rows: Value = serde_json::from_str(&ran(check, "").out).expect("JSON");
        assert_eq!(rows["proxy"], json!({ "value": shown, "source": source }));
    }
    for (servers, words) in
        [(json!([]), "proxy names no server"), (json!(vec!["h"; 17]), "more than 16"), (json!([1]), "proxy: ")]
    {
        let said = ran(Daemon::client_of(1).config(json!({ "proxy": servers })).written(), "");
        assert!(said.code == 78 && said.err.contains(words), "{said:?}");
    }
}

#[test]
fn an_invitation_with_several_urls_is_joined_by_the_first_that_answers_and_all_are_kept() {
    let server = Daemon::server().start();
    let urls = [format!("wss://127.0.0.1:{}/", dead_port()), format!("wss://127.0.0.1:{}/", server.port())];
    let invited = tool(&server, &["invite", "web", "--url", &urls[0], "--url", &urls[1]]);
    assert!(invited.err.contains(&format!("invited to {}, {} for", urls[0], urls[1])), "{invited:?}");
    let plan = client("unused").script("seven", SEVEN);
    let mut join = command(&["join", invited.out.trim()]);
    join.env("WSDAEMON_PREFIX", plan.prefix());
    let joined = ran(join, "");
    assert!(joined.code == 0 && joined.out.contains(&format!("joined 127.0.0.1:{} as web", server.port())), "{joined:?}");
    let client = plan.config_as_written().start();
    assert_eq!(checked(&client)["proxy"]["value"], json!(urls));
    client.wait_log("link up");
    assert_eq!(tool(&server, &["exec", "seven"]).code, 7);
}

// ---- Reverse proxies before the server -------------------------------------------------------------------------

/// The name of the site in the examples.
const SITE: &str = "jobs.example.org";

#[test]
fn a_server_behind_nginx_as_the_example_has_it_takes_links_with_tokens_that_outlive_its_timeouts_and_its_reload() {
    if !(need_tool("nginx") && need_tool("curl") && need_networks()) {
        return;
    }
    let site = Site::new();
    let files = site.authority.server(&[SITE]);
    let (certificate, key) = (files.certificate.to_str().expect("plain"), files.key.to_str().expect("plain"));
    let example = changed(
        &contrib("nginx/ws-daemon.conf"),
        &[
            ("/etc/letsencrypt/live/jobs.example.org/fullchain.pem", certificate),
            ("/etc/letsencrypt/live/jobs.example.org/privkey.pem", key),
            ("proxy_read_timeout 60s", "proxy_read_timeout 1s"),
            ("proxy_send_timeout 60s", "proxy_send_timeout 1s"),
        ],
    );
    let folder = site.folder.path();
    let main = format!(
        "daemon off;\nuser root;\npid {0}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\nfastcgi_temp_path {0}/fastcgi;\nuwsgi_temp_path {0}/uwsgi;\n\
         scgi_temp_path {0}/scgi;\n{example}}}\n",
        folder.display()
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, main).expect("the folder is ours");
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(folder).arg("-c").arg(&config);
    let nginx = site.start("nginx", nginx);
    let client = site.joined();
    assert_eq!(
        tool(&site.server, &["exec", "slow", "--to", "web"]).code,
        0,
        "silent for longer than nginx waits, but for pings"
    );
    nginx.signal(Signal::HUP);
    nginx.log().wait("gracefully shutting down");
    assert_eq!(tool(&site.server, &["exec", "slow", "--to", "web"]).code, 0);
    assert_eq!(client.log().count("link down"), 0, "{}", client.log());
    site.refuses_whoever_has_no_token();
    site.answers_http();
}

#[test]
fn a_server_behind_caddy_as_the_example_has_it_takes_links_with_tokens() {
    if !(need_tool("caddy") && need_tool("curl") && need_networks()) {
        return;
    }
    let site = Site::new();
    let files = site.authority.server(&[SITE]);
    let own = format!("tls {} {}", files.certificate.display(), files.key.display());
    let example = changed(&contrib("caddy/Caddyfile"), &[("# tls /etc/ssl/jobs.pem /etc/ssl/jobs.key", &own)]);
    let config = site.folder.path().join("Caddyfile");
    fs::write(&config, example).expect("the folder is ours");
    let mut caddy = Command::new("caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config).env("HOME", site.folder.path());
    caddy.env("XDG_DATA_HOME", site.folder.path()).env("XDG_CONFIG_HOME", site.folder.path());
    let caddy = site.start("caddy", caddy);
    caddy.log().wait("serving initial configuration");
    let client = site.joined();
    assert_eq!(tool(&site.server, &["exec", "slow", "--to", "web"]).code, 0);
    assert_eq!(client.log().count("link down"), 0, "{}", client.log());
    site.refuses_whoever_has_no_token();
    site.answers_http();
}

/// No package of Traefik is there to start: what the files say is held against what they must agree on.
#[test]
fn the_example_for_traefik_is_whole_and_leads_to_the_server() {
    if !need_tool("python3") {
        return;
    }
    let read = |name: &str| -> Value {
        let mut python = Command::new("python3");
        let script = "import json, sys, tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], 'rb'))))";
        python.args(["-c", script]).arg(root().join("contrib/traefik").join(name));
        let said = run(python);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{name}: {error} {said:?}"))
    };
    let (fixed, dynamic) = (read("traefik.toml"), read("dynamic.toml"));
    let http = &dynamic["http"];
    let router = &http["routers"]["ws-daemon"];
    let entry = router["entryPoints"][0].as_str().expect("a name");
    assert_eq!(fixed["entryPoints"][entry]["address"], ":443");
    let resolver = router["tls"]["certResolver"].as_str().expect("a name");
    assert!(fixed["certificatesResolvers"][resolver]["acme"]["storage"].is_string());
    let middleware = router["middlewares"][0].as_str().expect("a name");
    assert_eq!(http["middlewares"][middleware]["stripPrefix"]["prefixes"], json!(["/ws-daemon"]));
    assert_eq!(router["rule"], format!("Host(`{SITE}`) && PathPrefix(`/ws-daemon/`)"));
    let service = router["service"].as_str().expect("a name");
    assert_eq!(http["services"][service]["loadBalancer"]["servers"], json!([{ "url": "http://127.0.0.1:3006" }]));
    assert_eq!(fixed["providers"]["file"]["filename"], "/etc/traefik/dynamic.toml");
    for file in ["nginx/ws-daemon.conf", "caddy/Caddyfile", "traefik/dynamic.toml"] {
        let text = contrib(file);
        for words in [
            "127.0.0.1:3006",
            "\"listen\": \"127.0.0.1\", \"tls\": false, \"hosts\": [\"jobs.example.org\"]",
            "--url wss://jobs.example.org/ws-daemon/",
        ] {
            assert!(text.contains(words), "{words} is not in {file}");
        }
    }
}

/// A server as the examples have it, in a network of its own where the site is this machine.
struct Site {
    network: Network,
    folder: TempDir,
    authority: CertificateAuthority,
    server: Daemon,
}

impl Site {
    fn new() -> Self {
        let (network, folder) = (Network::new(), tempfile::tempdir().expect("a temporary folder can be made"));
        fs::write(folder.path().join("hosts"), format!("127.0.0.1 localhost {SITE}\n")).expect("the folder is ours");
        let plan =
            Daemon::server().config(json!({ "port": 3006, "tls": false, "hosts": [SITE], "times": { "ping": "200ms" } }));
        let server = network.inside(|| plan.start());
        Self { network, folder, authority: CertificateAuthority::new("the site's"), server }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network.inside(|| with_hosts(&self.folder.path().join("hosts"), work))
    }

    /// Starts a proxy and waits until it listens.
    fn start(&self, title: &str, command: Command) -> Process {
        let process = self.inside(|| Process::start(title, command));
        wait_for(title, || self.inside(|| TcpStream::connect((SITE, 443)).is_ok()));
        process
    }

    /// The plan of a client that believes the site.
    fn client(&self) -> DaemonPlan {
        let url = format!("wss://{SITE}/ws-daemon/");
        let roots = self.authority.certificate();
        client(&url)
            .config(json!({ "port": null }))
            .env("SSL_CERT_FILE", roots.to_str().expect("plain"))
            .env("SSL_CERT_DIR", "")
    }

    /// A client that has joined through the proxy, and is linked.
    fn joined(&self) -> Daemon {
        let line = tool(&self.server, &["invite", "web", "--url", &format!("wss://{SITE}/ws-daemon/")]).out;
        let plan = self.client().script("slow", "#!/bin/sh\nsleep 2.5\n");
        let mut join = plan.command();
        join.args(["join", line.trim()]);
        let joined = self.inside(|| ran(join, ""));
        assert_eq!(joined.code, 0, "{joined:?}");
        let client = self.inside(|| plan.config_as_written().start());
        client.wait_log("link up");
        client
    }

    /// It is asked for a token, not for another path or name.
    fn answers_http(&self) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(self.authority.certificate());
        curl.args(["--output", "/dev/null", "--write-out", "%{http_code}", &format!("https://{SITE}/ws-daemon/api/v1/peers")]);
        let said = self.inside(|| run(curl));
        assert_eq!(String::from_utf8_lossy(&said.stdout), "401", "{said:?}\n{}", self.server.log());
    }

    /// Though it comes from this machine, by the address of the proxy.
    fn refuses_whoever_has_no_token(&self) {
        let stranger = self.inside(|| self.client().without_token().start());
        let line = stranger.wait_log("no link");
        // The server's own words, if the proxy sends them with the head.
        assert!(
            line.contains("403") && (line.contains("protected mode") || line.contains("join it with an invitation")),
            "{line}"
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn contrib(path: &str) -> String {
    fs::read_to_string(root().join("contrib").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text with words in place of others, each of which is there.
fn changed(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old} is not in {text}");
        text.replace(old, new)
    })
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// A client of `server`, which dials again soon.
fn client(server: &str) -> DaemonPlan {
    Daemon::client_of(3006).config(json!({ "proxy": server }))
}

fn of_ports(ports: &[u16]) -> DaemonPlan {
    let servers: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Daemon::client_of(1).config(json!({ "proxy": servers }))
}

/// The port of the server of its `times`th link.
fn linked_to(client: &Daemon, times: usize) -> u16 {
    let line = client.wait_log_times("link up", times);
    let (_, rest) = line.split_once("address=\"127.0.0.1:").unwrap_or_else(|| panic!("no address in {line}"));
    rest.split('"').next().and_then(|port| port.parse().ok()).expect("a port is a number")
}

/// A port that nobody listens on.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("the loopback has a free port").port()
}

fn tool(daemon: &Daemon, words: &[&str]) -> Ran {
    tool_in(daemon.prefix(), words)
}

fn tool_in(prefix: &Path, words: &[&str]) -> Ran {
    let mut command = command(words);
    command.env("WSDAEMON_PREFIX", prefix);
    ran(command, "")
}

/// What `check` says of the settings of a daemon.
fn checked(daemon: &Daemon) -> Value {
    let mut check = daemon.twin().command();
    check.args(["check", "--json"]);
    let said = ran(check, "");
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}
