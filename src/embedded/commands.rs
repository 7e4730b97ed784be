//! The commands as a broker reads and writes them, numbered as in `PulsarApi.proto`. The bridge has structs of its
//! own for the other side of the same conversation; a number mistaken there is not mistaken here as well.

use bytes::Bytes;
use prost::Message;

/// Declares messages: `Name { field tag kind: type, … }`.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$prost:meta])* $field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub struct $name { $($(#[$prost])* pub $field: $ty),* }
    )*};
}

messages! {
    /// What clients ask. `type` says which of the others is set.
    Question {
        #[prost(int32, tag = "1")] r#type: i32,
        #[prost(message, optional, tag = "2")] connect: Option<Connect>,
        #[prost(message, optional, tag = "4")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "5")] producer: Option<Producer>,
        #[prost(message, optional, tag = "10")] ack: Option<Ack>,
        #[prost(message, optional, tag = "11")] flow: Option<Flow>,
        #[prost(message, optional, tag = "12")] unsubscribe: Option<Numbered>,
        #[prost(message, optional, tag = "15")] close_producer: Option<Numbered>,
        #[prost(message, optional, tag = "16")] close_consumer: Option<Numbered>,
        #[prost(message, optional, tag = "20")] redeliver: Option<Redeliver>,
        #[prost(message, optional, tag = "21")] partition_metadata: Option<PartitionMetadata>,
        #[prost(message, optional, tag = "23")] lookup: Option<Lookup>,
        #[prost(message, optional, tag = "28")] seek: Option<Seek>,
        #[prost(message, optional, tag = "29")] get_last_message_id: Option<Numbered>,
        #[prost(message, optional, tag = "32")] get_topics: Option<GetTopics>,
        #[prost(message, optional, tag = "34")] get_schema: Option<GetSchema>,
        #[prost(message, optional, tag = "39")] get_or_create_schema: Option<GetOrCreateSchema>,
    }
    /// What the broker says. `type` says which of the others is set.
    Answer {
        #[prost(int32, tag = "1")] r#type: i32,
        #[prost(message, optional, tag = "3")] connected: Option<Connected>,
        #[prost(message, optional, tag = "8")] send_error: Option<SendError>,
        #[prost(message, optional, tag = "13")] success: Option<Success>,
        #[prost(message, optional, tag = "14")] error: Option<Refusal>,
        #[prost(message, optional, tag = "15")] close_producer: Option<Numbered>,
        #[prost(message, optional, tag = "16")] close_consumer: Option<Numbered>,
        #[prost(message, optional, tag = "17")] producer_success: Option<ProducerSuccess>,
        #[prost(message, optional, tag = "18")] ping: Option<Nothing>,
        #[prost(message, optional, tag = "19")] pong: Option<Nothing>,
        #[prost(message, optional, tag = "22")] partition_metadata: Option<PartitionMetadataResponse>,
        #[prost(message, optional, tag = "24")] lookup: Option<LookupResponse>,
        #[prost(message, optional, tag = "30")] last_message_id: Option<LastMessageId>,
        #[prost(message, optional, tag = "31")] active_consumer_change: Option<ActiveConsumerChange>,
        #[prost(message, optional, tag = "33")] topics: Option<Topics>,
        #[prost(message, optional, tag = "35")] schema: Option<GetSchemaResponse>,
        #[prost(message, optional, tag = "38")] ack: Option<AckResponse>,
        #[prost(message, optional, tag = "40")] schema_made: Option<GetOrCreateSchemaResponse>,
    }
    /// SEND alone: decoding the whole envelope for each entry would cost more than the rest of its way.
    SendQuestion { #[prost(message, optional, tag = "6")] send: Option<Send> }
    /// SEND_RECEIPT alone.
    ReceiptAnswer {
        #[prost(int32, tag = "1")] r#type: i32,
        #[prost(message, required, tag = "7")] receipt: SendReceipt,
    }
    /// MESSAGE alone.
    MessageAnswer {
        #[prost(int32, tag = "1")] r#type: i32,
        #[prost(message, required, tag = "9")] message: Delivery,
    }
    Nothing {}
    /// A number of a producer or consumer, and that of the request.
    Numbered {
        #[prost(uint64, required, tag = "1")] id: u64,
        #[prost(uint64, required, tag = "2")] request_id: u64,
    }
    /// What comes first in every command that this broker does not know but has to answer.
    Unknown { #[prost(uint64, tag = "1")] request_id: u64 }
    Connect {
        #[prost(int32, optional, tag = "4")] protocol_version: Option<i32>,
    }
    FeatureFlags {
        #[prost(bool, optional, tag = "4")] supports_topic_watchers: Option<bool>,
        #[prost(bool, optional, tag = "5")] supports_metadata_without_creation: Option<bool>,
    }
    Connected {
        #[prost(string, required, tag = "1")] server_version: String,
        #[prost(int32, optional, tag = "2")] protocol_version: Option<i32>,
        #[prost(int32, optional, tag = "3")] max_message_size: Option<i32>,
        #[prost(message, optional, tag = "4")] feature_flags: Option<FeatureFlags>,
    }
    MessageId {
        #[prost(uint64, required, tag = "1")] ledger: u64,
        #[prost(uint64, required, tag = "2")] entry: u64,
        #[prost(int32, optional, tag = "3")] partition: Option<i32>,
        #[prost(int32, optional, tag = "4")] batch_index: Option<i32>,
        #[prost(int64, repeated, packed = "false", tag = "5")] ack_set: Vec<i64>,
    }
    KeyValue {
        #[prost(string, required, tag = "1")] key: String,
        #[prost(string, required, tag = "2")] value: String,
    }
    Schema {
        #[prost(string, required, tag = "1")] name: String,
        #[prost(bytes = "bytes", required, tag = "3")] schema_data: Bytes,
        #[prost(int32, required, tag = "4")] r#type: i32,
        #[prost(message, repeated, tag = "5")] properties: Vec<KeyValue>,
    }
    Subscribe {
        #[prost(string, required, tag = "1")] topic: String,
        #[prost(string, required, tag = "2")] subscription: String,
        #[prost(int32, required, tag = "3")] sub_type: i32,
        #[prost(uint64, required, tag = "4")] consumer_id: u64,
        #[prost(uint64, required, tag = "5")] request_id: u64,
        #[prost(string, optional, tag = "6")] consumer_name: Option<String>,
        #[prost(int32, optional, tag = "7")] priority_level: Option<i32>,
        #[prost(bool, optional, tag = "8")] durable: Option<bool>,
        #[prost(message, optional, tag = "9")] start_message_id: Option<MessageId>,
        #[prost(message, optional, tag = "12")] schema: Option<Schema>,
        #[prost(int32, optional, tag = "13")] initial_position: Option<i32>,
        #[prost(bool, optional, tag = "15")] force_topic_creation: Option<bool>,
        #[prost(uint64, optional, tag = "16")] start_message_rollback_duration_sec: Option<u64>,
        #[prost(uint64, optional, tag = "19")] consumer_epoch: Option<u64>,
    }
    PartitionMetadata {
        #[prost(string, required, tag = "1")] topic: String,
        #[prost(uint64, required, tag = "2")] request_id: u64,
        #[prost(bool, optional, tag = "6")] metadata_auto_creation_enabled: Option<bool>,
    }
    PartitionMetadataResponse {
        #[prost(uint32, optional, tag = "1")] partitions: Option<u32>,
        #[prost(uint64, required, tag = "2")] request_id: u64,
        #[prost(int32, optional, tag = "3")] response: Option<i32>,
        #[prost(int32, optional, tag = "4")] error: Option<i32>,
        #[prost(string, optional, tag = "5")] message: Option<String>,
    }
    Lookup {
        #[prost(string, required, tag = "1")] topic: String,
        #[prost(uint64, required, tag = "2")] request_id: u64,
    }
    LookupResponse {
        #[prost(string, optional, tag = "1")] broker_service_url: Option<String>,
        #[prost(int32, optional, tag = "3")] response: Option<i32>,
        #[prost(uint64, required, tag = "4")] request_id: u64,
        #[prost(bool, optional, tag = "5")] authoritative: Option<bool>,
        #[prost(int32, optional, tag = "6")] error: Option<i32>,
        #[prost(string, optional, tag = "7")] message: Option<String>,
        #[prost(bool, optional, tag = "8")] proxy_through_service_url: Option<bool>,
    }
    Producer {
        #[prost(string, required, tag = "1")] topic: String,
        #[prost(uint64, required, tag = "2")] producer_id: u64,
        #[prost(uint64, required, tag = "3")] request_id: u64,
        #[prost(string, optional, tag = "4")] producer_name: Option<String>,
        #[prost(message, optional, tag = "7")] schema: Option<Schema>,
        #[prost(uint64, optional, tag = "8")] epoch: Option<u64>,
        #[prost(int32, optional, tag = "10")] access_mode: Option<i32>,
        #[prost(bool, optional, tag = "12")] txn_enabled: Option<bool>,
        #[prost(string, optional, tag = "13")] initial_subscription_name: Option<String>,
    }
    ProducerSuccess {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] producer_name: String,
        #[prost(int64, optional, tag = "3")] last_sequence_id: Option<i64>,
        #[prost(bytes = "bytes", optional, tag = "4")] schema_version: Option<Bytes>,
        #[prost(bool, optional, tag = "6")] producer_ready: Option<bool>,
    }
    Send {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(uint64, optional, tag = "4")] txn_least: Option<u64>,
        #[prost(uint64, optional, tag = "5")] txn_most: Option<u64>,
        #[prost(uint64, optional, tag = "6")] highest_sequence_id: Option<u64>,
        #[prost(bool, optional, tag = "7")] is_chunk: Option<bool>,
        #[prost(bool, optional, tag = "8")] marker: Option<bool>,
    }
    SendReceipt {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(message, required, tag = "3")] message_id: Place,
        #[prost(uint64, required, tag = "4")] highest_sequence_id: u64,
    }
    /// A message id without a batch.
    Place {
        #[prost(uint64, required, tag = "1")] ledger: u64,
        #[prost(uint64, required, tag = "2")] entry: u64,
    }
    SendError {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(int32, required, tag = "3")] error: i32,
        #[prost(string, required, tag = "4")] message: String,
    }
    Delivery {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(message, required, tag = "2")] message_id: MessageId,
        #[prost(uint32, optional, tag = "3")] redelivery_count: Option<u32>,
        #[prost(int64, repeated, packed = "false", tag = "4")] ack_set: Vec<i64>,
        #[prost(uint64, optional, tag = "5")] consumer_epoch: Option<u64>,
    }
    Ack {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(int32, required, tag = "2")] ack_type: i32,
        #[prost(message, repeated, tag = "3")] message_id: Vec<MessageId>,
        #[prost(uint64, optional, tag = "6")] txn_least: Option<u64>,
        #[prost(uint64, optional, tag = "7")] txn_most: Option<u64>,
        #[prost(uint64, optional, tag = "8")] request_id: Option<u64>,
    }
    AckResponse {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(int32, optional, tag = "4")] error: Option<i32>,
        #[prost(string, optional, tag = "5")] message: Option<String>,
        #[prost(uint64, optional, tag = "6")] request_id: Option<u64>,
    }
    Flow {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(uint32, required, tag = "2")] permits: u32,
    }
    Redeliver {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(message, repeated, tag = "2")] message_ids: Vec<MessageId>,
        #[prost(uint64, optional, tag = "3")] consumer_epoch: Option<u64>,
    }
    Success { #[prost(uint64, required, tag = "1")] request_id: u64 }
    Refusal {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, required, tag = "2")] error: i32,
        #[prost(string, required, tag = "3")] message: String,
    }
    Seek {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(uint64, required, tag = "2")] request_id: u64,
        #[prost(message, optional, tag = "3")] message_id: Option<MessageId>,
        #[prost(uint64, optional, tag = "4")] publish_time: Option<u64>,
    }
    LastMessageId {
        #[prost(message, required, tag = "1")] last_message_id: MessageId,
        #[prost(uint64, required, tag = "2")] request_id: u64,
        #[prost(message, optional, tag = "3")] consumer_mark_delete_position: Option<MessageId>,
    }
    ActiveConsumerChange {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(bool, optional, tag = "2")] is_active: Option<bool>,
    }
    GetTopics {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] namespace: String,
        /// 0 persistent, 1 non-persistent, 2 all.
        #[prost(int32, optional, tag = "3")] mode: Option<i32>,
    }
    Topics {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, repeated, tag = "2")] topics: Vec<String>,
        #[prost(bool, optional, tag = "3")] filtered: Option<bool>,
        #[prost(bool, optional, tag = "5")] changed: Option<bool>,
    }
    GetSchema {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] topic: String,
        #[prost(bytes = "bytes", optional, tag = "3")] schema_version: Option<Bytes>,
    }
    GetSchemaResponse {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, optional, tag = "2")] error: Option<i32>,
        #[prost(string, optional, tag = "3")] message: Option<String>,
        #[prost(message, optional, tag = "4")] schema: Option<Schema>,
        #[prost(bytes = "bytes", optional, tag = "5")] schema_version: Option<Bytes>,
    }
    GetOrCreateSchema {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] topic: String,
        #[prost(message, required, tag = "3")] schema: Schema,
    }
    GetOrCreateSchemaResponse {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, optional, tag = "2")] error: Option<i32>,
        #[prost(string, optional, tag = "3")] message: Option<String>,
        #[prost(bytes = "bytes", optional, tag = "4")] schema_version: Option<Bytes>,
    }
}

