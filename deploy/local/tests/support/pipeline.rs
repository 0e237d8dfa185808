//! Many requests over one connection, as fast as they are answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    lines: Vec<String>,
}

impl Head {
    /// A header's text, if there is one of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// GET of each of `paths` from the server at `address` (host and port), 100 under way at a time.
#[track_caller]
pub fn heads(address: &str, paths: impl IntoIterator<Item = String>) -> Vec<Head> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut paths = paths.into_iter();
    let mut heads = Vec::new();
    loop {
        let batch: Vec<_> = paths.by_ref().take(100).collect();
        if batch.is_empty() {
            return heads;
        }
        let requests = batch.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: cache\r\n\r\n"));
        stream.write_all(requests.collect::<String>().as_bytes()).expect("the server takes requests");
        for _ in batch {
            heads.push(head(&mut reader));
        }
    }
}

fn head(reader: &mut BufReader<TcpStream>) -> Head {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("the server answers");
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
    let head = Head { status, lines };
    let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body follows");
    head
}
