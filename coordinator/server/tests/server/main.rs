//! Coordinators in one process, over sockets and real stores: one program, for each of its own would make openraft's code
//! for itself anew, which takes the compiler a minute.
// Futures of tests hold whole coordinators, one within the other.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

mod absences;
#[path = "support/archive.rs"]
mod archive;
mod catching_up;
mod clocks;
mod cluster;
mod differing;
mod disk_windows;
mod filters;
mod health;
mod inventories;
mod ledger;
mod likeness;
mod members;
mod mixed_versions;
mod news;
mod operators;
mod reports;
mod slow_disk;
mod support;
mod suspensions;
