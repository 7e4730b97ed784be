//! What the kernel's bounds on one TCP connection's buffers allow on a long way, and which ones would allow more. Reads
//! `/proc/sys` of this network namespace, and sets nothing.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

/// The smallest, the first and the largest buffer of a connection, tcp(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes([u64; 3]);

/// For what a connection sends and for what it receives.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    send: Sizes,
    receive: Sizes,
}

/// What they allow where that is less than wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    round_trip_ms: u64,
    wanted_mbit_s: u32,
    out_mbit_s: u64,
    in_mbit_s: u64,
    /// As sysctl.conf(5) takes them.
    set: Vec<String>,
}

impl Sizes {
    fn of(text: &str) -> Option<Self> {
        let sizes: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        sizes.try_into().ok().map(Self)
    }

    fn read(name: &str) -> Option<Self> {
        Self::of(&fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?)
    }

    /// Of a connection without losses.
    fn mbit_s(self, round_trip: Duration) -> u64 {
        let bytes = self.0[2] / ROOM_OF * ROOM_FOR_PAYLOAD;
        u64::try_from(u128::from(bytes) * 8 / round_trip.as_micros().max(1)).unwrap_or(u64::MAX)
    }

    /// What lacks for so much, as a setting.
    fn lacking(self, name: &str, mbit_s: u32, round_trip: Duration) -> Option<String> {
        if self.mbit_s(round_trip) >= mbit_s.into() {
            return None;
        }
        let bytes = u128::from(mbit_s) * round_trip.as_micros() / 8;
        let bytes = u64::try_from(bytes).map_or(WINDOW_MAX, |bytes| bytes.min(WINDOW_MAX));
        let max = (bytes / ROOM_FOR_PAYLOAD * ROOM_OF).min(WINDOW_MAX).next_power_of_two();
        let [min, first, _] = self.0;
        Some(format!("net.ipv4.{name} = {min} {first} {max}"))
    }
}

impl Buffers {
    /// Of this machine, or of this container; `None` where they are not told so.
    pub fn read() -> Option<Self> {
        Some(Self { send: Sizes::read("tcp_wmem")?, receive: Sizes::read("tcp_rmem")? })
    }

    /// What to set for so much on one connection; `None` where nothing needs to be.
    pub fn advice(self, wanted_mbit_s: u32, round_trip: Duration) -> Option<Advice> {
        let send = self.send.lacking("tcp_wmem", wanted_mbit_s, round_trip);
        let set: Vec<String> =
            send.into_iter().chain(self.receive.lacking("tcp_rmem", wanted_mbit_s, round_trip)).collect();
        (!set.is_empty()).then(|| Advice {
            round_trip_ms: u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX),
            wanted_mbit_s,
            out_mbit_s: self.send.mbit_s(round_trip),
            in_mbit_s: self.receive.mbit_s(round_trip),
            set,
        })
    }
}

impl Advice {
    /// For people.
    pub fn text(&self) -> String {
        let Self { round_trip_ms, wanted_mbit_s, out_mbit_s, in_mbit_s, set } = self;
        format!(
            "over {round_trip_ms} ms there and back one connection gets about {out_mbit_s} Mbit/s out and {in_mbit_s} in; \
             for {wanted_mbit_s} set here, and likewise at the other side: {}",
            set.join("; ")
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Self { round_trip_ms, wanted_mbit_s, out_mbit_s, in_mbit_s, set } = self;
        json!({
            "round_trip_ms": round_trip_ms, "wanted_mbit_s": wanted_mbit_s,
            "out_mbit_s": out_mbit_s, "in_mbit_s": in_mbit_s, "set": set,
        })
    }
}

/// Of a buffer about five eighths are payload, the rest is the kernel's own (measured: 0.72 of tcp_wmem, 0.62 of
/// tcp_rmem).
const ROOM_FOR_PAYLOAD: u64 = 5;
const ROOM_OF: u64 = 8;
/// No window is wider (RFC 7323 §2.3).
const WINDOW_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    const STOCK: Buffers =
        Buffers { send: Sizes([4096, 16384, 4 << 20]), receive: Sizes([4096, 131_072, 6 << 20]) };

    fn set(wanted_mbit_s: u32, millis: u64) -> Vec<String> {
        STOCK.advice(wanted_mbit_s, Duration::from_millis(millis)).map_or(Vec::new(), |advice| advice.set)
    }

    #[test]
    fn what_is_too_small_for_the_way_is_named_with_a_value_that_is_enough() {
        assert_eq!(set(1000, 2), [""; 0]);
        assert_eq!(set(1000, 25), ["net.ipv4.tcp_wmem = 4096 16384 8388608"]);
        let both = |max| {
            ["net.ipv4.tcp_wmem = 4096 16384 ", "net.ipv4.tcp_rmem = 4096 131072 "]
                .map(|it| format!("{it}{max}"))
        };
        assert_eq!(set(400, 100), both(8 << 20));
        assert_eq!(set(1000, 100), both(32 << 20));
        assert_eq!(set(1000, 200), both(64 << 20));
        for (mbit_s, millis) in [(400, 100), (1000, 100), (1000, 200), (100, 300)] {
            let way = Duration::from_millis(millis);
            let max = set(mbit_s, millis)[0].rsplit(' ').next().unwrap().parse().unwrap();
            let enough = Buffers { send: Sizes([1, 1, max]), receive: Sizes([1, 1, max]) };
            assert_eq!(enough.advice(mbit_s, way), None);
        }
    }

    #[test]
    fn no_way_is_so_long_that_a_value_overflows() {
        let far = STOCK.advice(u32::MAX, Duration::MAX).unwrap();
        assert!(far.set[0].ends_with(" 1073741824"), "{far:?}");
        assert_eq!(STOCK.advice(1000, Duration::ZERO), None);
    }

    #[test]
    fn three_numbers_are_sizes_and_nothing_else_is() {
        assert_eq!(Sizes::of("4096\t131072\t6291456\n"), Some(Sizes([4096, 131_072, 6 << 20])));
        for text in ["", "1 2", "1 2 3 4", "a b c"] {
            assert_eq!(Sizes::of(text), None, "{text}");
        }
    }

    #[test]
    fn people_are_told_what_they_get_and_what_to_set() {
        let advice = STOCK.advice(400, Duration::from_millis(200)).unwrap();
        assert_eq!(
            advice.text(),
            "over 200 ms there and back one connection gets about 104 Mbit/s out and 157 in; for 400 set here, and likewise \
             at the other side: net.ipv4.tcp_wmem = 4096 16384 16777216; net.ipv4.tcp_rmem = 4096 131072 16777216"
        );
    }
}
