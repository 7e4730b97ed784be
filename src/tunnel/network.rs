//! Whether this machine's network changed: an address that a connection had is gone, or packets would leave from
//! another one than before. Asks the kernel with sockets that send nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Whether an address can still be one of this machine's. An address that cannot be asked for alone (a link-local one
/// needs its interface) counts as there.
pub fn is_here(address: IpAddr) -> bool {
    let asked = UdpSocket::bind((address, 0));
    !asked.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// From which addresses packets to a host would leave, IPv4 and IPv6; a name is not looked up, the default routes
/// stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways([Option<IpAddr>; 2]);

impl Ways {
    /// As they are now.
    pub fn to(host: &str) -> Self {
        match host.parse::<IpAddr>() {
            Ok(address) => Self([way_to(address), None]),
            Err(_) => Self([way_to(ELSEWHERE_V4.into()), way_to(ELSEWHERE_V6.into())]),
        }
    }

    /// Returns once they are others than these, and there is one.
    pub async fn changed(self, host: &str) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = Self::to(host);
            if now != self && now.0.iter().any(Option::is_some) {
                return;
            }
        }
    }
}

fn way_to(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = UdpSocket::bind((any, 0)).ok()?;
    probe.connect(SocketAddr::new(address, DISCARD_PORT)).ok()?;
    Some(probe.local_addr().ok()?.ip())
}

/// Nobody's: TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849). Nothing is sent there.
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DISCARD_PORT: u16 = 9;
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn an_address_of_this_machine_is_here_and_another_is_not() {
        assert!(is_here(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_here(Ipv4Addr::new(203, 0, 113, 77).into()));
    }

    #[test]
    fn packets_to_this_machine_leave_from_itself() {
        assert_eq!(Ways::to("127.0.0.1"), Ways([Some(Ipv4Addr::LOCALHOST.into()), None]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_way_that_appears_or_moves_is_a_change() {
        let now = Ways::to("127.0.0.1");
        assert!(now.changed("127.0.0.1").now_or_never().is_none());
        let waits = tokio::time::timeout(LOOK_EVERY * 20, now.changed("127.0.0.1"));
        assert!(waits.await.is_err());
        Ways([None, None]).changed("127.0.0.1").await;
    }
}
