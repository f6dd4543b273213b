//! Random faults under load for a short time. `cargo xtask chaos` injects them for longer.
//!
//! The only test in its file, since it uses the whole machine.

use std::time::Duration;

use integration::chaos::{Fault, Plan, Run};

/// The seed of this run, unless `CHAOS_SEED` gives one.
const SEED: u64 = 1;
/// How long faults are injected.
const DURATION: Duration = Duration::from_secs(45);

#[test]
fn under_random_faults_every_outcome_is_right() {
    let seed = std::env::var("CHAOS_SEED").map_or(SEED, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    println!("seed {seed}");
    // A full conntrack table and busy processors slow down everything else on the machine. Only `cargo xtask
    // chaos` injects them.
    let is_light = |fault: &Fault| !matches!(fault, Fault::ConntrackFull | Fault::Busy);
    let only = Fault::ALL.into_iter().filter(is_light).collect();
    let totals =
        Run::new(Plan { seed, duration: DURATION, only }).and_then(Run::execute).unwrap_or_else(|error| {
            panic!("{error:#}; to repeat it: cargo xtask chaos --seed {seed} --minutes 1")
        });
    assert!(totals.passed > 500 && totals.denied > 100, "there was load: {totals:#?}");
    println!("{totals:#?}");
}
