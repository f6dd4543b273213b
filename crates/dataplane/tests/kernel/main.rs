//! Workers, conntrack and sweep on a real kernel: each test in a network namespace of its own. They need root, and fail
//! without it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

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
