//! Prices European options and their greeks in closed form, four at a time. Reads no message.
//!
//! Black, Scholes and Merton with a continuous dividend yield; formulas as in E. G. Haug, "The Complete Guide to
//! Option Pricing Formulas" (2nd edition, 2007), chapters 1 and 2. With φ = 1 for a call and −1 for a put,
//!
//! ```text
//! d1 = (ln(S/K) + (r − q + σ²/2) T) / (σ √T)        d2 = d1 − σ √T
//! price = φ (S e^(−qT) N(φ d1) − K e^(−rT) N(φ d2))
//! ```

use wide::f64x4;

use super::request::{Instrument, Ranges, Request};

/// Doubles in a point: seven inputs, the price, eight greeks.
pub const COLUMNS: usize = 16;

/// One point: spot, strike, rate, dividend, volatility, years, φ; price; delta, gamma, vega, theta, rho, vanna,
/// volga, charm. Theta and charm are per year of calendar time, vega and rho per 1.00.
pub type Point = [f64; COLUMNS];

/// The points `from..from + 4` of a request, as they are drawn and priced. Those beyond its number are there too.
pub fn four(request: &Request, from: u32) -> [Point; 4] {
    let sign = match request.instrument {
        Instrument::EuropeanCall => 1.0,
        Instrument::EuropeanPut => -1.0,
    };
    let columns = priced(drawn(&request.ranges, request.seed, from), f64x4::splat(sign));
    let mut points = [[0.0; COLUMNS]; 4];
    for (column, four) in columns.iter().enumerate() {
        for (point, value) in points.iter_mut().zip(four.to_array()) {
            point[column] = value;
        }
    }
    points
}

struct Inputs {
    spot: f64x4,
    strike: f64x4,
    rate: f64x4,
    dividend: f64x4,
    vol: f64x4,
    years: f64x4,
}

fn drawn(ranges: &Ranges, seed: u64, from: u32) -> Inputs {
    let column = |nth: u64, [low, high]: [f64; 2]| {
        let uniform = [0, 1, 2, 3].map(|lane| uniform(seed, u64::from(from) + lane, nth));
        f64x4::splat(low) + f64x4::splat(high - low) * f64x4::from(uniform)
    };
    Inputs {
        spot: column(0, ranges.spot),
        strike: column(1, ranges.strike),
        rate: column(2, ranges.rate),
        dividend: column(3, ranges.dividend),
        vol: column(4, ranges.vol),
        years: column(5, ranges.years),
    }
}

