//! The control socket: a Unix socket in the data directory, for the node's owner.
//!
//! Always holds: one request and one answer per connection, each a line of JSON; only the owner of the process
//! may connect.
//! Leaves to others: what the commands do (`node`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use firn_transport::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::node::NodeHandle;
use crate::report::NodeReport;

/// The socket's name in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";

const LINE_BYTES_MAX: u64 = 1 << 20;
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// The node at a glance.
    Status,
    /// Leave the archive.
    Leave,
    /// Read every shard again.
    Scrub,
    /// Do nothing but stay in touch.
    Pause {
        /// For how long.
        seconds: u64,
    },
    /// End a pause, and an absence that was declared.
    Resume,
    /// Declare that the node may be away.
    Absent {
        /// For how long.
        seconds: u64,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlReply {
    /// The node at a glance.
    Status(Box<NodeReport>),
    /// The node leaves; so many shards are to be moved first.
    Leaving {
        /// How many.
        shards: u64,
    },
    /// So many shards are being read again.
    Scrubbing {
        /// How many.
        shards: u64,
    },
    /// The node does nothing but stay in touch.
    Paused {
        /// Until when, in milliseconds since 1970.
        until_millis: u64,
    },
    /// The node may be away.
    Absent {
        /// Until when, in milliseconds since 1970.
        until_millis: u64,
        /// For how many milliseconds it may declare to be away beyond that.
        left_millis: u64,
    },
    /// The node is not paused any more.
    Resumed,
    /// Not done, and why.
    Failed(String),
}

/// Why the node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no storage node runs in {directory}: start it first")]
    NotRunning {
        /// The data directory.
        directory: String,
    },
    /// The exchange failed.
    #[error("the node's control socket cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The node does not answer, or with something else.
    #[error("the node gives no usable answer: is it of the same version?")]
    NoAnswer,
}

/// Answers the control socket of the data directory until it is dropped. The path of a Unix socket has at most
/// about 100 bytes.
pub fn serve_control(directory: &Path, handle: NodeHandle) -> BoxFuture<'_, io::Result<()>> {
    Box::pin(listen(directory, handle))
}

async fn listen(directory: &Path, handle: NodeHandle) -> io::Result<()> {
    let path = directory.join(CONTROL_SOCKET);
    // Left by a node that was killed: the lock of the directory says that no other is alive.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        // One after the other: an owner asks a few times an hour.
        match timeout(EXCHANGE_TIMEOUT, answer(stream, &handle)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an exchange on the control socket failed"),
            Err(_) => tracing::debug!("an exchange on the control socket took too long"),
        }
    }
}

async fn answer(mut stream: UnixStream, handle: &NodeHandle) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(ControlRequest::Status) => ControlReply::Status(Box::new(handle.report())),
        Ok(ControlRequest::Leave) => match handle.leave().await {
            Ok(shards) => ControlReply::Leaving { shards },
            Err(error) => ControlReply::Failed(format!("the wish to leave cannot be written down: {error}")),
        },
        Ok(ControlRequest::Scrub) => ControlReply::Scrubbing { shards: handle.scrub() },
        Ok(ControlRequest::Pause { seconds }) => match handle.pause(Duration::from_secs(seconds)).await {
            Ok(until) => ControlReply::Paused { until_millis: until.as_millis() },
            Err(sentence) => ControlReply::Failed(sentence),
        },
        Ok(ControlRequest::Resume) => match handle.resume().await {
            Ok(()) => ControlReply::Resumed,
            Err(sentence) => ControlReply::Failed(sentence),
        },
        Ok(ControlRequest::Absent { seconds }) => {
            match handle.declare_absence(Duration::from_secs(seconds)).await {
                Ok(standing) => ControlReply::Absent {
                    until_millis: standing.absent_until.unwrap_or_default().as_millis(),
                    left_millis: standing.absence_left_millis,
                },
                Err(sentence) => ControlReply::Failed(sentence),
            }
        }
        Err(error) => ControlReply::Failed(format!("no such command: {error}")),
    };
    let mut text = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

/// Asks the node that runs in `directory`.
pub async fn ask_control(directory: &Path, request: ControlRequest) -> Result<ControlReply, ControlError> {
    let mut stream = match UnixStream::connect(directory.join(CONTROL_SOCKET)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::NotRunning { directory: directory.display().to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let exchange = async {
        let mut text = serde_json::to_vec(&request).map_err(io::Error::other)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut line = String::new();
        BufReader::new((&mut stream).take(LINE_BYTES_MAX)).read_line(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    let line = timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(|_| ControlError::NoAnswer)??;
    serde_json::from_str(&line).map_err(|_| ControlError::NoAnswer)
}
