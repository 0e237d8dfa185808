//! What every program of Firn does at its edges: arguments, configuration file, environment, log, signals,
//! exit code.
//!
//! Owns: where an option's value comes from (command line, then environment, then the file given by
//! `--config`), the log's form, and what ends a program. Always holds: exit code 0 for done, 1 for failed, 2
//! for wrong usage; the log goes to stderr, data to stdout. Leaves to others: every option's meaning.

mod arguments;
mod log;
mod signals;

pub use arguments::{ConfigError, parse};
pub use log::{LogFormat, LogOptions};
pub use signals::{ServiceSignal, ServiceSignals, stop_signal};

use std::process::ExitCode;

/// Prints `error` with its causes on stderr, one sentence, and gives exit code 1.
pub fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // An error that shows its cause in its own sentence does not say it twice.
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    eprintln!("error: {sentence}");
    ExitCode::FAILURE
}
