//! Clients of an HTTP server: as many requests as it answers, and how long each took.
//!
//! Always holds: every answer is read to its end and has the status that is expected, or it counts as failed; each
//! connection asks again as soon as it was answered. All clients are one thread, so that they take one core.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firn_benches::process::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Answers.
    pub(crate) answers: u64,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    /// Answers with another status than was expected, or none.
    pub(crate) failed: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    // Sorted.
    latencies: Vec<Duration>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Load<'a> {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Paths, taken in turns.
    pub(crate) paths: &'a [String],
    /// The status of every answer.
    pub(crate) status: u16,
    /// Clients at once, each with a connection of its own.
    pub(crate) connections: usize,
    /// How long new requests are sent; each client sends one at least.
    pub(crate) lasts: Duration,
}

const BUFFER_BYTES: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;

impl Load<'_> {
    /// Puts it on the server.
    pub(crate) fn run(&self) -> Result<Seen, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let requests: Arc<Vec<Vec<u8>>> = Arc::new(self.paths.iter().map(|path| request(path)).collect());
            let mut streams = Vec::new();
            for _ in 0..self.connections {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            let began = Instant::now();
            let (until, status) = (began + self.lasts, self.status);
            let clients: Vec<_> = (0..)
                .zip(streams)
                .map(|(number, stream)| {
                    // Each begins elsewhere.
                    let first = number * self.paths.len() / self.connections;
                    tokio::spawn(client(stream, Arc::clone(&requests), first, status, until))
                })
                .collect();
            let mut seen = Seen::default();
            for client in clients {
                let own = client.await?;
                seen.answers += own.answers;
                seen.bytes += own.bytes;
                seen.failed += own.failed;
                seen.latencies.extend(own.latencies);
            }
            seen.took = began.elapsed();
            seen.latencies.sort_unstable();
            Ok(seen)
        })
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: cache\r\n\r\n").into_bytes()
}

async fn client(
    mut stream: TcpStream,
    requests: Arc<Vec<Vec<u8>>>,
    first: usize,
    status: u16,
    until: Instant,
) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    for number in first.. {
        let began = Instant::now();
        if began >= until && seen.answers + seen.failed > 0 {
            break;
        }
        let answer = match stream.write_all(&requests[number % requests.len()]).await {
            Ok(()) => answer(&mut stream, &mut buffer).await,
            Err(_) => None,
        };
        seen.latencies.push(began.elapsed());
        match answer {
            Some((found, bytes)) if found == status => {
                seen.answers += 1;
                seen.bytes += bytes;
            }
            Some(_) => seen.failed += 1,
            // The connection is gone.
            None => {
                seen.failed += 1;
                break;
            }
        }
    }
    seen
}

/// The status of an answer, and the bytes of its body.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<(u16, u64)> {
    let mut have = 0;
    let head = loop {
        let count = stream.read(&mut buffer[have..]).await.ok().filter(|count| *count > 0)?;
        have += count;
        if let Some(end) = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if have > HEAD_BYTES_MAX {
            return None;
        }
    };
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    })?;
    let mut left = length.checked_sub((have - head) as u64)?;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = stream.read(&mut buffer[..most]).await.ok().filter(|count| *count > 0)?;
        left -= count as u64;
    }
    Some((status, length))
}

impl Seen {
    /// Answers in a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }

    /// Millions of bytes of bodies in a second.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64()
    }

    /// The time within which this part of all answers came, in parts of 1,000.
    pub(crate) fn within(&self, per_mille: usize) -> Duration {
        let at = (self.latencies.len() * per_mille / 1_000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}
