//! The page for monitoring: `/metrics`, `/healthz`, `/readyz`. It changes nothing.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::node::NodeHandle;

/// Answers HTTP requests on `listener` until it is dropped.
pub async fn serve_monitoring(listener: TcpListener, handle: NodeHandle) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(handle);
    axum::serve(listener, router).await
}

async fn metrics(State(handle): State<NodeHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.report().metrics())
}

async fn ready(State(handle): State<NodeHandle>) -> impl IntoResponse {
    if handle.report().is_ready() {
        (StatusCode::OK, "the node is admitted and in touch with a coordinator\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the node is not admitted or reaches no coordinator\n")
    }
}
