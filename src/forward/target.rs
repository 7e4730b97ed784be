//! From a target that was allowed to a TCP connection: resolved once, its addresses checked, and exactly those dialled.
//! Asks no policy but for what a name may lead to.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::reason::Reason;
use crate::policy::{Host, Target, is_trusted_place};

/// What a name must not lead to on this machine: the bridge's own ports.
#[derive(Clone, Debug, Default)]
pub struct OwnPorts(pub Vec<u16>);

/// Connects to a target that may be reached.
pub async fn connect(target: &Target, own: &OwnPorts) -> Result<TcpStream, Reason> {
    let mut reason = Reason::TargetUnreachable;
    for address in addresses(target, own).await? {
        match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => {
                tracing::debug!(%target, %address, %error, "the target does not take a connection")
            }
            Err(_) => tracing::debug!(%target, %address, "the target does not answer"),
        }
        reason = Reason::TargetUnreachable;
    }
    Err(reason)
}

/// The addresses that may be dialled, at least one.
async fn addresses(target: &Target, own: &OwnPorts) -> Result<Vec<SocketAddr>, Reason> {
    let name = match target.host() {
        // Written down as it is: whoever allowed it meant it.
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, target.port())]),
        Host::Name(name) => name,
    };
    let resolved = match timeout(RESOLVE_TIME_MAX, lookup_host((name.as_str(), target.port()))).await {
        Ok(Ok(resolved)) => resolved.take(ADDRESSES_MAX).collect::<Vec<_>>(),
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "the target's name is not known");
            return Err(Reason::TargetUnresolved);
        }
        Err(_) => return Err(Reason::TargetUnresolved),
    };
    if resolved.is_empty() {
        return Err(Reason::TargetUnresolved);
    }
    // All or none: a name that leads to both is not trusted with either.
    if let Some(address) = resolved.iter().find(|address| is_guarded(**address, own)) {
        tracing::warn!(%target, %address, "the target's name leads to an address that only a literal may name");
        return Err(Reason::TargetNotAllowed);
    }
    Ok(resolved)
}

fn is_guarded(address: SocketAddr, own: &OwnPorts) -> bool {
    is_trusted_place(address.ip()) || (own.0.contains(&address.port()) && is_of_this_machine(address.ip()))
}

/// Only addresses of this machine can be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// A name with more is tried no further.
const ADDRESSES_MAX: usize = 4;
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
/// For each address.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_to_the_machine_itself_is_not_dialled() {
        let target = |text| Target::parse(text).unwrap();
        // Every resolver knows this one, and the listener would take it.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let by_address = connect(&target(&format!("127.0.0.1:{port}")), &OwnPorts::default()).await;
        assert!(by_address.is_ok());
        let loopback = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        assert!(is_guarded(loopback, &OwnPorts::default()));
        let own = "0.0.0.0".parse().unwrap();
        assert!(is_of_this_machine(own) && !is_of_this_machine("192.0.2.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_told_from_one_that_is_not_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let reason = |text: String| async move {
            connect(&Target::parse(&text).unwrap(), &OwnPorts::default()).await.unwrap_err()
        };
        assert_eq!(reason(closed.to_string()).await, Reason::TargetUnreachable);
        assert_eq!(reason("does-not-exist.invalid:1".into()).await, Reason::TargetUnresolved);
    }
}
