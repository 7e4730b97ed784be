//! A data-generation request: which instrument under which model, in which ranges its parameters are drawn, and
//! how many points are wanted. JSON on the wire, about 200 bytes. Draws and prices nothing.

use serde::{Deserialize, Serialize};

/// What a requester asks a worker for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Unique among all requesters: the run in the upper half, a count in the lower.
    pub id: u64,
    /// The experiment that it belongs to; also the message's key.
    pub experiment: String,
    /// What is priced.
    pub instrument: Instrument,
    /// How it is priced.
    pub model: Model,
    /// Where the parameters are drawn from.
    pub ranges: Ranges,
    /// Of the draws: the same seed gives the same points.
    pub seed: u64,
    /// How many points.
    pub points: u32,
}

/// What is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instrument {
    /// A European call.
    EuropeanCall,
    /// A European put.
    EuropeanPut,
}

/// How it is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// Black-Scholes-Merton with a continuous dividend yield, in closed form.
    BlackScholes,
}

/// Lowest and highest value of each parameter; draws are uniform between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// Price of the underlying.
    pub spot: [f64; 2],
    /// Strike.
    pub strike: [f64; 2],
    /// Continuously compounded rate, per year.
    pub rate: [f64; 2],
    /// Continuous dividend yield, per year.
    pub dividend: [f64; 2],
    /// Volatility, per square root of a year.
    pub vol: [f64; 2],
    /// Years to expiry.
    pub years: [f64; 2],
}

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not the JSON of a request. Nothing of it is repeated: it is somebody's payload.
    #[error("not a data-generation request: {:?} error at line {}, column {}", .0.classify(), .0.line(), .0.column())]
    Json(#[from] serde_json::Error),
    /// The experiment's name becomes the key of every result.
    #[error("the experiment's name has {0} bytes, at most {EXPERIMENT_LEN_MAX} are taken")]
    Experiment(usize),
    /// More points than one result carries.
    #[error("{0} points are asked for, {POINTS_MAX} fit into one result")]
    TooMany(u32),
    /// The broker refuses the result.
    #[error("the broker does not take its result: ask for fewer points, or raise the topic's maxMessageSize")]
    NotTaken,
    /// A range that is not one, or in which no price exists.
    #[error(
        "the range of {0} is not one: write two finite numbers, the lower first, positive where a price needs it"
    )]
    Range(&'static str),
}

impl Request {
    /// The nth request of a run: experiments in turn, each with its own ranges.
    pub fn nth(run: u64, nth: u64, points: u32) -> Self {
        let experiment = nth % EXPERIMENTS;
        let spread = 10.0 + experiment as f64;
        Self {
            id: run | nth,
            experiment: format!("exp-{experiment:04}"),
            instrument: if nth.is_multiple_of(2) {
                Instrument::EuropeanCall
            } else {
                Instrument::EuropeanPut
            },
            model: Model::BlackScholes,
            ranges: Ranges {
                spot: [100.0 - spread, 100.0 + spread],
                strike: [90.0, 110.0],
                rate: [0.0, 0.05],
                dividend: [0.0, 0.02],
                vol: [0.1, 0.6],
                years: [0.1, 2.0],
            },
            seed: run ^ nth.wrapping_mul(0x9e37_79b9),
            points,
        }
    }

    /// Reads what a requester sent.
    pub fn parse(json: &[u8]) -> Result<Self, RequestError> {
        let request: Self = serde_json::from_slice(json)?;
        if request.points > POINTS_MAX {
            return Err(RequestError::TooMany(request.points));
        }
        if request.experiment.len() > EXPERIMENT_LEN_MAX {
            return Err(RequestError::Experiment(request.experiment.len()));
        }
        let Ranges { spot, strike, rate, dividend, vol, years } = request.ranges;
        let named = [
            ("spot", spot, true),
            ("strike", strike, true),
            ("vol", vol, true),
            ("years", years, true),
            ("rate", rate, false),
            ("dividend", dividend, false),
        ];
        for (name, [low, high], positive) in named {
            let is_range = low.is_finite() && high.is_finite() && low <= high;
            if !is_range || positive && low <= 0.0 {
                return Err(RequestError::Range(name));
            }
        }
        Ok(request)
    }

    /// The JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// One result is one Pulsar message of at most 5 MiB, 128 bytes a point.
pub const POINTS_MAX: u32 = 32_768;
const EXPERIMENT_LEN_MAX: usize = 128;
/// Also the number of keys.
const EXPERIMENTS: u64 = 32;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request as the requester makes them.
    pub(in crate::load) fn sample() -> Request {
        Request {
            id: 7 << 32 | 1_234_567,
            experiment: "exp-0007".into(),
            instrument: Instrument::EuropeanPut,
            model: Model::BlackScholes,
            ranges: Ranges {
                spot: [80.0, 120.0],
                strike: [90.0, 110.0],
                rate: [0.0, 0.05],
                dividend: [0.0, 0.02],
                vol: [0.1, 0.6],
                years: [0.1, 2.0],
            },
            seed: 123_456_789,
            points: 512,
        }
    }

    #[test]
    fn a_request_is_about_200_bytes_and_comes_back_as_it_was() {
        let json = sample().to_json().unwrap();
        assert!((180..=280).contains(&json.len()), "{} bytes", json.len());
        assert_eq!(Request::parse(&json).unwrap(), sample());
    }

    #[test]
    fn what_has_no_price_is_refused_by_name() {
        let mut bad = sample();
        bad.ranges.vol = [0.0, 0.5];
        let error = Request::parse(&bad.to_json().unwrap()).unwrap_err();
        assert!(error.to_string().contains("vol"), "{error}");
        let mut bad = sample();
        bad.points = POINTS_MAX + 1;
        assert!(matches!(Request::parse(&bad.to_json().unwrap()), Err(RequestError::TooMany(_))));
        assert!(matches!(Request::parse(b"{}"), Err(RequestError::Json(_))));
        let bad = Request { experiment: "x".repeat(EXPERIMENT_LEN_MAX + 1), ..sample() };
        assert!(matches!(Request::parse(&bad.to_json().unwrap()), Err(RequestError::Experiment(129))));
    }

    #[test]
    fn a_refusal_repeats_nothing_of_the_payload() {
        let json = String::from_utf8(sample().to_json().unwrap()).unwrap();
        let error = Request::parse(json.replace("european_put", "canary").as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("not a data-generation request: Data error"), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
