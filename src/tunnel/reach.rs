//! A TCP connection to a name: all its addresses, of both families, each a moment after the one before (RFC 8305).
//! Says nothing on what it opens.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};

/// Connects to the first address that answers. The caller bounds the time.
pub(super) async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    first_of(order(addresses)).await
}

async fn first_of(mut addresses: VecDeque<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(TcpStream::connect(address));
        }
        tokio::select! {
            biased;
            outcome = attempts.next() => match outcome {
                Some(Ok(socket)) => return Ok(socket),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            // Those that were begun go on.
            () = tokio::time::sleep(STAGGER), if !addresses.is_empty() => {}
        }
    }
}

/// The system's order, but with the families in turn: one that leads nowhere delays by one moment, not by all of its
/// addresses.
fn order(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut ordered = VecDeque::new();
    while ordered.len() < ADDRESSES_MAX {
        let before = ordered.len();
        ordered.extend(first.pop_front());
        ordered.extend(other.pop_front());
        if ordered.len() == before {
            break;
        }
    }
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

/// RFC 8305 §5's recommendation.
const STAGGER: Duration = Duration::from_millis(250);
/// Of one name. With [`STAGGER`] the last of them still has most of the handshake's time.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_beginning_with_the_systems_choice() {
        let given = addresses(&["[fd00::1]:1", "[fd00::2]:1", "10.0.0.1:1", "[fd00::3]:1"]);
        let expected = addresses(&["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "[fd00::3]:1"]);
        assert_eq!(order(given), expected);
        let many: Vec<SocketAddr> = (1..100).map(|port| ([10, 0, 0, 1], port).into()).collect();
        assert_eq!(order(many).len(), ADDRESSES_MAX);
        assert!(order(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_at_once() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let since = std::time::Instant::now();
        let socket = first_of([closed, open.local_addr().unwrap()].into()).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), open.local_addr().unwrap());
        assert!(since.elapsed() < STAGGER);
        let refused = first_of([closed].into()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn an_address_whose_packets_vanish_delays_by_a_moment() {
        // A listener whose queue is full answers no SYN, as a firewall that drops.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let silent = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(one)) = tokio::time::timeout(STAGGER, TcpStream::connect(silent)).await {
            held.push(one);
        }
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let since = std::time::Instant::now();
        first_of([silent, open.local_addr().unwrap()].into()).await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
}
