//! Servers that misbehave, and sources that do not wait for them.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_client_logic::RetrySchedule;

use super::SourceOptions;
use super::http::{Expected, HttpSource, Place};
use super::patience::{Clock, Patience};
use crate::http_client::Waits;

/// A clock that pauses make go on, and nothing else.
#[derive(Debug, Default)]
pub(super) struct TestClock(Mutex<Vec<Duration>>);

impl TestClock {
    pub(super) fn pauses(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().iter().sum()
    }

    fn pause(&self, pause: Duration) {
        self.0.lock().unwrap().push(pause);
    }
}

/// A source that does not wait.
pub(super) fn source_at(url: &str, options: &SourceOptions, tries_max: u32) -> (HttpSource, Arc<TestClock>) {
    source_of(Place::parse(url, options).unwrap(), options, tries_max)
}

pub(super) fn source_of(
    place: Place,
    options: &SourceOptions,
    tries_max: u32,
) -> (HttpSource, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let schedule = RetrySchedule { tries_max, ..RetrySchedule::default() };
    let patience = Patience::with(schedule, Arc::<TestClock>::clone(&clock), 7);
    (HttpSource::with(place, options, Waits::default(), patience), clock)
}

/// What a server does with one request: which headers it sends, which body, and whether it says the truth about lengths.
pub(super) type Answer = Box<dyn FnMut(&Request) -> Vec<u8> + Send>;

#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// One that was never sent.
    pub(super) fn of(line: &str, host: &str) -> Self {
        Self { line: line.to_owned(), headers: vec![("host".to_owned(), host.to_owned())] }
    }

    /// The first byte that is asked for.
    pub(super) fn first(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.strip_suffix('-')).map_or(0, |first| first.parse().unwrap())
    }
}

/// A server that gives these answers, one to each connection, and the last one for ever.
pub(super) struct Server {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(super) fn with(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut answers) = (Arc::clone(&requests), VecDeque::from(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&mut BufReader::new(&stream)) else { continue };
                seen.lock().unwrap().push(request.clone());
                let answer = if answers.len() > 1 {
                    answers.pop_front().unwrap()(&request)
                } else {
                    answers[0](&request)
                };
                // A server sends no body to HEAD. The client may have gone away: that is its right.
                let head = request.line.starts_with("HEAD");
                let end = answer.windows(4).position(|window| window == b"\r\n\r\n").filter(|_| head);
                let _ = stream.write_all(&answer[..end.map_or(answer.len(), |end| end + 4)]);
            }
        });
        Self { address, requests }
    }

    pub(super) fn source(&self) -> Arc<HttpSource> {
        Arc::new(source_at(&self.address, &SourceOptions::default(), 4).0)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

pub(super) fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = reader.lines();
    let mut request = Request { line: lines.next()?.ok()?, headers: Vec::new() };
    for line in lines {
        match line.ok()?.split_once(": ") {
            Some((name, value)) => request.headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Some(request)
}

/// An answer whose length is not that of its body, if need be.
pub(super) fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

pub(super) fn always(bytes: Vec<u8>) -> Answer {
    Box::new(move |_| bytes.clone())
}

/// What a source has as `nar/x`, read like a file that no hash tells.
pub(super) fn read(source: &Arc<HttpSource>) -> Result<Vec<u8>, String> {
    read_expected(source, "nar/x", Expected::default())
}

pub(super) fn read_expected(
    source: &Arc<HttpSource>,
    url: &str,
    expected: Expected,
) -> Result<Vec<u8>, String> {
    let file = source.open_file(url, expected).map_err(|error| error.to_string())?;
    let (mut reader, mut bytes) = (file.ok_or("nothing is there")?.reader, Vec::new());
    reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
