//! One subscription: what is acknowledged, who consumes, and by which rule. Holds no entry and no socket.

use super::cursor::Cursor;
use super::delivery::{Haul, Key};
use super::log::Log;
use super::sharing::{Hand, Shared};
use super::single::{Seat, Single};

/// A subscription and its consumers.
#[derive(Debug)]
pub struct Subscription {
    cursor: Cursor,
    durable: bool,
    kind: Kind,
    dispatch: Dispatch,
    partition: Option<u32>,
}

/// `CommandSubscribe.SubType`, without Key_Shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Exclusive,
    Shared,
    Failover,
}

/// A consumer that comes.
#[derive(Debug)]
pub struct Newcomer {
    pub key: Key,
    pub kind: Kind,
    pub name: String,
    pub priority: i32,
    pub epoch: Option<u64>,
}

/// Why a consumer may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// This one has it for itself.
    Held(Key),
    /// Others consume it by another rule.
    OtherKind,
}

/// To be told: whether this consumer is the active one.
pub type News = Vec<(Key, bool)>;

#[derive(Debug)]
enum Dispatch {
    Single(Single),
    Shared(Shared),
}

impl Subscription {
    /// Nobody consumes yet; everything below `mark` counts as acknowledged.
    pub fn new(mark: u64, durable: bool, partition: Option<u32>) -> Self {
        Self {
            cursor: Cursor::at(mark),
            durable,
            kind: Kind::Exclusive,
            dispatch: Dispatch::Single(Single::new(mark, partition)),
            partition,
        }
    }

    /// Its acknowledgements.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// It outlives its consumers.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Nobody consumes it, and it does not outlive its consumers.
    pub fn is_leftover(&self) -> bool {
        !self.durable && self.consumers().is_empty()
    }

    /// Everybody who consumes.
    pub fn consumers(&self) -> Vec<Key> {
        match &self.dispatch {
            Dispatch::Single(single) => single.keys().collect(),
            Dispatch::Shared(shared) => shared.keys().collect(),
        }
    }

    /// A consumer comes.
    pub fn join(&mut self, newcomer: Newcomer) -> Result<News, Busy> {
        let present = self.consumers();
        match present.first() {
            None => self.begin(newcomer.kind),
            Some(_) if newcomer.kind != self.kind => return Err(Busy::OtherKind),
            Some(holder) if self.kind == Kind::Exclusive => return Err(Busy::Held(*holder)),
            Some(_) => {}
        }
        let Newcomer { key, name, priority, epoch, .. } = newcomer;
        match &mut self.dispatch {
            Dispatch::Single(single) => {
                let changed = single.join(Seat::new(key, name, priority, epoch), &self.cursor);
                Ok(self.news(changed, Some(key)))
            }
            Dispatch::Shared(shared) => {
                shared.join(Hand::new(key, priority));
                Ok(News::new())
            }
        }
    }

    /// A consumer goes.
    pub fn leave(&mut self, key: Key) -> News {
        match &mut self.dispatch {
            Dispatch::Single(single) => {
                let changed = single.leave(key, &self.cursor);
                self.news(changed, None)
            }
            Dispatch::Shared(shared) => {
                shared.leave(key);
                News::new()
            }
        }
    }

    /// A consumer may be given more messages.
    pub fn permit(&mut self, key: Key, messages: u32) {
        match &mut self.dispatch {
            Dispatch::Single(single) => single.permit(key, messages),
            Dispatch::Shared(shared) => shared.permit(key, messages),
        }
    }

    /// Acknowledges an entry, or the messages of a batch whose bit is not set.
    pub fn ack(&mut self, offset: u64, ack_set: &[i64]) {
        if ack_set.is_empty() {
            self.cursor.ack(offset);
        } else {
            self.cursor.ack_part(offset, ack_set);
        }
        if let Dispatch::Shared(shared) = &mut self.dispatch
            && self.cursor.is_acked(offset)
        {
            shared.acked(offset);
        }
    }

    /// Acknowledges everything up to and including an entry, of which `ack_set` may leave messages over. Ignored
    /// where consumers share, as a broker does (`Consumer.messageAcked`).
    pub fn ack_through(&mut self, offset: u64, ack_set: &[i64]) {
        match (&self.dispatch, ack_set.is_empty()) {
            (Dispatch::Shared(_), _) => {}
            (Dispatch::Single(_), true) => self.cursor.ack_before(offset + 1),
            (Dispatch::Single(_), false) => {
                self.cursor.ack_before(offset);
                self.cursor.ack_part(offset, ack_set);
            }
        }
    }

    /// A consumer wants these again, or all that it has not acknowledged. Where one consumer has everything, it gets
    /// everything again (`PersistentDispatcherSingleActiveConsumer.redeliverUnacknowledgedMessages`).
    pub fn redeliver(&mut self, key: Key, offsets: Option<&[u64]>, epoch: Option<u64>) {
        match &mut self.dispatch {
            Dispatch::Single(single) => single.rewind(key, epoch, &self.cursor),
            Dispatch::Shared(shared) => shared.give_back(key, offsets),
        }
    }

    /// Everything from `mark` on is unread again, of one batch only the messages whose bit is set. Whoever was given
    /// entries has to come anew (`Dispatcher.disconnectActiveConsumers`): those, and the news for the others.
    pub fn reset(&mut self, mark: u64, ack_set: &[i64]) -> (Vec<Key>, News) {
        self.cursor.reset(mark);
        if !ack_set.is_empty() {
            self.cursor.ack_part(mark, ack_set);
        }
        let gone = match &self.dispatch {
            Dispatch::Single(single) => single.active().into_iter().collect(),
            Dispatch::Shared(_) => self.consumers(),
        };
        let news = gone.iter().flat_map(|key| self.leave(*key)).collect();
        if self.consumers().is_empty() {
            self.begin(self.kind);
        }
        (gone, news)
    }

