//! Asks the API server once for the permissions of an agent with this configuration, for `doctor`.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::clients::Clients;
use super::discovery::{Availability, availability, unenforced};
use super::error::KubernetesError;
use super::runtime::runtime;
use super::source::Kubernetes;
use crate::convert::Kind;
use crate::error_chain::chain;

/// The timeout of a request.
const ANSWER: Duration = Duration::from_secs(10);

/// The API server's version and the agent's permissions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Review {
    /// The API server's URL.
    pub server: String,
    /// The API server's version, or why it did not answer.
    pub version: Result<String, String>,
    /// The permissions; empty if the API server did not answer.
    pub permissions: Vec<Permission>,
    /// A sentence for each kind of policy that the API server has and that is not enforced.
    pub unenforced: Vec<String>,
}

/// One permission, and whether it is granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permission {
    /// `list`, `watch` or `create`.
    pub verb: &'static str,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// Whether an agent needs it to work.
    pub is_needed: bool,
    /// Whether it is granted, or why that is unknown.
    pub allowed: Result<bool, String>,
}

impl Kubernetes {
    /// Sends the requests and waits for the responses.
    pub fn review(&self) -> Result<Review, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let review = runtime.block_on(async {
            let (clients, server) = Clients::new(self.access.clone(), ANSWER).await?;
            let client = clients.client();
            let version = match timeout(ANSWER, client.apiserver_version()).await {
                Ok(Ok(info)) => Ok(info.git_version),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
            };
            let (mut granted, mut sentences) = (Vec::new(), Vec::new());
            if version.is_ok() {
                granted = permissions(&client).await;
                // Without discovery, nothing is known of other kinds.
                sentences = unenforced(&client).await.unwrap_or_default();
            }
            Ok(Review { server, version, permissions: granted, unenforced: sentences })
        });
        runtime.shutdown_background();
        review
    }
}

async fn permissions(client: &Client) -> Vec<Permission> {
    let mut asked: Vec<(&'static str, String, String, bool)> = Vec::new();
    for kind in Kind::ALL {
        // A kind that is not installed needs no permission.
        if availability(client, kind).await.is_ok_and(|availability| availability == Availability::Absent) {
            continue;
        }
        let is_needed = kind != Kind::Node && !kind.is_custom();
        for verb in ["list", "watch"] {
            asked.push((verb, kind.group().into_owned(), kind.plural().into_owned(), is_needed));
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
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}
