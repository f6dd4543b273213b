//! `/metrics`: the values of [`Status`], three histograms and the process metrics, in the OpenMetrics text
//! format.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::durations::Durations;
use crate::health::Health;
use crate::status::Status;

mod encoder;
mod families;
mod process;

use encoder::Encoder;
use process::ProcessCollector;

/// All metrics of an agent.
pub(crate) fn registry(health: &Arc<Health>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessCollector::new()));
    let agent = registry.sub_registry_with_prefix("kube_verdict");
    let Durations { verdict, apply, sweep } = health.durations().clone();
    agent.register("verdict_duration_seconds", "Parsing and evaluating one packet", verdict);
    agent.register(
        "apply_duration_seconds",
        "Applying a snapshot, from its publication until it is in force",
        apply,
    );
    agent.register("sweep_duration_seconds", "Evaluating established connections again", sweep);
    agent.register_collector(Box::new(StatusCollector { health: Arc::clone(health) }));
    registry
}

/// The text of `/metrics`.
pub(crate) fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Reads the status at each scrape, so that no value is stored twice.
#[derive(Debug)]
struct StatusCollector {
    health: Arc<Health>,
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        encode_status(&self.health.status(), encoder)
    }
}

fn encode_status(status: &Status, mut encoder: DescriptorEncoder) -> fmt::Result {
    let mut encoder = Encoder::new(&mut encoder);
    encoder.packets(&status.packets)?;
    encoder.hold(&status.hold)?;
    encoder.queues(&status.queues)?;
    encoder.origins(status.origins.as_ref())?;
    encoder.state(status)?;
    encoder.bypasses(&status.bypasses)?;
    encoder.sweeps(&status.sweeps)?;
    encoder.objects(&status.inventory, &status.problems)?;
    if let Some(source) = &status.source {
        encoder.source(source)?;
    }
    encoder.audit(&status.audit)?;
    if let Some(conntrack) = status.conntrack {
        encoder.conntrack(conntrack)?;
    }
    encoder.info(status)?;
    encoder.policies(&status.policies)?;
    encoder.default_denies(&status.default_denies)
}

#[cfg(test)]
mod tests;
