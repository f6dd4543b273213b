//! One file for each command.

pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod demo;
pub mod e2e;
pub mod fuzz;
pub mod image;
pub mod manifests;
pub mod mutants;
pub mod test;
