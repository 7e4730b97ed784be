//! The commands of Pulsar's binary protocol that the bridge speaks, as prost messages: the fields it reads or
//! writes, numbered as in `PulsarApi.proto`. Message metadata is not here: it is edited on the wire bytes.

use prost::Message;

/// Declares one message: `name { tag kind field, … }`.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$prost:meta])* $field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$prost])* pub $field: $ty),* }
    )*};
}

messages! {
    /// The envelope: `type` says which of the others is set.
    BaseCommand {
        #[prost(int32, tag = "1")] r#type: i32,
        #[prost(message, optional, tag = "2")] connect: Option<Connect>,
        #[prost(message, optional, tag = "3")] connected: Option<Connected>,
        #[prost(message, optional, tag = "4")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "5")] producer: Option<Producer>,
        #[prost(message, optional, tag = "6")] send: Option<Send>,
        #[prost(message, optional, tag = "7")] send_receipt: Option<SendReceipt>,
        #[prost(message, optional, tag = "8")] send_error: Option<SendError>,
        #[prost(message, optional, tag = "9")] message: Option<CommandMessage>,
        #[prost(message, optional, tag = "10")] ack: Option<Ack>,
        #[prost(message, optional, tag = "11")] flow: Option<Flow>,
        #[prost(message, optional, tag = "12")] unsubscribe: Option<CloseConsumer>,
        #[prost(message, optional, tag = "13")] success: Option<Success>,
        #[prost(message, optional, tag = "14")] error: Option<CommandError>,
        #[prost(message, optional, tag = "15")] close_producer: Option<CloseProducer>,
        #[prost(message, optional, tag = "16")] close_consumer: Option<CloseConsumer>,
        #[prost(message, optional, tag = "17")] producer_success: Option<ProducerSuccess>,
        #[prost(message, optional, tag = "18")] ping: Option<Empty>,
        #[prost(message, optional, tag = "19")] pong: Option<Empty>,
        #[prost(message, optional, tag = "21")] partition_metadata: Option<PartitionMetadata>,
        #[prost(message, optional, tag = "22")] partition_metadata_response: Option<PartitionMetadataResponse>,
        #[prost(message, optional, tag = "23")] lookup: Option<Lookup>,
        #[prost(message, optional, tag = "24")] lookup_response: Option<LookupResponse>,
        #[prost(message, optional, tag = "27")] reached_end: Option<ConsumerId>,
        #[prost(message, optional, tag = "29")] get_last_message_id: Option<GetLastMessageId>,
        #[prost(message, optional, tag = "30")] last_message_id: Option<LastMessageId>,
        #[prost(message, optional, tag = "31")] active_consumer_change: Option<ActiveConsumerChange>,
        #[prost(message, optional, tag = "32")] get_topics: Option<GetTopics>,
        #[prost(message, optional, tag = "33")] get_topics_response: Option<GetTopicsResponse>,
        #[prost(message, optional, tag = "34")] get_schema: Option<GetSchema>,
        #[prost(message, optional, tag = "35")] get_schema_response: Option<GetSchemaResponse>,
        #[prost(message, optional, tag = "36")] auth_challenge: Option<AuthChallenge>,
        #[prost(message, optional, tag = "37")] auth_response: Option<AuthResponse>,
        #[prost(message, optional, tag = "38")] ack_response: Option<AckResponse>,
        #[prost(message, optional, tag = "39")] get_or_create_schema: Option<GetOrCreateSchema>,
        #[prost(message, optional, tag = "40")] get_or_create_schema_response: Option<GetOrCreateSchemaResponse>,
        #[prost(message, optional, tag = "68")] topic_migrated: Option<TopicMigrated>,
    }
    Empty {}
    Connect {
        #[prost(string, required, tag = "1")] client_version: String,
        #[prost(bytes = "bytes", optional, tag = "3")] auth_data: Option<bytes::Bytes>,
        #[prost(int32, optional, tag = "4")] protocol_version: Option<i32>,
        #[prost(string, optional, tag = "5")] auth_method_name: Option<String>,
        #[prost(string, optional, tag = "6")] proxy_to_broker_url: Option<String>,
        #[prost(message, optional, tag = "10")] feature_flags: Option<FeatureFlags>,
    }
    FeatureFlags {
        #[prost(bool, optional, tag = "1")] supports_auth_refresh: Option<bool>,
        #[prost(bool, optional, tag = "2")] supports_broker_entry_metadata: Option<bool>,
        #[prost(bool, optional, tag = "4")] supports_topic_watchers: Option<bool>,
        #[prost(bool, optional, tag = "5")] supports_partition_metadata_without_creation: Option<bool>,
    }
    Connected {
        #[prost(string, required, tag = "1")] server_version: String,
        #[prost(int32, optional, tag = "2")] protocol_version: Option<i32>,
        #[prost(int32, optional, tag = "3")] max_message_size: Option<i32>,
        #[prost(message, optional, tag = "4")] feature_flags: Option<FeatureFlags>,
    }
    AuthPayload {
        #[prost(string, optional, tag = "1")] auth_method_name: Option<String>,
        #[prost(bytes = "bytes", optional, tag = "2")] auth_data: Option<bytes::Bytes>,
    }
    AuthChallenge {
        #[prost(message, optional, tag = "2")] challenge: Option<AuthPayload>,
        #[prost(int32, optional, tag = "3")] protocol_version: Option<i32>,
    }
    AuthResponse {
        #[prost(string, optional, tag = "1")] client_version: Option<String>,
        #[prost(message, optional, tag = "2")] response: Option<AuthPayload>,
        #[prost(int32, optional, tag = "3")] protocol_version: Option<i32>,
    }
    MessageId {
        #[prost(uint64, required, tag = "1")] ledger: u64,
        #[prost(uint64, required, tag = "2")] entry: u64,
    }
    KeyValue {
        #[prost(string, required, tag = "1")] key: String,
        #[prost(string, required, tag = "2")] value: String,
    }
    KeyLongValue {
        #[prost(string, required, tag = "1")] key: String,
        #[prost(uint64, required, tag = "2")] value: u64,
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
        #[prost(message, repeated, tag = "10")] metadata: Vec<KeyValue>,
        #[prost(bool, optional, tag = "11")] read_compacted: Option<bool>,
        #[prost(int32, optional, tag = "13")] initial_position: Option<i32>,
        #[prost(bool, optional, tag = "15")] force_topic_creation: Option<bool>,
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
        #[prost(bool, optional, tag = "3")] authoritative: Option<bool>,
    }
    LookupResponse {
        #[prost(string, optional, tag = "1")] broker_service_url: Option<String>,
        #[prost(string, optional, tag = "2")] broker_service_url_tls: Option<String>,
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
        #[prost(bool, optional, tag = "5")] encrypted: Option<bool>,
        #[prost(message, repeated, tag = "6")] metadata: Vec<KeyValue>,
        #[prost(uint64, optional, tag = "8")] epoch: Option<u64>,
        #[prost(bool, optional, tag = "9")] user_provided_producer_name: Option<bool>,
    }
    ProducerSuccess {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] producer_name: String,
        #[prost(int64, optional, tag = "3")] last_sequence_id: Option<i64>,
        #[prost(bool, optional, tag = "6")] producer_ready: Option<bool>,
    }
    Send {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(int32, optional, tag = "3")] num_messages: Option<i32>,
        #[prost(uint64, optional, tag = "6")] highest_sequence_id: Option<u64>,
    }
    SendReceipt {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(message, optional, tag = "3")] message_id: Option<MessageId>,
    }
    SendError {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] sequence_id: u64,
        #[prost(int32, required, tag = "3")] error: i32,
        #[prost(string, required, tag = "4")] message: String,
    }
    CommandMessage {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(message, required, tag = "2")] message_id: MessageId,
    }
    Ack {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(int32, required, tag = "2")] ack_type: i32,
        #[prost(message, repeated, tag = "3")] message_id: Vec<MessageId>,
        #[prost(message, repeated, tag = "5")] properties: Vec<KeyLongValue>,
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
        #[prost(uint32, required, tag = "2")] message_permits: u32,
    }
    Success { #[prost(uint64, required, tag = "1")] request_id: u64 }
    CommandError {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, required, tag = "2")] error: i32,
        #[prost(string, required, tag = "3")] message: String,
    }
    CloseProducer {
        #[prost(uint64, required, tag = "1")] producer_id: u64,
        #[prost(uint64, required, tag = "2")] request_id: u64,
    }
    CloseConsumer {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(uint64, required, tag = "2")] request_id: u64,
    }
    ConsumerId { #[prost(uint64, required, tag = "1")] consumer_id: u64 }
    GetLastMessageId {
        #[prost(uint64, required, tag = "1")] consumer_id: u64,
        #[prost(uint64, required, tag = "2")] request_id: u64,
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
    /// `CommandGetTopicsOfNamespace`; the mode is `PERSISTENT` where it is left out.
    GetTopics {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] namespace: String,
        #[prost(int32, optional, tag = "3")] mode: Option<i32>,
    }
    GetTopicsResponse {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, repeated, tag = "2")] topics: Vec<String>,
    }
    /// A schema, passed on as its bytes.
    GetSchema {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] topic: String,
        #[prost(bytes = "bytes", optional, tag = "3")] schema_version: Option<bytes::Bytes>,
    }
    GetSchemaResponse {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, optional, tag = "2")] error: Option<i32>,
        #[prost(string, optional, tag = "3")] message: Option<String>,
        #[prost(bytes = "bytes", optional, tag = "4")] schema: Option<bytes::Bytes>,
    }
    GetOrCreateSchema {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(string, required, tag = "2")] topic: String,
        #[prost(bytes = "bytes", required, tag = "3")] schema: bytes::Bytes,
    }
    GetOrCreateSchemaResponse {
        #[prost(uint64, required, tag = "1")] request_id: u64,
        #[prost(int32, optional, tag = "2")] error: Option<i32>,
        #[prost(string, optional, tag = "3")] message: Option<String>,
        #[prost(bytes = "bytes", optional, tag = "4")] schema_version: Option<bytes::Bytes>,
    }
    TopicMigrated {
        #[prost(uint64, required, tag = "1")] resource_id: u64,
        /// 0 producer, 1 consumer.
        #[prost(int32, required, tag = "2")] resource_type: i32,
    }
}

