#!/usr/bin/env python3
"""Writes self-describing messages with the official client and prints one line of JSON when all have their receipts.

The producer has a fixed name and no send timeout: the client repeats what a broken connection left open under the
same sequence ids, and the source's deduplication drops what it has, so the load itself repeats and loses nothing.
"""

import argparse
import json
import os
import sys
import threading
import time

import _pulsar
import connecting
import pulsar
from payload import Writer


def main():
    arguments = parse()
    stay_on_one_core()
    writer = Writer(arguments.producer, arguments.size, arguments.dressed, arguments.text)
    client = connecting.client(arguments)
    producer = client.create_producer(
        arguments.topic,
        producer_name=arguments.producer,
        send_timeout_millis=0,
        block_if_queue_full=True,
        max_pending_messages=20_000 if arguments.size <= 4096 else 500,
        batching_enabled=arguments.batch > 0,
        batching_max_messages=max(arguments.batch, 2),
        batching_max_allowed_size_in_bytes=128 * 1024,
        compression_type=getattr(pulsar.CompressionType, arguments.compression),
        schema=Text() if arguments.typed else pulsar.schema.BytesSchema(),
    )
    receipts = Receipts()
    may_end = ended_stdin() if arguments.hold else None
    started = time.monotonic()
    count = 0
    while count < arguments.count or (may_end and not may_end.is_set()):
        producer.send_async(writer.payload(count), receipts.take, **writer.dress(count))
        count += 1
        if arguments.rate and count % 64 == 0:
            time.sleep(max(0.0, started + count / arguments.rate - time.monotonic()))
    producer.flush()
    receipts.wait(count, arguments.patience)
    seconds = time.monotonic() - started
    client.close()
    print(
        json.dumps({
            "producer": arguments.producer, "topic": arguments.topic, "count": count,
            "payload_bytes": count * arguments.size, "seconds": round(seconds, 3),
            "refused": receipts.refused,
        })
    )  # fmt: skip
    return 1 if receipts.refused else 0


class Text(pulsar.schema.BytesSchema):
    """Payloads as they are, declared as text."""

    def __init__(self):
        pulsar.schema.Schema.__init__(self, bytes, _pulsar.SchemaType.STRING, None, "STRING")


class Receipts:
    """Counts what the broker confirmed; callbacks come on the client's own thread."""

    def __init__(self):
        self.taken, self.awaited, self.refused, self.came = 0, None, {}, threading.Condition()

    def take(self, result, _message_id):
        if result != pulsar.Result.Ok:
            self.refused[str(result)] = self.refused.get(str(result), 0) + 1
        self.taken += 1
        if self.taken == self.awaited:
            with self.came:
                self.came.notify()

    def wait(self, count, patience):
        with self.came:
            self.awaited = count
            if not self.came.wait_for(lambda: self.taken >= count, patience):
                sys.exit(f"produce: {count - self.taken} messages have no receipt after {patience} s")


def ended_stdin():
    """An event that is set when whoever started this program closes its standard input."""
    ended = threading.Event()

    def read():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    return ended


def stay_on_one_core():
    # The client's callbacks and our loop hand the interpreter to each other at every message; between two cores that
    # costs a quarter of the rate and twice the CPU time.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    connecting.add_arguments(parser)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--producer", required=True, help="its name, also written into every payload")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=1024, help="bytes of each payload")
    parser.add_argument("--batch", type=int, default=1000, help="most messages of a batch; 0: unbatched")
    parser.add_argument("--compression", default="NONE", choices=["NONE", "LZ4", "ZSTD"])
    parser.add_argument("--dressed", action="store_true", help="with keys, properties and event times")
    parser.add_argument("--text", action="store_true", help="payloads that compress, as requests in JSON do")
    parser.add_argument("--typed", action="store_true", help="under a schema (string), which payloads need not be")
    parser.add_argument("--rate", type=float, default=0, help="messages per second; 0: as fast as it goes")
    parser.add_argument("--hold", action="store_true", help="after --count go on until standard input is closed")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for the last receipts")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
