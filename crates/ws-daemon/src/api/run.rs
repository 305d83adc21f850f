//! `POST run/NAME`: a request for a run, and the answer to it: when it is over, when it is on disk, or bit by bit. It decides nothing
//! about the run.

use std::collections::BTreeMap;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::RunId;

use super::answers::{Body, Problem, json as as_json, of_outcome, of_report, raw};
use super::streams::{self, Lines};
use super::{Api, Asked, request};
use crate::origin::Said;

impl Api {
    /// Has a script run, by whoever it is for.
    pub(super) async fn run(
        &self,
        name: &str,
        mut query: BTreeMap<String, Vec<String>>,
        asked: Asked<'_>,
    ) -> Result<Response<Body>, Problem> {
        let (wants_events, at_once) = (asked.wants_events(), asked.prefers_not_to_wait());
        if at_once {
            or(&mut query, "queue", "true");
        }
        if wants_events {
            or(&mut query, "events", "true");
        }
        // Whoever asks so wants to see what comes of it, now or when it looks.
        let is_later = wants_events || ["queue", "not_before"].iter().any(|key| query.contains_key(*key));
        or(&mut query, "output", if is_later { "stream" } else { "tail" });
        let params = request::params(asked.headers, &asked.body)?;
        let request = request::run(name, query, asked.headers, params, self.bounds())?;
        self.order(request, &asked, wants_events).await
    }

    /// Puts a request on the way, and answers as it is asked to.
    pub(super) async fn order(
        &self,
        request: ws_daemon_protocol::message::Request,
        asked: &Asked<'_>,
        wants_events: bool,
    ) -> Result<Response<Body>, Problem> {
        let may = self.0.parts.control.may_ask(asked.asker, &request).await;
        let within = may.inspect_err(|outcome| self.0.parts.control.refused(outcome)).map_err(of_outcome)?;
        let (each, queued) = (request.options.each, request.options.queue.is_some());
        let mut said = self.0.parts.origin.order(request, &asked.asker.user, within);
        if wants_events {
            return Ok(streams::of_lines(Lines::begun(said).await?, self.silence(), asked.end()));
        }
        if queued {
            return Ok(accepted(said, asked.prefers_not_to_wait()).await);
        }
        if each {
            return Ok(streams::of_each(Lines::begun(said).await?));
        }
        loop {
            match said.recv().await {
                Some(Said::Final(report)) => return Ok(raw(&report)),
                Some(Said::Event(_)) => {}
                Some(Said::Later(_)) | None => return Err(Problem::gone()),
            }
        }
    }
}

fn or(query: &mut BTreeMap<String, Vec<String>>, key: &str, value: &str) {
    query.entry(key.to_owned()).or_insert_with(|| vec![value.to_owned()]);
}

/// What is on disk, and where to ask for it.
async fn accepted(mut said: mpsc::Receiver<Said>, at_once: bool) -> Response<Body> {
    let mut runs: Vec<RunId> = Vec::new();
    let mut more = json!({});
    while let Some(said) = said.recv().await {
        match said {
            Said::Event(Event::Accepted { run, nearest, runs: all }) => {
                runs.push(run);
                if let Some(nearest) = nearest {
                    more["nearest"] = json!(nearest);
                }
                if all.is_none_or(|all| all == runs.len()) {
                    break;
                }
            }
            Said::Final(report) if runs.is_empty() => return of_report(&report).response(),
            Said::Event(_) | Said::Final(_) | Said::Later(_) => {}
        }
    }
    let Some(first) = runs.first() else { return Problem::gone().response() };
    let location = format!("/api/v1/runs/{first}");
    let shown: Vec<String> = runs.iter().map(ToString::to_string).collect();
    more["run"] = json!(first.to_string());
    if shown.len() > 1 {
        more["runs"] = json!(shown);
    }
    let mut response = as_json(StatusCode::ACCEPTED, &more);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if at_once {
        let applied = HeaderName::from_static("preference-applied");
        response.headers_mut().insert(applied, HeaderValue::from_static("respond-async"));
    }
    response
}
