//! `firn stats`: how much is archived and what it takes.

use std::cmp::Reverse;

use clap::{Args, ValueEnum};
use firn_base::ByteCount;
use firn_client::{Grouping, Takings};
use firn_wire::ArchiveStatus;
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;
use crate::report::redundancy;
use crate::session::Session;
use crate::table::{Align, Table};
use crate::takings::{Takeoff, take_off};

/// Print how much is archived and what it takes.
///
/// With --by the manifest of each bundle is read. Logical bytes are those of the NARs, published ones those of the
/// files as their publishers compressed them, unique ones those of stored chunks (one that two bundles store counts
/// twice), stored ones those of shards, with all redundancy. Recipes are those of published files that can be made
/// again. The first object that uses a chunk is charged for it. Exit codes: 0 done, 1 a bundle could not be read: what
/// is printed lacks it.
#[derive(Debug, Args)]
pub(crate) struct StatsOptions {
    /// Group what is stored: by `package`, by `generation` (the first path of each package and output, the second, …), or in
    /// `total`
    #[arg(long, value_enum)]
    by: Option<GroupingFlag>,
}

/// See [`Grouping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GroupingFlag {
    Package,
    Generation,
    Total,
}

/// A group as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    group: String,
    objects: u64,
    recipes: u64,
    logical: u64,
    published: u64,
    unique: u64,
    stored: u64,
    /// Stored bytes for each published one; null where nothing was published.
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Unread {
    bundle: u32,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Groups {
    groups: Vec<Row>,
    total: Row,
    unread: Vec<Unread>,
}

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
pub(crate) async fn run(common: &CommonOptions, options: &StatsOptions) -> Result<Done, CommandError> {
    let session = Session::open(common).await?;
    if let Some(by) = options.by {
        let grouping = match by {
            GroupingFlag::Package => Grouping::Package,
            GroupingFlag::Generation => Grouping::Generation,
            GroupingFlag::Total => Grouping::Total,
        };
        let groups = Groups::new(take_off(&session, grouping).await?, grouping);
        session.close().await;
        print_as(common.json, &groups, ToString::to_string)?;
        return Ok(Done::when(groups.unread.is_empty()));
    }
    let stats = Stats::from(&session.status().await?);
    print_as(common.json, &stats, ToString::to_string)?;
    session.close().await;
    Ok(Done::Completely)
}

impl Groups {
    /// Packages by what they take, generations by their number.
    fn new(takeoff: Takeoff, grouping: Grouping) -> Self {
        let mut total = Takings::default();
        takeoff.groups.iter().for_each(|(_, takings)| total.add(*takings));
        let mut groups = takeoff.groups;
        if grouping == Grouping::Package {
            groups.sort_by_key(|(_, takings)| Reverse(takings.stored));
        }
        let unread = takeoff.unread.into_iter().map(|(bundle, reason)| Unread { bundle, reason });
        Self {
            groups: groups.into_iter().map(|(group, takings)| Row::new(group.trim(), takings)).collect(),
            total: Row::new("total", total),
            unread: unread.collect(),
        }
    }
}

impl Row {
    fn new(group: &str, takings: Takings) -> Self {
        Self {
            group: group.to_owned(),
            objects: takings.objects,
            recipes: takings.recipes,
            logical: takings.logical,
            published: takings.files,
            unique: takings.unique,
            stored: takings.stored,
            ratio: redundancy(takings.stored, takings.files),
        }
    }
}

impl std::fmt::Display for Groups {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headings = ["objects", "recipes", "logical", "published", "unique", "stored", "stored/published"];
        let mut columns = vec![("", Align::Left)];
        columns.extend(headings.map(|heading| (heading, Align::Right)));
        let mut table = Table::new(&columns);
        for row in self.groups.iter().chain([&self.total]) {
            let mut cells = vec![row.group.clone(), row.objects.to_string(), row.recipes.to_string()];
            cells.extend(
                [row.logical, row.published, row.unique, row.stored]
                    .map(|bytes| ByteCount(bytes).to_string()),
            );
            cells.push(row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x")));
            table.row(cells);
        }
        write!(formatter, "{table}")?;
        for unread in &self.unread {
            write!(formatter, "\nbundle {} could not be read: {}", unread.bundle, unread.reason)?;
        }
        Ok(())
    }
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
    fn groups_are_a_table_with_what_takes_most_first() {
        let takings = |stored| Takings {
            objects: 2,
            recipes: 1,
            logical: 4_000_000,
            files: 1_000_000,
            unique: 3_000_000,
            stored,
        };
        let groups = vec![("a".to_owned(), takings(500_000)), ("b".to_owned(), takings(2_500_000))];
        let unread = vec![(7, "nobody has it".to_owned())];
        let groups = Groups::new(Takeoff { groups, unread }, Grouping::Package);
        let expected = [
            "       objects  recipes  logical  published  unique    stored  stored/published",
            "b            2        1   4.0 MB     1.0 MB  3.0 MB    2.5 MB             2.50x",
            "a            2        1   4.0 MB     1.0 MB  3.0 MB  500.0 kB             0.50x",
            "total        4        2   8.0 MB     2.0 MB  6.0 MB    3.0 MB             1.50x",
            "bundle 7 could not be read: nobody has it",
        ];
        assert_eq!(groups.to_string(), expected.join("\n"));
    }

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