    /// Acknowledges the markers that a new cursor finds (`AbstractBaseDispatcher.filterEntriesForConsumer`).
    pub fn pass_over(&mut self, log: &Log) {
        log.markers(self.cursor.mark()).for_each(|offset| self.cursor.ack(offset));
    }

    /// Gives out what can be given; whom to wake for it.
    pub fn offer(&mut self, log: &Log) -> Vec<Key> {
        match &mut self.dispatch {
            Dispatch::Single(single) => single.hungry(&self.cursor, log).into_iter().collect(),
            Dispatch::Shared(shared) => {
                shared.deal(&self.cursor, log);
                shared.hungry().collect()
            }
        }
    }

    /// Gives a consumer what is its own; whether there is something to be given out anew because of it.
    pub fn take(&mut self, key: Key, log: &Log, haul: &mut Haul) -> bool {
        match &mut self.dispatch {
            Dispatch::Single(single) => {
                single.take(key, &self.cursor, log, haul);
                false
            }
            Dispatch::Shared(shared) => shared.take(key, &self.cursor, log, haul),
        }
    }

    /// Nobody consumes: the next rule is that of whoever comes.
    fn begin(&mut self, kind: Kind) {
        self.kind = kind;
        let mark = self.cursor.mark();
        self.dispatch = match kind {
            Kind::Exclusive | Kind::Failover => Dispatch::Single(Single::new(mark, self.partition)),
            Kind::Shared => Dispatch::Shared(Shared::new(mark)),
        };
    }

    /// Only Failover consumers are told (`Consumer.notifyActiveConsumerChange`): all of them of a change, a newcomer
    /// in any case.
    fn news(&self, changed: bool, newcomer: Option<Key>) -> News {
        let Dispatch::Single(single) = &self.dispatch else {
            return News::new();
        };
        if self.kind != Kind::Failover {
            return News::new();
        }
        let told = |key: &Key| changed || Some(*key) == newcomer;
        single.keys().filter(told).map(|key| (key, Some(key) == single.active())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(key: u64, kind: Kind) -> Newcomer {
        Newcomer { key: Key(key), kind, name: key.to_string(), priority: 0, epoch: None }
    }

    #[test]
    fn an_exclusive_subscription_has_one_consumer_and_the_last_to_go_frees_the_rule() {
        let mut subscription = Subscription::new(0, true, None);
        assert_eq!(subscription.join(newcomer(1, Kind::Exclusive)), Ok(vec![]));
        assert_eq!(subscription.join(newcomer(2, Kind::Exclusive)), Err(Busy::Held(Key(1))));
        assert_eq!(subscription.join(newcomer(2, Kind::Shared)), Err(Busy::OtherKind));
        subscription.leave(Key(1));
        assert_eq!(subscription.join(newcomer(2, Kind::Shared)), Ok(vec![]));
        assert_eq!(subscription.join(newcomer(3, Kind::Failover)), Err(Busy::OtherKind));
    }

    #[test]
    fn failover_consumers_hear_of_changes_and_of_themselves() {
        let mut subscription = Subscription::new(0, true, None);
        assert_eq!(subscription.join(newcomer(1, Kind::Failover)), Ok(vec![(Key(1), true)]));
        assert_eq!(subscription.join(newcomer(2, Kind::Failover)), Ok(vec![(Key(2), false)]));
        assert_eq!(subscription.leave(Key(1)), vec![(Key(2), true)]);
        assert_eq!(subscription.leave(Key(2)), vec![]);
    }

    #[test]
    fn a_reset_closes_the_active_consumer_and_another_takes_over() {
        let mut subscription = Subscription::new(0, true, None);
        subscription.join(newcomer(1, Kind::Failover)).unwrap();
        subscription.join(newcomer(2, Kind::Failover)).unwrap();
        assert_eq!(subscription.reset(3, &[]), (vec![Key(1)], vec![(Key(2), true)]));
        assert_eq!((subscription.consumers(), subscription.cursor().mark()), (vec![Key(2)], 3));
        assert_eq!(subscription.reset(0, &[]), (vec![Key(2)], vec![]));
        subscription.join(newcomer(3, Kind::Shared)).unwrap();
        subscription.join(newcomer(4, Kind::Shared)).unwrap();
        assert_eq!(subscription.reset(0, &[]), (vec![Key(3), Key(4)], vec![]));
    }

    #[test]
    fn a_cursor_passes_over_markers() {
        let mut log = Log::new(1);
        for _ in 0..3 {
            let bytes = bytes::Bytes::from_static(b"entry");
            log.append(crate::embedded::log::Stored { bytes, publish_time: 0, batch: None, sliced: false });
        }
        log.note_marker(1);
        let mut subscription = Subscription::new(0, true, None);
        subscription.pass_over(&log);
        assert!(subscription.cursor().is_acked(1) && subscription.cursor().backlog(3) == 2);
        log.pop();
        log.pop();
        assert_eq!(log.markers(0).count(), 0);
    }

    #[test]
    fn sharers_do_not_acknowledge_cumulatively() {
        let mut subscription = Subscription::new(0, true, None);
        subscription.join(newcomer(1, Kind::Shared)).unwrap();
        subscription.ack_through(5, &[]);
        assert_eq!(subscription.cursor().mark(), 0);
        subscription.ack(0, &[]);
        assert_eq!(subscription.cursor().mark(), 1);
    }
}
