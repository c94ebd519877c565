//! Health routes, unknown routes, and the time before the model is there.

use crate::helpers::{body, png_base64, served, spawn_app};
use crate::scripted_model::{Script, engine};

#[test]
fn probes_tell_alive_from_ready() {
    let app = spawn_app(None);
    assert_eq!((app.get("/").status, app.get("/").body.as_str()), (200, "Healthy"));
    assert_eq!(app.get("/livez").status, 200);
    for reply in [app.get("/readyz"), app.score(&body(&[(&png_base64(), "")]))] {
        assert_eq!((reply.status, reply.retry_after.as_deref()), (503, Some("2")));
        assert!(reply.message().contains("loading"), "{}", reply.body);
    }
    app.state.become_ready(served(engine(Script::default(), 1, 4)));
    assert_eq!(app.get("/readyz").status, 200);
    assert_eq!(app.score(&body(&[(&png_base64(), "hello")])).texts(), ["hello"]);
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    let app = spawn_app(None);
    for path in ["/nothing", "/score/", "/Score"] {
        let reply = app.get(path);
        assert!(reply.status == 404 && reply.message().starts_with("The requested URL was not found"), "{path}");
    }
    let reply = app.delete("/score");
    assert_eq!((reply.status, reply.message().as_str()), (405, "The method is not allowed for the requested URL."));
}
