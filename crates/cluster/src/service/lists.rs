//! Reads the Services of a source, once.

use std::io;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use tokio::time::timeout;

use super::{Service, Services};
use crate::error_chain::chain;
use crate::folder::{Folder, contents};
use crate::kubernetes::{Access, Clients, KubernetesError, runtime};
use crate::manifest;
use crate::problem::{Problem, ProblemLocation};

/// The timeout of a request.
const ANSWER: Duration = Duration::from_secs(10);

/// How many Services one request returns at most.
const PAGE: u32 = 500;

/// The effect of a Service that is not understood.
const NOT_RESOLVED: &str = "the Service is not resolved to its pods";

impl Services {
    /// The Services in a folder of manifests. Of a Service that occurs more than once, the last one counts,
    /// in the order of paths and then of documents. Files that can't be parsed have none; reading the folder
    /// as a source reports them.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn in_folder(path: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        for path in Folder::manifests(path) {
            for object in manifest::values(&contents(&path)?) {
                if object["apiVersion"] == "v1" && object["kind"] == "Service" {
                    let location = ProblemLocation::whole_file(&path);
                    found.add(object_name(&object), location, Service::from_value(object));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The Services of a cluster. The inner error is a sentence; a retry may succeed.
    ///
    /// # Errors
    /// [`KubernetesError`] if no API server is configured or the configuration is unusable.
    pub fn of_cluster(access: &Access) -> Result<Result<Self, String>, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let answer = runtime.block_on(async {
            let (clients, server) = Clients::new(access.clone(), ANSWER).await?;
            let api: Api<core::Service> = Api::all(clients.client());
            let mut found = Self::default();
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let list = match timeout(ANSWER, api.list(&page)).await {
                    Ok(Ok(list)) => list,
                    Ok(Err(error)) => return Ok(Err(chain(&error))),
                    Err(_) => {
                        return Ok(Err(format!("{server} does not answer within {} s", ANSWER.as_secs())));
                    }
                };
                for object in list.items {
                    let version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
                    let location = ProblemLocation::Api { resource_version: version };
                    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
                    let name = format!("{namespace}/{}", object.metadata.name.as_deref().unwrap_or_default());
                    found.add(name, location, object.try_into());
                }
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
            found.sort();
            Ok(Ok(found))
        });
        runtime.shutdown_background();
        answer
    }

    fn add(&mut self, name: String, location: ProblemLocation, service: Result<Service, String>) {
        match service {
            Ok(service) => self.services.push(service),
            Err(what) => self.problems.push(Problem {
                location,
                object: Some(format!("Service {name}")),
                what,
                effect: NOT_RESOLVED.to_owned(),
            }),
        }
    }

    /// Sorts them. Of equal names, the last one counts.
    fn sort(&mut self) {
        fn order(service: &Service) -> (&str, &str) {
            (&service.namespace, &service.name)
        }
        self.services.reverse();
        self.services.sort_by(|a, b| order(a).cmp(&order(b)));
        self.services.dedup_by(|later, first| order(later) == order(first));
        self.problems.sort();
    }
}

/// `db/orders`, as far as the object has a name.
fn object_name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    match text("namespace") {
        namespace if namespace.is_empty() => text("name"),
        namespace => format!("{namespace}/{}", text("name")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn services_are_found_in_files_documents_and_lists() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        write(
            "a.yaml",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1}}\n---\n\
             {apiVersion: v1, kind: Pod, metadata: {name: no-service}}\n---\n\
             {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: other}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: wrong}, spec: {ports: [{port: x}]}}\n",
        );
        write(
            "b.json",
            r#"{"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "namespace": "db"}}]}"#,
        );
        write(
            "c.yml",
            "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}, spec: {clusterIP: 10.96.0.2}}]\n",
        );
        write("broken.yaml", "{");
        let found = Services::in_folder(folder.path()).expect("read");
        let names: Vec<_> = found.services.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["db/b", "default/a"]);
        let at = |address: &str| found.at(address.parse().expect("address")).map(ToString::to_string);
        assert_eq!(at("10.96.0.2").as_deref(), Some("default/a"), "the last one counts");
        assert_eq!(at("10.96.0.1"), None);
        assert!(found.named("db", "b").is_some() && found.named("db", "a").is_none());
        let [problem] = &found.problems[..] else { panic!("{:?}", found.problems) };
        let text = problem.to_string();
        assert!(text.contains("Service wrong: ") && text.contains(NOT_RESOLVED), "{text}");
    }
}
