//! Everything as real processes on one machine: one program, for each has to be linked for itself, and two tests at
//! a time wait for their fleets side by side. What needs the real Nix says so where there is none, and passes unless
//! `FIRN_TEST_NIX=required`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod absence;
mod bad_input;
mod balance;
mod compaction;
mod coordinators;
mod copies;
mod dependents;
mod disclosure;
mod disowning;
mod drain;
mod export;
mod following;
mod gateway_cache;
mod large_nar;
mod leader_dies;
mod local_archive;
mod logs;
mod nix_client;
mod page;
mod public_caps;
mod purge;
mod rebuild;
mod recode;
mod reserve;
mod restart;
mod separate_programs;
mod silent;
mod slow_lines;
mod stats;
mod train;
mod withdrawal;
