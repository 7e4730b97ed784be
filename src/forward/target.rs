//! From a target that was allowed to a TCP connection: resolved once, its addresses judged, and exactly those dialled.
//! Asks no policy but for what a name may lead to.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::reason::Reason;
use crate::policy::{Host, Target, is_trusted_place};

/// How targets are found and dialled from here.
#[derive(Debug)]
pub struct Targets {
    /// The bridge's own ports, which no name may lead to on this machine.
    own: Vec<u16>,
    /// The system resolves names in threads that wait: a resolver that does not answer must not take them all.
    resolving: Arc<Semaphore>,
}

impl Targets {
    /// Past these ports.
    pub fn new(own: Vec<u16>) -> Self {
        Self { own, resolving: Arc::new(Semaphore::new(RESOLVING_MAX)) }
    }

    /// Connects to a target that may be reached.
    pub async fn connect(&self, target: &Target) -> Result<TcpStream, Reason> {
        for address in self.addresses(target).await? {
            match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => {
                    tracing::debug!(%target, %address, %error, "the target does not take a connection")
                }
                Err(_) => tracing::debug!(%target, %address, "the target does not answer"),
            }
        }
        Err(Reason::TargetUnreachable)
    }

    /// The addresses that may be dialled, at least one.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Reason> {
        let name = match target.host() {
            // Written down as it is: whoever allowed it meant it.
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, target.port())]),
            Host::Name(name) => name,
        };
        let port = target.port();
        let name = name.clone();
        let lookup = async move {
            let found = lookup_host((name.as_str(), port)).await?;
            Ok(found.take(ADDRESSES_MAX).collect())
        };
        let resolved = timeout(RESOLVE_TIME_MAX, self.resolve(lookup)).await;
        let resolved = resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let resolved = resolved.map_err(|error| {
            tracing::debug!(%target, %error, "the target's name is not known");
            Reason::TargetUnresolved
        })?;
        let is_own =
            |address: SocketAddr| self.own.contains(&address.port()) && is_of_this_machine(address.ip());
        match judge(&resolved, is_own) {
            Ok(()) => Ok(resolved),
            Err(None) => Err(Reason::TargetUnresolved),
            Err(Some(address)) => {
                tracing::warn!(%target, %address, "the target's name leads to an address that only a literal may name");
                Err(Reason::TargetNotAllowed)
            }
        }
    }

    /// What a lookup finds, in its turn. It keeps its place until it has ended, whoever still waits for it.
    async fn resolve(
        &self,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let place = self.resolving.clone().acquire_owned().await.map_err(io::Error::other)?;
        let looking = tokio::spawn(async move {
            let found = lookup.await;
            drop(place);
            found
        });
        looking.await.map_err(io::Error::other)?
    }
}

/// Whether what a name leads to may be dialled: all of it or nothing, since a name that leads to both is not trusted
/// with either. Names the address that must not be, where there is one.
fn judge(resolved: &[SocketAddr], is_own: impl Fn(SocketAddr) -> bool) -> Result<(), Option<SocketAddr>> {
    let guarded = resolved.iter().find(|address| is_trusted_place(address.ip()) || is_own(**address));
    match guarded {
        Some(address) => Err(Some(*address)),
        None if resolved.is_empty() => Err(None),
        None => Ok(()),
    }
}

/// Only addresses of this machine can be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// A name with more is tried no further.
const ADDRESSES_MAX: usize = 4;
/// Lookups at once: few of the threads that the runtime has for what waits (512).
const RESOLVING_MAX: usize = 16;
/// With the wait for a turn.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
/// For each address.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_leads_to_is_dialled_as_a_whole_or_not_at_all() {
        let own = |address: SocketAddr| address == "192.0.2.1:8001".parse().unwrap();
        for (addresses, guarded) in [
            (&["10.0.0.7:22", "[2001:db8::7]:22"][..], None),
            (&["192.0.2.1:22", "192.0.2.2:8001"], None),
            (&["10.0.0.7:22", "127.0.0.1:22"], Some("127.0.0.1:22")),
            (&["192.0.2.1:8001"], Some("192.0.2.1:8001")),
            (&["169.254.169.254:80"], Some("169.254.169.254:80")),
            (&["[::ffff:169.254.169.254]:80"], Some("[::ffff:169.254.169.254]:80")),
            (&["168.63.129.16:80"], Some("168.63.129.16:80")),
            (&["[fd20:ce::254]:80"], Some("[fd20:ce::254]:80")),
            (&["[64:ff9b::127.0.0.1]:80"], Some("[64:ff9b::7f00:1]:80")),
        ] {
            let resolved: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let expected = guarded.map_or(Ok(()), |text| Err(Some(text.parse().unwrap())));
            assert_eq!(judge(&resolved, own), expected, "{addresses:?}");
        }
        assert_eq!(judge(&[], own), Err(None));
    }

    #[test]
    fn addresses_of_this_machine_are_told_from_others() {
        let here = |text: &str| is_of_this_machine(text.parse().unwrap());
        assert!(here("127.0.0.1") && here("0.0.0.0") && !here("192.0.2.1"));
    }

    #[tokio::test]
    async fn an_address_that_stands_there_as_one_is_dialled_as_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Targets::new(vec![address.port()]);
        assert!(way.connect(&Target::parse(&address.to_string()).unwrap()).await.is_ok());
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_told_from_one_that_is_not_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let way = Targets::new(Vec::new());
        let (closed, unknown) = (closed.to_string(), "does-not-exist.invalid:1");
        for (text, expected) in
            [(closed.as_str(), Reason::TargetUnreachable), (unknown, Reason::TargetUnresolved)]
        {
            let refused = way.connect(&Target::parse(text).unwrap()).await.unwrap_err();
            assert_eq!(refused, expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_takes_no_more_than_its_places() {
        let way = Targets::new(Vec::new());
        let (answer, _) = tokio::sync::broadcast::channel::<()>(1);
        let stuck = || {
            let mut answer = answer.subscribe();
            async move {
                _ = answer.recv().await;
                Ok(Vec::new())
            }
        };
        // Nobody waits for them any more, and they hold their places all the same.
        for _ in 0..RESOLVING_MAX {
            assert!(timeout(RESOLVE_TIME_MAX, way.resolve(stuck())).await.is_err());
        }
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let one_more = {
            let asked = asked.clone();
            async move {
                asked.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(Vec::new())
            }
        };
        assert!(timeout(RESOLVE_TIME_MAX, way.resolve(one_more)).await.is_err());
        assert!(!asked.load(std::sync::atomic::Ordering::Relaxed));
        answer.send(()).unwrap();
        assert!(way.resolve(async { Ok(Vec::new()) }).await.is_ok());
    }
}
