//! `kube-verdict probe`: checks a running agent, for the kubelet's probes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::client::{self, AgentAddress};
use crate::terminal::Text;
use crate::values::number;
use crate::{exit, http};

const EXAMPLES: &str = "\
Examples:
  Is the agent in the same container ready? (as a container's readiness probe)
    kube-verdict probe ready --http-socket /run/kube-verdict/http.sock
  Is the agent on this node's default port alive?
    kube-verdict probe live

Exit codes: 0 success, 1 failure (also: no agent answers), 2 usage error.";

/// Checks whether the running agent is alive or ready, for the kubelet's probes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Probe {
    /// What to check.
    #[arg(value_enum)]
    check: ProbeKind,

    /// The agent's --http-socket. It tells two agents on one node apart.
    #[arg(long, value_name = "FILE", conflicts_with = "http_port")]
    http_socket: Option<PathBuf>,

    /// The agent's --http-port.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = http::DEFAULT_PORT,
        value_parser = number(1..=u16::MAX, http::DEFAULT_PORT)
    )]
    http_port: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProbeKind {
    /// The agent works and need not be restarted.
    Live,
    /// The agent enforces policy.
    Ready,
}

impl Probe {
    /// Sends the request, and prints the response.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let address = self.http_socket.map_or(AgentAddress::Port(self.http_port), AgentAddress::Socket);
        let path = match self.check {
            ProbeKind::Live => "/livez",
            ProbeKind::Ready => "/readyz",
        };
        let (code, body) = client::get(&address, path)?;
        Text::of_lines(&body).print()?;
        Ok(if code == 200 { exit::SUCCESS } else { exit::FAILURE })
    }
}
