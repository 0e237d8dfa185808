//! Reads from nodes made for them: one program, for each has to be compiled and linked for itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod directory;
mod objects;
mod range;
mod recover;
mod swarm;
