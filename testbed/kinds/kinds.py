"""What kinds of messages there are: for each, how a client writes it, how it is read, and by what one sees that the
source really holds this kind. Only data and looks at data: starts nothing, asks no broker.

A kind is written in words that both client programs know (client.py, Client.java):

    producer: compression, batch (messages, 0: none), key_based, chunking, encrypt, schema
    messages: text | file | null | value, key, ordering_key, properties, event_time, deliver_in, txn, schema
"""

import functools
import hashlib
import json
import random
from dataclasses import dataclass, field

import wire

BOTH = ("java", "python")
ONLY_JAVA = ("java",)
FIRST_EVENT_TIME = 1_700_000_000_000
COMPRESSIONS = {"lz4": 1, "zlib": 2, "zstd": 3, "snappy": 4}
LARGE, LARGE_LEN = "large", 50_000_000
# As a broker takes them by default (`maxMessageSize`), less what the client keeps for the metadata.
CHUNKS_MIN = LARGE_LEN // (5 << 20)
DELAY_SECONDS = 20
# A tracker that is not strict fires up to one tick before the time (`delayedDeliveryTickTimeMillis`).
TICK_MS = 1000


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    messages: list
    # What the source has to show: (messages as seen there, metadata of the entries) -> bool.
    shows: object
    producer: dict = field(default_factory=dict)
    read: dict = field(default_factory=dict)
    writers: tuple = BOTH
    outcome: dict = field(default_factory=dict)
    # The order of these is not that of sending.
    reorders: bool = False
    # Read by a view that is not the whole topic.
    partial: bool = False
    # A schema that the destination has before the first message comes, so that the versions differ.
    beforehand: dict | None = None

    def expected(self):
        """Digests of the payloads, in order; None where the client's schema makes them."""
        sent = [message for message in self.messages if self.outcome.get(message.get("txn"), "commit") == "commit"]
        return [digest(message) for message in sent]


def digest(message):
    if "value" in message:
        return None
    if message.get("null"):
        return hashlib.sha256(b"").hexdigest()
    return hashlib.sha256(payload(message)).hexdigest()


def payload(message):
    return large() if message.get("file") == LARGE else message["text"].encode()


@functools.cache
def large():
    """What no codec makes smaller."""
    return random.Random(LARGE).randbytes(LARGE_LEN)


def texts(count, each=lambda number: {}):
    return [{"text": f"message {number} " + "lorem ipsum " * 8, **each(number)} for number in range(count)]


def keyed(number):
    return {"key": f"key-{number % 4}", "ordering_key": f"order-{number % 3}"}


def dressed(number):
    properties = {"number": str(number), "größe": "ü", "empty": "", "n" * (number + 1): "x"}
    return {"properties": properties, "event_time": FIRST_EVENT_TIME + number}


def tombstones(number):
    """The last word on two of the four keys is that they are gone."""
    return {"key": f"key-{number % 4}"} | ({"null": True} if number in (8, 10) else {})


def batched(seen, _metadata):
    return len({message["batch_index"] for message in seen}) > 1


def single(seen, _metadata):
    return {message["batch_index"] for message in seen} == {-1}


def has(number, value=None):
    """Every entry's metadata has a field, with that value."""

    def look(_seen, metadata):
        spans = [[span for found, span in wire.fields(entry) if found == number] for entry in metadata]
        due = None if value is None else wire.field(number, value)
        return bool(spans) and all(found and due in (None, found[-1]) for found in spans)

    return look


def count(number, judge):
    """How many entries' metadata have a field."""
    return lambda _seen, metadata: judge(sum(number in dict(wire.fields(entry)) for entry in metadata))


def every(*looks):
    return lambda seen, metadata: all(look(seen, metadata) for look in looks)


def each(look):
    return lambda seen, _metadata: bool(seen) and all(look(message) for message in seen)


def some(look):
    return lambda seen, _metadata: any(look(message) for message in seen)


has_keys = every(each(lambda message: message["key"] and message["ordering_key"]))
has_dress = each(lambda message: len(message["properties"]) == 4 and message["event_time"] >= FIRST_EVENT_TIME)
has_null = some(lambda message: message["null"])
is_encrypted = every(has(wire.ENCRYPTION_KEYS), each(lambda message: message["encryption"]))


def versions(count):
    """So many versions of a schema, in the order of their registration."""
    return lambda seen, _metadata: sorted({message["schema_version"] for message in seen}) == list(range(count))


def record(*names):
    fields = [{"name": name, "type": ["null", "string"], "default": None} for name in names]
    return {"type": "record", "name": "Order", "fields": fields}


def schema(kind, definition="", **more):
    return {"type": kind, "definition": definition if isinstance(definition, str) else json.dumps(definition), **more}


def is_compacted(seen, _metadata):
    """Of each key the last word, if that was not that it is gone; a client may show what is left of the others."""
    return sorted(message["key"] for message in seen if message["len"]) == ["key-1", "key-3"]


def is_in_time(message):
    return message["received_at"] >= int(message["properties"]["due"]) - TICK_MS


def compressed():
    for name, number in COMPRESSIONS.items():
        for batch, look in ((0, single), (5, batched)):
            producer = {"compression": name.upper(), "batch": batch}
            title = f"{name}, {'batched' if batch else 'single'}"
            yield Kind(title, texts(10), every(look, has(wire.COMPRESSION, number)), producer)


