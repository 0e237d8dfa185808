//! What a coordinator tells by HTTP of itself once it cannot go on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::archive::{Archive, add_uploader, until};
use firn_coordinator::storage::Fault;
use firn_coordinator::{bind_http, serve_http};
use firn_wire::AdminRequest;

/// The status line of an answer, and its body.
async fn get(address: SocketAddr, path: &'static str) -> (String, String) {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    });
    asked.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_disk_fails_says_by_http_that_it_has_stopped_and_why() {
    let archive = Archive::found(1).await;
    let listener = bind_http((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve_http(listener, archive.coordinator(1).administration()));
    archive.ask(AdminRequest::Govern(add_uploader(1))).await.unwrap();
    let (status, body) = get(address, "/healthz").await;
    assert!(status.contains(" 200 ") && body == "running\n", "{status}: {body}");
    let (status, _) = get(address, "/readyz").await;
    assert!(status.contains(" 200 "), "{status}");

    archive.machines[&1].state.inject(Fault::Write, 0);
    let administration = archive.coordinator(1).administration();
    let writing =
        tokio::spawn(async move { administration.administer(AdminRequest::Govern(add_uploader(2))).await });
    let body = until("it says that it has stopped", async || {
        let (status, body) = get(address, "/healthz").await;
        status.contains(" 503 ").then_some(body)
    })
    .await;
    assert!(body.starts_with("stopped: ") && body.trim_end().len() > "stopped: ".len(), "{body}");
    let (status, _) = get(address, "/readyz").await;
    assert!(status.contains(" 503 "), "{status}");
    writing.abort();
    serving.abort();
}
