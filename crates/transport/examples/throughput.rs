//! Bulk throughput and request rate between two endpoints on loopback, both in this process.
//!
//! `cargo run --release -p firn-transport --example throughput [MIB] [MTU]`

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firn_transport::{Connection, Endpoint, EndpointOptions, Environment, Handler, Stream, serve};
use firn_wire::Identity;

const PIECE_BYTES: usize = 1 << 20;

/// Sends so many MiB as asked for; zero is a request for nothing but an answer.
struct Sender;

impl Handler for Sender {
    async fn handle(&self, _connection: &Connection, mut stream: Stream) {
        let Ok(mebibytes) = stream.receive::<u64>(64).await else { return };
        let piece = Bytes::from(vec![7; PIECE_BYTES]);
        if stream.send(&mebibytes).await.is_err() {
            return;
        }
        for _ in 0..mebibytes {
            if stream.send_bytes(piece.clone()).await.is_err() {
                return;
            }
        }
        stream.finish();
    }
}

async fn receive(connection: &Connection, mebibytes: u64) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let mut stream = connection.open().await?;
    stream.send(&mebibytes).await?;
    stream.finish();
    stream.receive::<u64>(64).await?;
    let mut received = 0;
    while let Some(piece) = stream.receive_bytes(PIECE_BYTES).await? {
        received += piece.len();
    }
    Ok(received)
}

/// Processor time of this process, of both ends together.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

async fn measure(mebibytes: u64, options: EndpointOptions) -> Result<(), Box<dyn Error + Send + Sync>> {
    let environment = Environment::real();
    let (near, far) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Endpoint::bind(&environment, &far, listen, options.clone()).await?;
    let client = Endpoint::bind_client(&environment, &near, options.clone()).await?;
    let address = server.local_address().to_string();
    let serving = tokio::spawn(async move { serve(&server, Arc::new(Sender)).await });
    let connection = client.connect(far.node_id(), &address).await?;

    for streams in [1, 8] {
        let (begun, worked) = (Instant::now(), processor_time());
        let each = mebibytes / streams;
        let transfers =
            futures::future::try_join_all((0..streams).map(|_| receive(&connection, each))).await?;
        let received: usize = transfers.iter().sum();
        let (took, worked) = (begun.elapsed(), processor_time() - worked);
        let gigabytes = f64::from(u32::try_from(received / 1000)?) / 1e6;
        println!(
            "{streams} streams, datagrams of {} bytes: {:.0} MB/s, {:.2} processor seconds per GB for both ends",
            options.loopback_mtu_bytes,
            gigabytes * 1000.0 / took.as_secs_f64(),
            worked.as_secs_f64() / gigabytes,
        );
    }
    let begun = Instant::now();
    let (rounds, side_by_side) = (100_u32, 100_u32);
    for _ in 0..rounds {
        let calls = (0..side_by_side).map(|_| connection.call::<u64, u64>(&0, 64, Duration::from_secs(5)));
        futures::future::try_join_all(calls).await?;
    }
    let requests = f64::from(rounds * side_by_side);
    println!("{:.0} small requests/s, {side_by_side} at a time", requests / begun.elapsed().as_secs_f64());
    client.close().await;
    serving.abort();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let mebibytes = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let mut options = EndpointOptions::default();
    if let Some(text) = arguments.next() {
        options.loopback_mtu_bytes = text.parse()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(mebibytes, options))
}
