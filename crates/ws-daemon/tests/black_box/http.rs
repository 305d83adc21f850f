//! What is asked over HTTP.

use serde_json::json;

use crate::support::{Daemon, Peer, Web};

#[test]
fn a_page_is_answered_on_the_servers_port_as_often_as_it_is_asked_and_links_are_as_before() {
    let server = Daemon::server().start();
    let mut web = Web::port(&server);
    for _ in 0..3 {
        let reply = web.get("/healthz");
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ok" })));
    }
    assert_eq!(web.get("/api/v1/nothing").status, 404);
    let reply = web.post("/healthz", "");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    assert_eq!(web.get("/elsewhere").status, 426);
    assert!(web.is_closed(), "what is no link and no page is closed as before");
    for path in ["/", "/healthz", "/api/v1/nothing"] {
        assert!(Peer::try_dial(&server, path, &[]).is_ok(), "a link may have any path");
    }
}
