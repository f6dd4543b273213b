//! Random faults under load, from a seed: `cargo xtask chaos`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anstream::println;
use anyhow::Result;
use clap::Parser;

use integration::chaos::{Fault, Plan, Run};

#[derive(Parser)]
#[command(
    name = "cargo xtask chaos",
    about = "Random faults under load, and a model that knows what may pass"
)]
struct Arguments {
    /// All that is random comes from this. Default: a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults are made.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// These faults alone.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
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
    let duration = Duration::try_from_secs_f64(minutes * 60.0)?;
    println!("seed {seed}, {minutes} minutes");
    match Run::begin(Plan { seed, duration, only }).and_then(Run::play) {
        Ok(totals) => {
            println!("{totals:#?}\nseed {seed}: all was right");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}
