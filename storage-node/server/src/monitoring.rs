//! What is told over HTTP: the owner's page at `/`, and `/metrics`, `/healthz`, `/readyz` for monitoring. It changes nothing.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::node::NodeHandle;
use crate::page::page;

/// The node that is looked at; none while its disk is gone.
type Looked = watch::Receiver<Option<NodeHandle>>;

/// Answers HTTP requests on `listener` until it is dropped; `node` is the running node, if its disk is there.
pub async fn serve_monitoring(
    listener: TcpListener,
    node: watch::Receiver<Option<NodeHandle>>,
) -> io::Result<()> {
    let router = Router::new()
        .route("/", get(owners_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(node);
    axum::serve(listener, router).await
}

async fn owners_page(State(node): State<Looked>) -> impl IntoResponse {
    let node = node.borrow().clone();
    page(node.as_ref())
}

async fn metrics(State(node): State<Looked>) -> impl IntoResponse {
    let node = node.borrow().clone();
    let mut text = String::from(
        "# HELP firn_storage_node_disk_present 1 while the disk with the data directory is there\n\
         # TYPE firn_storage_node_disk_present gauge\n",
    );
    text.push_str(if node.is_some() {
        "firn_storage_node_disk_present 1\n"
    } else {
        "firn_storage_node_disk_present 0\n"
    });
    text.push_str(&node.map(|node| node.report().metrics()).unwrap_or_default());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn ready(State(node): State<Looked>) -> impl IntoResponse {
    let report = node.borrow().as_ref().map(NodeHandle::report);
    match report {
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the disk with the data directory is gone: the node is offline until it is mounted again\n",
        ),
        Some(report) if report.is_ready() => {
            (StatusCode::OK, "the node is admitted and in touch with a coordinator\n")
        }
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node is not admitted or reaches no coordinator\n"),
    }
}
