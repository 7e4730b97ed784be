#!/usr/bin/env python3
"""The official Python client as it is told to: a job on each line of stdin, its answer on a line of stdout.

Jobs run side by side; an answer has its job's `id`, and `complaint` when it failed. Client.java takes the same jobs.
Knows no kind and judges nothing.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import sys
import threading
import time

import pulsar
from pulsar.schema import AvroSchema, BytesSchema, JsonSchema, Record, String, StringSchema

AT_ONCE = 6
PATIENCE_MS = 20_000
KEY_NAME = "kinds"


class Client:
    """One client, and what it writes and reads."""

    def __init__(self, url, folder):
        logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
        self.client = pulsar.Client(url, logger=logger, operation_timeout_seconds=30)
        self.folder = folder
        self.keys = pulsar.CryptoKeyReader(str(folder / "public.pem"), str(folder / "private.pem"))

    def produce(self, job):
        """Writes the messages in their order; `transactions` are not this client's."""
        schemas = job["producer"].get("schema")
        schemas = schemas if isinstance(schemas, list) else [schemas]
        producers = [self.producer(job["topic"], each, job["producer"]) for each in schemas]
        refused, last = [], producers[0]
        for message in job["messages"]:
            producer = producers[message.get("schema", 0)]
            if producer is not last:
                last.flush()
            last = producer
            content, dress = self.content(message), dress_of(message)
            producer.send_async(content, lambda result, _: refused.append(str(result)), **dress)
            if job.get("pause_ms"):
                producer.flush()
                time.sleep(job["pause_ms"] / 1000)
        last.flush()
        for producer in producers:
            producer.close()
        refused = [result for result in refused if result != "Result.Ok"]
        if refused:
            raise RuntimeError(f"refused: {refused}")
        return {"sent": len(job["messages"])}

    def producer(self, topic, schema, how):
        batching = {}
        if how.get("batch"):
            kind = pulsar.BatchingType.KeyBased if how.get("key_based") else pulsar.BatchingType.Default
            # Nothing but the number of messages and the flush ends a batch.
            batching = {"batching_enabled": True, "batching_max_messages": how["batch"], "batching_type": kind}
            batching["batching_max_publish_delay_ms"] = 5000
        if how.get("encrypt"):
            batching |= {"encryption_key": KEY_NAME, "crypto_key_reader": self.keys}
        return self.client.create_producer(
            topic, schema=schema_of(schema), chunking_enabled=how.get("chunking", False),
            compression_type=getattr(pulsar.CompressionType, how.get("compression", "NONE").replace("ZLIB", "ZLib")),
            **batching,
        )  # fmt: skip

    def content(self, message):
        if message.get("null"):
            return None
        if "file" in message:
            return (self.folder / message["file"]).read_bytes()
        value = message.get("value")
        return message["text"] if value is None else value

    def read(self, job):
        """Everything that the topic has for a reader; with `shared` what a Shared consumer gets, until `count` came."""
        schema = job.get("schema")
        crypto = {"crypto_key_reader": self.keys} if job.get("decrypt") else {}
        if job.get("shared"):
            found = self.consume(job)
        else:
            reader = self.client.create_reader(
                job["topic"], pulsar.MessageId.earliest, schema=schema_of(schema, reads=True),
                is_read_compacted=job.get("compacted", False), **crypto,
            )  # fmt: skip
            found = []
            while reader.has_message_available() or len(found) < job.get("at_least", 0):
                found.append(seen(reader.read_next(PATIENCE_MS), schema))
            reader.close()
        return {"messages": found}

    def consume(self, job):
        consumer = self.client.subscribe(
            job["topic"], f"shared-{threading.get_ident()}", consumer_type=pulsar.ConsumerType.Shared,
            initial_position=pulsar.InitialPosition.Earliest,
        )  # fmt: skip
        found = []
        for _ in range(job["count"]):
            message = consumer.receive(job["patience_ms"])
            found.append(seen(message, None) | {"received_at": int(time.time() * 1000)})
            consumer.acknowledge(message)
        consumer.close()
        return found


def dress_of(message):
    dress = {
        "partition_key": message.get("key"), "ordering_key": message.get("ordering_key"),
        "properties": dict(message.get("properties", {})), "event_timestamp": message.get("event_time"),
    }  # fmt: skip
    if "deliver_in" in message:
        dress["deliver_at"] = int(time.time() * 1000) + message["deliver_in"] * 1000
        dress["properties"]["due"] = str(dress["deliver_at"])
    return {name: value for name, value in dress.items() if value}


def schema_of(declared, reads=False):
    match (declared or {}).get("type"):
        case "STRING":
            return StringSchema()
        case "JSON":
            return Json(json.loads(declared["definition"]))
        case "AVRO":
            return AvroSchema(None, json.loads(declared["definition"]))
        case None:
            return Text()
    # Nothing this client knows: as bytes.
    assert reads, f"this client has no schema {declared['type']}"
    return BytesSchema()


class Text(BytesSchema):
    """Bytes, of which a job may say a text."""

    def encode(self, data):
        return super().encode(data.encode() if isinstance(data, str) else data)


class Json(JsonSchema):
    """The client's own, for records that a job describes."""

    def __init__(self, definition):
        fields = {each["name"]: String() for each in definition["fields"]}
        super().__init__(type(definition["name"], (Record,), fields))

    def encode(self, data):
        return super().encode(self._record_cls(**data))

    def decode(self, data):
        return vars(super().decode(data))


def seen(message, schema):
    """All that the client shows of a message."""
    raw = message._message
    where, version, context = raw.message_id(), raw.schema_version(), message.encryption_context()
    data = message.data()
    return {
        "len": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        "key": message.partition_key(), "ordering_key": message.ordering_key().encode().hex(),
        "properties": message.properties(), "event_time": message.event_timestamp(),
        "publish_time": message.publish_timestamp(), "producer": message.producer_name(),
        "null": message.has_null_value(), "redelivery": message.redelivery_count(),
        "schema_version": raw.int_schema_version() if version else None,
        "value": str(message.value()) if schema and not message.has_null_value() else None,
        "encryption": context and shown(context),
        "ledger": where.ledger_id(), "entry": where.entry_id(), "batch_index": where.batch_index(),
        "topic": message.topic_name(),
    }  # fmt: skip


def shown(context):
    return {
        "keys": {key.key: [key.value.hex(), dict(key.metadata)] for key in context.keys()},
        "parameter": context.param().hex(), "algorithm": context.algorithm(),
        "compression": str(context.compression_type()), "uncompressed": context.uncompressed_message_size(),
        "batch_size": context.batch_size(),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="with keys and large payloads")
    arguments = parser.parse_args()
    client = Client(arguments.url, arguments.folder)
    saying = threading.Lock()

    def answer(job):
        try:
            said = {"produce": client.produce, "read": client.read}[job["verb"]](job)
        except Exception as error:
            said = {"complaint": f"{type(error).__name__} {error}"}
        with saying:
            print(json.dumps({"id": job["id"], **said}), flush=True)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for line in sys.stdin:
            pool.submit(answer, json.loads(line))
    client.client.close()


main()
