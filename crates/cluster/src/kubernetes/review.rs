//! Asks the API server once what an agent with this configuration would be allowed: for `doctor`.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::{Kubernetes, KubernetesError, failure, runtime};
use crate::convert::Kind;

/// Whoever asks waits no longer.
const ANSWER: Duration = Duration::from_secs(10);

/// What the API server says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Review {
    /// Its URL.
    pub server: String,
    /// Its version, or why it doesn't answer.
    pub version: Result<String, String>,
    /// What is allowed; empty where it doesn't answer.
    pub permissions: Vec<Permission>,
}

/// Whether something is allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permission {
    /// `list`, `watch` or `create`.
    pub verb: &'static str,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// Whether an agent can't work without it.
    pub is_needed: bool,
    /// The answer, or why there is none.
    pub allowed: Result<bool, String>,
}

impl Kubernetes {
    /// Asks, and waits for the answers.
    pub fn review(&self) -> Result<Review, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let review = runtime.block_on(async {
            let (client, server) = self.connect().await?;
            let version = match timeout(ANSWER, client.apiserver_version()).await {
                Ok(Ok(info)) => Ok(info.git_version),
                Ok(Err(error)) => Err(failure::chain(&error)),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
            };
            let permissions = if version.is_ok() { permissions(&client).await } else { Vec::new() };
            Ok(Review { server, version, permissions })
        });
        runtime.shutdown_background();
        review
    }
}

async fn permissions(client: &Client) -> Vec<Permission> {
    let mut asked: Vec<(&'static str, String, String, bool)> = Vec::new();
    for kind in Kind::ALL {
        for verb in ["list", "watch"] {
            asked.push((verb, kind.group().into_owned(), kind.plural().into_owned(), kind != Kind::Node));
        }
    }
    asked.push(("create", String::new(), "events".to_owned(), false));
    let mut permissions = Vec::with_capacity(asked.len());
    for (verb, group, resource, is_needed) in asked {
        let allowed = is_allowed(client, verb, &group, &resource).await;
        permissions.push(Permission { verb, group, resource, is_needed, allowed });
    }
    permissions
}

async fn is_allowed(client: &Client, verb: &str, group: &str, resource: &str) -> Result<bool, String> {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    match timeout(ANSWER, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(answer)) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Ok(Err(error)) => Err(failure::chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}
