//! Any bytes as a manifest, YAML and JSON: must never panic, and must take no more time than their length
//! allows.
#![no_main]

use std::path::Path;

use cluster::{Interner, manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let interner = Interner::new();
    for name in ["fuzz.yaml", "fuzz.json"] {
        let reading = manifest::read(Path::new(name), bytes, &interner);
        // Whatever is said must be sayable.
        for problem in reading.flaws.iter().chain(&reading.failures).chain(&reading.no_manifest) {
            assert!(!problem.to_string().contains('\n'));
        }
    }
});
