//! Messages on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Writes messages to stderr from here on: warnings and news, with `-v` details, with `-vv` everything of ours.
pub(crate) fn begin(format: LogFormat, verbose: u8) {
    let filter = match verbose {
        0 => "info",
        1 => "info,firn_storage_node=debug,firn_transport=debug,firn_retrieval=debug",
        _ => "debug,firn_storage_node=trace,firn_transport=trace,firn_retrieval=trace",
    };
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(filter));
    match format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}
