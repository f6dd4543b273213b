//! One file for each command.

pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod cluster;
pub(crate) mod demo;
pub(crate) mod e2e;
pub(crate) mod fuzz;
pub(crate) mod image;
pub(crate) mod manifests;
pub(crate) mod mutants;
pub(crate) mod test;
