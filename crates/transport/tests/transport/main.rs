//! Connections over loopback: one program, for each has to be compiled and linked for itself.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod connections;
mod coordinators;
mod pool;
mod strangers;
mod world;
