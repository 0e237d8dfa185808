//! What a coordinator shows by HTTP: its descriptor, metrics, health. Nothing here changes anything.
//!
//! Leaves to others: the figures and their names (`metrics`), the feed for mirrors (`paths`).

mod metrics;
mod paths;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use firn_transport::BoxFuture;
use tokio::net::TcpListener;

use self::metrics::OwnFigures;
use crate::coordinator::Administration;

/// Serves on `listener` until dropped: `/archive`, `/api/v1/paths`, `/metrics`, `/healthz`, `/readyz`.
pub fn serve_http(
    listener: TcpListener,
    administration: Administration,
) -> BoxFuture<'static, io::Result<()>> {
    let router = Router::new()
        .route("/archive", get(archive))
        .route("/api/v1/paths", get(paths::paths))
        .route("/metrics", get(figures))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(administration);
    Box::pin(axum::serve(listener, router).into_future())
}

/// Binds the HTTP port; the error names the address.
pub async fn bind_http(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address} (HTTP): {error}")))
}

async fn archive(State(administration): State<Administration>) -> String {
    administration.descriptor().to_string()
}

async fn healthz(State(administration): State<Administration>) -> impl IntoResponse {
    match administration.failure() {
        None => (StatusCode::OK, "running\n".to_owned()),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("stopped: {failure}\n")),
    }
}

async fn readyz(State(administration): State<Administration>) -> impl IntoResponse {
    match administration.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence + "\n"),
    }
}

async fn figures(State(administration): State<Administration>) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let own = OwnFigures::of(&administration).await;
    (StatusCode::OK, headers, metrics::text(&own, administration.status().await.as_ref()))
}
