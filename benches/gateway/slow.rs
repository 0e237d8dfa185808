//! Readers that take little and hold much: what a server's memory comes to with them.
//!
//! Each reads a NAR of its own, so that no frame that is held or fetched ahead serves two.

use std::fs;
use std::time::{Duration, Instant};

use firn_benches::process::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::servers::Server;

// Some 16 KiB a second each: nobody is taken for one that stands still.
const TAKEN_BYTES: usize = 16 << 10;
const TAKEN_EVERY: Duration = Duration::from_secs(1);

/// The most memory, in KiB, that `server` and its children have while each of `paths` has a reader, for as long as `lasts`.
pub(crate) fn memory_kib(server: &Server, paths: &[String], lasts: Duration) -> Result<u64, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let until = Instant::now() + lasts;
        let mut reading = Vec::new();
        for path in paths {
            let request = format!("GET {path} HTTP/1.1\r\nHost: cache\r\n\r\n");
            let mut stream = TcpStream::connect(server.address).await?;
            stream.write_all(request.as_bytes()).await?;
            reading.push(tokio::spawn(take_slowly(stream, until)));
        }
        let mut most = 0;
        while Instant::now() < until {
            most = most.max(resident_kib(server)?);
            sleep(TAKEN_EVERY / 4).await;
        }
        for reader in reading {
            reader.await??;
        }
        Ok(most)
    })
}

async fn take_slowly(mut stream: TcpStream, until: Instant) -> Result<(), Failure> {
    let mut taken = vec![0; TAKEN_BYTES];
    let mut is_first = true;
    while Instant::now() < until {
        let count = stream.read(&mut taken).await?;
        if is_first && !taken[..count].starts_with(b"HTTP/1.1 200 ") || count == 0 {
            return Err("a slow reader was not answered, or cut off".into());
        }
        is_first = false;
        sleep(TAKEN_EVERY).await;
    }
    Ok(())
}

/// What the server's process and its children have in memory.
fn resident_kib(server: &Server) -> Result<u64, Failure> {
    let id = server.process.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let mut sum = server.process.memory_kib("VmRSS")?;
    for child in children.split_whitespace() {
        let status = fs::read_to_string(format!("/proc/{child}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += kib.ok_or("a child's memory is not told")?;
    }
    Ok(sum)
}
