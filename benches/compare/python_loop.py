#!/usr/bin/env python3
"""The relay that one writes with the official Python client: receive, send on without waiting, acknowledge when the
receipt is there. Batches, and takes what it receives in lists; keeps keys, properties and event times. Promises
at-least-once: a receipt that is none ends it.
"""

import argparse
import os
import sys
import threading
from functools import partial

import pulsar

AT_ONCE = 1000
AT_ONCE_BYTES = 1 << 20


def main():
    arguments = parse()
    stay_on_one_core()
    quiet = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
    here, there = (pulsar.Client(url, logger=quiet, io_threads=1) for url in (arguments.from_url, arguments.to_url))
    consumer = here.subscribe(
        arguments.topic, "python-loop", consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=20_000,
        batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(AT_ONCE, AT_ONCE_BYTES, 5),
    )  # fmt: skip
    producer = there.create_producer(
        arguments.topic, send_timeout_millis=0, block_if_queue_full=True, max_pending_messages=20_000,
        batching_enabled=True, batching_max_messages=1000, batching_max_allowed_size_in_bytes=128 * 1024,
        batching_max_publish_delay_ms=1, compression_type=getattr(pulsar.CompressionType, arguments.compression),
    )  # fmt: skip
    done = Done(consumer, arguments.messages)
    received = 0
    while received < arguments.messages:
        messages = consumer.batch_receive()
        for message in messages[:-1]:
            pass_on(producer, message, done.take)
        if messages:
            # Receipts come in order: the last one's is good for all before it.
            pass_on(producer, messages[-1], partial(done.take_list, messages[-1], len(messages)))
            received += len(messages)
    producer.flush()
    done.wait()
    here.close()
    there.close()
    return 0


def pass_on(producer, message, callback):
    # The wrapped object spares a third of the time per message.
    raw = message._message
    properties, key, at = raw.properties(), raw.partition_key(), raw.event_timestamp()
    if properties or key or at:
        producer.send_async(
            raw.data(), callback, properties=properties or None, partition_key=key or None, event_timestamp=at or None
        )
    else:
        producer.send_async(raw.data(), callback)


class Done:
    """What has its receipt, and is acknowledged; on the client's own thread."""

    def __init__(self, consumer, awaited):
        self.consumer, self.awaited, self.count = consumer, awaited, 0
        self.over = threading.Event()

    def take(self, result, _message_id):
        if result != pulsar.Result.Ok:
            print(f"python_loop: {result}", file=sys.stderr, flush=True)
            os._exit(1)

    def take_list(self, last, count, result, _message_id):
        self.take(result, None)
        self.consumer.acknowledge_cumulative(last)
        self.count += count
        if self.count >= self.awaited:
            self.over.set()

    def wait(self):
        self.over.wait()


def stay_on_one_core():
    # Callbacks and loop hand the interpreter to each other at every message; between two cores that costs a quarter of
    # the rate and twice the CPU time.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from-url", required=True, help="where the topic is consumed")
    parser.add_argument("--to-url", required=True, help="where it is produced")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--messages", type=int, required=True, help="ends after so many")
    parser.add_argument("--compression", default="NONE", choices=["NONE", "LZ4", "ZSTD"])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
