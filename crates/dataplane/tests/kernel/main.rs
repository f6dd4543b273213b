//! Workers, conntrack and sweep on a real kernel. Each test has its own network namespace. The tests require
//! root, and fail without it.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod conntrack;
mod entries;
mod hold;
mod namespace;
mod rules;
mod shop;
mod superseded;
mod sweep;
mod takeover;
mod workers;
