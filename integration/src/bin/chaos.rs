//! `cargo xtask chaos`: injects random faults under load, from a seed.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anstream::println;
use anyhow::{Context, Result};
use clap::Parser;

use integration::chaos::{Fault, Plan, Run};

#[derive(Parser)]
#[command(
    name = "cargo xtask chaos",
    bin_name = "cargo xtask chaos",
    about = "Injects random faults under load and checks every outcome against a model of the policy",
    after_help = "Examples:\n  cargo xtask chaos\n  cargo xtask chaos --seed 7 --minutes 10\n  \
                  cargo xtask chaos --seed 7 --minutes 2 --only kill,damage,edit\n\n\
                  The seed determines which faults are injected and when. Timing, and so the outcome, also \
                  depends on the machine.\n\n\
                  Exit codes: 0 every outcome was right, 1 one was wrong and is printed, 2 the command line is \
                  wrong."
)]
struct Arguments {
    /// Seed of all random choices. Default: a random seed, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults are injected, in minutes: a number from 0.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Inject only these faults, such as kill,damage,edit; an unknown name lists all. Default: all.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault)]
    only: Vec<Fault>,
}

fn fault(name: &str) -> Result<Fault, String> {
    let mut names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    names.dedup();
    Fault::named(name).ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn main() -> Result<ExitCode> {
    let Arguments { seed, minutes, only } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let duration =
        Duration::try_from_secs_f64(minutes * 60.0).context("--minutes takes a number from 0, such as 10")?;
    println!("seed {seed}, {minutes} minutes");
    match Run::new(Plan { seed, duration, only }).and_then(Run::execute) {
        Ok(totals) => {
            println!("{totals:#?}\nseed {seed}: every outcome was right");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}
