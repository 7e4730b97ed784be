//! One direction of a long line: which packet arrives, and when. Holds no device and no clock, and looks into no packet.
//!
//! A packet waits until those before it have left at the line's rate, or is dropped where more than the queue's bound
//! waits already (drop tail); it may get lost on its way, by a seeded chance of its own; else it arrives one delay after its
//! last byte left. Order is kept. Bytes are those of IP packets: no framing is added.

use std::collections::VecDeque;

/// What the line is like.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From one end to the other.
    pub delay_ns: u64,
    /// Bits per second.
    pub rate: u64,
    /// Bytes that may wait to leave.
    pub queue_bytes: u64,
    /// The share of packets that gets lost, 0 to 1.
    pub loss: f64,
    /// Where its chances begin.
    pub seed: u64,
}

/// What became of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came to the line.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The longest of them.
    pub longest: u64,
    /// Dropped, because the queue was full.
    pub dropped: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Arrived.
    pub delivered: u64,
    /// The most bytes that waited at once.
    pub queued_max: u64,
}

/// A direction.
#[derive(Debug)]
pub struct Line {
    terms: Terms,
    chances: Chances,
    /// When the last packet that was taken has left.
    free_at_ns: u64,
    on_its_way: VecDeque<(u64, Box<[u8]>)>,
    counts: Counts,
}

impl Line {
    /// An empty line.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            chances: Chances(terms.seed),
            free_at_ns: 0,
            on_its_way: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// A packet comes to the line's beginning.
    pub fn take(&mut self, packet: &[u8], now_ns: u64) {
        let len = packet.len() as u64;
        self.counts.packets += 1;
        self.counts.bytes += len;
        self.counts.longest = self.counts.longest.max(len);
        let waits_ns = self.free_at_ns.saturating_sub(now_ns);
        let queued = (u128::from(waits_ns) * u128::from(self.terms.rate) / BITS_AND_NS) as u64 + len;
        if queued > self.terms.queue_bytes.max(len) || self.on_its_way.len() >= PACKETS_MAX {
            self.counts.dropped += 1;
            return;
        }
        self.counts.queued_max = self.counts.queued_max.max(queued);
        let sending_ns = (u128::from(len) * BITS_AND_NS / u128::from(self.terms.rate)) as u64;
        self.free_at_ns = self.free_at_ns.max(now_ns) + sending_ns;
        if self.chances.next() < self.terms.loss {
            self.counts.lost += 1;
            return;
        }
        self.on_its_way.push_back((self.free_at_ns + self.terms.delay_ns, packet.into()));
    }

    /// When the next packet arrives.
    pub fn next_at(&self) -> Option<u64> {
        self.on_its_way.front().map(|(at_ns, _)| *at_ns)
    }

    /// The next packet that has arrived by now, and since when it is due.
    pub fn arrived(&mut self, now_ns: u64) -> Option<(u64, Box<[u8]>)> {
        self.next_at().filter(|at_ns| *at_ns <= now_ns)?;
        self.counts.delivered += 1;
        self.on_its_way.pop_front()
    }

    /// What became of the packets so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many are on their way.
    pub fn on_its_way(&self) -> usize {
        self.on_its_way.len()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), as numbers from 0 to 1.
#[derive(Debug)]
struct Chances(u64);

impl Chances {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// On a line, of the smallest packets, beyond what the queue's bytes allow: 200 MB of memory at most with whole ones.
const PACKETS_MAX: usize = 1 << 17;
/// Bits of a byte times nanoseconds of a second.
const BITS_AND_NS: u128 = 8_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 Gbit/s: 12 µs for a packet of 1500 bytes.
    const GIGABIT: Terms =
        Terms { delay_ns: 50_000_000, rate: 1_000_000_000, queue_bytes: 15_000, loss: 0.0, seed: 1 };

    fn numbered(number: u64, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[..8].copy_from_slice(&number.to_be_bytes());
        packet
    }

    fn all_arrived(line: &mut Line) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some((_, packet)) = line.arrived(u64::MAX) {
            numbers.push(u64::from_be_bytes(*packet.first_chunk().unwrap()));
        }
        numbers
    }

    #[test]
    fn a_packet_arrives_one_delay_after_its_last_byte_left_and_no_earlier() {
        let mut line = Line::new(GIGABIT);
        line.take(&numbered(1, 1500), 1_000);
        line.take(&numbered(2, 1500), 2_000);
        assert_eq!(line.next_at(), Some(50_013_000));
        assert_eq!(line.arrived(50_012_999), None);
        assert_eq!(line.arrived(50_013_000).unwrap().0, 50_013_000);
        assert_eq!(line.next_at(), Some(50_025_000), "behind the first, at the line's rate");
    }

    #[test]
    fn what_comes_faster_than_the_line_waits_up_to_its_queue_and_is_dropped_beyond() {
        let mut line = Line::new(GIGABIT);
        for number in 0..20 {
            line.take(&numbered(number, 1500), 0);
        }
        let counts = line.counts();
        assert_eq!((counts.packets, counts.dropped, counts.queued_max), (20, 10, 15_000));
        // Half of it has left: five have room again.
        for number in 20..30 {
            line.take(&numbered(number, 1500), 60_000);
        }
        assert_eq!(line.counts().dropped, 15);
        assert_eq!(all_arrived(&mut line), (0..10).chain(20..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_of_a_flood_carries_what_the_rate_allows() {
        let mut line = Line::new(Terms { rate: 400_000_000, ..GIGABIT });
        let mut bytes = 0;
        for microsecond in 0..1_000_000u64 {
            line.take(&[0; 100], microsecond * 1000);
            while let Some((_, packet)) = line.arrived(microsecond * 1000) {
                bytes += packet.len();
            }
        }
        // Less the delay at the beginning.
        assert!((47_400_000..=47_500_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn as_many_get_lost_as_asked_the_same_ones_each_time_and_the_others_stay_in_order() {
        let terms = Terms { loss: 0.001, ..GIGABIT };
        let run = |seed| {
            let mut line = Line::new(Terms { seed, ..terms });
            (0..1_000_000).for_each(|number| line.take(&numbered(number, 100), number * 1000));
            let counts = line.counts();
            (counts.lost + counts.dropped, counts.lost, all_arrived(&mut line))
        };
        let (first, again, other) = (run(7), run(7), run(8));
        assert!(first.2.is_sorted() && first.2.len() > 100_000);
        assert_eq!(first, again);
        assert_ne!(first.2, other.2);
        // Only what the line took can get lost; five standard deviations.
        let taken = (first.1 as usize + first.2.len()) as f64;
        let expected = taken * 0.001;
        assert!((first.1 as f64 - expected).abs() < 5.0 * expected.sqrt(), "{} of {taken}", first.1);
    }

    #[test]
    fn a_packet_longer_than_the_queue_passes_an_idle_line() {
        let mut line = Line::new(Terms { queue_bytes: 100, ..GIGABIT });
        line.take(&[0; 1500], 0);
        line.take(&[0; 1500], 0);
        assert_eq!((line.counts().dropped, line.on_its_way()), (1, 1));
    }
}
