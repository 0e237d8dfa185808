//! Storage nodes, asked over sockets: one program, for each has to be compiled and linked for itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod build;
mod crash_points;
mod deletion_allowance;
mod disk_faults;
mod disk_usage;
mod lent;
mod node;
mod owner;
mod power_cut;
mod program;
mod recode;
mod removing_trash;
mod resting_disk;
mod rot;
mod small_disk;
mod store_conformance;
mod store_index;
mod support;
mod units;
mod upgrade;
