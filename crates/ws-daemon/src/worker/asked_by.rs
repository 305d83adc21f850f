//! Who asked for a queued run, kept with it: a run that is taken up after a restart is its asker's still, whoever is linked by then.
//! It never believes a frame: what stands there under the same key was written over before it came to disk.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::exec::Caller;
use crate::standing::{Proof, Proven, Standing};

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(default)]
    asked_by: Option<AskedBy>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskedBy {
    Local,
    Anonymous,
    Server,
    Peer { name: Box<str>, tags: Vec<Box<str>>, allow: Option<Vec<Box<str>>>, certificate: bool },
}

/// A run's frame, as this daemon writes it, with whoever asked for it.
pub fn with(caller: &Caller, frame: String) -> String {
    let asked_by = match caller {
        Caller::Local => AskedBy::Local,
        Caller::Far(Standing::Anonymous) => AskedBy::Anonymous,
        Caller::Far(Standing::Server) => AskedBy::Server,
        Caller::Far(Standing::Peer(peer)) => AskedBy::Peer {
            name: peer.name.clone(),
            tags: peer.tags.clone(),
            allow: peer.allow.clone(),
            certificate: peer.by == Proof::Certificate,
        },
    };
    match (frame.strip_suffix('}'), serde_json::to_string(&asked_by)) {
        (Some(open), Ok(asked_by)) => format!("{open},\"asked_by\":{asked_by}}}"),
        _ => frame,
    }
}

/// Whoever asked for a run that was kept. Of one that an earlier version kept it is not known, which is as good as no proof.
pub fn of(body: &str) -> Caller {
    let asked_by = serde_json::from_str(body).ok().and_then(|body: Body| body.asked_by);
    Caller::Far(match asked_by {
        Some(AskedBy::Local) => return Caller::Local,
        Some(AskedBy::Server) => Standing::Server,
        Some(AskedBy::Anonymous) | None => Standing::Anonymous,
        Some(AskedBy::Peer { name, tags, allow, certificate }) => {
            let by = if certificate { Proof::Certificate } else { Proof::Token };
            Standing::Peer(Arc::new(Proven { name, tags, allow, by }))
        }
    })
}

#[cfg(test)]
mod tests {
    use ws_daemon_protocol::codec::v2::{self, Frame};

    use super::*;

    #[test]
    fn who_asked_is_kept_with_the_run_and_the_run_is_read_as_before() {
        let frame = r#"{"name":"s","id":"r","params":{"asked_by":"local"},"queue":true,"attempt":1}"#;
        let peer = Proven { name: "web".into(), tags: vec!["sms".into()], allow: Some(vec!["a*".into()]), by: Proof::Token };
        let callers = [
            Caller::Local,
            Caller::Far(Standing::Anonymous),
            Caller::Far(Standing::Server),
            Caller::Far(Standing::Peer(Arc::new(peer))),
        ];
        for caller in callers {
            let body = with(&caller, frame.to_owned());
            assert_eq!(of(&body), caller, "{body}");
            let Ok(Frame::Run(run)) = v2::decode(&body, 128) else { panic!("{body}") };
            let Ok(Frame::Run(plain)) = v2::decode(frame, 128) else { panic!("{frame}") };
            assert_eq!((run.name, run.params, run.order), (plain.name, plain.params, plain.order));
        }
        assert_eq!(of(frame), Caller::Far(Standing::Anonymous));
        // A frame that came with such a key is written anew, without it, before it is kept.
        let forged = r#"{"name":"s","id":"r","queue":true,"asked_by":"local"}"#;
        let Ok(Frame::Run(run)) = v2::decode(forged, 128) else { panic!("{forged}") };
        let body = with(&Caller::Far(Standing::Anonymous), v2::run(&run.name, &run.run, &run.params, &run.order));
        assert_eq!(of(&body), Caller::Far(Standing::Anonymous));
    }
}
