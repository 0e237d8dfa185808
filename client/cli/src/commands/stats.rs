//! `firn stats`: how much is archived and what it takes.

use firn_base::ByteCount;
use firn_wire::ArchiveStatus;
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::{print, print_json};
use crate::report::redundancy;
use crate::session::Session;

#[derive(Debug, Serialize)]
struct Stats {
    /// Store paths and build logs that can be read.
    paths: u64,
    bundles: u64,
    payload: u64,
    stored: u64,
    /// Stored bytes for each byte of payload; null while there is none.
    redundancy: Option<f64>,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions) -> Result<Done, CommandError> {
    let session = Session::open(common).await?;
    let stats = Stats::from(&session.status().await?);
    if common.json {
        print_json(&stats)?;
    } else {
        print(&stats.to_string())?;
    }
    session.close().await;
    Ok(Done::Completely)
}

impl From<&ArchiveStatus> for Stats {
    fn from(status: &ArchiveStatus) -> Self {
        Self {
            paths: status.visible_keys,
            bundles: status.bundles,
            payload: status.payload.0,
            stored: status.stored.0,
            redundancy: redundancy(status.stored.0, status.payload.0),
        }
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let factor = self.redundancy.map_or_else(|| "-".to_owned(), |factor| format!("{factor:.2}x"));
        write!(
            formatter,
            "paths and logs  {}\nbundles         {}\npayload         {}\nstored          {}\nredundancy      {factor}",
            self.paths,
            self.bundles,
            ByteCount(self.payload),
            ByteCount(self.stored)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_the_fields_of_the_json_are_pinned() {
        let stats =
            Stats { paths: 57, bundles: 3, payload: 1_000_000, stored: 3_000_000, redundancy: Some(3.0) };
        assert_eq!(
            stats.to_string(),
            "paths and logs  57\nbundles         3\npayload         1.0 MB\nstored          3.0 MB\nredundancy      3.00x"
        );
        assert_eq!(
            serde_json::to_string(&stats).unwrap(),
            r#"{"paths":57,"bundles":3,"payload":1000000,"stored":3000000,"redundancy":3.0}"#
        );
    }
}
