//! Data to stdout, as text or JSON.

use std::io::{self, Write};

use serde::Serialize;

use crate::command_error::CommandError;

/// Prints `text` and a line end.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::OutputClosed,
        _ => CommandError::Output(error),
    })
}

/// Prints `value`: as JSON if that is asked for, else as `text` tells it.
pub(crate) fn print_as<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CommandError> {
    if json { print_json(value) } else { print(&text(value)) }
}

/// Prints `value` as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value);
    print(&text.map_err(|error| CommandError::Output(error.into()))?)
}
