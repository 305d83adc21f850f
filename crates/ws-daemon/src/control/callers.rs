//! CALLERS: who may ask over HTTP. What it answers is on disk; a token or a key is told once.

use serde_json::{Value, json};
use tracing::info;
use ws_daemon_protocol::command::{CallersTask, NamedCaller};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::Control;
use crate::callers::{CallersFault, Shown};
use crate::secret::Secret;

impl Control {
    pub(super) async fn callers(&self, task: CallersTask) -> Result<Value, Outcome> {
        let callers = &self.0.callers;
        match task {
            CallersTask::List => Ok(callers.list().into_iter().map(shown).collect()),
            CallersTask::Add(new) => {
                let (name, signs) = (new.name.clone(), new.hmac);
                let secret = callers.add(new).await.map_err(|fault| outcome(&fault))?;
                info!(caller = name, signs, "a caller was added");
                Ok(told(&name, signs, &secret))
            }
            CallersTask::Revoke(NamedCaller { name }) => {
                callers.revoke(&name).await.map_err(|fault| outcome(&fault))?;
                info!(caller = name, "a caller was revoked");
                Ok(json!({ "name": name }))
            }
            CallersTask::Rotate(NamedCaller { name }) => {
                let signs = callers.list().iter().any(|caller| *caller.name == *name && caller.header.is_some());
                let secret = callers.rotate(&name).await.map_err(|fault| outcome(&fault))?;
                info!(caller = name, signs, "a caller got another secret");
                Ok(told(&name, signs, &secret))
            }
        }
    }
}

/// What a caller shows, or signs with.
fn told(name: &str, signs: bool, secret: &Secret) -> Value {
    let mut told = json!({ "name": name });
    told[if signs { "key" } else { "token" }] = secret.text().into();
    told
}

fn shown(caller: Shown) -> Value {
    let mut shown = json!({ "name": caller.name });
    if let Some(header) = caller.header {
        shown["hmac"] = json!(header);
    }
    if let Some(Value::Object(mut rule)) = caller.rule.and_then(|rule| serde_json::to_value(rule).ok()) {
        // It is this one.
        rule.remove("who");
        shown["rule"] = rule.into();
    }
    shown
}

fn outcome(fault: &CallersFault) -> Outcome {
    let code = match fault {
        CallersFault::Unknown(_) => ErrorCode::UnknownTarget,
        CallersFault::Disk(_) => ErrorCode::SpoolFailed,
        CallersFault::Full => ErrorCode::QueueFull,
        CallersFault::Name(_)
        | CallersFault::Taken(_)
        | CallersFault::Rule(_)
        | CallersFault::Header(_)
        | CallersFault::NoSignatures => ErrorCode::BadMessage,
    };
    Outcome::Failed(code, fault.to_string())
}
