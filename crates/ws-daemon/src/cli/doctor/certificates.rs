//! The certificates in the files of this daemon: whether they can be read, and for how long they are good yet. What the other end thinks
//! of them is for the handshake to say.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Findings;
use crate::config::{Role, Settings};
use crate::tls::{Facts, date, read_certificates};

const DAY: i64 = 86_400;

/// Looks at the files that the settings name, and at those that a daemon keeps itself.
pub fn look(settings: &Settings, found: &mut Findings) {
    let keys = settings.prefix.join("keys");
    let own = settings.tls.own.as_ref().map(|(certificate, _)| certificate.clone());
    let theirs = "have it renewed by whoever has signed it, then: ws-daemon reload";
    match &settings.role {
        Role::Server { .. } if settings.tls.on == Some(false) => {}
        Role::Server { .. } => match own {
            Some(certificate) => one(&certificate, Which::First, theirs, found),
            None => {
                one_if_there(&keys.join("leaf.pem"), Which::First, "ws-daemon keys renew", found);
                one_if_there(
                    &keys.join("root.pem"),
                    Which::First,
                    "ws-daemon keys rotate, and when all clients have the next root: ws-daemon keys finish",
                    found,
                );
            }
        },
        Role::Client { servers } => {
            if let Some(certificate) = own {
                one(&certificate, Which::First, theirs, found);
            }
            if servers.iter().any(|server| server.tls) {
                match &settings.tls.roots {
                    Some(roots) => one(roots, Which::Longest, "copy keys/root.pem of the server into it", found),
                    None => one_if_there(
                        &keys.join("server-roots.pem"),
                        Which::Longest,
                        "ws-daemon join LINE, with a new invitation",
                        found,
                    ),
                }
            }
        }
    }
}

/// Which certificate of a file counts.
#[derive(Clone, Copy)]
enum Which {
    /// Those behind it vouch for it.
    First,
    /// Of several roots, one that is good will do.
    Longest,
}

fn one_if_there(path: &Path, which: Which, mend: &str, found: &mut Findings) {
    if path.exists() {
        one(path, which, mend, found);
    }
}

fn one(path: &Path, which: Which, mend: &str, found: &mut Findings) {
    let (about, shown) = ("certificate", path.display());
    let facts = read_certificates(path).map_err(|fault| fault.to_string()).and_then(|chain| {
        let facts: Result<Vec<Facts>, String> = chain.iter().map(|one| Facts::of(one)).collect();
        let mut facts = facts?.into_iter();
        let found = match which {
            Which::First => facts.next(),
            Which::Longest => facts.max_by_key(|facts| facts.not_after),
        };
        found.ok_or_else(|| format!("{shown}: no certificate is in it"))
    });
    let facts = match facts {
        Ok(facts) => facts,
        Err(said) => return found.fail(about, said, mend),
    };
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let (from, until) = (facts.not_before, facts.not_after);
    // One that is made for a short time is not late all its life.
    let soon = (14 * DAY).min((until - from) / 4);
    if now > until {
        found.fail(about, format!("{shown} has expired on {}", date(until)), mend);
    } else if now < from {
        let said = format!("{shown} is good from {} on: is this machine's clock right?", date(from));
        found.fail(about, said, "timedatectl set-ntp true");
    } else if until - now < soon {
        found.warn(about, format!("{shown} ends on {}", date(until)), mend);
    } else {
        found.ok(about, format!("{shown} is good until {}", date(until)));
    }
}
