//! A line of JSON for each answer, for whoever runs the gateway.
//!
//! Always holds: a line names neither client nor path unless that was asked for; serving never waits for it, and lines that
//! found no room are counted. Leaves to others: what is answered.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firn_base::Timestamp;
use firn_transport::Environment;
use hyper::{Method, Request, StatusCode, Version};
use tokio::time::Instant;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// Appended to this file, which is opened again when asked.
    File(PathBuf),
    /// Standard output.
    Output,
}

/// What is said beside method, kind, status, bytes and duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogDetail {
    /// The client's address.
    pub addresses: bool,
    /// The path of the URL: whoever reads it learns which store paths somebody has.
    pub paths: bool,
}

/// Writes lines in a thread of its own.
#[derive(Debug)]
pub struct RequestLog {
    detail: LogDetail,
    environment: Environment,
    lines: Mutex<Option<SyncSender<String>>>,
    lost: AtomicU64,
    reopen: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What is to be said of one answer: written when it is dropped, at the end of the body.
#[derive(Debug)]
pub(super) struct PendingLine {
    log: Arc<RequestLog>,
    began: Instant,
    entry: LogEntry,
}

#[derive(Debug)]
struct LogEntry {
    method: Method,
    version: Version,
    kind: &'static str,
    /// None while it was not answered.
    status: Option<StatusCode>,
    client: IpAddr,
    path: Option<String>,
    /// Of the body, as many as it has, if that was known before, and as many as went.
    expected: Option<u64>,
    bytes: u64,
    /// The body ended by itself.
    ended: bool,
    took: Duration,
}

impl PendingLine {
    /// `request` of `client` came.
    pub(super) fn begin<B>(log: Arc<RequestLog>, request: &Request<B>, client: IpAddr) -> Self {
        let entry = LogEntry {
            method: request.method().clone(),
            version: request.version(),
            kind: "other",
            status: None,
            client,
            path: log.detail.paths.then(|| request.uri().path().to_owned()),
            expected: None,
            bytes: 0,
            ended: false,
            took: Duration::ZERO,
        };
        Self { log, began: Instant::now(), entry }
    }

    /// It was for something of this kind, and the answer has this status.
    pub(super) fn answered(mut self, kind: &'static str, status: StatusCode) -> Self {
        (self.entry.kind, self.entry.status) = (kind, Some(status));
        self
    }

    /// The body has so many bytes; none where that shows at its end.
    pub(super) const fn expects(&mut self, bytes: Option<u64>) {
        self.entry.expected = bytes;
    }

    /// The body came to its end.
    pub(super) const fn ended(&mut self) {
        self.entry.ended = true;
    }

    /// So many of them went.
    pub(super) const fn gave(&mut self, bytes: u64) {
        self.entry.bytes += bytes;
    }
}

impl Drop for PendingLine {
    fn drop(&mut self) {
        self.entry.took = self.began.elapsed();
        self.log.write(&self.entry);
    }
}

// A second of a busy gateway.
const LINES_WAITING_MAX: usize = 1 << 14;

impl RequestLog {
    /// Opens the log.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(
        destination: LogDestination,
        detail: LogDetail,
        environment: Environment,
    ) -> io::Result<Self> {
        let output = open(&destination)?;
        let (lines, received) = sync_channel(LINES_WAITING_MAX);
        let reopen = Arc::<AtomicBool>::default();
        let asked = Arc::clone(&reopen);
        let writer = thread::Builder::new()
            .name("request-log".to_owned())
            .spawn(move || write_lines(&received, output, &destination, &asked))?;
        Ok(Self {
            detail,
            environment,
            lines: Mutex::new(Some(lines)),
            lost: AtomicU64::new(0),
            reopen,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// The next line goes to a file opened anew: the old one was renamed.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    fn write(&self, entry: &LogEntry) {
        let line = self.line(self.environment.now(), entry);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = lines.as_ref() else { return };
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            // Told at the first and then ever more rarely: this log has no room either for as many lines.
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!("{lost} lines of the request log were lost: it is not written fast enough");
            }
        }
    }

    fn line(&self, now: Timestamp, entry: &LogEntry) -> String {
        let mut line = String::with_capacity(200);
        let LogEntry { method, version, kind, status, client, path, expected, bytes, ended, took } = entry;
        let millis = now.as_millis();
        let status = status.map_or_else(|| "null".to_owned(), |status| status.as_u16().to_string());
        let (seconds, millis) = (millis / 1000, millis % 1000);
        // Methods are tokens: there is nothing in them to be escaped.
        let written = write!(
            line,
            "{{\"time\":{seconds}.{millis:03},\"method\":\"{method}\",\"version\":\"{version:?}\",\"kind\":\"{kind}\",\
             \"status\":{status},\"bytes\":{bytes},\"microseconds\":{},\"broken_off\":{}",
            took.as_micros(),
            // A body of known length is not asked for its end.
            !ended && *expected != Some(*bytes)
        );
        written.expect("a String takes every write");
        if self.detail.addresses {
            write!(line, ",\"client\":\"{client}\"").expect("a String takes every write");
        }
        if let Some(path) = path.as_ref().filter(|_| self.detail.paths) {
            write!(line, ",\"path\":\"{}\"", Escaped(path)).expect("a String takes every write");
        }
        line.push_str("}\n");
        line
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        drop(self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        // What was written is written out.
        if let Some(writer) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            drop(writer.join());
        }
    }
}

