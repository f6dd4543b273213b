//! Access to the API by plain HTTP through `kubectl proxy`, for many objects at once: kubectl itself would
//! need a process for each change of a status.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;

use super::Cluster;
use super::credentials::kubeconfig_name;

/// The URL of the proxy in the control plane's network namespace.
const PROXY: &str = "http://127.0.0.1:8001";

/// The number of requests in flight at a time.
const THREADS: usize = 8;

/// A running proxy, which is stopped when this is dropped.
#[derive(Debug)]
pub struct ApiProxy<'a> {
    cluster: &'a Cluster,
    proxy: Child,
}

/// One request.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// Creates an object in a collection such as `/api/v1/namespaces/shop/pods`.
    Create(String, Value),
    /// Merges a patch into the object or subresource at a path.
    Merge(String, Value),
    /// Deletes the object at a path.
    Delete(String),
}

impl<'a> ApiProxy<'a> {
    /// Starts the proxy.
    pub fn start(cluster: &'a Cluster) -> Result<Self> {
        let kubeconfig = cluster.workdir.join(&kubeconfig_name("admin"));
        let mut proxy = cluster
            .control
            .namespace()
            .run(|| {
                Command::new(cluster.components.program("kubectl"))
                    .args(["proxy", "--port=8001"])
                    .env("KUBECONFIG", kubeconfig)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
            })?
            .context("starting kubectl proxy")?;
        let mut line = String::new();
        if let Some(output) = proxy.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if !line.contains("Starting to serve") {
            bail!("kubectl proxy does not serve: {line}");
        }
        Ok(Self { cluster, proxy })
    }

    /// Sends requests, several at once and in any order. All must succeed, but deleted objects need not
    /// exist.
    pub fn send(&self, requests: &[Request]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let agent = client();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                request.send(&agent)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| self.cluster.control.namespace().run(work).flatten()))
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Watches a collection and passes each event's type and object to `see`, until that returns false.
    pub fn watch(&self, collection: &str, mut see: impl FnMut(&str, &Value) -> bool + Send) -> Result<()> {
        let url = format!("{PROXY}{collection}?watch=1");
        let watched = self.cluster.control.namespace().run(|| -> Result<()> {
            let answer = client().get(&url).call()?;
            for line in BufReader::new(answer.into_body().into_reader()).lines() {
                let event: Value = serde_json::from_str(&line?)?;
                if !see(event["type"].as_str().unwrap_or_default(), &event["object"]) {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        });
        watched.flatten().with_context(|| format!("watching {collection}"))
    }
}

impl Drop for ApiProxy<'_> {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// A client for one thread in the control plane's namespace. The environment's proxy is outside of it.
fn client() -> Agent {
    Agent::config_builder().proxy(None).build().into()
}

impl Request {
    fn send(&self, agent: &Agent) -> Result<()> {
        let sent = match self {
            Self::Create(path, object) => agent
                .post(format!("{PROXY}{path}"))
                .header("content-type", "application/json")
                .send(object.to_string()),
            Self::Merge(path, patch) => agent
                .patch(format!("{PROXY}{path}"))
                .header("content-type", "application/merge-patch+json")
                .send(patch.to_string()),
            Self::Delete(path) => match agent.delete(format!("{PROXY}{path}")).call() {
                Err(ureq::Error::StatusCode(404)) => return Ok(()),
                other => other,
            },
        };
        let mut answer = sent.with_context(|| format!("{self:.60?}"))?;
        // Read to its end, so that the connection is reused.
        answer.body_mut().read_to_vec()?;
        Ok(())
    }
}
