//! A long line in user space: every byte arrives later, both ways.
//!
//! Always holds: bytes keep their order; a connection takes one round trip before its first byte, as TCP's handshake
//! would; what is on its way is bounded by far more than any line here carries in that time.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use firn_benches::process::Failure;

const PIECE_BYTES: usize = 64 << 10;
const PIECES_ON_THE_WAY: usize = 1_024;

/// A server's address behind a line of this round trip. The line lasts as long as the program.
pub(crate) fn behind(server: SocketAddr, round_trip: Duration) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(server) = TcpStream::connect(server) {
                join(client, server, round_trip);
            }
        }
    });
    Ok(address)
}

fn join(client: TcpStream, server: TcpStream, round_trip: Duration) {
    let ends = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
    let (Some((from_client, to_server)), Some((to_client, from_server))) = (ends(), ends()) else { return };
    let ready = Instant::now() + round_trip;
    for (from, to) in [(from_client, to_server), (from_server, to_client)] {
        drop(to.set_nodelay(true));
        let (sender, receiver) = sync_channel(PIECES_ON_THE_WAY);
        std::thread::spawn(move || send(from, &sender, ready, round_trip / 2));
        std::thread::spawn(move || deliver(&receiver, to));
    }
}

fn send(mut from: TcpStream, line: &SyncSender<(Instant, Vec<u8>)>, ready: Instant, delay: Duration) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // An end is a piece without bytes, and takes as long.
        let count = from.read(&mut piece).unwrap_or(0);
        let arrives = Instant::now().max(ready) + delay;
        if line.send((arrives, piece[..count].to_vec())).is_err() || count == 0 {
            return;
        }
    }
}

fn deliver(line: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((arrives, piece)) = line.recv() {
        std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
