//! `firn publish --watch`: looks at a source again and again and publishes what is new.
//!
//! Owns: the rounds, what the log and the metrics tell of them, and how they end. Always holds: a signal to stop lets
//! bundles under way be committed, a second one ends at once; a round that fails is no end.
//! Leaves to others: when the next round is, what it looks at, the lag (`firn-client-logic`).

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_client::{
    Following, PublishEvent, PublishEvents, PublishOptions, PublishStop, PublishSummary, RoundOutcome,
    publish,
};
use firn_program::ServiceSignals;
use firn_transport::Environment;

use crate::command_error::{CommandError, Done};
use crate::metrics_port::MetricsPort;
use crate::service_manager;
use crate::session::Session;

/// What is published in each round.
pub(crate) struct Watch<'a> {
    pub(crate) session: &'a Session,
    pub(crate) environment: Environment,
    /// Without paths.
    pub(crate) options: PublishOptions,
    /// Everything that there is at the moment, by name. Blocks.
    pub(crate) names: Arc<dyn Fn() -> Result<Vec<String>, CommandError> + Send + Sync>,
    /// From the beginning of one round to that of the next.
    pub(crate) period: Duration,
    /// Where metrics are told.
    pub(crate) http: Option<SocketAddr>,
}

/// What the rounds came to.
#[derive(Debug)]
struct Book {
    following: Following,
    rounds: [u64; 3],
    paths: u64,
    content: u64,
    sent: u64,
    refused: usize,
    waiting: usize,
    files: usize,
}

const OUTCOMES: [(RoundOutcome, &str); 3] = [
    (RoundOutcome::Complete, "complete"),
    (RoundOutcome::Incomplete, "incomplete"),
    (RoundOutcome::Failed, "failed"),
];

impl Watch<'_> {
    /// Follows the source until a signal comes.
    pub(crate) async fn run(self) -> Result<Done, CommandError> {
        let mut signals = ServiceSignals::new();
        let now = self.environment.now();
        let book = Arc::new(Mutex::new(Book::new(Following::new(self.period, now))));
        let _port = match self.http {
            Some(address) => {
                let (book, environment) = (Arc::clone(&book), self.environment.clone());
                let page = move || held(&book).metrics(environment.now());
                let port = MetricsPort::open(address, Arc::new(page)).await?;
                tracing::info!("metrics are at http://{}/metrics", port.address());
                Some(port)
            }
            None => None,
        };
        service_manager::tell_ready();
        let stop = PublishStop::default();
        loop {
            let mut round = std::pin::pin!(self.round(&book, &stop));
            tokio::select! {
                _ = &mut round => {}
                () = signals.stop() => {
                    service_manager::tell_stopping();
                    tracing::info!("stopping when the bundles under way are committed; a second signal stops at once");
                    stop.ask();
                    return tokio::select! {
                        outcome = round => after_signal(outcome),
                        () = signals.stop() => Err(CommandError::Stopped),
                    };
                }
            }
            let pause = held(&book).following.pause(self.environment.now());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = signals.stop() => {
                    service_manager::tell_stopping();
                    return Ok(Done::Completely);
                }
            }
        }
    }

    async fn round(&self, book: &Mutex<Book>, stop: &PublishStop) -> RoundOutcome {
        let outcome = match self.look(book, stop).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!("this round ended before its end: {error}");
                held(book).following.fail()
            }
        };
        if stop.is_asked() {
            return outcome;
        }
        let mut book = held(book);
        let index = OUTCOMES.iter().position(|(own, _)| *own == outcome).unwrap_or_default();
        book.rounds[index] += 1;
        let now = self.environment.now();
        let (lag, pause) = (book.following.lag(now), book.following.pause(now));
        tracing::info!(
            "the archive is at most {} s behind the source; the next look is in {} s",
            lag.as_secs(),
            pause.as_secs()
        );
        outcome
    }

    async fn look(&self, book: &Mutex<Book>, stop: &PublishStop) -> Result<RoundOutcome, CommandError> {
        let names = Arc::clone(&self.names);
        let began = self.environment.now();
        let all = self.environment.blocking(move || names()).await?;
        let new = held(book).following.begin(began, all);
        let options =
            PublishOptions { paths: Some(new.clone().into()), stop: stop.clone(), ..self.options.clone() };
        let events = PublishEvents::new(|event| {
            if let PublishEvent::Refused { name, reason } = event {
                tracing::warn!("refused: {name}: {reason}");
            }
        });
        let published = match new.is_empty() {
            true => Ok(PublishSummary::default()),
            false => publish(self.session.archive(), options, events).await,
        };
        let mut book = held(book);
        match published {
            Ok(summary) => {
                book.count(&summary);
                // What was not begun is no summary's matter.
                if stop.is_asked() {
                    Ok(RoundOutcome::Incomplete)
                } else {
                    Ok(book.following.end(&new, &summary))
                }
            }
            Err(stopped) => {
                book.count(&stopped.summary);
                Err(CommandError::Failed(stopped.to_string()))
            }
        }
    }
}

