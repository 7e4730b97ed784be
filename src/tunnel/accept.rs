//! The hub's first look at a socket: a PROXY header of a trusted load balancer, then the link's TLS directly, or an
//! upgrade to WebSocket by an ingress that ended TLS. Knows no edge yet, and reads no more than it needs.

use std::net::SocketAddr;
use std::sync::OnceLock;

use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::carrier::{Carrier, Way};
use super::connection::{UNAUTHENTICATED_READ_MAX, reason_of};
use super::forwarded::{
    self, BadHeader, Caller, V1_LEN_MAX, V1_START, V2_HEAD_LEN, V2_SIGNATURE, is_trusted,
};
use super::gate::Ticket;
use super::meter::{Meter, MeteredSocket};
use super::reason::Reason;
use super::upgrade::{self, HeadError, read_head};
use super::welcome::linger;

/// One arrival.
pub(super) struct Arrival<'a> {
    pub(super) remote: SocketAddr,
    pub(super) trusted: &'a [IpNet],
    pub(super) ticket: &'a Ticket,
    /// Who calls, as soon as that is known.
    pub(super) caller: &'a OnceLock<Caller>,
}

impl Arrival<'_> {
    /// Who calls, as far as it is known.
    pub(super) fn caller(&self) -> Caller {
        self.caller.get().cloned().unwrap_or_else(|| Caller::of(self.remote))
    }

    /// What the link's TLS stands on.
    pub(super) async fn receive(&self, socket: TcpStream) -> Result<Carrier, Reason> {
        let socket = MeteredSocket::new(socket, Meter::new(UNAUTHENTICATED_READ_MAX));
        let mut socket = socket.map_err(|error| reason_of(&error))?;
        let mut caller = Caller::of(self.remote);
        let is_trusted_here = is_trusted(self.remote.ip(), self.trusted);
        let mut believes_header = true;
        let mut first = socket.first_byte().await.map_err(|error| reason_of(&error))?;
        if first == V1_START[0] || first == V2_SIGNATURE[0] {
            let told = proxy_header(&mut socket, first).await?;
            // Whose word it is counts only now: a stranger's garbage is not a header.
            if !is_trusted_here {
                return Err(Reason::ProxyHeader);
            }
            match told {
                Some(source) => {
                    caller = Caller::told(source, self.remote);
                    // Before it says anything: its silence shall count under its own address.
                    if !is_trusted(source.ip(), self.trusted) {
                        self.name(caller.clone());
                    }
                }
                // It speaks for nobody that it knows, so what follows may be anybody's word.
                None => believes_header = false,
            }
            first = socket.first_byte().await.map_err(|error| reason_of(&error))?;
        }
        if first != HTTP_GET {
            self.name(caller);
            return Ok(Carrier::direct(socket, Way { transport: Way::TLS, proxy: None, ended_by: None }));
        }
        self.upgraded(socket, caller, believes_header).await
    }

    async fn upgraded(
        &self,
        mut socket: MeteredSocket,
        caller: Caller,
        believes_header: bool,
    ) -> Result<Carrier, Reason> {
        let judged = match read_head(&mut socket).await {
            Ok(head) => upgrade::judge_request(&head),
            Err(HeadError::Io(error)) => return Err(reason_of(&error)),
            Err(HeadError::TooLong | HeadError::Early(_)) => return Err(Reason::NotABridge),
        };
        let asked = match judged {
            Ok(asked) => asked,
            Err(answer) => {
                self.name(caller);
                socket.write_all(answer.as_bytes()).await.map_err(|error| reason_of(&error))?;
                linger(&mut socket).await;
                return Err(Reason::NotABridge);
            }
        };
        self.name(match believes_header {
            true => caller.forwarded_for(&asked.forwarded_for, self.trusted, self.remote),
            false => caller,
        });
        socket.write_all(asked.answer.as_bytes()).await.map_err(|error| reason_of(&error))?;
        socket.meter().lower_read_max(socket.meter().bytes_in() + UPGRADED_READ_MAX);
        Ok(Carrier::upgraded(socket).await)
    }

    /// From here on the socket counts under this address.
    fn name(&self, caller: Caller) {
        self.ticket.name(caller.ip());
        // Once for each arrival.
        _ = self.caller.set(caller);
    }
}

async fn proxy_header(socket: &mut MeteredSocket, first: u8) -> Result<Option<SocketAddr>, Reason> {
    let bad = |_: BadHeader| Reason::NotABridge;
    if first == V2_SIGNATURE[0] {
        let mut head = [0; V2_HEAD_LEN];
        socket.read_exact(&mut head).await.map_err(|error| reason_of(&error))?;
        let mut rest = vec![0; forwarded::version_2_len(&head).map_err(bad)?];
        socket.read_exact(&mut rest).await.map_err(|error| reason_of(&error))?;
        return forwarded::version_2(&head, &rest).map_err(bad);
    }
    // Byte by byte: what follows the line is not ours to take.
    let mut line = Vec::with_capacity(V1_LEN_MAX);
    while !line.ends_with(b"\r\n") {
        line.push(socket.read_u8().await.map_err(|error| reason_of(&error))?);
        let known = line.len().min(V1_START.len());
        if line[..known] != V1_START[..known] || line.len() > V1_LEN_MAX {
            return Err(Reason::NotABridge);
        }
    }
    forwarded::version_1(&line).map_err(bad)
}

/// What an unauthenticated peer may send inside a WebSocket: a handshake has a third of it, with long certificates half. The frames' buffers come on
/// top of what they hold, and with them 256 such callers stay below 32 MiB.
const UPGRADED_READ_MAX: u64 = 24 * 1024;
/// The first letter of the one method that an upgrade has. TLS begins with 0x16.
const HTTP_GET: u8 = b'G';
