//! The last word of a run about what it sent: that all of it is confirmed, or what is not. Changes nothing.

use super::status::{End, PartitionStatus};

/// Says it, one line for each partition that leaves something; gives how many entries these are.
pub fn tell(rows: &[PartitionStatus]) -> u64 {
    let open = rows.iter().filter(|row| row.end == End::Source && row.in_flight > 0);
    let unconfirmed = open.inspect(|row| tell_cut_off(row)).map(|row| row.in_flight).sum();
    if unconfirmed == 0 {
        tracing::info!("drained: everything that was sent is confirmed");
    }
    unconfirmed
}

/// Says that a source ends with entries that were sent and never confirmed.
pub(super) fn tell_cut_off(row: &PartitionStatus) {
    let PartitionStatus { route, topic, in_flight, reason, .. } = row;
    tracing::warn!(
        %route, %topic, unconfirmed = in_flight, reason,
        "the drain is cut off: {in_flight} entries of route {route}, topic {topic} are unconfirmed: the next run \
         sends them again, and the destination drops those that it has, unless the generation was raised"
    );
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::relay::progress::Progress;
    use crate::relay::status::Board;
    use crate::relay::window::Position;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(rows: &[PartitionStatus]) -> (u64, String) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let unconfirmed = tracing::subscriber::with_default(subscriber, || tell(rows));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        (unconfirmed, text)
    }

    #[test]
    fn a_run_ends_with_the_good_news_or_with_each_partition_that_is_cut_off() {
        let board = Board::default();
        let mut source = Progress::new(board.clone(), End::Source, "orders", "a/b/c", "riskfuel", "bank");
        let mut sink = Progress::new(board.clone(), End::Sink, "results", "a/b/d", "bank", "riskfuel");
        sink.row.in_flight = 9;
        sink.show();
        let (unconfirmed, text) = told(&board.rows());
        assert_eq!(unconfirmed, 0);
        assert!(text.contains("INFO") && text.contains("drained: everything that was sent is confirmed"));
        source.owed.sent(Position { ledger: 1, entry: 2 }, 3);
        source.show();
        let (unconfirmed, text) = told(&board.rows());
        assert_eq!(unconfirmed, 3);
        let line = "the drain is cut off: 3 entries of route orders, topic a/b/c are unconfirmed";
        assert!(text.contains("WARN") && text.contains(line), "{text}");
        assert!(!text.contains("everything"), "{text}");
    }
}