/// A text in a string of JSON.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '"' | '\\' => write!(formatter, "\\{character}"),
            character if character.is_control() => write!(formatter, "\\u{:04x}", u32::from(character)),
            character => formatter.write_char(character),
        })
    }
}

fn open(destination: &LogDestination) -> io::Result<Box<dyn Write + Send>> {
    Ok(match destination {
        LogDestination::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        LogDestination::Output => Box::new(io::stdout()),
    })
}

fn write_lines(
    lines: &Receiver<String>,
    output: Box<dyn Write + Send>,
    destination: &LogDestination,
    reopen: &AtomicBool,
) {
    let mut output = BufWriter::new(output);
    while let Ok(line) = lines.recv() {
        // Before the line is written: whoever renamed the file may pack it away soon.
        if reopen.swap(false, Ordering::AcqRel) {
            match open(destination) {
                Ok(opened) => output = BufWriter::new(opened),
                Err(error) => tracing::warn!("the request log was not opened again: {error}"),
            }
        }
        let written = write_waiting(&mut output, line, lines);
        if let Err(error) = written {
            tracing::warn!("the request log was not written: {error}");
        }
    }
}

/// `line` and those that wait behind it.
fn write_waiting(output: &mut impl Write, line: String, lines: &Receiver<String>) -> io::Result<()> {
    output.write_all(line.as_bytes())?;
    for line in lines.try_iter().take(LINES_WAITING_MAX) {
        output.write_all(line.as_bytes())?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(path: &str) -> LogEntry {
        LogEntry {
            method: Method::GET,
            version: Version::HTTP_11,
            kind: "narinfo",
            status: Some(StatusCode::OK),
            expected: Some(512),
            bytes: 512,
            ended: false,
            took: Duration::from_micros(17),
            client: IpAddr::from([192, 0, 2, 1]),
            path: Some(path.to_owned()),
        }
    }

    fn logged(detail: LogDetail, path: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("requests.log");
        let log = RequestLog::open(LogDestination::File(file.clone()), detail, Environment::real()).unwrap();
        log.write(&entry(path));
        drop(log);
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn a_line_names_nobody_and_nothing_unless_asked() {
        let line = logged(LogDetail::default(), "/4d20g8srpvv02vkiwrmz28g62m15n56b.narinfo");
        let (time, rest) = line.split_once(",\"method\"").unwrap();
        assert!(time.strip_prefix("{\"time\":").unwrap().parse::<f64>().unwrap() > 1.7e9);
        let expected = ":\"GET\",\"version\":\"HTTP/1.1\",\"kind\":\"narinfo\",\"status\":200,\"bytes\":512,\
                        \"microseconds\":17,\"broken_off\":false}\n";
        assert_eq!(rest, expected);
        let detail = LogDetail { addresses: true, paths: true };
        let line = logged(detail, "/a\"b\\c\n.narinfo");
        assert!(
            line.ends_with(",\"client\":\"192.0.2.1\",\"path\":\"/a\\\"b\\\\c\\u000a.narinfo\"}\n"),
            "{line}"
        );
    }

    #[test]
    fn a_request_that_nobody_waited_for_has_no_status() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("requests.log");
        let destination = LogDestination::File(file.clone());
        let log = RequestLog::open(destination, LogDetail::default(), Environment::real()).unwrap();
        let log = Arc::new(log);
        drop(PendingLine::begin(Arc::clone(&log), &Request::new(()), IpAddr::from([192, 0, 2, 1])));
        drop(log);
        let line = fs::read_to_string(file).unwrap();
        assert!(line.contains(",\"status\":null,\"bytes\":0,"), "{line}");
        assert!(line.ends_with(",\"broken_off\":true}\n"), "{line}");
    }

    #[test]
    fn a_log_that_was_renamed_goes_on_under_its_name() {
        let place = tempfile::tempdir().unwrap();
        let [file, old] = ["requests.log", "requests.log.1"].map(|name| place.path().join(name));
        let destination = LogDestination::File(file.clone());
        let log = RequestLog::open(destination, LogDetail::default(), Environment::real()).unwrap();
        log.write(&entry("/"));
        // It waits for lines from now on: the first one is written.
        let began = Instant::now();
        while fs::read(&file).unwrap().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(120), "it is not written");
            thread::yield_now();
        }
        fs::rename(&file, &old).unwrap();
        log.reopen();
        log.write(&entry("/"));
        log.write(&entry("/"));
        drop(log);
        let lines = |file| fs::read_to_string(file).unwrap().lines().count();
        assert_eq!((lines(&old), lines(&file)), (1, 2));
    }
}
