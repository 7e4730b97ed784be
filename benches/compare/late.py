#!/usr/bin/env python3
"""How late messages are, by the official client; sender and receiver are processes of one machine, and so of one clock.
A message says when it was handed to the client: what it takes from there to the receiver's hands is counted.

    late.py receive URL TOPIC COUNT WARM BURST    says `ready`, `first` when one has come, and then its figures
    late.py send URL TOPIC COUNT SIZE RATE BURST  sends one, waits for a line on stdin, then sends the others

Messages go in bursts, each a batch; the first one of each burst counts. The receiver checks that all come, in order.
"""

import json
import os
import struct
import sys
import time

import pulsar

HEAD = struct.Struct(">QQ")
PATIENCE_MS = 30_000
SPIN_SECONDS = 0.0002


def receive(client, topic, count, warm, burst):
    consumer = client.subscribe(
        topic, "late", consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=10_000,
    )  # fmt: skip
    print("ready", flush=True)
    took, clock = [], time.time_ns
    for wanted in range(count):
        message = consumer.receive(PATIENCE_MS)
        now = clock()
        number, at = HEAD.unpack_from(message.data())
        if number != wanted:
            sys.exit(f"late: {number} came where {wanted} was due")
        if number == 0:
            print("first", flush=True)
        elif number > warm and (number - 1) % burst == 0:
            took.append(now - at)
        if number % 1000 == 0 or number == count - 1:
            consumer.acknowledge_cumulative(message)
    took.sort()
    at = lambda share: round(took[min(int(len(took) * share), len(took) - 1)] / 1e3, 1)  # noqa: E731
    print(json.dumps({"p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1), "samples": len(took)}), flush=True)


def send(client, topic, count, size, rate, burst):
    producer = client.create_producer(
        topic, send_timeout_millis=0, block_if_queue_full=True, max_pending_messages=20_000,
        batching_enabled=burst > 1, batching_max_messages=max(burst, 2), batching_max_publish_delay_ms=5,
        batching_max_allowed_size_in_bytes=128 * 1024,
    )  # fmt: skip
    body = os.urandom(size - HEAD.size)
    refused = []

    def receipt(result, _message_id):
        if result != pulsar.Result.Ok:
            refused.append(str(result))

    producer.send(HEAD.pack(0, time.time_ns()) + body)
    sys.stdin.readline()
    began = time.monotonic()
    for number in range(1, count):
        if (number - 1) % burst == 0:
            due = began + (number - 1) / rate
            # A sleep is late by some 60 µs, which would come in clusters.
            while (left := due - time.monotonic()) > 0:
                if left > SPIN_SECONDS:
                    time.sleep(left - SPIN_SECONDS)
        producer.send_async(HEAD.pack(number, time.time_ns()) + body, receipt)
    producer.flush()
    print(json.dumps({"sent": count, "seconds": round(time.monotonic() - began, 3), "refused": refused}), flush=True)
    return 1 if refused else 0


def main():
    what, url, topic, *numbers = sys.argv[1:]
    client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error), io_threads=1)
    code = {"receive": receive, "send": send}[what](client, topic, *map(int, numbers))
    client.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
