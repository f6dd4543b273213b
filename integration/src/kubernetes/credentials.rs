//! The credentials of a cluster: a certificate authority, the API server's certificate, a key for service
//! accounts, and a token for each client.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::workdir::Workdir;

const AUTHORITY: &str = "pki/ca.crt";
const CERTIFICATE: &str = "pki/apiserver.crt";
const KEY: &str = "pki/apiserver.key";
const SERVICE_ACCOUNTS: &str = "pki/service-accounts.key";
const SERVICE_ACCOUNTS_PUBLIC: &str = "pki/service-accounts.pub";
const TOKENS: &str = "pki/tokens.csv";

/// The files with which the API server and its clients are started.
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
    /// The public key by which these tokens are verified.
    pub service_accounts_public: PathBuf,
    /// The tokens of clients, in the format of the API server's `--token-auth-file`.
    pub tokens: PathBuf,
}

/// A client of the API server, which authenticates with a token.
struct Client {
    /// The name of its kubeconfig.
    name: String,
    user: String,
    group: &'static str,
}

impl Credentials {
    /// Creates all of them, and a kubeconfig for the administrator, each node and kube-proxy.
    pub fn make(workdir: &Workdir, server: &str, names: &[&str], nodes: &[String]) -> Result<Self> {
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
        let authority = workdir.write(AUTHORITY, &authority_certificate.pem())?;
        let mut tokens = String::new();
        for client in &clients {
            let token = random_token()?;
            tokens.push_str(&format!("{token},{0},{0},{1}\n", client.user, client.group));
            workdir.write(&kubeconfig_name(&client.name), &kubeconfig(server, &authority, &token))?;
        }
        workdir.write(CERTIFICATE, &server_certificate.pem())?;
        workdir.write(KEY, &server_key.serialize_pem())?;
        let service_accounts = KeyPair::generate()?;
        workdir.write(SERVICE_ACCOUNTS, &service_accounts.serialize_pem())?;
        workdir.write(SERVICE_ACCOUNTS_PUBLIC, &service_accounts.public_key_pem())?;
        workdir.write(TOKENS, &tokens)?;
        Ok(Self::of(workdir))
    }

    /// The credentials that [`Credentials::make`] created.
    pub fn of(workdir: &Workdir) -> Self {
        Self {
            authority: workdir.join(AUTHORITY),
            certificate: workdir.join(CERTIFICATE),
            key: workdir.join(KEY),
            service_accounts: workdir.join(SERVICE_ACCOUNTS),
            service_accounts_public: workdir.join(SERVICE_ACCOUNTS_PUBLIC),
            tokens: workdir.join(TOKENS),
        }
    }
}

/// The path of a client's kubeconfig in the cluster's folder.
pub fn kubeconfig_name(client: &str) -> String {
    format!("kubeconfig/{client}")
}

/// A kubeconfig as JSON, which is also YAML.
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
