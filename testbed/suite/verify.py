#!/usr/bin/env python3
"""Reads topics with the official consumer and judges every message: exactly once, in order, unchanged.

Prints one line of JSON; exits 1 when anything was lost, repeated, disordered, damaged or foreign. It stops when all
expected messages came and nothing more has come for --linger seconds (so that a repeat at the end is seen), or when
nothing has come for --idle seconds.
"""

import argparse
import json
import sys
import time

import connecting
import pulsar
from tally import Tally

AT_ONCE = 5000


def main():
    arguments = parse()
    expected = dict(split_expectation(text) for text in arguments.expect)
    client = connecting.client(arguments)
    # One consumer for each partition: order is a partition's own, and only such consumers acknowledge cumulatively.
    topics = [topic for name in arguments.topic for topic in client.get_topic_partitions(name)]
    consumers = {topic: subscribe(client, topic, arguments.subscription) for topic in topics}
    tally = Tally(expected)
    seconds = read_all(consumers, tally, arguments)
    report = {"topics": len(topics), "seconds": round(seconds, 3), **tally.report()}
    client.close()
    print(json.dumps(report))
    return 0 if report["clean"] else 1


def subscribe(client, topic, subscription):
    return client.subscribe(
        topic,
        subscription,
        consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Earliest,
        receiver_queue_size=20_000,
        batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(AT_ONCE, 16 << 20, 50),
    )


def read_all(consumers, tally, arguments):
    """Seconds from the first message to the last."""
    first = last = None
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < (arguments.linger if tally.is_complete() else arguments.idle):
        for topic, consumer in consumers.items():
            messages = consumer.batch_receive()
            for message in messages:
                judge(tally, topic, message, arguments.ignore_property)
            if messages:
                quiet_since = last = time.monotonic()
                first = first or last
                consumer.acknowledge_cumulative(messages[-1])
    return last - first if first else 0.0


def judge(tally, topic, message, ignored):
    # The wrapped object spares a third of the time per message.
    raw = message._message
    where = raw.message_id()
    place = (where.ledger_id(), where.entry_id(), where.batch_index())
    tally.take(topic, place, raw.data(), lambda: worn(raw, ignored))


def worn(raw, ignored):
    return {
        "partition_key": raw.partition_key(),
        "ordering_key": raw.ordering_key(),
        "properties": {key: value for key, value in raw.properties().items() if key not in ignored},
        "event_timestamp": raw.event_timestamp(),
    }


def split_expectation(text):
    producer, _, count = text.rpartition("=")
    return producer, int(count)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    connecting.add_arguments(parser)
    parser.add_argument("--topic", required=True, action="append", help="may be given several times")
    parser.add_argument("--subscription", default="verify")
    parser.add_argument("--expect", required=True, action="append", metavar="PRODUCER=COUNT")
    parser.add_argument("--ignore-property", action="append", default=[], help="that others add on the way")
    parser.add_argument("--idle", type=float, default=60, help="seconds of nothing after which the rest is lost")
    parser.add_argument("--linger", type=float, default=2, help="seconds to look for surplus when all is there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
