//! The control socket of an archive on one machine: `stop`, `start`, `add`, `remove`.
//!
//! Always holds: one request and one reply per connection, each a line of JSON, bounded in bytes and time; only
//! the owner of the process may connect; requests are carried out one after the other.
//! Leaves to others: what is done (`archive`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use firn_base::BitRate;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::archive::LocalArchive;
use crate::failure::{Failure, failure};

const SOCKET: &str = "control.sock";
const LINE_BYTES_MAX: u64 = 64 << 10;

// Whoever connects has the request at hand.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

// Longer than the slowest end of a role, and the start of the archive before the first request is answered.
const REPLY_WITHIN: Duration = Duration::from_secs(120);

/// What is asked of a running archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Kill a role.
    Stop {
        /// Which.
        role: String,
    },
    /// Start it again.
    Start {
        /// Which.
        role: String,
    },
    /// Make and start one more.
    Add {
        /// What: `storage-node`.
        kind: String,
        /// How fast it uploads at most; none: as the others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_upload_bytes_per_second: Option<u64>,
    },
    /// Kill it and do not start it again.
    Remove {
        /// Which.
        role: String,
        /// Only say what would be done.
        dry_run: bool,
    },
}

/// The answer, a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// It is done.
    Done(String),
    /// It is not, and why.
    Failed(String),
}

/// Opens the socket in `directory`. A leftover of a killed process is replaced: the directory's lock says that
/// nobody else listens.
pub(crate) fn listen(directory: &Path) -> io::Result<UnixListener> {
    let path = directory.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes the socket away, so that nobody waits for an answer.
pub(crate) fn close(directory: &Path, listener: UnixListener) {
    drop(listener);
    drop(std::fs::remove_file(directory.join(SOCKET)));
}

/// Waits for a request. Whoever connects and says nothing is left.
pub(crate) async fn accept(listener: &UnixListener) -> io::Result<(UnixStream, Result<Request, String>)> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        if let Ok(Ok(line)) = timeout(REQUEST_WITHIN, read_line(&mut stream)).await {
            let request = serde_json::from_str(&line);
            return Ok((stream, request.map_err(|error| format!("this is no request: {error}"))));
        }
    }
}

/// Carries a request out and answers.
pub(crate) async fn answer(
    mut stream: UnixStream,
    request: Result<Request, String>,
    archive: &mut LocalArchive,
) {
    let result = match request {
        Ok(request) => carry_out(request, archive).await,
        Err(sentence) => Err(failure(sentence)),
    };
    let reply = match result {
        Ok(sentence) => Reply::Done(sentence),
        Err(error) => Reply::Failed(error.to_string()),
    };
    // Whoever asked may have given up.
    drop(timeout(REQUEST_WITHIN, write_line(&mut stream, &reply)).await);
}

async fn carry_out(request: Request, archive: &mut LocalArchive) -> Result<String, Failure> {
    match request {
        Request::Stop { role } => archive.stop(role.parse()?).await,
        Request::Start { role } => archive.start(role.parse()?).await,
        Request::Add { kind, max_upload_bytes_per_second: rate } if kind == "storage-node" => {
            archive.add_storage_node(rate.map(|bytes_per_second| BitRate { bytes_per_second })).await
        }
        Request::Add { kind, .. } => {
            let kind: String = kind.chars().take(80).collect();
            Err(failure(format!("`{kind}` cannot be added: only `storage-node` can")))
        }
        Request::Remove { role, dry_run } => archive.remove(role.parse()?, dry_run).await,
    }
}

/// Asks the archive that runs in `directory`. Gives its sentence.
pub(crate) async fn ask(directory: &Path, request: &Request) -> Result<String, Failure> {
    let mut stream = UnixStream::connect(directory.join(SOCKET)).await.map_err(|error| {
        let directory = directory.display();
        failure(format!(
            "no archive runs in {directory}: start it with `firn-local up --dir {directory}` ({error})"
        ))
    })?;
    let exchange = async {
        write_line(&mut stream, request).await?;
        read_line(&mut stream).await
    };
    let line = timeout(REPLY_WITHIN, exchange).await;
    let line = line.map_err(|_| failure(format!("no answer within {} s", REPLY_WITHIN.as_secs())))?;
    match serde_json::from_str(&line.map_err(|error| failure(format!("the control socket failed: {error}")))?)
    {
        Ok(Reply::Done(sentence)) => Ok(sentence),
        Ok(Reply::Failed(sentence)) => Err(failure(sentence)),
        Err(_) => Err(failure("the archive ended before it answered")),
    }
}

async fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line)
}

async fn write_line(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(message).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_that_people_can_write() {
        let text = |request: &Request| serde_json::to_string(request).unwrap();
        let stop = Request::Stop { role: "gateway".into() };
        assert_eq!(text(&stop), r#"{"command":"stop","role":"gateway"}"#);
        let add = |max_upload_bytes_per_second| Request::Add {
            kind: "storage-node".into(),
            max_upload_bytes_per_second,
        };
        let plain = r#"{"command":"add","kind":"storage-node"}"#;
        assert_eq!(text(&add(None)), plain);
        assert_eq!(serde_json::from_str::<Request>(plain).unwrap(), add(None));
        assert_eq!(
            text(&add(Some(125_000))),
            r#"{"command":"add","kind":"storage-node","max_upload_bytes_per_second":125000}"#
        );
    }

    #[tokio::test]
    async fn a_request_is_read_and_whoever_says_nothing_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let listener = listen(directory.path()).unwrap();
        let silent = UnixStream::connect(directory.path().join(SOCKET)).await.unwrap();
        drop(silent);
        let mut client = UnixStream::connect(directory.path().join(SOCKET)).await.unwrap();
        client.write_all(b"hello\n").await.unwrap();
        // Nothing at all is no request either.
        let (_, empty) = accept(&listener).await.unwrap();
        let (_, hello) = accept(&listener).await.unwrap();
        assert!(empty.is_err() && hello.unwrap_err().starts_with("this is no request"));
        close(directory.path(), listener);
        let refusal = ask(directory.path(), &Request::Start { role: "x".into() }).await.unwrap_err();
        assert!(refusal.to_string().starts_with("no archive runs in "), "{refusal}");
    }
}
