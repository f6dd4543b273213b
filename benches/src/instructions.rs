//! The number of instructions of a verdict: it is the same on every run, so a change that makes verdicts more
//! expensive shows at once.
//!
//! ```text
//!  workload's program, under valgrind's callgrind -> its evaluate_counted alone is counted -> per verdict
//!                                                      benches/instructions.json -> [ Comparison ]
//! ```
//!
//! The figures are valid for one compiler and one kind of processor: the file names them, and so does a
//! failure.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use workload::PacketKind;
use workload::grid::Point;

use crate::report::{COMPILER, Figures, Output, progress, show};

/// The environment variable that names the program to count: `count-verdicts` of the member `workload`.
pub const COUNTED: &str = "KUBE_VERDICT_COUNTED";
/// How much more expensive a verdict may become before it is a failure: inlining changes a few instructions.
pub const TOLERANCE: f64 = 0.03;
/// The points with committed figures: small and large, with both kinds of peers, and with cluster-wide
/// policies.
const POINTS: [&str; 6] = [
    "100-pods-1-policies-1-rules-selector",
    "10000-pods-100-policies-5-rules-ipBlock",
    "10000-pods-1000-policies-5-rules-selector",
    "10000-pods-1000-policies-5-rules-ipBlock",
    "10000-pods-1000-policies-5-rules-selector-100-cluster-policies",
    "10000-pods-1000-policies-5-rules-ipBlock-100-cluster-policies",
];

/// What to do.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write the figures instead of comparing them with the committed ones.
    #[arg(long)]
    pub renew: bool,
    /// The program to count: count-verdicts, optimised. `cargo xtask bench instructions` builds it and sets
    /// this.
    #[arg(long, value_name = "PROGRAM", env = COUNTED)]
    pub counted: PathBuf,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,
}

/// The committed figures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// The output of the compiler's version command.
    pub compiler: String,
    /// The kind of processor, by Rust's name.
    pub processor: String,
    /// Instructions per verdict, by case: a point of the grid and the kind of packets.
    pub instructions: BTreeMap<String, f64>,
}

/// One row of figures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// The case.
    pub case: String,
    /// Instructions per verdict as committed; `None` if the case is new.
    pub committed: Option<f64>,
    /// Instructions per verdict now.
    pub now: f64,
}

impl Comparison {
    /// The relative increase: 0.01 is one per cent. `None` without a figure to compare with.
    pub fn growth(&self) -> Option<f64> {
        self.committed.map(|committed| self.now / committed - 1.0)
    }
}

impl Figures for Comparison {
    const NAME: &'static str = "instructions";

    fn header() -> Vec<&'static str> {
        vec!["case", "committed", "now", "growth"]
    }

    fn row(&self) -> Vec<String> {
        let text =
            |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.1}"));
        let growth = self.growth().map_or_else(String::new, |growth| format!("{:+.1} %", growth * 100.0));
        vec![self.case.clone(), text(self.committed), text(Some(self.now)), growth]
    }
}

/// Counts, and compares with the committed figures or updates them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let now = count(&arguments.counted)?;
    let file = file();
    if arguments.renew {
        let committed = Committed {
            compiler: COMPILER.to_owned(),
            processor: env::consts::ARCH.to_owned(),
            instructions: now,
        };
        fs::write(&file, serde_json::to_string_pretty(&committed)? + "\n")
            .with_context(|| format!("writing {}", file.display()))?;
        println!("renewed {}", file.display());
        return Ok(());
    }
    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let committed: Committed =
        serde_json::from_slice(&text).with_context(|| format!("understanding {}", file.display()))?;
    let comparisons = committed.compare(&now);
    show(arguments.output, &comparisons)?;
    match committed.failure(&comparisons, env::consts::ARCH, COMPILER) {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}

/// The committed figures are beside the code that they describe.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// The command that updates the figures.
const RENEW: &str = "cargo xtask bench instructions --renew";

impl Committed {
    /// Every case that is counted now, with its committed figure.
    pub fn compare(&self, now: &BTreeMap<String, f64>) -> Vec<Comparison> {
        let compare = |(case, now): (&String, &f64)| {
            let committed = self.instructions.get(case).copied();
            Comparison { case: case.clone(), committed, now: *now }
        };
        now.iter().map(compare).collect()
    }

    /// What is wrong, and what to do; `None` if nothing is. Figures of another kind of processor can't be
    /// compared. The table shows that, and it is no failure.
    pub fn failure(&self, comparisons: &[Comparison], processor: &str, compiler: &str) -> Option<String> {
        if processor != self.processor {
            eprintln!("not compared: the committed figures are for {}, this is {processor}", self.processor);
            return None;
        }
        let mut wrong: Vec<String> = comparisons
            .iter()
            .filter_map(|comparison| match comparison.growth() {
                None => Some(format!("{}: no committed figure", comparison.case)),
                Some(growth) if growth > TOLERANCE => Some(format!(
                    "{}: {:.1} instructions for a verdict, {:.1} % more than the committed {:.1}",
                    comparison.case,
                    comparison.now,
                    growth * 100.0,
                    comparison.committed.unwrap_or_default(),
                )),
                Some(_) => None,
            })
            .collect();
        let counted = |case: &&String| comparisons.iter().any(|comparison| comparison.case == **case);
        let gone = self.instructions.keys().filter(|case| !counted(case));
        wrong.extend(gone.map(|case| format!("{case}: a committed figure that is no longer counted")));
        if wrong.is_empty() {
            return None;
        }
        let mut text = wrong.join("\n");
        if compiler != self.compiler {
            text += &format!(
                "\nThe committed figures were counted with {}, these with {compiler}: that may be the cause.",
                self.compiler
            );
        }
        text += &format!("\nIf it is worth its price: {RENEW}, and say in the commit why.");
        Some(text)
    }
}

