#!/usr/bin/env python3
"""Reads the destination's topics with the official consumer while faults are done, and judges every message at once.

A second ago's counts stand in --progress. When standard input brings one line of JSON, {producer: count}, it reads on
until all of it came, and --linger seconds more for repeats, or until nothing has come for --idle seconds; then it
prints its report, one line of JSON. Needs a byte of memory for each message. Ends unheard when its input is closed.
"""

import argparse
import json
import os
import pathlib
import queue
import sys
import threading
import time

SUITE = pathlib.Path(__file__).resolve().parent.parent / "suite"
sys.dont_write_bytecode = True
sys.path.insert(0, str(SUITE))

import connecting  # noqa: E402
from tally import Tally  # noqa: E402
from verify import judge, subscribe  # noqa: E402

PROGRESS_SECONDS = 1.0


def main():
    arguments = parse()
    client = connecting.client(arguments)
    topics = [topic for name in arguments.topic for topic in client.get_topic_partitions(name)]
    consumers = {topic: subscribe(client, topic, arguments.subscription) for topic in topics}
    tally = Tally(dict.fromkeys(arguments.producer))
    watch(consumers, tally, told_on_stdin(), arguments)
    report = {"topics": len(topics), **tally.report()}
    client.close()
    print(json.dumps(report))
    return 0 if report["clean"] else 1


def watch(consumers, tally, told, arguments):
    quiet_since = written = time.monotonic()
    write_progress(tally, arguments.progress)
    known = False
    while not known or time.monotonic() - quiet_since < (arguments.linger if tally.is_complete() else arguments.idle):
        for topic, consumer in consumers.items():
            messages = consumer.batch_receive()
            for message in messages:
                judge(tally, topic, message, ())
            if messages:
                quiet_since = time.monotonic()
                consumer.acknowledge_cumulative(messages[-1])
        if not known and not told.empty():
            for producer, count in told.get().items():
                tally.expect(producer, count)
            known, quiet_since = True, time.monotonic()
        if time.monotonic() - written > PROGRESS_SECONDS:
            write_progress(tally, arguments.progress)
            written = time.monotonic()


def write_progress(tally, path):
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**tally.counts, "examples": tally.examples}))
    part.rename(path)


def told_on_stdin():
    told = queue.Queue(1)

    def read():
        line = sys.stdin.readline()
        if not line:
            # Whoever began this is gone.
            os._exit(3)
        told.put(json.loads(line))

    threading.Thread(target=read, daemon=True).start()
    return told


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    connecting.add_arguments(parser)
    parser.add_argument("--topic", required=True, action="append", help="may be given several times")
    parser.add_argument("--producer", required=True, action="append", help="likewise; who writes into them")
    parser.add_argument("--subscription", default="watch")
    parser.add_argument("--progress", type=pathlib.Path, required=True, help="file for what was counted so far")
    parser.add_argument("--idle", type=float, default=60, help="seconds of nothing after which the rest is lost")
    parser.add_argument("--linger", type=float, default=4, help="seconds to look for surplus when all is there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
