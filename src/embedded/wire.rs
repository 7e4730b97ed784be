//! Frames as the broker writes them, many into one buffer. Holds no socket.

use bytes::{BufMut, BytesMut};
use prost::Message;

use super::commands::{
    Answer, Delivery, MessageAnswer, MessageId, Place, ReceiptAnswer, SendReceipt, Success, kind,
};
use super::log::Position;

/// Appends a frame of a command alone.
pub fn put<C: Message>(command: &C, frames: &mut BytesMut) {
    put_before(command, 0, frames);
}

/// Appends the beginning of a frame of which `rest_len` more bytes follow.
fn put_before<C: Message>(command: &C, rest_len: usize, frames: &mut BytesMut) {
    let command_len = command.encoded_len();
    frames.reserve(8 + command_len);
    // Entries were let in by a 32-bit length, and commands are ours.
    frames.put_u32((4 + command_len + rest_len) as u32);
    frames.put_u32(command_len as u32);
    command.encode_raw(frames);
}

/// Appends a receipt; no position means that it was a duplicate.
pub fn put_receipt(
    producer_id: u64,
    sequence_id: u64,
    highest: Option<u64>,
    position: Option<Position>,
    frames: &mut BytesMut,
) {
    let none = Position { ledger: u64::MAX, entry: u64::MAX };
    let Position { ledger, entry } = position.unwrap_or(none);
    let receipt = SendReceipt {
        producer_id,
        sequence_id,
        message_id: Place { ledger, entry },
        highest_sequence_id: highest.unwrap_or(0),
    };
    put(&ReceiptAnswer { r#type: kind::SEND_RECEIPT, receipt }, frames);
}

/// Appends what stands before an entry on its way to a consumer.
pub fn put_message_head(
    consumer_id: u64,
    delivery: &super::delivery::Delivery,
    partition: Option<i32>,
    frames: &mut BytesMut,
) {
    let message = Delivery {
        consumer_id,
        message_id: MessageId {
            ledger: delivery.position.ledger,
            entry: delivery.position.entry,
            partition,
            ..MessageId::default()
        },
        redelivery_count: (delivery.redeliveries > 0).then_some(delivery.redeliveries),
        ack_set: delivery.ack_set.clone(),
        consumer_epoch: delivery.epoch,
    };
    put_before(&MessageAnswer { r#type: kind::MESSAGE, message }, delivery.bytes.len(), frames);
}

/// The plain success of a request.
pub fn success(request_id: u64) -> Answer {
    Answer { r#type: kind::SUCCESS, success: Some(Success { request_id }), ..Answer::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::frame::FrameSplitter;

    #[test]
    fn the_bridge_reads_what_the_broker_writes() {
        let mut frames = BytesMut::new();
        put_receipt(3, 7, None, None, &mut frames);
        put_receipt(3, 8, Some(9), Some(Position { ledger: 1 << 34, entry: 5 }), &mut frames);
        put(&success(11), &mut frames);
        let mut splitter = FrameSplitter::new(1000);
        splitter.inlet().extend_from_slice(&frames);
        let mut next = || splitter.next_frame().unwrap().unwrap().decode().unwrap();
        let duplicate = next().send_receipt.unwrap();
        assert_eq!((duplicate.sequence_id, duplicate.message_id.unwrap().ledger), (7, u64::MAX));
        let id = next().send_receipt.unwrap().message_id.unwrap();
        assert_eq!((id.ledger, id.entry), (1 << 34, 5));
        assert_eq!(next().success.unwrap().request_id, 11);
    }
}
