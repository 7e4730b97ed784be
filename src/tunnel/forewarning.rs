//! What a side's trust rests on that ends soon, or has ended, told before it hurts: at the start, when another
//! takes its place, once a day, and when it ends. Ends nothing itself.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::standing::Standing;

/// Something that ends at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What.
    pub what: &'static str,
    /// When, Unix seconds.
    pub at: u64,
    /// From how many days before on it is worth a word.
    pub warn_days: u64,
    /// What is then.
    pub then: &'static str,
    /// What an operator can do about it.
    pub remedy: &'static str,
}

impl Expiry {
    /// What is to be said of it now, if anything.
    pub fn warning(&self, now: u64) -> Option<String> {
        let Self { what, at, warn_days, then, remedy } = self;
        match at.checked_sub(now) {
            None => Some(format!("{what} ended on {}: {then}; {remedy}", date(*at))),
            Some(left) if left / DAY < *warn_days => Some(format!(
                "{what} ends on {}, in {} days, and then {then}; {remedy}",
                date(*at),
                left / DAY
            )),
            Some(_) => None,
        }
    }

    fn has_ended(&self, now: u64) -> bool {
        self.at < now
    }
}

/// What was told.
#[derive(Debug, Default)]
struct Told(BTreeMap<&'static str, Word>);

#[derive(Debug)]
struct Word {
    /// When, Unix seconds.
    when: u64,
    /// Of what ends then.
    at: u64,
    has_ended: bool,
}

impl Told {
    /// What is to be told now, the worse first: what ended, or ends within a week, is an error.
    fn news(&mut self, expiries: &[Expiry], now: u64) -> Vec<(bool, String)> {
        let mut news = Vec::new();
        for expiry in expiries {
            let has_ended = expiry.has_ended(now);
            // What was replaced by something of another date is news, and nothing else that stood beside it.
            let is_told = |word: &Word| {
                (word.at, word.has_ended) == (expiry.at, has_ended) && now.saturating_sub(word.when) < DAY
            };
            if self.0.get(expiry.what).is_some_and(is_told) {
                continue;
            }
            if let Some(text) = expiry.warning(now) {
                self.0.insert(expiry.what, Word { when: now, at: expiry.at, has_ended });
                news.push((expiry.at.saturating_sub(now) < WEEK, text));
            }
        }
        news.sort_by_key(|(is_error, _)| !is_error);
        news
    }
}

/// Tells it until `stop`, by what stands at each moment.
pub(super) async fn tell<T>(
    standing: Standing<T>,
    expiries: impl Fn(&T) -> Vec<Expiry>,
    stop: CancellationToken,
) {
    let mut replaced = standing.watch();
    let mut told = Told::default();
    loop {
        let now = expiries(&replaced.borrow_and_update());
        for (is_error, text) in told.news(&now, unix_now()) {
            if is_error {
                tracing::error!("{text}");
            } else {
                tracing::warn!("{text}");
            }
        }
        // Losing the race loses nothing: what was replaced is looked at next time. The sender lives in us.
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = replaced.changed() => {}
            () = tokio::time::sleep(until_next(&now, unix_now())) => {}
        }
    }
}

/// An hour, or until the first of them ends. Clocks may jump, so no longer.
fn until_next(expiries: &[Expiry], now: u64) -> Duration {
    let left = expiries.iter().filter_map(|expiry| expiry.at.checked_sub(now)).min();
    Duration::from_secs(left.map_or(LOOK_EVERY, |left| left + 1).min(LOOK_EVERY))
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn date(at: u64) -> String {
    let date = i64::try_from(at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    date.map_or_else(|| "a day beyond all calendars".into(), |date| date.date().to_string())
}

const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;
const LOOK_EVERY: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(at: u64) -> Expiry {
        Expiry { what: "the lists", at, warn_days: 0, then: "nobody joins", remedy: "replace them" }
    }

    fn certificate(at: u64) -> Expiry {
        Expiry { what: "the certificate", at, warn_days: 14, then: "nobody joins", remedy: "renew it" }
    }

    #[test]
    fn a_certificate_is_told_once_a_day_from_two_weeks_before_and_when_it_ends() {
        let mut told = Told::default();
        let at = 100 * DAY + 7200;
        let mut days = Vec::new();
        for hour in 0..101 * 24 {
            let news = told.news(&[certificate(at)], hour * 3600);
            days.extend(news.into_iter().map(|(is_error, text)| (hour / 24, is_error, text)));
        }
        let told_on: Vec<_> = days.iter().map(|(day, is_error, _)| (*day, *is_error)).collect();
        assert_eq!(told_on, (86..=100).map(|day| (day, day >= 93)).collect::<Vec<_>>(), "{days:?}");
        let words = "the certificate ends on 1970-04-11, in 13 days, and then nobody joins; renew it";
        assert_eq!(days[0].2, words);
        assert!(days.last().unwrap().2.starts_with("the certificate ended on 1970-04-11: nobody joins"));
    }

    #[test]
    fn lists_are_told_when_they_are_past_their_next_update_and_not_before() {
        let mut told = Told::default();
        assert_eq!(told.news(&[lists(1000)], 1000), []);
        assert_eq!(until_next(&[lists(1000), certificate(90_000)], 990), Duration::from_secs(11));
        let text = "the lists ended on 1970-01-01: nobody joins; replace them".to_owned();
        assert_eq!(told.news(&[lists(1000)], 1001), [(true, text)]);
        assert_eq!(told.news(&[lists(1000)], 1002), []);
        assert_eq!(until_next(&[lists(1000)], 1002), Duration::from_secs(LOOK_EVERY));
    }

    #[test]
    fn what_is_replaced_by_its_like_is_not_told_anew() {
        let mut told = Told::default();
        let told_of = |told: &mut Told, lists_end, ends, now| {
            told.news(&[lists(lists_end), certificate(ends)], now).len()
        };
        assert_eq!(told_of(&mut told, 9000, 10 * DAY, 5000), 1);
        // The lists are fetched every hour; of the certificate that ends all is said.
        for hour in 1..20 {
            assert_eq!(told_of(&mut told, 9000 + hour * 3600, 10 * DAY, 5000 + hour * 3600), 0);
        }
        let now = 5000 + 20 * 3600;
        assert_eq!(told_of(&mut told, now + 3600, 11 * DAY, now), 1, "another certificate");
        assert_eq!(told_of(&mut told, now + 3600, 11 * DAY, now), 0);
        assert_eq!(told_of(&mut told, now - 2, 11 * DAY, now), 1, "lists that are late");
        assert_eq!(told_of(&mut told, now - 1, 11 * DAY, now), 1, "others, late too");
    }
}