/// `BaseCommand.Type`; equal to the field number of the command it announces.
pub mod kind {
    pub const CONNECT: i32 = 2;
    pub const CONNECTED: i32 = 3;
    pub const SUBSCRIBE: i32 = 4;
    pub const PRODUCER: i32 = 5;
    pub const SEND: u8 = 6;
    pub const SEND_RECEIPT: i32 = 7;
    pub const SEND_ERROR: i32 = 8;
    pub const MESSAGE: i32 = 9;
    pub const ACK: i32 = 10;
    pub const FLOW: i32 = 11;
    pub const UNSUBSCRIBE: i32 = 12;
    pub const SUCCESS: i32 = 13;
    pub const ERROR: i32 = 14;
    pub const CLOSE_PRODUCER: i32 = 15;
    pub const CLOSE_CONSUMER: i32 = 16;
    pub const PRODUCER_SUCCESS: i32 = 17;
    pub const PING: i32 = 18;
    pub const PONG: i32 = 19;
    pub const REDELIVER: i32 = 20;
    pub const PARTITION_METADATA: i32 = 21;
    pub const PARTITION_METADATA_RESPONSE: i32 = 22;
    pub const LOOKUP: i32 = 23;
    pub const LOOKUP_RESPONSE: i32 = 24;
    pub const CONSUMER_STATS: i32 = 25;
    pub const SEEK: i32 = 28;
    pub const GET_LAST_MESSAGE_ID: i32 = 29;
    pub const LAST_MESSAGE_ID: i32 = 30;
    pub const ACTIVE_CONSUMER_CHANGE: i32 = 31;
    pub const GET_TOPICS: i32 = 32;
    pub const TOPICS: i32 = 33;
    pub const GET_SCHEMA: i32 = 34;
    pub const GET_SCHEMA_RESPONSE: i32 = 35;
    pub const AUTH_RESPONSE: i32 = 37;
    pub const ACK_RESPONSE: i32 = 38;
    pub const GET_OR_CREATE_SCHEMA: i32 = 39;
    pub const GET_OR_CREATE_SCHEMA_RESPONSE: i32 = 40;
    /// The first of the transactions' commands; they go up to [`TXN_LAST`].
    pub const TXN_FIRST: i32 = 50;
    pub const TXN_LAST: i32 = 63;
}
