//! The table of pages: which method and path is which. It never answers one.

use hyper::Method;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Whether the process answers.
    Healthz,
    /// Whether the daemon can do what it is for.
    Readyz,
    /// Every figure.
    Metrics,
    /// What is described in `docs/openapi.json`: all of this.
    OpenApi,
    /// A run is asked for.
    Run,
    /// The same by who signs what it sends.
    Hook,
    /// What runs and ran.
    Runs,
    /// All about one run.
    One,
    /// What it printed.
    Output,
    /// It is stopped.
    Cancel,
    /// Who is, and was, connected.
    Peers,
    /// The scripts there are.
    Scripts,
    /// Counters.
    Stats,
    /// What happens, as it happens.
    Events,
}

/// Where the figures are: for whoever has shown who it is, and for this machine.
pub const METRICS: &str = "/metrics";

/// Every page: its method, its path, and which it is. A word in braces stands for one part of a path, and `{name}`,
/// which is the name of a script, for all that is left.
pub const PAGES: [(Method, &str, Page); 14] = [
    (Method::GET, "/healthz", Page::Healthz),
    (Method::GET, "/readyz", Page::Readyz),
    (Method::GET, METRICS, Page::Metrics),
    (Method::GET, "/api/v1/openapi.json", Page::OpenApi),
    (Method::POST, "/api/v1/run/{name}", Page::Run),
    (Method::POST, "/api/v1/hooks/{caller}/{name}", Page::Hook),
    (Method::GET, "/api/v1/runs", Page::Runs),
    (Method::GET, "/api/v1/runs/{run}/output", Page::Output),
    (Method::GET, "/api/v1/runs/{run}", Page::One),
    (Method::DELETE, "/api/v1/runs/{run}", Page::Cancel),
    (Method::GET, "/api/v1/peers", Page::Peers),
    (Method::GET, "/api/v1/scripts", Page::Scripts),
    (Method::GET, "/api/v1/stats", Page::Stats),
    (Method::GET, "/api/v1/events", Page::Events),
];

/// The word for all that is left.
const REST: &str = "{name}";

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// This, with what stands for the names of its path, as it was written.
    Page(Page, Vec<&'a str>),
    /// Something, for these methods.
    OtherMethods(Vec<Method>),
    /// Nothing.
    Nothing,
}

/// Whether a path is one of pages, also if there is none at it.
pub fn are_at(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/") || PAGES.iter().any(|(_, page, _)| *page == path)
}

/// Whether the page at a path is for everyone who may have a link: it is no part of the API.
pub fn are_open(path: &str) -> bool {
    are_at(path) && !path.starts_with("/api") && path != METRICS
}

/// What is at `path` for `method`.
pub fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let mut allowed = Vec::new();
    for (of, template, page) in &PAGES {
        if let Some(names) = matched(template, path) {
            if of == method {
                return Found::Page(*page, names);
            }
            allowed.push(of.clone());
        }
    }
    if allowed.is_empty() { Found::Nothing } else { Found::OtherMethods(allowed) }
}

/// What stands in `path` for the names in `template`.
fn matched<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut names, mut left) = (Vec::new(), path);
    let mut parts = template.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let (found, rest) = match left.split_once('/') {
            _ if part == REST => (left, ""),
            Some((found, rest)) if !is_last => (found, rest),
            None if is_last => (left, ""),
            _ => return None,
        };
        if part.starts_with('{') {
            if found.is_empty() {
                return None;
            }
            names.push(found);
        } else if part != found {
            return None;
        }
        left = rest;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_part_of_a_path_and_the_name_of_a_script_is_all_that_is_left() {
        assert_eq!(matched("/a", "/a"), Some(vec![]));
        for path in ["/", "/a/", "/ab", "a", ""] {
            assert_eq!(matched("/a", path), None, "{path}");
        }
        assert_eq!(matched("/a/{name}", "/a/b/c"), Some(vec!["b/c"]));
        assert_eq!(matched("/a/{x}", "/a/b"), Some(vec!["b"]));
        for path in ["/a/", "/a/b/c", "/a/b/"] {
            assert_eq!(matched("/a/{x}", path), None, "{path}");
        }
        assert_eq!(matched("/a/{x}/o", "/a/b/o"), Some(vec!["b"]));
        assert_eq!(matched("/a/{x}/o", "/a/b/c/o"), None);
        assert_eq!(matched("/a/{x}/{name}", "/a/b/c/d"), Some(vec!["b", "c/d"]));
    }

    #[test]
    fn there_is_a_page_a_wrong_method_or_nothing() {
        assert_eq!(find(&Method::GET, "/healthz"), Found::Page(Page::Healthz, vec![]));
        assert_eq!(find(&Method::POST, "/healthz"), Found::OtherMethods(vec![Method::GET]));
        assert_eq!(find(&Method::GET, "/api/v1/nothing"), Found::Nothing);
        assert!(are_at("/healthz") && are_at("/api/v9") && !are_at("/apis") && !are_at("/"));
    }
}
