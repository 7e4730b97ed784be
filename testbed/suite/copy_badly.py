#!/usr/bin/env python3
"""A relay made of the official client that commits exactly the faults it is told to: proof that verify.py sees them.

Within one cluster, one topic to another. Stops when --count messages were read.
"""

import argparse
import sys

import pulsar


def main():
    arguments = parse()
    client = pulsar.Client(arguments.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    consumer = client.subscribe(arguments.source, "copy", initial_position=pulsar.InitialPosition.Earliest)
    producer = client.create_producer(arguments.target, producer_name="copy", block_if_queue_full=True)
    messages = [consumer.receive(timeout_millis=20_000) for _ in range(arguments.count)]
    for content, dress in distort([worn(message) for message in messages], arguments.fault):
        producer.send_async(content, lambda result, _: result == pulsar.Result.Ok or sys.exit(str(result)), **dress)
    producer.flush()
    client.close()


def worn(message):
    dress = {
        "partition_key": message.partition_key() or None,
        "ordering_key": message.ordering_key() or None,
        "properties": message.properties(),
        "event_timestamp": message.event_timestamp() or None,
    }
    return message.data(), dress


def distort(messages, fault):
    middle = len(messages) // 2
    content, dress = messages[middle]
    match fault:
        case "none":
            return messages
        case "lose":
            return messages[:middle] + messages[middle + 1 :]
        case "repeat":
            return messages[: middle + 1] + messages[middle:]
        case "swap":
            return [*messages[:middle], messages[middle + 1], messages[middle], *messages[middle + 2 :]]
        case "corrupt":
            changed = content[:-1] + bytes([content[-1] ^ 0x20])
        case "undress":
            changed, dress = content, dress | {"properties": {}}
    return [*messages[:middle], (changed, dress), *messages[middle + 1 :]]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--count", type=int, required=True)
    faults = ["none", "lose", "repeat", "swap", "corrupt", "undress"]
    parser.add_argument("--fault", required=True, choices=faults)
    return parser.parse_args()


if __name__ == "__main__":
    main()
