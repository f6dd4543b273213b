//! Who is who in the cluster: one authority, the API server's certificate, a key for service accounts, and a token for
//! each client.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::place::Place;

const AUTHORITY: &str = "pki/ca.crt";
const CERTIFICATE: &str = "pki/apiserver.crt";
const KEY: &str = "pki/apiserver.key";
const SERVICE_ACCOUNTS: &str = "pki/service-accounts.key";
const SERVICE_ACCOUNTS_PUBLIC: &str = "pki/service-accounts.pub";
const TOKENS: &str = "pki/tokens.csv";

/// The files that the API server and its clients are started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The API server's certificate.
    pub certificate: PathBuf,
    /// The API server's key.
    pub key: PathBuf,
    /// The key that signs the tokens of service accounts.
    pub service_accounts: PathBuf,
    /// Its public half, by which they are verified.
    pub service_accounts_public: PathBuf,
    /// The tokens of clients, as the API server's `--token-auth-file` takes them.
    pub tokens: PathBuf,
}

/// A client of the API server, known by a token.
struct Client {
    /// The name of its kubeconfig.
    name: String,
    user: String,
    group: &'static str,
}

impl Credentials {
    /// Makes all of them, with a kubeconfig for the administrator, each node and kube-proxy.
    pub fn make(place: &Place, server: &str, names: &[&str], nodes: &[String]) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "cluster");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let server_key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut server_certificate = CertificateParams::new(names)?;
        server_certificate.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server_certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_certificate = server_certificate.signed_by(&server_key, &issuer)?;

        let mut clients = vec![
            Client { name: "admin".to_owned(), user: "admin".to_owned(), group: "system:masters" },
            Client {
                name: "kube-proxy".to_owned(),
                user: "system:kube-proxy".to_owned(),
                group: "system:authenticated",
            },
        ];
        clients.extend(nodes.iter().map(|node| Client {
            name: node.clone(),
            user: format!("system:node:{node}"),
            group: "system:nodes",
        }));
        let authority = place.write(AUTHORITY, &authority_certificate.pem())?;
        let mut tokens = String::new();
        for client in &clients {
            let token = random_token()?;
            tokens.push_str(&format!("{token},{0},{0},{1}\n", client.user, client.group));
            place.write(&kubeconfig_name(&client.name), &kubeconfig(server, &authority, &token))?;
        }
        place.write(CERTIFICATE, &server_certificate.pem())?;
        place.write(KEY, &server_key.serialize_pem())?;
        let service_accounts = KeyPair::generate()?;
        place.write(SERVICE_ACCOUNTS, &service_accounts.serialize_pem())?;
        place.write(SERVICE_ACCOUNTS_PUBLIC, &service_accounts.public_key_pem())?;
        place.write(TOKENS, &tokens)?;
        Ok(Self::of(place))
    }

    /// Those that were made before.
    pub fn of(place: &Place) -> Self {
        Self {
            authority: place.join(AUTHORITY),
            certificate: place.join(CERTIFICATE),
            key: place.join(KEY),
            service_accounts: place.join(SERVICE_ACCOUNTS),
            service_accounts_public: place.join(SERVICE_ACCOUNTS_PUBLIC),
            tokens: place.join(TOKENS),
        }
    }
}

/// The kubeconfig of a client, in the cluster's folder.
pub fn kubeconfig_name(client: &str) -> String {
    format!("kubeconfig/{client}")
}

/// A kubeconfig. JSON is YAML.
fn kubeconfig(server: &str, authority: &Path, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "context",
    })
    .to_string()
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
