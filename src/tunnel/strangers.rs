//! What is told of callers that nobody knows: one line a minute for each address (or /64) and reason, with a count, and
//! a bounded number of lines in all. Decides; logs nothing and holds no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admission::Address;

/// What was told of whom, and what was not. Bounded: the oldest goes for the newest.
#[derive(Debug, Default)]
pub struct Strangers {
    groups: BTreeMap<(Address, &'static str), Group>,
    minute: Minute,
}

#[derive(Debug)]
struct Group {
    told: Duration,
    untold: u64,
}

#[derive(Debug, Default)]
struct Minute {
    began: Duration,
    lines: u32,
    /// Of those whose line there was no room for.
    passed_over: u64,
}

/// A line to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many of this address and reason since its last line, this one included.
    pub count: u64,
    /// How many of others were passed over in the minute before.
    pub passed_over: u64,
    /// Whether somebody should look: not where a few left by themselves, as an edge does that is stopped while it dials.
    pub is_warning: bool,
}

impl Strangers {
    /// One more was refused; what is to be told, if anything. `now` never goes back.
    pub fn count(&mut self, address: Address, code: &'static str, now: Duration) -> Option<Line> {
        if now.saturating_sub(self.minute.began) >= MINUTE {
            self.minute = Minute { began: now, lines: 0, passed_over: self.minute.passed_over };
        }
        let key = (address, code);
        if !self.groups.contains_key(&key) && self.groups.len() >= GROUPS_MAX {
            let oldest = self.groups.iter().min_by_key(|(_, group)| group.told).map(|(key, _)| *key);
            let gone = oldest.and_then(|oldest| self.groups.remove(&oldest));
            self.minute.passed_over += gone.map_or(0, |group| group.untold);
        }
        let is_new = !self.groups.contains_key(&key);
        let group = self.groups.entry(key).or_insert(Group { told: now, untold: 0 });
        group.untold += 1;
        if !is_new && now.saturating_sub(group.told) < MINUTE {
            return None;
        }
        group.told = now;
        let count = std::mem::take(&mut group.untold);
        if self.minute.lines >= LINES_PER_MINUTE {
            self.minute.passed_over += count;
            return None;
        }
        self.minute.lines += 1;
        // Told with the first line of a minute, so that it is told once.
        let passed_over = std::mem::take(&mut self.minute.passed_over);
        let is_warning = code != LEFT || count > LEAVE_BY_CHANCE_MAX || passed_over > 0;
        Some(Line { count, passed_over, is_warning })
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// The code of callers that ended the connection themselves.
const LEFT: &str = "peer_closed";
/// So many of them since the last line are no news.
const LEAVE_BY_CHANCE_MAX: u64 = 4;
/// Addresses and reasons that are told apart.
const GROUPS_MAX: usize = 1024;
/// Lines about callers that nobody knows.
const LINES_PER_MINUTE: u32 = 60;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    const FIRST: Option<Line> = Some(Line { count: 1, passed_over: 0, is_warning: true });

    #[test]
    fn a_flood_from_one_network_is_a_line_a_minute_with_its_count() {
        let mut strangers = Strangers::default();
        let mut told = Vec::new();
        for n in 0..6000_u64 {
            // As many addresses as there are calls, of one customer's /64.
            let caller = address(&format!("2001:db8:0:1::{n:x}"));
            let now = Duration::from_millis(20 * n);
            told.extend(strangers.count(caller, "not_a_bridge", now).map(|line| (now.as_secs(), line.count)));
        }
        assert_eq!(told, [(0, 1), (60, 3000)]);
        let now = Duration::from_secs(120);
        assert_eq!(strangers.count(address("2001:db8:0:2::1"), "not_a_bridge", now), FIRST);
        assert_eq!(strangers.count(address("2001:db8:0:2::1"), "timeout", now), FIRST);
    }

    #[test]
    fn a_flood_from_many_addresses_is_bounded_in_lines_and_in_memory_and_none_is_uncounted() {
        let mut strangers = Strangers::default();
        let (mut lines, mut counted) = (0, 0);
        for n in 0..100_000_u32 {
            let caller = Address::from(IpAddr::from((n + (10 << 24)).to_be_bytes()));
            if let Some(line) = strangers.count(caller, "timeout", Duration::from_millis(1)) {
                lines += 1;
                counted += line.count + line.passed_over;
            }
        }
        assert_eq!((lines, strangers.groups.len()), (LINES_PER_MINUTE, GROUPS_MAX));
        let last = strangers.count(address("192.0.2.1"), "timeout", MINUTE * 2).unwrap();
        assert_eq!(counted + last.count + last.passed_over, 100_001);
    }

    #[test]
    fn who_leaves_by_himself_is_no_warning_until_many_do() {
        let mut strangers = Strangers::default();
        let caller = address("192.0.2.7");
        let mut tell =
            |code, now| strangers.count(caller, code, now).map(|line| (line.count, line.is_warning));
        assert_eq!(tell("peer_closed", Duration::ZERO), Some((1, false)));
        assert_eq!(tell("timeout", Duration::ZERO), Some((1, true)));
        // An edge that was stopped with all its lanes, then a scan.
        (0..3).for_each(|_| assert_eq!(tell("peer_closed", Duration::from_secs(1)), None));
        assert_eq!(tell("peer_closed", MINUTE), Some((4, false)));
        (0..100).for_each(|_| assert_eq!(tell("peer_closed", MINUTE), None));
        assert_eq!(tell("peer_closed", MINUTE * 2), Some((101, true)));
        // One of each of many addresses: told with those that there was no room for.
        let mut strangers = Strangers::default();
        for n in 0..=LINES_PER_MINUTE {
            let caller = Address::from(IpAddr::from((n + (10 << 24)).to_be_bytes()));
            strangers.count(caller, "peer_closed", Duration::ZERO);
        }
        assert!(strangers.count(caller, "peer_closed", MINUTE).unwrap().is_warning);
    }

    #[test]
    fn an_address_is_shown_as_what_it_is_counted_under() {
        assert_eq!(address("::ffff:192.0.2.7").to_string(), "192.0.2.7");
        assert_eq!(address("2001:db8:0:1:5::7").to_string(), "2001:db8:0:1::/64");
    }
}