/// Counts every case.
fn count(program: &Path) -> Result<BTreeMap<String, f64>> {
    let progress = progress(POINTS.len() * 2);
    let mut counted = BTreeMap::new();
    for name in POINTS {
        let point: Point = name.parse()?;
        for packets in [PacketKind::Hit, PacketKind::Miss] {
            let case = format!("{point}, {packets}");
            progress.set_message(case.clone());
            let instructions =
                count_one(program, point, packets).with_context(|| format!("counting {case}"))?;
            // A tenth of an instruction is precise enough.
            counted.insert(case, (instructions * 10.0).round() / 10.0);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(counted)
}

/// Runs the program under callgrind; returns the instructions of one verdict.
fn count_one(program: &Path, point: Point, packets: PacketKind) -> Result<f64> {
    let folder = tempfile::tempdir().context("making a folder for callgrind")?;
    let counts = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*evaluate_counted*"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(program)
        .args([point.to_string(), packets.to_string()])
        .output()
        .context("starting valgrind (Debian's package valgrind)")?;
    if !output.status.success() {
        bail!("valgrind failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let verdicts: u64 =
        String::from_utf8_lossy(&output.stdout).trim().parse().context("how many verdicts")?;
    let counts = fs::read_to_string(&counts).context("reading callgrind's counts")?;
    match total(&counts) {
        Some(instructions) if instructions > verdicts && verdicts > 0 => {
            Ok(instructions as f64 / verdicts as f64)
        }
        _ => bail!("callgrind counted nothing in evaluate_counted: was the program stripped of its symbols?"),
    }
}

/// The total at the end of callgrind's file.
fn total(counts: &str) -> Option<u64> {
    counts.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(instructions: &[(&str, f64)]) -> Committed {
        Committed {
            compiler: "rustc 1".to_owned(),
            processor: "x86_64".to_owned(),
            instructions: instructions.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect(),
        }
    }

    fn failure(
        committed: &Committed,
        now: &[(&str, f64)],
        processor: &str,
        compiler: &str,
    ) -> Option<String> {
        let now = now.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect();
        committed.failure(&committed.compare(&now), processor, compiler)
    }

    #[test]
    fn up_to_three_per_cent_pass() {
        let committed = committed(&[("small, hit", 100.0), ("large, hit", 200.0)]);
        assert_eq!(
            failure(&committed, &[("small, hit", 102.9), ("large, hit", 90.0)], "x86_64", "rustc 1"),
            None
        );
        let text = failure(&committed, &[("small, hit", 103.1), ("large, hit", 200.0)], "x86_64", "rustc 1")
            .unwrap();
        assert!(text.starts_with("small, hit: 103.1 instructions for a verdict, 3.1 % more than"), "{text}");
        assert!(text.contains(RENEW) && !text.contains("large") && !text.contains("rustc"), "{text}");
    }

    #[test]
    fn a_failure_names_another_compiler() {
        let committed = committed(&[("small, hit", 100.0)]);
        let text = failure(&committed, &[("small, hit", 110.0)], "x86_64", "rustc 2").unwrap();
        assert!(text.contains("counted with rustc 1, these with rustc 2"), "{text}");
        assert_eq!(failure(&committed, &[("small, hit", 100.0)], "x86_64", "rustc 2"), None);
    }

    #[test]
    fn figures_of_another_processor_are_not_compared() {
        let committed = committed(&[("small, hit", 100.0)]);
        assert_eq!(failure(&committed, &[("small, hit", 170.0)], "aarch64", "rustc 1"), None);
    }

    #[test]
    fn new_and_removed_cases_need_their_figures() {
        let committed = committed(&[("old, hit", 100.0)]);
        let text = failure(&committed, &[("new, hit", 100.0)], "x86_64", "rustc 1").unwrap();
        assert!(text.contains("new, hit: no committed figure"), "{text}");
        assert!(text.contains("old, hit: a committed figure that is no longer counted"), "{text}");
    }

    #[test]
    fn the_total_is_read_from_callgrinds_file() {
        let counts = "# callgrind format\nevents: Ir\nsummary: 7\n\nfn=(1) main\n16 400\n\ntotals: 123456\n";
        assert_eq!(total(counts), Some(123_456));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn the_committed_cases_are_the_counted_ones() {
        let committed: Committed = serde_json::from_slice(&fs::read(file()).unwrap()).unwrap();
        for name in POINTS {
            for packets in [PacketKind::Hit, PacketKind::Miss] {
                let case = format!("{}, {packets}", name.parse::<Point>().unwrap());
                assert!(committed.instructions.contains_key(&case), "{case}: {RENEW}");
            }
        }
    }
}
