//! Gateways in one process, asked over sockets: one program, for each has to be compiled and linked for itself.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod closure;
mod compressed;
mod encrypted;
mod limits;
mod names;
mod odd_requests;
mod routes;
mod server;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;
