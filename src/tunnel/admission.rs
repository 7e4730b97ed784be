//! Who may hold a socket before Welcome, and whose handshake may compute. Decides by address and age alone;
//! never locks a name, for that would be a weapon. Holds no socket and no clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The sockets without Welcome, oldest first.
#[derive(Debug)]
pub struct Admission {
    sockets: BTreeMap<u64, Socket>,
    next_ticket: u64,
    bounds: Bounds,
}

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sockets without Welcome, of everybody.
    pub sockets: usize,
    /// Sockets without Welcome, of one address.
    pub sockets_per_address: usize,
    /// Handshakes that compute.
    pub computing: usize,
}

#[derive(Debug)]
struct Socket {
    address: Address,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Silent,
    WaitsToCompute,
    Computes { since: Duration },
}

/// Whom a socket is counted under: an IPv4 address, or the /64 that one IPv6 customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(IpAddr);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.into()),
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(network).into())
            }
        }
    }
}

/// A bound that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// All sockets.
    Sockets,
    /// The sockets of one address.
    Address,
    /// Handshakes that compute.
    Computing,
}

/// A socket that has to go for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Whose.
    pub ticket: u64,
    /// Why.
    pub bound: Bound,
}

/// Whether a handshake may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; somebody else may have to go.
    Go(Option<Displaced>),
    /// Ask again when another one is done, or after [`COMPUTING_GRACE`].
    Wait,
}

impl Admission {
    /// Nobody yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { sockets: BTreeMap::new(), next_ticket: 0, bounds }
    }

    /// Lets a new socket in, always; when a bound is met, an older one goes for it.
    pub fn enter(&mut self, address: Address) -> (u64, Option<Displaced>) {
        let displaced = if self.count_of(address) >= self.bounds.sockets_per_address {
            self.oldest(|socket| socket.address == address).map(|ticket| (ticket, Bound::Address))
        } else if self.sockets.len() >= self.bounds.sockets {
            let busiest = self.busiest(|_| true);
            self.oldest(|socket| Some(socket.address) == busiest).map(|ticket| (ticket, Bound::Sockets))
        } else {
            None
        };
        let displaced = displaced.map(|(ticket, bound)| Displaced { ticket, bound });
        if let Some(Displaced { ticket, .. }) = displaced {
            self.leave(ticket);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let stage = Stage::Silent;
        self.sockets.insert(ticket, Socket { address, stage });
        (ticket, displaced)
    }

    /// A socket got its Welcome or is gone.
    pub fn leave(&mut self, ticket: u64) {
        self.sockets.remove(&ticket);
    }

    /// A whole ClientHello is there. The turn goes to the address with the fewest sockets first; a handshake
    /// that keeps its place longer than [`COMPUTING_GRACE`] (its peer does not answer) can lose it.
    pub fn ask_to_compute(&mut self, ticket: u64, now: Duration) -> Turn {
        let Some(socket) = self.sockets.get_mut(&ticket) else {
            return Turn::Wait;
        };
        socket.stage = Stage::WaitsToCompute;
        if self.next_to_compute() != Some(ticket) {
            return Turn::Wait;
        }
        let mut displaced = None;
        if self.computing() >= self.bounds.computing {
            let Some(idle) = self.idle_computer(now) else {
                return Turn::Wait;
            };
            self.leave(idle);
            displaced = Some(Displaced { ticket: idle, bound: Bound::Computing });
        }
        self.set_stage(ticket, Stage::Computes { since: now });
        Turn::Go(displaced)
    }

    /// Its TLS handshake is done.
    pub fn computed(&mut self, ticket: u64) {
        self.set_stage(ticket, Stage::Silent);
    }

    /// Sockets without Welcome.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Handshakes that compute.
    pub fn computing(&self) -> usize {
        let computes = |socket: &&Socket| matches!(socket.stage, Stage::Computes { .. });
        self.sockets.values().filter(computes).count()
    }

    fn set_stage(&mut self, ticket: u64, stage: Stage) {
        if let Some(socket) = self.sockets.get_mut(&ticket) {
            socket.stage = stage;
        }
    }

    fn next_to_compute(&self) -> Option<u64> {
        let waiting = self.sockets.iter().filter(|(_, s)| s.stage == Stage::WaitsToCompute);
        waiting
            .min_by_key(|(ticket, socket)| (self.count_of(socket.address), **ticket))
            .map(|(ticket, _)| *ticket)
    }

    fn idle_computer(&self, now: Duration) -> Option<u64> {
        let idle = |socket: &Socket| match socket.stage {
            Stage::Computes { since } => now.saturating_sub(since) >= COMPUTING_GRACE,
            Stage::Silent | Stage::WaitsToCompute => false,
        };
        let busiest = self.busiest(idle);
        self.oldest(|socket| Some(socket.address) == busiest && idle(socket))
    }

    fn count_of(&self, address: Address) -> usize {
        self.sockets.values().filter(|socket| socket.address == address).count()
    }

    /// The address with the most sockets, among those that have one of this kind.
    fn busiest(&self, kind: impl Fn(&Socket) -> bool) -> Option<Address> {
        let of_kind = self.sockets.values().filter(|socket| kind(socket));
        of_kind.map(|socket| socket.address).max_by_key(|address| self.count_of(*address))
    }

    fn oldest(&self, kind: impl Fn(&Socket) -> bool) -> Option<u64> {
        let of_kind = self.sockets.iter().find(|(_, socket)| kind(socket));
        of_kind.map(|(ticket, _)| *ticket)
    }
}

