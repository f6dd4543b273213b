//! `kube-verdict probe`: one question to a running agent, for the kubelet.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::client::{self, Place};
use crate::terminal::Text;
use crate::values::number;
use crate::{exit, http};

const EXAMPLES: &str = "\
Examples:
  As a container's readiness probe, asking the agent of the same container:
    kube-verdict probe ready --http-socket /run/kube-verdict/http.sock
  Whether any agent of this node needs to be started anew:
    kube-verdict probe live

Exit codes: 0 yes, 1 no, or no agent answers, 2 the command line is wrong.";

/// Asks the running agent one question, as probes do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Probe {
    /// What to ask.
    #[arg(value_enum)]
    question: Question,

    /// The agent's --http-socket: two agents of one node differ by it.
    #[arg(long, value_name = "FILE", conflicts_with = "http_port")]
    http_socket: Option<PathBuf>,

    /// The agent's --http-port.
    #[arg(long, value_name = "PORT", default_value_t = http::DEFAULT_PORT, value_parser = number(1..=u16::MAX, http::DEFAULT_PORT))]
    http_port: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    /// Whether it works, and need not be started anew.
    Live,
    /// Whether policy is in force.
    Ready,
}

impl Probe {
    /// Asks, and prints the answer.
    pub fn run(self) -> anyhow::Result<u8> {
        let place = self.http_socket.map_or(Place::Port(self.http_port), Place::Socket);
        let path = match self.question {
            Question::Live => "/livez",
            Question::Ready => "/readyz",
        };
        let (code, body) = client::get(&place, path)?;
        Text::of_lines(&body).print()?;
        Ok(if code == 200 { exit::FINE } else { exit::WRONG })
    }
}