/// `BaseCommand.Type`; equal to the field number of the command it announces.
#[allow(missing_docs)]
pub mod kind {
    pub const CONNECT: i32 = 2;
    pub const CONNECTED: i32 = 3;
    pub const SUBSCRIBE: i32 = 4;
    pub const PRODUCER: i32 = 5;
    pub const SEND: i32 = 6;
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
    pub const PARTITION_METADATA: i32 = 21;
    pub const PARTITION_METADATA_RESPONSE: i32 = 22;
    pub const LOOKUP: i32 = 23;
    pub const LOOKUP_RESPONSE: i32 = 24;
    pub const REACHED_END: i32 = 27;
    pub const GET_LAST_MESSAGE_ID: i32 = 29;
    pub const LAST_MESSAGE_ID: i32 = 30;
    pub const ACTIVE_CONSUMER_CHANGE: i32 = 31;
    pub const GET_TOPICS: i32 = 32;
    pub const GET_TOPICS_RESPONSE: i32 = 33;
    pub const GET_SCHEMA: i32 = 34;
    pub const GET_SCHEMA_RESPONSE: i32 = 35;
    pub const AUTH_CHALLENGE: i32 = 36;
    pub const AUTH_RESPONSE: i32 = 37;
    pub const ACK_RESPONSE: i32 = 38;
    pub const GET_OR_CREATE_SCHEMA: i32 = 39;
    pub const GET_OR_CREATE_SCHEMA_RESPONSE: i32 = 40;
    pub const TOPIC_MIGRATED: i32 = 68;
}

/// `ServerError` of the protocol: what a broker says went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum ServerError {
    Unknown = 0,
    Metadata = 1,
    Persistence = 2,
    Authentication = 3,
    Authorization = 4,
    ConsumerBusy = 5,
    ServiceNotReady = 6,
    ProducerBlockedQuota = 7,
    ProducerBlockedQuotaException = 8,
    Checksum = 9,
    UnsupportedVersion = 10,
    TopicNotFound = 11,
    SubscriptionNotFound = 12,
    ConsumerNotFound = 13,
    TooManyRequests = 14,
    TopicTerminated = 15,
    ProducerBusy = 16,
    InvalidTopicName = 17,
    IncompatibleSchema = 18,
    ConsumerAssign = 19,
    TransactionCoordinatorNotFound = 20,
    InvalidTxnStatus = 21,
    NotAllowed = 22,
    TransactionConflict = 23,
    TransactionNotFound = 24,
    ProducerFenced = 25,
}
