//! A bare QUIC stream on loopback: the same library, encryption and bounds, and nothing that reads what it carries.

use std::time::Instant;

use firn_base::NodeId;
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::Identity;

use firn_benches::process::Failure;

/// Pieces as a storage node sends them.
const PIECE_BYTES: usize = 256 << 10;

/// Millions of bytes in a second, from one thread to another, of `bytes` in all.
pub(crate) fn megabytes_per_second(bytes: u64) -> Result<f64, Failure> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (tell, told) = std::sync::mpsc::channel();
    let sender = Identity::from_seed(&[1; 32]);
    let node = NodeId::from_bytes(*sender.public().as_bytes());
    let sending = std::thread::spawn(move || -> Result<(), Failure> {
        runtime()?.block_on(async {
            let listen = "127.0.0.1:0".parse()?;
            let options = EndpointOptions::default();
            let endpoint = Endpoint::bind(&Environment::real(), &sender, listen, options).await?;
            tell.send(endpoint.local_address())?;
            let connection = endpoint.accept().await.ok_or("nobody dialled")?;
            let mut stream = connection.accept().await?;
            let piece = bytes::Bytes::from(vec![7; PIECE_BYTES]);
            for _ in 0..bytes.div_ceil(PIECE_BYTES as u64) {
                stream.send_bytes(piece.clone()).await?;
            }
            stream.finish();
            stream.drained().await?;
            endpoint.close().await;
            Ok(())
        })
    });
    let address = told.recv()?;
    let rate = runtime()?.block_on(async {
        let receiver = Identity::from_seed(&[2; 32]);
        let options = EndpointOptions::default();
        let endpoint = Endpoint::bind_client(&Environment::real(), &receiver, options).await?;
        let connection = endpoint.connect(node, &address.to_string()).await?;
        let mut stream = connection.open().await?;
        let began = Instant::now();
        stream.send_bytes(bytes::Bytes::from_static(b"go")).await?;
        let mut received = 0;
        while let Some(piece) = stream.receive_bytes(PIECE_BYTES).await? {
            received += piece.len() as u64;
        }
        let rate = received as f64 / 1e6 / began.elapsed().as_secs_f64();
        endpoint.close().await;
        Ok::<_, Failure>(rate)
    })?;
    sending.join().map_err(|_| "the sender panicked")??;
    Ok(rate)
}
