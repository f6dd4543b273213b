//! The cost of a verdict is committed, and a change that makes it more expensive fails.

use std::env;
use std::path::PathBuf;

use benches::instructions::{self, Arguments, COUNTED};
use benches::report::Output;

#[test]
fn no_verdict_takes_more_instructions_than_is_committed() {
    let Some(counted) = env::var_os(COUNTED).map(PathBuf::from) else {
        panic!("{COUNTED} is not set: cargo xtask test --only instructions builds the program and sets it")
    };
    let counting = Arguments { renew: false, counted, output: Output::Table };
    if let Err(failure) = instructions::run(&counting) {
        panic!("{failure:?}");
    }
}
