//! Parses arbitrary bytes as a manifest, as YAML and as JSON. Must never panic, and must not take
//! disproportionate time for their length.
#![no_main]

use std::path::Path;

use cluster::{Interner, manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let interner = Interner::new();
    for name in ["fuzz.yaml", "fuzz.json"] {
        let reading = manifest::read(Path::new(name), bytes, &interner);
        // Every problem must format as one line.
        for problem in reading.flaws.iter().chain(&reading.failures).chain(&reading.no_manifest) {
            assert!(!problem.to_string().contains('\n'));
        }
    }
});