/// Handshakes that compute, for each core.
pub const COMPUTING_PER_CORE: usize = 8;
/// How long a handshake may keep its place while others wait: a round trip across the world and back.
pub const COMPUTING_GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { sockets: 256, sockets_per_address: 16, computing: 2 };

    fn address(n: u8) -> Address {
        IpAddr::from([198, 18, 0, n]).into()
    }

    #[test]
    fn the_seventeenth_socket_of_an_address_takes_the_place_of_its_oldest() {
        let mut admission = Admission::new(BOUNDS);
        for _ in 0..BOUNDS.sockets_per_address {
            assert_eq!(admission.enter(address(1)).1, None);
        }
        let (_, displaced) = admission.enter(address(1));
        assert_eq!(displaced, Some(Displaced { ticket: 0, bound: Bound::Address }));
        assert_eq!(admission.enter(address(2)).1, None);
        assert_eq!(admission.len(), BOUNDS.sockets_per_address + 1);
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_of_the_busiest_address_goes() {
        let mut admission = Admission::new(BOUNDS);
        let (honest, _) = admission.enter(address(200));
        for n in 0..BOUNDS.sockets - 1 {
            let displaced = admission.enter(address(u8::try_from(n % 100).unwrap())).1;
            assert_eq!(displaced, None);
        }
        for n in 0..1000 {
            let (_, displaced) = admission.enter(address(u8::try_from(n % 100).unwrap()));
            let displaced = displaced.unwrap();
            assert_eq!(displaced.bound, Bound::Sockets);
            assert_ne!(displaced.ticket, honest);
            assert_eq!(admission.len(), BOUNDS.sockets);
        }
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let of = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:198.18.0.1"), address(1));
    }

    #[test]
    fn the_turn_to_compute_goes_to_the_least_busy_address_and_idle_ones_lose_theirs() {
        let mut admission = Admission::new(BOUNDS);
        let flood: Vec<u64> = (0..4).map(|_| admission.enter(address(1)).0).collect();
        let at = Duration::from_millis;
        assert_eq!(admission.ask_to_compute(flood[0], at(0)), Turn::Go(None));
        assert_eq!(admission.ask_to_compute(flood[1], at(0)), Turn::Go(None));
        assert_eq!(admission.ask_to_compute(flood[2], at(0)), Turn::Wait);
        let (honest, _) = admission.enter(address(2));
        assert_eq!(admission.ask_to_compute(honest, at(1)), Turn::Wait);
        assert_eq!(admission.ask_to_compute(flood[2], at(500)), Turn::Wait, "the other comes first");
        let displaced = Displaced { ticket: flood[0], bound: Bound::Computing };
        assert_eq!(admission.ask_to_compute(honest, at(500)), Turn::Go(Some(displaced)));
        assert_eq!(admission.computing(), 2);
        admission.computed(honest);
        assert_eq!(admission.ask_to_compute(flood[2], at(501)), Turn::Go(None));
    }
}
