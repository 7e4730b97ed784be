//! Who may hold a socket before Welcome, and whose handshake may compute. Decides by address, by what a socket has said,
//! and by age; never locks a name, for that would be a weapon. Holds no socket and no clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The sockets without Welcome, oldest first.
#[derive(Debug)]
pub struct Admission {
    sockets: BTreeMap<u64, Socket>,
    /// How many of each address.
    counts: BTreeMap<Address, usize>,
    next_ticket: u64,
    bounds: Bounds,
    /// Addresses from which an edge was welcomed, and which, the latest last.
    known: VecDeque<(Address, String)>,
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
    since: Duration,
    is_known: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Silent,
    WaitsToCompute,
    Computes { since: Duration },
    Proven,
}

/// Whom a socket is counted under: an IPv4 address, or the /64 that one IPv6 customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(Option<IpAddr>);

impl Address {
    /// A trusted proxy's socket that has not said yet on whose behalf it comes: only the bound of all counts.
    pub const UNNAMED: Self = Self(None);
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(Some(v4.into())),
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Self(Some(Ipv6Addr::from_bits(network).into()))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(IpAddr::V4(v4)) => v4.fmt(f),
            Some(IpAddr::V6(network)) => write!(f, "{network}/64"),
            None => f.write_str("(unnamed)"),
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
        Self {
            sockets: BTreeMap::new(),
            counts: BTreeMap::new(),
            next_ticket: 0,
            bounds,
            known: VecDeque::new(),
        }
    }

    /// An edge was welcomed from this address: while it is among the edge's latest, its sockets come before those of
    /// strangers, as long as such sockets hold less than half of what there is.
    pub fn welcomed(&mut self, address: Address, edge: &str) {
        self.known.retain(|(known, _)| *known != address);
        if self.known.iter().filter(|(_, of)| of == edge).count() >= KNOWN_PER_EDGE_MAX
            && let Some(oldest) = self.known.iter().position(|(_, of)| of == edge)
        {
            self.known.remove(oldest);
        }
        self.known.push_back((address, edge.to_owned()));
        if self.known.len() > KNOWN_MAX {
            self.known.pop_front();
        }
    }

    fn knows(&self, address: Address) -> bool {
        self.known.iter().any(|(known, _)| *known == address)
    }

    /// Other bounds hold from now on: who is in stays.
    pub fn hold_to(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Lets a new socket in, always; when a bound is met, an older one goes for it.
    pub fn enter(&mut self, address: Address, now: Duration) -> (u64, Option<Displaced>) {
        let displaced = if self.is_full(address) {
            self.worst(now, |socket| socket.address == address).map(|ticket| (ticket, Bound::Address))
        } else if self.sockets.len() >= self.bounds.sockets {
            self.worst(now, |_| true).map(|ticket| (ticket, Bound::Sockets))
        } else {
            None
        };
        let displaced = displaced.map(|(ticket, bound)| Displaced { ticket, bound });
        if let Some(Displaced { ticket, .. }) = displaced {
            self.leave(ticket);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let is_known = self.knows(address);
        self.sockets.insert(ticket, Socket { address, since: now, is_known, stage: Stage::Silent });
        *self.counts.entry(address).or_default() += 1;
        (ticket, displaced)
    }

    /// It is known on whose behalf a socket comes; when that address has too many, the worst of them goes.
    pub fn name(&mut self, ticket: u64, address: Address, now: Duration) -> Option<Displaced> {
        if self.sockets.get(&ticket).is_none_or(|socket| socket.address == address) {
            return None;
        }
        let worst = match self.is_full(address) {
            true => self.worst(now, |socket| socket.address == address),
            false => None,
        };
        if let Some(worst) = worst {
            self.leave(worst);
        }
        let is_known = self.knows(address);
        if let Some(socket) = self.sockets.get_mut(&ticket) {
            let before = std::mem::replace(&mut socket.address, address);
            socket.is_known = is_known;
            self.uncount(before);
            *self.counts.entry(address).or_default() += 1;
        }
        worst.map(|ticket| Displaced { ticket, bound: Bound::Address })
    }

    /// Whom a socket counts under, as long as it is here.
    pub fn address_of(&self, ticket: u64) -> Option<Address> {
        self.sockets.get(&ticket).map(|socket| socket.address)
    }

    /// A socket got its Welcome or is gone.
    pub fn leave(&mut self, ticket: u64) {
        if let Some(socket) = self.sockets.remove(&ticket) {
            self.uncount(socket.address);
        }
    }

    fn uncount(&mut self, address: Address) {
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }

    fn is_full(&self, address: Address) -> bool {
        address != Address::UNNAMED && self.count_of(address) >= self.bounds.sockets_per_address
    }

    /// A whole ClientHello is there. The turn goes to known addresses and to the one with the fewest sockets first; a handshake
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

    /// Who would compute now if it asked, without anybody else having to go.
    pub fn whose_turn(&self) -> Option<u64> {
        if self.computing() >= self.bounds.computing {
            return None;
        }
        self.next_to_compute()
    }

    /// Its TLS handshake is done, one way or the other.
    pub fn computed(&mut self, ticket: u64) {
        self.set_stage(ticket, Stage::Silent);
    }

    /// It has proven an edge's key: the last to go.
    pub fn proven(&mut self, ticket: u64) {
        self.set_stage(ticket, Stage::Proven);
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
        let computes = |socket: &&Socket| socket.is_known && matches!(socket.stage, Stage::Computes { .. });
        let favours_known = 2 * self.sockets.values().filter(computes).count() < self.bounds.computing;
        waiting
            .min_by_key(|(ticket, socket)| {
                (!(favours_known && socket.is_known), self.count_of(socket.address), **ticket)
            })
            .map(|(ticket, _)| *ticket)
    }

    fn idle_computer(&self, now: Duration) -> Option<u64> {
        let idle = |socket: &Socket| match socket.stage {
            Stage::Computes { since } => now.saturating_sub(since) >= COMPUTING_GRACE,
            Stage::Silent | Stage::WaitsToCompute | Stage::Proven => false,
        };
        self.worst(now, idle)
    }

    fn count_of(&self, address: Address) -> usize {
        self.counts.get(&address).copied().unwrap_or_default()
    }

    /// Whose socket of this kind is the first to go: one that has proven no key, a stranger's before a known address's,
    /// and of the busiest address.
    /// Of these the oldest that has said nothing for long; else the newest that waits for its turn, so that the others
    /// get theirs; else the oldest.
    fn worst(&self, now: Duration, kind: impl Fn(&Socket) -> bool) -> Option<u64> {
        let of_kind = self.sockets.iter().filter(|(_, socket)| kind(socket));
        let known = self.sockets.values().filter(|socket| socket.is_known).count();
        let favours_known = 2 * known < self.bounds.sockets;
        let worst = of_kind.max_by_key(|(ticket, socket)| {
            let age = match socket.stage {
                Stage::Silent if now.saturating_sub(socket.since) >= SILENCE_GRACE => (2, Reverse(**ticket)),
                Stage::WaitsToCompute => (1, Reverse(u64::MAX - **ticket)),
                Stage::Silent | Stage::Computes { .. } | Stage::Proven => (0, Reverse(**ticket)),
            };
            let is_proven = socket.stage == Stage::Proven;
            (!is_proven, !(favours_known && socket.is_known), self.count_of(socket.address), age)
        });
        worst.map(|(ticket, _)| *ticket)
    }
}

/// An edge says its ClientHello within this, also over a slow line: it says so at once.
const SILENCE_GRACE: Duration = Duration::from_millis(500);
/// Addresses of welcomed edges that are remembered, of all and of one.
const KNOWN_MAX: usize = 1024;
const KNOWN_PER_EDGE_MAX: usize = 16;
/// Handshakes that compute, for each core.
pub const COMPUTING_PER_CORE: usize = 8;
/// How long a handshake may keep its place while others wait: a round trip across the world and back.
pub const COMPUTING_GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const BOUNDS: Bounds = Bounds { sockets: 256, sockets_per_address: 16, computing: 2 };

    fn address(n: u8) -> Address {
        IpAddr::from([198, 18, 0, n]).into()
    }

    #[test]
    fn the_seventeenth_socket_of_an_address_takes_the_place_of_its_oldest() {
        let mut admission = Admission::new(BOUNDS);
        for _ in 0..BOUNDS.sockets_per_address {
            assert_eq!(admission.enter(address(1), NOW).1, None);
        }
        let (_, displaced) = admission.enter(address(1), NOW);
        assert_eq!(displaced, Some(Displaced { ticket: 0, bound: Bound::Address }));
        assert_eq!(admission.enter(address(2), NOW).1, None);
        assert_eq!(admission.len(), BOUNDS.sockets_per_address + 1);
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_of_the_busiest_address_goes() {
        let mut admission = Admission::new(BOUNDS);
        let (honest, _) = admission.enter(address(200), NOW);
        for n in 0..BOUNDS.sockets - 1 {
            let displaced = admission.enter(address(u8::try_from(n % 100).unwrap()), NOW).1;
            assert_eq!(displaced, None);
        }
        for n in 0..1000 {
            let (_, displaced) = admission.enter(address(u8::try_from(n % 100).unwrap()), NOW);
            let displaced = displaced.unwrap();
            assert_eq!(displaced.bound, Bound::Sockets);
            assert_ne!(displaced.ticket, honest);
            assert_eq!(admission.len(), BOUNDS.sockets);
        }
    }

    fn each_from_another_address(admission: &mut Admission, count: usize, now: Duration) -> Vec<u64> {
        let address = |n: usize| {
            IpAddr::from([198, 18, 2 + u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap()])
        };
        (0..count).map(|n| admission.enter(address(n).into(), now).0).collect()
    }

    #[test]
    fn of_many_addresses_that_say_nothing_the_oldest_goes_and_one_that_has_spoken_stays() {
        let mut admission = Admission::new(BOUNDS);
        let (honest, _) = admission.enter(address(200), NOW);
        assert_eq!(admission.ask_to_compute(honest, NOW), Turn::Go(None));
        let first = each_from_another_address(&mut admission, BOUNDS.sockets - 1, NOW)[0];
        for n in 0..1000 {
            let displaced =
                admission.enter(address(u8::try_from(n % 100).unwrap()), SILENCE_GRACE).1.unwrap();
            assert_ne!(displaced.ticket, honest);
            assert!(n > 0 || displaced.ticket == first);
        }
    }

    #[test]
    fn an_address_that_was_welcomed_before_comes_before_any_number_of_strangers() {
        let mut admission = Admission::new(BOUNDS);
        admission.welcomed(address(200), "bank");
        for ticket in each_from_another_address(&mut admission, BOUNDS.sockets, NOW) {
            _ = admission.ask_to_compute(ticket, NOW);
        }
        let (back, displaced) = admission.enter(address(200), NOW);
        let displaced = displaced.unwrap();
        assert_eq!(
            (displaced.bound, displaced.ticket),
            (Bound::Sockets, BOUNDS.sockets as u64 - 1),
            "the newest that waits"
        );
        assert_eq!(admission.ask_to_compute(back, NOW), Turn::Wait);
        assert!(matches!(admission.ask_to_compute(back, COMPUTING_GRACE), Turn::Go(Some(_))));
    }

    #[test]
    fn behind_a_trusted_proxy_each_caller_counts_for_itself() {
        let mut admission = Admission::new(BOUNDS);
        let unnamed: Vec<u64> = (0..40).map(|_| admission.enter(Address::UNNAMED, NOW).0).collect();
        assert_eq!(admission.len(), 40, "the proxy itself is no address");
        let flooder = address(1);
        for ticket in &unnamed[..BOUNDS.sockets_per_address] {
            assert_eq!(admission.name(*ticket, flooder, NOW), None);
            assert_eq!(admission.name(*ticket, flooder, NOW), None, "once is enough");
        }
        let displaced = Displaced { ticket: unnamed[0], bound: Bound::Address };
        assert_eq!(admission.name(unnamed[20], flooder, NOW), Some(displaced));
        assert_eq!(admission.name(unnamed[21], address(2), NOW), None);
        assert_eq!(admission.len(), 39);
        assert_eq!(admission.name(unnamed[0], flooder, NOW), None, "who had to go does not come back");
        assert_eq!(admission.len(), 39);
        unnamed.iter().for_each(|ticket| admission.leave(*ticket));
        assert!(admission.counts.is_empty() && admission.len() == 0);
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
        let flood: Vec<u64> = (0..4).map(|_| admission.enter(address(1), NOW).0).collect();
        let at = Duration::from_millis;
        assert_eq!(admission.ask_to_compute(flood[0], at(0)), Turn::Go(None));
        assert_eq!(admission.ask_to_compute(flood[1], at(0)), Turn::Go(None));
        assert_eq!(admission.ask_to_compute(flood[2], at(0)), Turn::Wait);
        let (honest, _) = admission.enter(address(2), NOW);
        assert_eq!(admission.ask_to_compute(honest, at(1)), Turn::Wait);
        assert_eq!(admission.ask_to_compute(flood[2], at(500)), Turn::Wait, "the other comes first");
        let displaced = Displaced { ticket: flood[0], bound: Bound::Computing };
        assert_eq!(admission.ask_to_compute(honest, at(500)), Turn::Go(Some(displaced)));
        assert_eq!(admission.computing(), 2);
        admission.computed(honest);
        assert_eq!(admission.ask_to_compute(flood[2], at(501)), Turn::Go(None));
    }
}
