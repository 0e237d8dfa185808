//! The coordinators' decisions as a log would bring them about: commands in, outcomes and states out.

#![allow(clippy::unwrap_used, reason = "a test whose facts are not there has failed")]

mod absences;
mod address_stories;
mod balance;
mod caps;
mod clocks;
mod commits;
mod compaction;
mod compaction_plans;
mod compaction_support;
mod dependents;
mod digests;
mod drains;
mod evidence;
mod features;
mod filters;
mod health;
mod inventories;
mod ledger;
mod lines;
mod listening;
mod losses;
mod member_changes;
mod moves;
mod nodes;
mod placements;
mod properties;
mod purged_compactions;
mod purges;
mod rebuild_support;
mod rebuilds;
mod rebuilt_compactions;
mod rebuilt_purges;
mod recodings;
mod repairs;
mod reservations;
mod reserve;
mod returns;
mod rights;
mod stories;
mod support;
mod suspensions;
mod tidying;
