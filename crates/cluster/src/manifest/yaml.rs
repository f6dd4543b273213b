//! The options of the YAML parser.

/// Options that bound the cost of a hostile text. Content that is written out is bounded by the text itself;
/// content that aliases repeat is bounded here.
pub(super) fn yaml_options() -> serde_saphyr::Options {
    const REPEATED_EVENTS: usize = 20_000;
    serde_saphyr::options! {
        with_snippet: false,
        // Like kubectl, which reads YAML 1.1: `yes` and `off` are not strings, `010` is 8, `1_000` is 1000.
        strict_booleans: false,
        legacy_octal_numbers: true,
        // The meaning of a duplicate field depends on the field.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_recorded_anchor_events: REPEATED_EVENTS,
            max_recorded_anchor_bytes: 16 << 20,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_EVENTS,
        },
    }
}
