//! A TCP port on which a program that publishes tells how it goes, for Prometheus.
//!
//! Always holds: a handful of connections at once, each for one request of 8 KiB and for a few seconds; it changes nothing.
//! Leaves to others: the figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::command_error::CommandError;

const CONNECTIONS_MAX: usize = 8;
const REQUEST_BYTES_MAX: usize = 8 << 10;
const CONNECTION_MAX: Duration = Duration::from_secs(5);

/// What is told, made anew for each request.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// An open port; it closes with this.
#[derive(Debug)]
pub(crate) struct MetricsPort {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl MetricsPort {
    /// Tells `page` at `/metrics`.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    pub(crate) async fn open(address: SocketAddr, page: Page) -> Result<Self, CommandError> {
        let failed = |error| CommandError::Failed(format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, serving: tokio::spawn(serve(listener, page)) })
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsPort {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, page: Page) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some are given back in a while.
            tokio::time::sleep(CONNECTION_MAX).await;
            continue;
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            // Whoever goes away or dawdles gets nothing, and needs none.
            let _ = tokio::time::timeout(CONNECTION_MAX, answer(stream, page)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, page: Page) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", page()),
        (Some("GET"), _) => ("404 Not Found", "there is nothing but /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "this port only tells\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: &MetricsPort, request: &str) -> String {
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_told_and_nothing_else() {
        let port = MetricsPort::open("127.0.0.1:0".parse().unwrap(), Arc::new(|| "firn_x 1\n".to_owned()));
        let port = port.await.unwrap();
        let told = ask(&port, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with("\r\n\r\nfirn_x 1\n"), "{told}");
        assert!(ask(&port, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(&port, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert_eq!(ask(&port, &"x".repeat(REQUEST_BYTES_MAX)).await, "", "no request is longer");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let port = MetricsPort::open("127.0.0.1:0".parse().unwrap(), Arc::new(String::new)).await.unwrap();
        let error = MetricsPort::open(port.address(), Arc::new(String::new)).await.unwrap_err().to_string();
        assert!(error.contains(&port.address().to_string()), "{error}");
    }
}
