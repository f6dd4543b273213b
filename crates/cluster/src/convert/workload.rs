//! The workload that controls a pod, for records.
//!
//! From: the pod's own metadata. ReplicaSets and Jobs are not read, so their owners are derived from the
//! names that Kubernetes' controllers give. What can't be derived with certainty stays the direct owner.
//! Invariant: the workload decides no verdict, so an owner that can't be read is ignored.

use policy::{Labels, Workload};
use serde_json::Value;

use super::field_ref::FieldRef;
use crate::interner::Interner;

/// The label with the hash at the end of the name of a Deployment's ReplicaSet
/// (`apps.DefaultDeploymentUniqueLabelKey`). Other controllers of ReplicaSets use other labels.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// How long after its scheduled time a CronJob's Job may create a pod, in seconds.
const MOST_SECONDS_LATE: i64 = 24 * 3600;

/// The workload of a pod with these labels, which was created at this time in seconds since 1970: its
/// controller, the Deployment of that ReplicaSet, or the CronJob of that Job.
pub(super) fn of(
    object: &FieldRef<'_>,
    labels: &Labels,
    created: i64,
    interner: &Interner,
) -> Option<Workload> {
    let owners = object.value.get("metadata")?.get("ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let text = |name: &str| owner.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (kind, name) = (text("kind")?, text("name")?);
    let group = text("apiVersion")?.split_once('/').map_or("", |(group, _)| group);
    let (kind, name) = match (group, kind) {
        ("apps", "ReplicaSet") => {
            deployment(name, labels).map_or((kind, name), |deployment| ("Deployment", deployment))
        }
        ("batch", "Job") => cron_job(name, created).map_or((kind, name), |cron_job| ("CronJob", cron_job)),
        _ => (kind, name),
    };
    Some(Workload { kind: interner.text(kind), name: interner.text(name) })
}

/// The Deployment of a ReplicaSet: its name is that of the Deployment, a hyphen, and the hash in the pods'
/// label.
fn deployment<'a>(replica_set: &'a str, labels: &Labels) -> Option<&'a str> {
    let hash = labels.value(POD_TEMPLATE_HASH).filter(|hash| !hash.is_empty())?;
    let name = replica_set.strip_suffix(hash)?.strip_suffix('-')?;
    (!name.is_empty()).then_some(name)
}

/// The CronJob of a Job: the Job's name is that of the CronJob, a hyphen, and the scheduled time in minutes
/// since 1970 (`getJobName` in Kubernetes' CronJob controller). Other names may end in a number, too, so that
/// time must be shortly before the pod's creation.
fn cron_job(job: &str, created: i64) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    if name.is_empty() || !minutes.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scheduled = minutes.parse::<i64>().ok()?.checked_mul(60)?;
    (0..=MOST_SECONDS_LATE).contains(&created.checked_sub(scheduled)?).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-01-31T12:00:30Z.
    const CREATED: i64 = 1_769_860_830;

    type PodLabels<'a> = &'a [(&'a str, &'a str)];

    fn workload(owners: Value, labels: PodLabels<'_>) -> Option<String> {
        let object = json!({"metadata": {"ownerReferences": owners}});
        let labels: Labels = labels.iter().copied().collect();
        let found = of(&FieldRef::root(&object), &labels, CREATED, &Interner::new());
        found.map(|Workload { kind, name }| format!("{kind}/{name}"))
    }

    fn controlled_by(api: &str, kind: &str, name: &str) -> Value {
        json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "bystander"},
            {"apiVersion": api, "kind": kind, "name": name, "controller": true}
        ])
    }

    #[test]
    fn the_workload_is_the_controller_or_its_owner_where_names_prove_it() {
        let hash = [("pod-template-hash", "5d4f8c7b9")];
        let cases: [(Value, PodLabels<'_>, Option<&str>); 13] = [
            (controlled_by("apps/v1", "ReplicaSet", "web-5d4f8c7b9"), &hash, Some("Deployment/web")),
            (controlled_by("apps/v1", "ReplicaSet", "web-5d4f8c7b9"), &[], Some("ReplicaSet/web-5d4f8c7b9")),
            (controlled_by("apps/v1", "ReplicaSet", "web-other"), &hash, Some("ReplicaSet/web-other")),
            (controlled_by("apps/v1", "ReplicaSet", "-5d4f8c7b9"), &hash, Some("ReplicaSet/-5d4f8c7b9")),
            (
                controlled_by("example.com/v1", "ReplicaSet", "web-5d4f8c7b9"),
                &hash,
                Some("ReplicaSet/web-5d4f8c7b9"),
            ),
            (controlled_by("apps/v1", "StatefulSet", "db"), &[], Some("StatefulSet/db")),
            // 29,497,680 minutes are 12:00:00 on that day.
            (controlled_by("batch/v1", "Job", "backup-29497680"), &[], Some("CronJob/backup")),
            (controlled_by("batch/v1", "Job", "backup-29497681"), &[], Some("Job/backup-29497681")),
            (controlled_by("batch/v1", "Job", "import-20260131"), &[], Some("Job/import-20260131")),
            (controlled_by("batch/v1", "Job", "import"), &[], Some("Job/import")),
            (controlled_by("v1", "Node", "node-a"), &[], Some("Node/node-a")),
            (json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"}]), &[], None),
            (json!("nonsense"), &[], None),
        ];
        for (owners, labels, expected) in cases {
            assert_eq!(workload(owners.clone(), labels).as_deref(), expected, "{owners}");
        }
    }
}
