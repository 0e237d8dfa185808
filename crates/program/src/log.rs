//! The log: lines on stderr, as text or JSON.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The options of every program that concern its log. Flatten these into a program's own.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// Say more; twice for debugging
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// How log lines on stderr look
    #[arg(long, value_enum, default_value_t, global = true, env = "FIRN_LOG_FORMAT")]
    log_format: LogFormat,
}

impl LogOptions {
    /// Begins the log. `quiet` is for commands whose output is read by people: warnings only, unless asked for
    /// more. `FIRN_LOG` overrides with a filter of the `tracing` form.
    pub fn begin(&self, quiet: bool) {
        let level = match (self.verbose, quiet) {
            (0, true) => "warn",
            (0, false) | (1, true) => "info",
            _ => "debug",
        };
        // The libraries below say at info what only their authors need. openraft calls every message that a busy or
        // absent peer does not answer in time an error; that it stopped is in our own status and log.
        let ours = format!("warn,openraft=off,firn={level}")
            + &[
                "base",
                "transport",
                "retrieval",
                "coordinator",
                "storage_node",
                "client",
                "gateway",
                "local",
                "cli",
            ]
            .map(|part| format!(",firn_{part}={level}"))
            .concat();
        let filter = EnvFilter::try_from_env("FIRN_LOG").unwrap_or_else(|_| EnvFilter::new(ours));
        let colours = std::io::stderr().is_terminal();
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
        let begun = match self.log_format {
            LogFormat::Text => builder.with_target(false).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        // A second program in the same process (as in `firn-local`) shares the log of the first.
        drop(begun);
    }
}
