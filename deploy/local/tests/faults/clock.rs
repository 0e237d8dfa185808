//! The time of day as one program sees it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How far a coordinator's clock may be from a majority's while it leads.
pub(crate) const CLOCK_BAND: Duration = Duration::from_secs(600);

/// Programs notice within this time that their clock was set.
pub(crate) const CLOCKS_SETTLE: Duration = Duration::from_secs(2);

/// What makes programs see another time of day; timers are left alone.
pub(crate) struct Clocks {
    library: PathBuf,
}

impl Clocks {
    /// The error says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let architectures = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let mut libraries = architectures.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library =
            libraries.find(|library| library.exists()).ok_or("it needs libfaketime (Debian: faketime)")?;
        Ok(Self { library })
    }

    /// Lets `command` see the time that is kept in `file`.
    pub(crate) fn apply(&self, command: &mut Command, file: &Path) {
        if !file.exists() {
            set(file, 0);
        }
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }
}

/// From now on, programs that look at `file` see a time of day that is off by `seconds`.
pub(crate) fn set(file: &Path, seconds: i64) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}
