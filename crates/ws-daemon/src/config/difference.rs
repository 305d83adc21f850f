//! How later settings differ from those in use, and what of it can be taken up while the daemon runs. Pure: it takes nothing up.

use super::settings::{Limits, Role, Row, Settings, Tls};

/// What a running daemon takes up: these settings, and those under them. Any other one needs a restart, also one that is added and
/// not decided on.
const LIVE: [&str; 26] = [
    "audit",
    "hosts",
    "http_proxy",
    "limits.address_connections",
    "limits.address_failures",
    "limits.connections",
    "limits.half_open",
    "limits.local_connections",
    "limits.message",
    "limits.nesting",
    "limits.peer_runs",
    "limits.runs",
    "limits.waiting",
    "limits.waiting_bytes",
    "log",
    "name",
    "open",
    "proxy",
    "relay",
    "rules",
    "serve",
    "tags",
    "times",
    "tls",
    "token",
    "token_file",
];

/// What is of the server that a client dials.
const OF_SERVERS: [&str; 3] = ["http_proxy", "proxy", "token_file"];

/// What comes of later settings.
#[derive(Debug)]
pub struct Difference {
    /// What is to be in use: the later settings as far as they can be taken up, else the present ones.
    pub settings: Settings,
    /// The same, to be shown.
    pub rows: Vec<Row>,
    /// The settings that differ and can be taken up, by name.
    pub changed: Vec<&'static str>,
    /// Those that differ and can not.
    pub restart: Vec<&'static str>,
}

impl Difference {
    /// Between the settings in use, shown by `rows`, and later ones.
    #[must_use]
    pub fn between(in_use: &Settings, rows: &[Row], later: Settings, later_rows: &[Row]) -> Self {
        let is_live = |name: &str| is_live(in_use, &later, name);
        let shown =
            |rows: &[Row], name: &str| rows.iter().find(|row| row.name == name).map(|row| (row.value.clone(), row.note));
        let mut names: Vec<&str> = later_rows.iter().chain(rows).map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| shown(rows, name) != shown(later_rows, name));
        let (mut changed, restart): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_live(name));
        // No row shows a token.
        if is_live("proxy") && changed.iter().all(|name| !["proxy", "token"].contains(name)) && tokens(in_use) != tokens(&later)
        {
            changed.push("token");
        }
        let (taken, left) = (later_rows.iter().filter(|row| is_live(row.name)), rows.iter().filter(|row| !is_live(row.name)));
        let rows = taken.chain(left).cloned().collect();
        Self { settings: taken_up(in_use, later), rows, changed, restart }
    }
}

/// In the other role nothing can be taken up; and a client's spool is named after the port that it dials.
fn is_live(in_use: &Settings, later: &Settings, name: &str) -> bool {
    let is_under = |live: &&str| name.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    // What is asked by TCP from elsewhere stays encrypted.
    let is_listed = LIVE.iter().any(is_under) && !(name == "tls" && is_asked_from_elsewhere(in_use));
    match (&in_use.role, &later.role) {
        (Role::Server { .. }, Role::Server { .. }) => is_listed,
        (Role::Client { servers }, Role::Client { servers: later }) => {
            is_listed && (!OF_SERVERS.contains(&name) || servers.first.port == later.first.port)
        }
        _ => false,
    }
}

fn tokens(settings: &Settings) -> Vec<Option<&super::Credentials>> {
    match &settings.role {
        Role::Client { servers } => servers.iter().map(|server| server.credentials.as_ref()).collect(),
        Role::Server { .. } => Vec::new(),
    }
}

fn is_asked_from_elsewhere(settings: &Settings) -> bool {
    settings.http.is_some_and(|http| !http.ip().is_loopback())
}

