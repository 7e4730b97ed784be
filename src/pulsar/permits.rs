//! How many messages a broker may send ahead. Holds no socket.
//!
//! Permits are messages, reads are entries (`PersistentDispatcherSingleActiveConsumer`): few permits starve a
//! long link, and no number of them bounds bytes. So they follow the size of what comes, and the inbox bounds bytes.

/// The account of one consumer's permits.
#[derive(Debug)]
pub struct Permits {
    outstanding: i64,
    bytes_per_message: f64,
    wanted_max: f64,
}

impl Permits {
    /// Nothing granted yet.
    pub fn new() -> Self {
        Self { outstanding: 0, bytes_per_message: FIRST_GUESS, wanted_max: PERMITS_MAX }
    }

    /// For a reader that most likely wants a few entries: little at first, and twice as much with each grant.
    pub fn sparing() -> Self {
        Self { wanted_max: SPARING_FIRST, ..Self::new() }
    }

    /// An entry arrived that claims this many messages.
    pub fn spent(&mut self, messages: u32, entry_len: usize) {
        self.outstanding -= i64::from(messages);
        let seen = entry_len as f64 / f64::from(messages.max(1));
        self.bytes_per_message += (seen - self.bytes_per_message) * WEIGHT;
    }

    /// How many to grant now; 0 while more than half of what we want is outstanding.
    pub fn due(&mut self) -> u32 {
        let wanted = (TARGET_BYTES / self.bytes_per_message.max(1.0)).clamp(PERMITS_MIN, PERMITS_MAX);
        let wanted = wanted.min(self.wanted_max) as i64;
        if self.outstanding > wanted / 2 {
            return 0;
        }
        let due = (wanted - self.outstanding).clamp(0, i64::from(u32::MAX >> 1));
        self.outstanding += due;
        self.wanted_max = (self.wanted_max * 2.0).min(PERMITS_MAX);
        due as u32
    }
}

impl Default for Permits {
    fn default() -> Self {
        Self::new()
    }
}

/// What should be on its way: two of the broker's 5 MiB read cycles.
const TARGET_BYTES: f64 = 10.0 * 1024.0 * 1024.0;
/// Before anything was seen.
const FIRST_GUESS: f64 = 1024.0;
/// Weight of the newest entry in the average.
const WEIGHT: f64 = 0.1;
/// Below this a broker's read cycles become visible as gaps.
const PERMITS_MIN: f64 = 200.0;
/// A marker and its neighbours.
const SPARING_FIRST: f64 = 16.0;
/// Far below the i32 that a broker counts in.
const PERMITS_MAX: f64 = 1_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_batches_are_paid_for_at_once_and_never_starve() {
        let mut permits = Permits::new();
        let mut granted = i64::from(permits.due());
        assert!(granted >= 200);
        for _ in 0..1000 {
            permits.spent(1000, 110_000);
            granted += i64::from(permits.due());
        }
        let ahead = granted - 1000 * 1000;
        assert!((47_000..=110_000).contains(&ahead), "{ahead} messages of 110 bytes ahead");
    }

    #[test]
    fn huge_messages_keep_a_floor_of_permits_and_lies_never_overflow() {
        let mut permits = Permits::new();
        let mut granted: u64 = u64::from(permits.due());
        for _ in 0..100 {
            permits.spent(u32::MAX >> 1, 5 << 20);
            granted += u64::from(permits.due());
        }
        assert!(granted >= 100 * (1 << 30));
        let mut permits = Permits::new();
        let mut ahead = i64::from(permits.due());
        for _ in 0..20_000 {
            permits.spent(1, 5 << 20);
            ahead += i64::from(permits.due()) - 1;
            assert!(ahead > 0);
        }
        assert!(ahead <= 200, "{ahead} messages of 5 MiB ahead");
    }

    #[test]
    fn a_sparing_reader_asks_for_little_and_for_as_much_as_others_when_it_goes_on() {
        let mut permits = Permits::sparing();
        let mut granted = vec![permits.due()];
        assert_eq!(granted, [16]);
        for _ in 0..20_000 {
            permits.spent(1, 1024);
            granted.extend(Some(permits.due()).filter(|due| *due > 0));
        }
        assert!(granted.len() > 10 && granted.iter().skip(10).all(|due| *due > 5000), "{granted:?}");
    }
}
