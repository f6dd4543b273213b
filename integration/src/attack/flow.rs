//! A connection between two pods, with access to both ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::port::Transport;
use crate::probe::Family;
use crate::socket;
use crate::testbed::Testbed;

/// How long each step of opening a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's documentation. Both ends have exchanged data.
#[derive(Debug)]
pub struct Flow {
    /// The pod that opened it.
    pub client: String,
    /// The pod that answered.
    pub server: String,
    /// Its protocol.
    pub transport: Transport,
    /// Its family.
    pub family: Family,
    /// The client's address and port.
    pub client_address: SocketAddr,
    /// The server's address and port.
    pub server_address: SocketAddr,
    ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Tcp { client: Option<TcpStream>, server: TcpStream },
    Udp { client: UdpSocket, server: UdpSocket },
}

impl Flow {
    /// Opens a connection from a pod to a port of another pod, on which nothing listens yet.
    pub fn open(
        testbed: &Testbed,
        (client, server): (&str, &str),
        transport: Transport,
        family: Family,
        port: u16,
    ) -> Result<Self> {
        let address = |name: &str| -> Result<_> { Ok(family.of(testbed.addresses(name)?)) };
        let server_address = SocketAddr::new(address(server)?, port);
        let any = SocketAddr::new(address(client)?, 0);
        let (clients, servers) = (testbed.namespace(client)?, testbed.namespace(server)?);
        let doing = || format!("opening a flow from {client} to {server} ({server_address})");
        let (ends, client_address) = match transport {
            Transport::Udp => {
                let server = servers.run(|| UdpSocket::bind(server_address))?.with_context(doing)?;
                let client = clients.run(|| UdpSocket::bind(any))?.with_context(doing)?;
                client.connect(server_address).with_context(doing)?;
                server.connect(client.local_addr()?).with_context(doing)?;
                let address = client.local_addr()?;
                (Ends::Udp { client, server }, address)
            }
            Transport::Tcp => {
                let listener =
                    servers.run(|| socket::listener(Transport::Tcp, server_address))?.with_context(doing)?;
                let attempt = clients
                    .run(|| socket::connection(Transport::Tcp, server_address, TIMEOUT))?
                    .with_context(doing)?;
                let client = attempt.outcome.with_context(doing)?;
                let (server, _) = listener.accept().with_context(doing)?;
                (Ends::Tcp { client: Some(client), server }, attempt.local)
            }
            Transport::Sctp => bail!("flows of SCTP are not supported"),
        };
        let (client, server) = (client.to_owned(), server.to_owned());
        let mut flow = Self { client, server, transport, family, client_address, server_address, ends };
        flow.exchange().with_context(doing)?;
        Ok(flow)
    }

    /// Sends data from the client.
    pub fn client_sends(&mut self, data: &[u8]) -> Result<()> {
        match &mut self.ends {
            Ends::Tcp { client: Some(client), .. } => client.write_all(data)?,
            Ends::Tcp { client: None, .. } => bail!("the client is closed"),
            Ends::Udp { client, .. } => drop(client.send(data)?),
        }
        Ok(())
    }

    /// Sends data from the server.
    pub fn server_sends(&mut self, data: &[u8]) -> Result<()> {
        match &mut self.ends {
            Ends::Tcp { server, .. } => server.write_all(data)?,
            Ends::Udp { server, .. } => drop(server.send(data)?),
        }
        Ok(())
    }

    /// Makes the client's kernel send a TCP RST with the right sequence number, and close the connection.
    pub fn reset_by_client(&mut self) -> Result<()> {
        if let Ends::Tcp { client, .. } = &mut self.ends
            && let Some(client) = client.take()
        {
            setsockopt(&client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        }
        Ok(())
    }

    fn exchange(&mut self) -> Result<()> {
        self.client_sends(b"ping")?;
        self.receive(false).context("waiting for the client's data")?;
        self.server_sends(b"pong")?;
        self.receive(true).context("waiting for the server's data")
    }

    fn receive(&mut self, at_client: bool) -> Result<()> {
        let mut buffer = [0; 16];
        match &mut self.ends {
            Ends::Tcp { client, server } => {
                let end = if at_client { client.as_mut().context("the client is closed")? } else { server };
                end.set_nonblocking(false)?;
                end.set_read_timeout(Some(TIMEOUT))?;
                end.read(&mut buffer).map(drop)?;
            }
            Ends::Udp { client, server } => {
                let end = if at_client { client } else { server };
                end.set_read_timeout(Some(TIMEOUT))?;
                end.recv(&mut buffer).map(drop)?;
            }
        }
        Ok(())
    }
}