ITEM, NOTED, COUNTED = record("item"), record("item", "note"), record("item", "count")
AVRO = [schema("AVRO", ITEM), schema("AVRO", COUNTED)]
PAIR = {"key": "STRING", "value": "JSON"}
KINDS = [
    Kind("uncompressed, single", texts(10), single),
    Kind("uncompressed, batched", texts(10), batched, {"batch": 5}),
    *compressed(),
    Kind("keys and ordering keys, single", texts(10, keyed), every(single, has_keys)),
    Kind("keys and ordering keys, batched", texts(10, keyed), every(batched, has_keys), {"batch": 5}),
    Kind(
        "batches by key", texts(12, lambda number: {"key": f"key-{number % 3}"}),
        every(batched, has(wire.PARTITION_KEY)), {"batch": 100, "key_based": True}, reorders=True,
    ),
    Kind("properties and event time, single", texts(5, dressed), every(single, has_dress)),
    Kind("properties and event time, batched", texts(5, dressed), every(batched, has_dress), {"batch": 5}),
    Kind("null values, single", texts(12, tombstones), every(single, has_null)),
    Kind("null values, batched", texts(12, tombstones), every(batched, has_null), {"batch": 6}),
    Kind(
        "compacted, single", texts(12, tombstones), is_compacted,
        read={"compacted": True}, partial=True,
    ),
    Kind(
        "compacted, batched", texts(12, tombstones), is_compacted,
        {"batch": 6}, {"compacted": True}, partial=True,
    ),
    Kind(
        "delayed delivery", texts(4, lambda number: {"deliver_in": DELAY_SECONDS, **keyed(number)}),
        every(has(wire.DELIVER_AT), each(is_in_time)), read={"shared": True}, reorders=True,
    ),
    Kind(
        "chunks of 50 MB", [{"text": "before"}, {"file": LARGE}, {"text": "after"}],
        count(wire.CHUNK_ID, lambda found: found > CHUNKS_MIN),
        {"chunking": True},
    ),
    Kind(
        "chunks of 50 MB, zstd and encrypted", [{"file": LARGE}],
        count(wire.CHUNK_ID, lambda found: found > CHUNKS_MIN),
        {"chunking": True, "encrypt": True, "compression": "ZSTD"}, {"decrypt": True},
        # The Python client names the key once more in each chunk, upon which the Java client breaks its connection.
        writers=ONLY_JAVA,
    ),
    Kind("encrypted, single", texts(10), every(single, is_encrypted), {"encrypt": True}, {"decrypt": True}),
    Kind(
        "encrypted, batched, lz4", texts(10), every(batched, is_encrypted),
        {"encrypt": True, "batch": 5, "compression": "LZ4"}, {"decrypt": True},
    ),
    Kind(
        "transactions",
        texts(12, lambda number: {"txn": (None, "kept", "dropped")[number % 3]}) + texts(1),
        count(wire.TXN_LEAST, lambda found: found == 4),
        # Those of a transaction wait until the broker knows of it.
        outcome={"kept": "commit", "dropped": "abort"}, writers=ONLY_JAVA, reorders=True,
    ),
    Kind("schema string", texts(5), versions(1), {"schema": schema("STRING")}, {"schema": "STRING"}),
    Kind(
        "schema JSON", [{"value": {"item": f"item {number}"}} for number in range(5)], versions(1),
        {"schema": schema("JSON", ITEM)}, {"schema": "JSON"}, beforehand=schema("JSON", NOTED),
    ),
    Kind(
        "schema Avro, two versions",
        [{"value": {"item": f"item {number}"}, "schema": 0} for number in range(4)]
        + [{"value": {"item": f"item {number}", "count": "2"}, "schema": 1} for number in range(4)]
        + [{"value": {"item": "late"}, "schema": 0}],
        versions(2), {"schema": AVRO}, {"schema": "AVRO"}, beforehand=schema("AVRO", NOTED),
    ),
    Kind(
        "schema Avro, batched", [{"value": {"item": f"item {number}"}} for number in range(8)],
        every(versions(1), batched), {"schema": AVRO[0], "batch": 4}, {"schema": "AVRO"},
        beforehand=schema("AVRO", NOTED),
    ),
    Kind(
        "schema protobuf", [{"value": f"file {number}"} for number in range(5)], versions(1),
        {"schema": schema("PROTOBUF")}, {"schema": "PROTOBUF"}, writers=ONLY_JAVA,
    ),
    Kind(
        "schema protobuf native", [{"value": f"file {number}"} for number in range(5)], versions(1),
        {"schema": schema("PROTOBUF_NATIVE")}, {"schema": "PROTOBUF_NATIVE"}, writers=ONLY_JAVA,
    ),
    *(
        Kind(
            f"schema key-value, {encoding.lower()}",
            [{"value": {"item": f"item {number}"}, "pair_key": f"key-{number}"} for number in range(5)], versions(1),
            {"schema": schema("KEY_VALUE", ITEM, encoding=encoding)}, {"schema": "KEY_VALUE"}, writers=ONLY_JAVA,
        )
        for encoding in ("SEPARATED", "INLINE")
    ),
]  # fmt: skip
