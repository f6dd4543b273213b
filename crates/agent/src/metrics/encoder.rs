//! Writes metrics with their help texts and types.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// See the module. Counters get the suffix `_total`.
pub(super) struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Encoder<'a, 'b> {
    pub(super) fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, &ConstCounter::new(value))
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(value))
    }

    /// A metric without labels.
    pub(super) fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// A counter for each value of one label.
    pub(super) fn counters<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            values.into_iter().map(|(value, count)| ([(label, value)], count)),
            ConstCounter::new,
        )
    }

    /// A gauge for each value of one label.
    pub(super) fn gauges<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            values.into_iter().map(|(value, count)| ([(label, value)], count)),
            ConstGauge::new,
        )
    }

    /// A metric for each set of labels.
    pub(super) fn family<'l, L: AsRef<str>, M: EncodeMetric, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'l str, L); N], u64)>,
        metric: fn(u64) -> M,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, metric(0).metric_type())?;
        for (labels, value) in values {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            metric(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
