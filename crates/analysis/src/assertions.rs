//! Expectations about policies, in YAML, evaluated by the engine.
//!
//! ```yaml
//! - from: web/frontend
//!   to: db/postgres:5432
//!   expect: allowed
//! - to: db/*
//!   expect: nothing-else
//! ```
//!
//! From: a file of assertions, and a model. To: [`Checked`], one for each assertion. ALL connections between
//! ALL ends that an assertion names must be as expected, on ALL its ports and in both IP families. An
//! assertion that names something that the folder does not have fails: it would hold for no reason.

mod evaluate;
mod file;
mod pattern;

pub use self::evaluate::{Checked, Violation, check};
pub use self::file::{Assertions, AssertionsError};
