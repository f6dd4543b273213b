//! A pod as a workload's template describes it.

use policy::{Change, Pod, Protocol};
use serde_json::{Map, Value, json};

use super::ContainerPort;
use super::kind::WorkloadKind;
use crate::convert::{self, Duplicate, FieldPath, Flaw, Kind, Step, Unusable};
use crate::interner::Interner;

/// The pod of a template, its container ports, and what was not understood.
pub(super) struct Template {
    pub pod: Pod,
    pub ports: Vec<ContainerPort>,
    /// With paths from the root of the workload.
    pub flaws: Vec<Flaw>,
}

/// Converts the template of a workload, as a Pod with the workload's namespace and name.
pub(super) fn template(
    kind: WorkloadKind,
    fields: &Value,
    duplicates: &[Duplicate],
    interner: &Interner,
) -> Result<Template, Unusable> {
    let steps: Vec<Step> = kind.template().iter().map(|name| Step::Field((*name).to_owned())).collect();
    let template = kind.template().iter().try_fold(fields, |value, name| value.get(name));
    let template = template.filter(|template| template.is_object()).ok_or_else(|| Unusable {
        at: FieldPath(steps.clone()),
        what: "there is no pod template".to_owned(),
    })?;
    let pod = if steps.is_empty() { template.clone() } else { pod_of(fields, template) };
    let within = |duplicate: &Duplicate| -> Option<Duplicate> {
        let below = duplicate.at.0.strip_prefix(steps.as_slice())?;
        let mut duplicate = duplicate.clone();
        duplicate.at = FieldPath(below.to_vec());
        Some(duplicate)
    };
    let duplicates: Vec<Duplicate> = duplicates.iter().filter_map(within).collect();
    // The namespace and name are the workload's own; all other fields are the template's.
    let outside = |at: FieldPath| {
        let own = ["namespace", "name"].map(|name| [field("metadata"), field(name)]);
        let is_own = own.iter().any(|path| at.0.starts_with(path)) || at.0 == [field("metadata")];
        if is_own { at } else { FieldPath(steps.iter().cloned().chain(at.0).collect()) }
    };
    let converted = convert::convert(Kind::Pod, &pod, &duplicates, interner)
        .map_err(|Unusable { at, what }| Unusable { at: outside(at), what })?;
    let flaws = converted.flaws.into_iter().map(|flaw| Flaw { at: outside(flaw.at), ..flaw }).collect();
    let Change::Pod(pod_spec) = converted.change else { unreachable!("a Pod converts to a pod") };
    Ok(Template { pod: pod_spec, ports: container_ports(&pod), flaws })
}

fn field(name: &str) -> Step {
    Step::Field(name.to_owned())
}

/// A Pod with the workload's namespace and name.
fn pod_of(fields: &Value, template: &Value) -> Value {
    let own = &fields["metadata"];
    let mut metadata = match &template["metadata"] {
        Value::Object(metadata) => metadata.clone(),
        Value::Null => Map::new(),
        // Not understood: the conversion reports it.
        other => return json!({"metadata": other, "spec": template["spec"]}),
    };
    for name in ["name", "namespace"] {
        match own.get(name) {
            Some(value) => drop(metadata.insert(name.to_owned(), value.clone())),
            None => drop(metadata.remove(name)),
        }
    }
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// The ports of containers and sidecars (semantics 19). Entries that can't be understood are flaws of the
/// conversion if they have a name; without a name, no rule depends on them.
fn container_ports(pod: &Value) -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    for (list, sidecars_only) in [("containers", false), ("initContainers", true)] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            if sidecars_only && container["restartPolicy"].as_str() != Some("Always") {
                continue;
            }
            ports.extend(container["ports"].as_array().into_iter().flatten().filter_map(container_port));
        }
    }
    ports.sort();
    ports.dedup();
    ports
}

fn container_port(entry: &Value) -> Option<ContainerPort> {
    let number = u16::try_from(entry["containerPort"].as_u64()?).ok()?;
    let protocol = match &entry["protocol"] {
        Value::Null => Protocol::TCP,
        protocol => protocol.as_str()?.parse().ok()?,
    };
    let name = entry["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    Some(ContainerPort { protocol, number, name })
}
