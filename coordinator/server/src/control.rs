//! Administration by Unix socket in the data directory: who can reach the socket owns the machine.
//!
//! Always holds: the socket is its owner's alone; one request and one reply per connection, bounded, as the
//! messages of `wire` behind a u32 length. Leaves to others: what is done (`Administration`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use firn_transport::BoxFuture;
use firn_wire::{AdminReply, AdminRequest, CONTROL_BYTES_MAX, LedgerEntry, RefusedRequest, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::coordinator::Administration;

/// The socket's name in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Between two bytes of a request, and for an answer that needs the leader.
const WITHIN: Duration = Duration::from_secs(40);

const SNAPSHOT_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Why the socket gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no coordinator runs on {}: start it, or name another --data-dir ({source})", directory.display())]
    NotRunning {
        /// The data directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The exchange broke.
    #[error("the coordinator's control socket failed: {0}")]
    Io(#[from] io::Error),
    /// No answer.
    #[error("the coordinator did not answer within {} s", WITHIN.as_secs())]
    TimedOut,
    /// The answer cannot be read.
    #[error("the coordinator's answer cannot be read: {0}")]
    Decode(#[from] firn_wire::DecodeError),
    /// The answer is one to another question.
    #[error("the coordinator's answer does not fit")]
    OtherQuestion,
    /// It refuses.
    #[error(transparent)]
    Refused(#[from] RefusedRequest),
}

/// Listens in `directory` until dropped.
pub fn serve_control(directory: &Path, administration: Administration) -> BoxFuture<'_, io::Result<()>> {
    Box::pin(listen(directory, administration))
}

async fn listen(directory: &Path, administration: Administration) -> io::Result<()> {
    let path = directory.join(CONTROL_SOCKET);
    // A leftover of a killed process; the directory's lock says that nobody else listens.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let administration = administration.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &administration).await {
                tracing::debug!(%error, "a control connection broke");
            }
        });
    }
}

async fn answer(mut stream: UnixStream, administration: &Administration) -> io::Result<()> {
    let message = timeout(WITHIN, read_message(&mut stream)).await.map_err(io::Error::from)??;
    let reply = match decode::<AdminRequest>(&message) {
        Ok(request) => administration.administer(request).await,
        Err(error) => Err(RefusedRequest::new(firn_wire::RefusalKind::Malformed, error.to_string())),
    };
    timeout(WITHIN, write_message(&mut stream, &encode(&reply))).await.map_err(io::Error::from)?
}

/// Asks the coordinator whose data directory is `directory`.
pub async fn ask_control(directory: &Path, request: &AdminRequest) -> Result<AdminReply, ControlError> {
    let connected = UnixStream::connect(directory.join(CONTROL_SOCKET)).await;
    let mut stream =
        connected.map_err(|source| ControlError::NotRunning { directory: directory.to_owned(), source })?;
    let exchange = async {
        write_message(&mut stream, &encode(request)).await?;
        read_message(&mut stream).await
    };
    // A backup takes as long as the disk does; whoever waits for it may stop waiting.
    let within = if matches!(request, AdminRequest::Snapshot { .. }) { SNAPSHOT_WITHIN } else { WITHIN };
    let reply = timeout(within, exchange).await.map_err(|_| ControlError::TimedOut)??;
    Ok(decode::<Result<AdminReply, RefusedRequest>>(&reply)??)
}

/// Reads the whole ledger from the coordinator whose data directory is `directory`, page by page, as far as that one has
/// it.
pub async fn ask_ledger(directory: &Path) -> Result<Vec<LedgerEntry>, ControlError> {
    let mut entries = Vec::new();
    loop {
        let from = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        match ask_control(directory, &AdminRequest::Ledger { from }).await? {
            AdminReply::Ledger(page) if page.is_empty() => return Ok(entries),
            AdminReply::Ledger(page) => entries.extend(page),
            _ => return Err(ControlError::OtherQuestion),
        }
    }
}

async fn read_message(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(stream.read_u32_le().await?).unwrap_or(usize::MAX);
    if bytes > CONTROL_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {bytes} bytes")));
    }
    let mut message = vec![0; bytes];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let bytes = u32::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a message beyond 4 GiB"))?;
    stream.write_u32_le(bytes).await?;
    stream.write_all(message).await?;
    stream.flush().await
}