fn taken_up(in_use: &Settings, later: Settings) -> Settings {
    let is_proxy_live = is_live(in_use, &later, "proxy");
    let role = match (in_use.role.clone(), later.role) {
        (Role::Server { listen, reuse, .. }, Role::Server { open, .. }) => Role::Server { listen, reuse, open },
        (Role::Client { servers }, Role::Client { servers: later }) => {
            Role::Client { servers: if is_proxy_live { later } else { servers } }
        }
        _ => return in_use.clone(),
    };
    let Limits { held_bytes, spool_bytes, spool_runs, .. } = in_use.limits;
    let limits = Limits { held_bytes, spool_bytes, spool_runs, ..later.limits };
    let Settings { prefix, any_writer, local, http, socket_group, log_format, token_file, .. } = in_use.clone();
    let token_file = if is_proxy_live { later.token_file } else { token_file };
    let tls = if is_asked_from_elsewhere(in_use) { Tls { on: in_use.tls.on, ..later.tls } } else { later.tls };
    Settings { prefix, any_writer, role, local, http, socket_group, token_file, tls, log_format, limits, ..later }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Source, Sources, Written};

    fn settings(config: &str) -> (Settings, Vec<Row>) {
        let file = Some(Written::parse(Path::new("config.json"), config).expect("a config"));
        Settings::resolve(&Sources { prefix: ("/p".into(), Source::Flag), file, ..Sources::default() }).expect("complete")
    }

    /// What changes and what waits for a restart, and the difference of what is in use then to the later config.
    fn between(one: &str, other: &str) -> (Vec<&'static str>, Vec<&'static str>, Vec<&'static str>) {
        let ((in_use, rows), (later, later_rows)) = (settings(one), settings(other));
        let Difference { settings, rows, changed, restart } = Difference::between(&in_use, &rows, later.clone(), &later_rows);
        let left = Difference::between(&settings, &rows, later, &later_rows);
        assert_eq!(left.changed, Vec::<&str>::new(), "it was taken up");
        (changed, restart, left.restart)
    }

    #[test]
    fn what_differs_is_taken_up_or_named() {
        let server = |more: &str| format!("{{\"mode\":\"server\"{more}}}");
        let (changed, restart, left) = between(
            &server(""),
            &server(
                r#","port":1,"listen":"::1","open":true,"local":"127.0.0.1:1","socket_group":"g","name":"n","tags":["t"],"relay":true,
                "any_writer":true,"tls":{"names":["x"],"plain":false},"rules":[{"who":"*"}],"audit":true,
                "limits":{"runs":1,"waiting":1,"spool_bytes":"1MiB","held_bytes":1,"peer_runs":5},"times":{"ping":"1s","grace":"3s"}"#,
            ),
        );
        let live = [
            "audit",
            "limits.peer_runs",
            "limits.runs",
            "limits.waiting",
            "name",
            "open",
            "relay",
            "rules",
            "tags",
            "times.grace",
            "times.ping",
            "tls",
            "tls.names",
            "tls.plain",
        ];
        assert_eq!(changed, live);
        let later = ["any_writer", "limits.held_bytes", "limits.spool_bytes", "listen", "local", "port", "socket_group"];
        assert_eq!((&restart[..], &left[..]), (&later[..], &later[..]), "and it is named until there is a restart");
    }

    #[test]
    fn every_setting_that_there_is_has_been_decided_on() {
        let server = r#"{"mode":"server","http":"127.0.0.1:1","hosts":["h"],"name":"n","tags":[],"socket_group":"g","rules":[],"tls":{"clients":"c","names":["x"],"lifetime":"9s","plain":false}}"#;
        let own = r#"{"mode":"client","proxy":"h","token_file":"t","tls":{"roots":"r","certificate":"c","key":"k"}}"#;
        let decided = ["any_writer", "limits.held_bytes", "limits.spool_bytes", "limits.spool_runs", "listen", "local", "mode"];
        let decided = [&decided[..], &["http", "log_format", "port", "prefix", "reuse_port", "socket_group"]].concat();
        for config in [server, own] {
            let (settings, rows) = settings(config);
            for row in rows {
                let is_live = is_live(&settings, &settings, row.name);
                assert_ne!(is_live, decided.contains(&row.name), "{}: is it taken up by a reload, or is it not?", row.name);
            }
        }
    }

    #[test]
    fn a_token_alone_is_a_change_and_another_port_is_another_spool() {
        let client = |proxy: &str| format!("{{\"mode\":\"client\",\"proxy\":{proxy:?}}}");
        let nothing = Vec::<&str>::new;
        assert_eq!(between(&client("a:x@h"), &client("a:y@h")), (vec!["token"], nothing(), nothing()));
        assert_eq!(between(&client("a:x@h"), &client("a:y@g")), (vec!["proxy"], nothing(), nothing()));
        assert_eq!(between(&client("h:1"), &client("g:2")), (nothing(), vec!["proxy"], vec!["proxy"]));
        assert_eq!(between(&client("h"), &client("h")), (nothing(), nothing(), nothing()));
    }

    #[test]
    fn nothing_is_taken_up_of_the_other_role() {
        let (changed, restart, left) =
            between(r#"{"mode":"client","proxy":"h"}"#, r#"{"mode":"server","name":"x","limits":{"runs":1}}"#);
        assert!(changed.is_empty() && ["mode", "name", "limits.runs"].iter().all(|name| restart.contains(name)), "{restart:?}");
        assert_eq!(restart, left);
    }
}
