//! One file for each command.

pub mod bench;
pub mod demo;
pub mod fuzz;
pub mod image;
pub mod manifests;
pub mod test;
