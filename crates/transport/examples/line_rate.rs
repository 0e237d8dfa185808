//! How near an endpoint with a bound comes to it: bytes on the line in windows of 10 s, and how long a small request
//! takes beside them. The bound is on what it sends (`upload`) or on what it takes (`download`). Give it a network of its
//! own, whose loopback interface then counts nothing else:
//!
//! `unshare -n sh -c 'ip link set lo up; exec cargo run --release -p firn-transport --example line_rate -- upload 10Mbit/s'`

use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::BitRate;
use firn_transport::{
    Connection, Endpoint, EndpointOptions, Environment, Handler, Line, LineRates, Stream, serve,
};
use firn_wire::Identity;
use tokio::time::{Instant, sleep_until};

type Failure = Box<dyn Error + Send + Sync>;

const READERS: u8 = 8;
const WINDOWS: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);

/// Sends for ever, or answers at once.
struct Sender;

impl Handler for Sender {
    async fn handle(&self, _connection: &Connection, mut stream: Stream) {
        let Ok(wants_bytes) = stream.receive::<bool>(64).await else { return };
        if !wants_bytes {
            if stream.send(&true).await.is_ok() {
                stream.finish();
            }
            return;
        }
        let piece = Bytes::from(vec![7; 1 << 20]);
        while stream.send_bytes(piece.clone()).await.is_ok() {}
    }
}

async fn read(connection: Connection) -> Result<(), Failure> {
    let mut stream = connection.open().await?;
    stream.send(&true).await?;
    while stream.receive_bytes(64 << 10).await?.is_some() {}
    Ok(())
}

/// Bytes that this network's loopback interface has sent.
fn sent() -> Result<u64, Failure> {
    let interfaces = fs::read_to_string("/proc/self/net/dev")?;
    let own = interfaces.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let sent = own.and_then(|counters| counters.split_whitespace().nth(8));
    Ok(sent.ok_or("this network has no loopback interface")?.parse()?)
}

async fn measure(direction: &str, rate: BitRate) -> Result<(), Failure> {
    let environment = Environment::real();
    // Datagrams as they are on other lines than loopback.
    let far = EndpointOptions { loopback_mtu_bytes: 1452, ..EndpointOptions::default() };
    let rates = match direction {
        "upload" => LineRates { upload: Some(rate), download: None },
        "download" => LineRates { upload: None, download: Some(rate) },
        _ => return Err("say upload or download, and a rate".into()),
    };
    let line = Arc::new(Line::new(rates));
    let bound = EndpointOptions { line: Some(Arc::clone(&line)), ..far.clone() };
    let own = Identity::from_seed(&[99; 32]);
    let server = Endpoint::bind(&environment, &own, (Ipv4Addr::LOCALHOST, 0).into(), bound).await?;
    let address = server.local_address().to_string();
    let server_serves = server.clone();
    tokio::spawn(async move { serve(&server_serves, Arc::new(Sender)).await });
    let mut clients = Vec::new();
    for reader in 0..=READERS {
        let identity = Identity::from_seed(&[reader; 32]);
        let client = Endpoint::bind_client(&environment, &identity, far.clone()).await?;
        let connection = client.connect(own.node_id(), &address).await?;
        if reader > 0 && direction == "upload" {
            tokio::spawn(read(connection.clone()));
        } else if reader > 0 {
            // The peer sends, and the endpoint with the bound reads.
            let sender =
                Endpoint::bind(&environment, &identity, (Ipv4Addr::LOCALHOST, 0).into(), far.clone()).await?;
            let connection = server.connect(identity.node_id(), &sender.local_address().to_string()).await?;
            tokio::spawn(async move { serve(&sender, Arc::new(Sender)).await });
            tokio::spawn(read(connection));
        }
        clients.push((client, connection));
    }
    // The first windows of congestion control are over.
    let mut begun = Instant::now() + Duration::from_secs(2);
    sleep_until(begun).await;
    for _ in 0..WINDOWS {
        let before = sent()?;
        let counted = [line.sent_bytes(), line.received_bytes()];
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < WINDOW {
            let asked = Instant::now();
            clients[0].1.call::<bool, bool>(&false, 64, WINDOW).await?;
            slowest = slowest.max(asked.elapsed());
            sleep_until(asked + Duration::from_millis(100)).await;
        }
        let millis = u64::try_from(begun.elapsed().as_millis())?;
        let bytes_per_second = (sent()? - before) * 1000 / millis;
        let counted = [line.sent_bytes() - counted[0], line.received_bytes() - counted[1]];
        let counted = counted.map(|bytes| BitRate { bytes_per_second: bytes * 1000 / millis });
        begun = Instant::now();
        println!(
            "{READERS} peers, {direction} at most {rate}: {} on the line both ways, {} sent and {} received counted; the \
             slowest of the small requests beside it took {slowest:.0?}",
            BitRate { bytes_per_second },
            counted[0],
            counted[1],
        );
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let direction = std::env::args().nth(1).unwrap_or_else(|| "upload".to_owned());
    let text = std::env::args().nth(2).unwrap_or_else(|| "10Mbit/s".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&direction, text.parse()?))
}
