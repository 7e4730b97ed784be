#!/usr/bin/env python3
"""Reads a quarantine topic from its start with the official client, whatever is acknowledged there, and prints one line
of JSON: each record's properties, and how its payload, the stored entry, begins. Changes nothing.
"""

import argparse
import json
import sys

import connecting
import pulsar


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    connecting.add_arguments(parser)
    parser.add_argument("--topic", required=True)
    arguments = parser.parse_args()
    client = connecting.client(arguments)
    reader = client.create_reader(arguments.topic, pulsar.MessageId.earliest)
    records = []
    while reader.has_message_available():
        message = reader.read_next(10_000)
        entry = message.data()
        records.append({"properties": message.properties(), "begins": entry[:2].hex(), "length": len(entry)})
    client.close()
    print(json.dumps(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
