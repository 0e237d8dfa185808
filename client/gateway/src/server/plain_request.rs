//! A request head as Nix and curl send it, read without a library: one line, and a few headers that change no answer.
//!
//! Always holds: whatever is taken for plain is one whole head, which hyper would take for the same request; what is
//! unusual in any way is not plain. Leaves to others: every request that is not.

use super::connection::HEAD_BYTES_MAX;

/// A GET or HEAD without a body, which closes no connection and asks for no part of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlainRequest<'a> {
    /// The headers alone are wanted.
    pub(super) head: bool,
    /// Begins with a slash, and has no query.
    pub(super) path: &'a str,
}

/// What says nothing about the answer. Of all others somebody else knows what they mean.
const MEANINGLESS: [&[u8]; 4] = [b"host", b"user-agent", b"accept", b"accept-encoding"];

/// What a connection of HTTP/1.1 does anyway.
const KEPT: (&[u8], &[u8]) = (b"connection", b"keep-alive");

// Nix sends four.
const HEADERS_MAX: usize = 8;

impl<'a> PlainRequest<'a> {
    /// Reads `bytes`; none unless they are one plain head and nothing else.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let lines = bytes.strip_suffix(b"\r\n\r\n").filter(|_| bytes.len() <= HEAD_BYTES_MAX)?;
        let (line, mut rest) = split_line(lines);
        let target = line.strip_suffix(b" HTTP/1.1")?;
        let (head, target) = match target.strip_prefix(b"GET ") {
            Some(target) => (false, target),
            None => (true, target.strip_prefix(b"HEAD ")?),
        };
        if !target.starts_with(b"/") || !target.iter().all(|byte| is_in_plain_path(*byte)) {
            return None;
        }
        let (mut headers, mut hosts) = (0, 0);
        while let Some(remaining) = rest {
            let (line, next) = split_line(remaining);
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].strip_prefix(b" ")?);
            let is_meaningless = MEANINGLESS.iter().any(|known| name.eq_ignore_ascii_case(known));
            let is_kept = name.eq_ignore_ascii_case(KEPT.0) && value.eq_ignore_ascii_case(KEPT.1);
            if !(is_meaningless || is_kept) || !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                return None;
            }
            headers += 1;
            hosts += usize::from(name.eq_ignore_ascii_case(MEANINGLESS[0]));
            rest = next;
        }
        let path = std::str::from_utf8(target).ok()?;
        (headers <= HEADERS_MAX && hosts == 1).then_some(Self { head, path })
    }
}

/// The first line, and what follows it if anything does.
fn split_line(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => (&bytes[..end], Some(&bytes[end + 2..])),
        None => (bytes, None),
    }
}

/// Letters, digits and what else stands in the names of a cache, but nothing that has to be decoded.
const fn is_in_plain_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'+' | b'=')
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Method, Request, Response};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const NIX: &str = "GET /4d20g8srpvv02vkiwrmz28g62m15n56b.narinfo HTTP/1.1\r\nHost: cache\r\n\
        User-Agent: curl/8.11.0 Nix/2.24.10\r\nAccept: */*\r\nAccept-Encoding: deflate, gzip, br, zstd\r\n\r\n";

    #[test]
    fn what_nix_and_curl_send_is_plain() {
        let path = "/4d20g8srpvv02vkiwrmz28g62m15n56b.narinfo";
        assert_eq!(PlainRequest::parse(NIX.as_bytes()), Some(PlainRequest { head: false, path }));
        let head = NIX.replacen("GET", "HEAD", 1).replace("Host", "hOST");
        assert_eq!(PlainRequest::parse(head.as_bytes()), Some(PlainRequest { head: true, path }));
        let kept = NIX.replace("Accept: */*", "Connection: Keep-Alive");
        assert!(PlainRequest::parse(kept.as_bytes()).is_some());
    }

    #[test]
    fn whatever_is_unusual_is_not() {
        for (from, to) in [
            ("GET ", "GET  "),
            ("GET ", "get "),
            ("GET ", "PUT "),
            ("GET /", "GET http://elsewhere/"),
            ("GET /", "\r\nGET /"),
            (".narinfo", ".narinfo?x"),
            (".narinfo", "%2Enarinfo"),
            (".narinfo", ".narinfo\t"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1\r\n", "HTTP/1.1\n"),
            ("Accept: ", "Accept:"),
            ("Accept: ", "Accept : "),
            ("Accept: ", "If-None-Match: "),
            ("Accept: */*", "Connection: close"),
            ("Accept: */*", "Range: bytes=0-1"),
            ("Accept: */*", "Content-Length: 0"),
            ("Accept: */*", "Expect: 100-continue"),
            ("Accept: */*", "Host: other"),
            ("Accept: */*", "no colon"),
            ("Accept: */*", "Accept: a\r\n b"),
            ("Accept: */*", "Accept: \u{fc}"),
            ("Accept: */*", "Accept: \0"),
            ("Host: cache\r\n", ""),
            ("\r\n\r\n", "\r\n"),
            ("\r\n\r\n", "\r\n\r\nG"),
        ] {
            let request = NIX.replacen(from, to, 1);
            assert_ne!(request, NIX);
            assert_eq!(PlainRequest::parse(request.as_bytes()), None, "{request}");
        }
        let many = NIX.replace("Accept: */*\r\n", &"Accept: */*\r\n".repeat(9));
        assert_eq!(PlainRequest::parse(many.as_bytes()), None);
        let long = NIX.replace("Accept: */*", &format!("Accept: {}", "x".repeat(HEAD_BYTES_MAX)));
        assert_eq!(PlainRequest::parse(long.as_bytes()), None);
    }

    /// What hyper makes of these bytes: the requests that it passes on.
    async fn read_by_hyper(bytes: &[u8]) -> Vec<(Method, String)> {
        let (ours, theirs) = duplex(1 << 16);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            kept.lock().unwrap().push((request.method().clone(), request.uri().to_string()));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let serving = tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
        let (mut answers, mut asking) = tokio::io::split(ours);
        asking.write_all(bytes).await.unwrap();
        asking.shutdown().await.unwrap();
        drop(answers.read_to_end(&mut Vec::new()).await);
        drop(serving.await);
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    proptest! {
        #[test]
        fn what_is_plain_is_the_same_request_to_hyper(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, any::<u8>()), 0..4),
            from_ascii in any::<bool>(),
        ) {
            let mut bytes = NIX.as_bytes().to_vec();
            for (at, kind, byte) in edits {
                let byte = if from_ascii { b' ' + byte % 95 } else { byte };
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.swap(at, usize::from(byte) % 40),
                }
            }
            if let Some(PlainRequest { head, path }) = PlainRequest::parse(&bytes) {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let method = if head { Method::HEAD } else { Method::GET };
                prop_assert_eq!(runtime.block_on(read_by_hyper(&bytes)), [(method, path.to_owned())]);
            }
        }
    }
}