impl Book {
    const fn new(following: Following) -> Self {
        Self { following, rounds: [0; 3], paths: 0, content: 0, sent: 0, refused: 0, waiting: 0, files: 0 }
    }

    fn count(&mut self, summary: &PublishSummary) {
        self.paths = self.paths.saturating_add(summary.paths_published);
        self.content = self.content.saturating_add(summary.content.0);
        self.sent = self.sent.saturating_add(summary.sent.0);
        (self.refused, self.waiting) = (summary.refused.len(), summary.waiting.len());
        self.files = summary.notes.len();
        for file in &summary.notes {
            tracing::warn!("{file}");
        }
        if summary.paths_published > 0 {
            tracing::info!("{} paths published, {} of contents", summary.paths_published, summary.content);
        }
    }

    /// In the text format of Prometheus.
    fn metrics(&self, now: firn_base::Timestamp) -> String {
        let mut text = String::new();
        let mut tell = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
            // A string takes whatever is written.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        let lag = self.following.lag(now).as_secs();
        tell(
            "firn_publish_lag_seconds",
            "gauge",
            "Every path that the source had so long ago can be read from the archive.",
            &lag,
        );
        tell("firn_publish_paths_total", "counter", "Store paths published.", &self.paths);
        tell(
            "firn_publish_content_bytes_total",
            "counter",
            "Bytes of NARs and other objects published.",
            &self.content,
        );
        tell("firn_publish_sent_bytes_total", "counter", "Bytes of shards sent to nodes.", &self.sent);
        tell("firn_publish_refused", "gauge", "What the last round refused.", &self.refused);
        tell(
            "firn_publish_waiting",
            "gauge",
            "Paths that wait for others after the last round.",
            &self.waiting,
        );
        tell(
            "firn_publish_files_failed",
            "gauge",
            "Build logs, realisations and debuginfo links that the last round could not archive.",
            &self.files,
        );
        let _ = write!(
            text,
            "# HELP firn_publish_rounds_total Looks at the source, by how they ended.\n# TYPE firn_publish_rounds_total counter\n"
        );
        for ((_, outcome), count) in OUTCOMES.iter().zip(self.rounds) {
            let _ = writeln!(text, "firn_publish_rounds_total{{outcome=\"{outcome}\"}} {count}");
        }
        text
    }
}

/// How it ends when the round under way at the signal has ended so.
fn after_signal(outcome: RoundOutcome) -> Result<Done, CommandError> {
    match outcome {
        RoundOutcome::Failed => {
            Err(CommandError::Failed("the last round ended before its end: the log says why".to_owned()))
        }
        RoundOutcome::Complete | RoundOutcome::Incomplete => Ok(Done::Completely),
    }
}

fn held(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use firn_base::{ByteCount, Timestamp};

    use super::*;

    #[test]
    fn a_last_round_that_failed_is_no_success() {
        assert!(matches!(after_signal(RoundOutcome::Failed), Err(CommandError::Failed(_))));
        for outcome in [RoundOutcome::Complete, RoundOutcome::Incomplete] {
            assert!(matches!(after_signal(outcome), Ok(Done::Completely)));
        }
    }

    #[test]
    fn the_metrics_are_pinned() {
        let mut book = Book::new(Following::new(Duration::from_secs(600), Timestamp::from_millis(0)));
        let summary = PublishSummary {
            paths_published: 2,
            content: ByteCount(300),
            sent: ByteCount(70),
            ..PublishSummary::default()
        };
        book.count(&summary);
        book.count(&summary);
        book.rounds = [2, 1, 0];
        let metrics = book.metrics(Timestamp::from_millis(5_000));
        let values: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "firn_publish_lag_seconds 5",
                "firn_publish_paths_total 4",
                "firn_publish_content_bytes_total 600",
                "firn_publish_sent_bytes_total 140",
                "firn_publish_refused 0",
                "firn_publish_waiting 0",
                "firn_publish_files_failed 0",
                "firn_publish_rounds_total{outcome=\"complete\"} 2",
                "firn_publish_rounds_total{outcome=\"incomplete\"} 1",
                "firn_publish_rounds_total{outcome=\"failed\"} 0",
            ]
        );
        assert_eq!(metrics.matches("# TYPE ").count(), 8);
    }
}
