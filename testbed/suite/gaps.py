#!/usr/bin/env python3
"""Watches partitions with the official consumer and tells when messages came: the last one of each partition, and
each pause longer than --pause between two. One line of JSON several times a second, times by the machine's monotonic
clock, until standard input is closed. Judges nothing.
"""

import argparse
import json
import sys
import threading
import time

import connecting
import pulsar

LINE_EVERY = 0.1


def main():
    arguments = parse()
    client = connecting.client(arguments)
    partitions = client.get_topic_partitions(arguments.topic)
    last = dict.fromkeys(partitions)
    pauses, lock = [], threading.Lock()

    def watch(partition):
        def came(consumer, message):
            now = time.monotonic()
            with lock:
                before, last[partition] = last[partition], now
                if before is not None and now - before > arguments.pause:
                    pauses.append((before, now))
            consumer.acknowledge_cumulative(message)

        return came

    for partition in partitions:
        client.subscribe(
            partition,
            "gaps",
            consumer_type=pulsar.ConsumerType.Exclusive,
            initial_position=pulsar.InitialPosition.Earliest,
            message_listener=watch(partition),
        )
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(LINE_EVERY):
        with lock:
            line = {"last": list(last.values()), "pauses": pauses[:]}
            pauses.clear()
        print(json.dumps(line), flush=True)
    client.close()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    connecting.add_arguments(parser)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--pause", type=float, default=0.25, help="seconds without a message that are told")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