/// Draw `nth` of point `index`, in [0, 1): SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a counter's hash, so
/// that any point can be drawn alone.
fn uniform(seed: u64, index: u64, nth: u64) -> f64 {
    let mut z = seed.wrapping_add((index * DRAWS + nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

fn priced(inputs: Inputs, sign: f64x4) -> [f64x4; COLUMNS] {
    let Inputs { spot, strike, rate, dividend, vol, years } = inputs;
    let (one, half) = (f64x4::splat(1.0), f64x4::splat(0.5));
    let root = years.sqrt();
    let vol_root = vol * root;
    let d1 = ((spot / strike).ln() + (rate - dividend + half * vol * vol) * years) / vol_root;
    let d2 = d1 - vol_root;
    let (density1, below1) = normal(d1);
    let (_, below2) = normal(d2);
    // N(φ d): N(−d) = 1 − N(d).
    let is_call = sign.simd_ge(f64x4::splat(0.0));
    let (n1, n2) = (is_call.select(below1, one - below1), is_call.select(below2, one - below2));
    let spot_now = spot * (-dividend * years).exp();
    let strike_now = strike * (-rate * years).exp();
    let price = sign * (spot_now * n1 - strike_now * n2);
    let carried = spot_now / spot;
    let delta = sign * carried * n1;
    let gamma = carried * density1 / (spot * vol_root);
    let vega = spot_now * density1 * root;
    let decay = -spot_now * density1 * vol / (root + root);
    let theta = decay - sign * rate * strike_now * n2 + sign * dividend * spot_now * n1;
    let rho = sign * strike_now * years * n2;
    let vanna = -carried * density1 * d2 / vol;
    let volga = vega * d1 * d2 / vol;
    let drift = (rate - dividend) * years;
    let charm = sign * dividend * carried * n1
        - carried * density1 * (drift + drift - d2 * vol_root) / ((years + years) * vol_root);
    [
        spot, strike, rate, dividend, vol, years, sign, price, delta, gamma, vega, theta, rho, vanna, volga,
        charm,
    ]
}

/// Density and distribution of the standard normal. Hart's rational approximation as in G. West, "Better
/// approximations to cumulative normal functions" (Wilmott, 2005): about 15 digits.
fn normal(x: f64x4) -> (f64x4, f64x4) {
    let poly = |coefficients: &[f64], x: f64x4| {
        coefficients.iter().fold(f64x4::splat(0.0), |sum, next| sum * x + f64x4::splat(*next))
    };
    let (zero, one) = (f64x4::splat(0.0), f64x4::splat(1.0));
    let y = x.abs();
    let bell = (f64x4::splat(-0.5) * y * y).exp();
    let near = bell * poly(&HART_ABOVE, y) / poly(&HART_BELOW, y);
    let fraction = |n: f64, rest: f64x4| y + f64x4::splat(n) / rest;
    let tail = fraction(1.0, fraction(2.0, fraction(3.0, fraction(4.0, y + f64x4::splat(0.65)))));
    let far = bell / tail / f64x4::splat(SQRT_TAU);
    let upper = y.simd_lt(f64x4::splat(HART_END)).select(near, far);
    let below = x.simd_lt(zero).select(upper, one - upper);
    (bell / f64x4::splat(SQRT_TAU), below)
}

/// Draws for each point.
const DRAWS: u64 = 6;
const SQRT_TAU: f64 = 2.506_628_274_631_000_5;
const HART_END: f64 = 7.071_067_811_865_47;
const HART_ABOVE: [f64; 7] = [
    3.526_249_659_989_11e-2,
    0.700_383_064_443_688,
    6.373_962_203_531_65,
    33.912_866_078_383,
    112.079_291_497_871,
    221.213_596_169_931,
    220.206_867_912_376,
];
const HART_BELOW: [f64; 8] = [
    8.838_834_764_831_84e-2,
    1.755_667_163_182_64,
    16.064_177_579_207,
    86.780_732_202_946_1,
    296.564_248_779_674,
    637.333_633_378_831,
    793.826_512_519_948,
    440.413_735_824_752,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::request::tests::sample;

    fn at(spot: f64, strike: f64, rate: f64, dividend: f64, vol: f64, years: f64, call: bool) -> Point {
        let range = |value: f64| [value, value];
        let request = Request {
            instrument: if call { Instrument::EuropeanCall } else { Instrument::EuropeanPut },
            ranges: Ranges {
                spot: range(spot),
                strike: range(strike),
                rate: range(rate),
                dividend: range(dividend),
                vol: range(vol),
                years: range(years),
            },
            ..sample()
        };
        four(&request, 0)[0]
    }

    fn close(value: f64, wanted: f64, within: f64) {
        assert!((value - wanted).abs() <= within, "{value}, wanted {wanted} ± {within}");
    }

    #[test]
    fn prices_are_those_of_the_books() {
        // Haug 2007, section 1.1.1 and 1.1.2.
        close(at(60.0, 65.0, 0.08, 0.0, 0.30, 0.25, true)[7], 2.1334, 5e-5);
        close(at(100.0, 95.0, 0.10, 0.05, 0.20, 0.5, false)[7], 2.4648, 5e-5);
    }

    #[test]
    fn the_distribution_is_exact_to_many_digits_in_all_its_parts() {
        // Values of DLMF 7.17's erfc, by 50-digit arithmetic.
        for (x, wanted, digits) in [
            (0.0, 0.5, 1e-15),
            (1.0, 0.841_344_746_068_542_9, 1e-14),
            (-1.0, 0.158_655_253_931_457_05, 1e-14),
            (-3.0, 1.349_898_031_630_094_6e-3, 1e-13),
            (-8.0, 6.220_960_574_271_784e-16, 1e-7),
            (8.0, 1.0, 1e-15),
        ] {
            let below = normal(f64x4::splat(x)).1.to_array()[0];
            close(below, wanted, wanted * digits);
        }
    }

    #[test]
    fn calls_and_puts_keep_their_parity() {
        let (call, put) =
            (at(100.0, 95.0, 0.03, 0.01, 0.4, 1.5, true), at(100.0, 95.0, 0.03, 0.01, 0.4, 1.5, false));
        let forward = 100.0 * (-0.015_f64).exp() - 95.0 * (-0.045_f64).exp();
        close(call[7] - put[7], forward, 1e-12);
    }

    #[test]
    fn greeks_are_the_slopes_of_the_price() {
        for call in [true, false] {
            let point = |s: f64, r: f64, v: f64, t: f64| at(s, 95.0, r, 0.01, v, t, call);
            let here = point(100.0, 0.03, 0.4, 1.5);
            let slope =
                |up: Point, down: Point, column: usize, h: f64| (up[column] - down[column]) / (2.0 * h);
            let (h, s) = (1e-4, 1e-2);
            let by_spot =
                |column| slope(point(100.0 + s, 0.03, 0.4, 1.5), point(100.0 - s, 0.03, 0.4, 1.5), column, s);
            let by_vol =
                |column| slope(point(100.0, 0.03, 0.4 + h, 1.5), point(100.0, 0.03, 0.4 - h, 1.5), column, h);
            let by_rate =
                |column| slope(point(100.0, 0.03 + h, 0.4, 1.5), point(100.0, 0.03 - h, 0.4, 1.5), column, h);
            let by_time = |column| {
                -slope(point(100.0, 0.03, 0.4, 1.5 + h), point(100.0, 0.03, 0.4, 1.5 - h), column, h)
            };
            close(here[8], by_spot(7), 1e-7);
            close(here[9], by_spot(8), 1e-7);
            close(here[10], by_vol(7), 1e-5);
            close(here[11], by_time(7), 1e-6);
            close(here[12], by_rate(7), 1e-5);
            close(here[13], by_vol(8), 1e-6);
            close(here[14], by_vol(10), 1e-4);
            close(here[15], by_time(8), 1e-6);
        }
    }

    #[test]
    fn any_point_can_be_drawn_alone() {
        let mut request = sample();
        assert_eq!(four(&request, 4)[2], four(&request, 6)[0]);
        let again = four(&request, 4);
        request.seed = 100;
        assert_ne!(four(&request, 4), again);
    }
}
