#!/usr/bin/env python3
"""Frames as the official Java client wrote them once, sent to a broker again, and what the broker has to answer.

    golden.py record --java 'java -cp … Conformance' --url URL > frames   what the client sends, through a proxy here
    golden.py answer --url URL < frames > golden.json                      what a broker answers, to be kept
    golden.py replay --url URL [--namespace …]                             golden.json again; `ok` or `FAILED` lines

golden.json was recorded with Pulsar 4.0.8 on both sides. Numbers that differ from broker to broker (ledgers, the
topic's name) are put in at each replay; of the answers, kinds and telling fields are compared. It has a protobuf
reader of its own, so that it shares no mistake with any codec of the bridge.
"""

import argparse
import collections
import json
import pathlib
import random
import shlex
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse

FILE = pathlib.Path(__file__).resolve().parent / "golden.json"
# In public/default; replaced by one of the same length.
TOPIC = b"golden-00000000"
PATIENCE_SECONDS = 10
QUIET_SECONDS = 0.5

CONNECT, SUBSCRIBE, PRODUCER, SEND, SEND_RECEIPT, MESSAGE, ACK, FLOW = 2, 4, 5, 6, 7, 9, 10, 11
CLOSE_CONSUMER, PING, PONG, REDELIVER, SEEK, LAST_MESSAGE_ID, ACTIVE_CONSUMER_CHANGE = 16, 18, 19, 20, 28, 30, 31
# Where message ids stand in what a client sends: command, then fields.
MESSAGE_IDS = {ACK: (3,), REDELIVER: (2,), SEEK: (3,), SUBSCRIBE: (9,)}
# What has to be equal, by the answer's kind: paths of field numbers. `L` stands for "a ledger of this broker".
TELLING = {
    3: [(2,), (3,)],  # CONNECTED: protocol version, max message size
    7: [(1,), (2,), (3, 1), (3, 2)],  # SEND_RECEIPT: producer, sequence id, ledger, entry
    8: [(1,), (2,), (3,)],  # SEND_ERROR: producer, sequence id, error
    9: [(1,), (2, 1), (2, 2), (3,), (4,), (5,)],  # MESSAGE: consumer, ledger, entry, redeliveries, ack set, epoch
    13: [(1,)],  # SUCCESS: request
    14: [(1,), (2,)],  # ERROR: request, error
    16: [(1,), (2,)],  # CLOSE_CONSUMER: consumer, request
    17: [(1,), (2,), (3,), (4,), (6,)],  # PRODUCER_SUCCESS: request, name, last sequence id, schema version, ready
    22: [(1,), (2,), (3,), (4,)],  # PARTITION_METADATA_RESPONSE: partitions, request, response, error
    24: [(3,), (4,), (5,)],  # LOOKUP_RESPONSE: response, request, authoritative
    30: [(1, 1), (1, 2), (1, 4), (2,), (3, 1), (3, 2)],  # LAST_MESSAGE_ID: ledger, entry, batch index, request, mark
    31: [(1,), (2,)],  # ACTIVE_CONSUMER_CHANGE: consumer, active
    35: [(1,), (2,), (4, 3), (4, 4), (5,)],  # GET_SCHEMA_RESPONSE: request, error, schema, its type, version
    38: [(1,), (4,), (6,)],  # ACK_RESPONSE: consumer, error, request
}
LEDGERS = {(7, (3, 1)), (9, (2, 1)), (30, (1, 1)), (30, (3, 1))}
# A field that is absent says this.
DEFAULTS = {(9, (3,)): 0, (17, (3,)): -1 % 2**64, (17, (6,)): 1, (22, (3,)): 0, (30, (1, 4)): -1 % 2**64}


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def fields(data):
    """[(number, value)]: integers for varints, bytes for the rest."""
    found, at = [], 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            value, at = read_varint(data, at)
        elif tag & 7 == 2:
            size, at = read_varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = 8 if tag & 7 == 1 else 4
            value, at = data[at : at + size], at + size
        found.append((tag >> 3, value))
    return found


def encoded(found):
    out = bytearray()
    for number, value in found:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return bytes(out)


def replaced(data, path, ledgers):
    """The message with every ledger at the path as this broker counts them."""
    found = []
    for number, value in fields(data):
        if path and number == path[0] and not isinstance(value, int):
            value = replaced(value, path[1:], ledgers)
        elif not path and number == 1:
            value = ledgers.get(value, value)
        found.append((number, value))
    return encoded(found)


def at_path(data, path):
    for number, value in reversed(fields(data)):
        if number == path[0]:
            return at_path(value, path[1:]) if len(path) > 1 else value
    return None


class Frames:
    """Cuts a stream into (kind, the command's body, what follows the command)."""

    def __init__(self, read):
        self.read, self.data = read, b""

    def next(self):
        total = struct.unpack(">I", self.take(4))[0]
        return split(self.take(total))

    def take(self, size):
        while len(self.data) < size:
            more = self.read(1 << 16)
            if not more:
                raise EOFError("the connection was closed")
            self.data += more
        taken, self.data = self.data[:size], self.data[size:]
        return taken


def split(body):
    size = struct.unpack(">I", body[:4])[0]
    command = dict(fields(body[4 : 4 + size]))
    kind = command[1]
    return kind, command.get(kind, b""), body[4 + size :]


def frame(kind, command, rest):
    command = encoded([(1, kind), (kind, command)])
    return struct.pack(">II", 4 + len(command) + len(rest), len(command)) + command + rest


def dial(url):
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_SECONDS)


def record(arguments):
    """Every frame that the Java client sends in its case `golden`, as lines of hex."""
    listener = socket.create_server(("127.0.0.1", 0))
    there = urllib.parse.urlsplit(arguments.url).netloc.encode()
    here = f"127.0.0.1:{listener.getsockname()[1]}".encode()
    assert len(here) == len(there), "lookups answer with an address of another length; try another port"
    command = [*shlex.split(arguments.java), f"pulsar://{here.decode()}", "public/default", "golden"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    taken, _ = listener.accept()
    broker = dial(arguments.url)
    sent = bytearray()

    def answers():
        while data := broker.recv(1 << 16):
            # The client would go to the broker itself.
            taken.sendall(data.replace(there, here))

    threading.Thread(target=answers, daemon=True).start()
    while data := taken.recv(1 << 16):
        sent += data
        broker.sendall(data)
    assert "ok golden" in client.communicate()[0]
    while sent:
        size = 4 + struct.unpack(">I", sent[:4])[0]
        if split(bytes(sent[4:size]))[0] not in (PING, PONG):
            print(sent[:size].hex())
        del sent[:size]


class Session:
    """One replay: the broker's ledgers and topic in place of the recorded ones."""

    def __init__(self, url):
        self.socket = dial(url)
        self.frames = Frames(self.socket.recv)
        self.topic = b"golden-%08x" % random.SystemRandom().randrange(16**8)
        self.ledgers, self.recorded_ledger, self.ledger = {}, None, None

    def say(self, recorded):
        kind, command, rest = split(bytes.fromhex(recorded)[4:])
        if kind in MESSAGE_IDS:
            command = replaced(command, MESSAGE_IDS[kind], self.ledgers)
        command = self.renamed(kind, command)
        self.socket.sendall(frame(kind, command, rest))
        return kind

    def renamed(self, kind, command):
        # Of the same length, and in no checksum.
        return command.replace(TOPIC, self.topic)

    def hear(self, patience):
        """The next answer, without PINGs; None when there is none."""
        self.socket.settimeout(patience)
        while True:
            try:
                kind, command, rest = self.frames.next()
            except TimeoutError:
                return None
            if kind != PING:
                return self.told(kind, command, rest)
            self.socket.sendall(frame(PONG, b"", b""))

    def told(self, kind, command, rest):
        said = {}
        for path in TELLING.get(kind, []):
            value = at_path(command, path)
            value = DEFAULTS.get((kind, path)) if value is None else value
            if (kind, path) in LEDGERS and isinstance(value, int) and value != 2**64 - 1:
                if kind == SEND_RECEIPT and self.recorded_ledger is not None:
                    self.ledgers[self.recorded_ledger] = value
                # One ledger holds the whole session.
                self.ledger = value if self.ledger is None else self.ledger
                value = "L" if value == self.ledger else f"{value} instead of {self.ledger}"
            said[".".join(map(str, path))] = value.hex() if isinstance(value, bytes) else value
        return [kind, said, rest.hex()]


def told_ledger(frames):
    """The ledger that the client was told when it was recorded: the one it acknowledges."""
    for recorded in frames:
        kind, command, _ = split(bytes.fromhex(recorded)[4:])
        if kind == ACK:
            return at_path(command, (3, 1))
    return None


def answer(arguments):
    """Sends the frames one by one, and notes what comes after each."""
    frames = sys.stdin.read().split()
    session, steps = Session(arguments.url), []
    session.recorded_ledger = told_ledger(frames)
    for recorded in frames:
        session.say(recorded)
        heard = []
        # A Failover consumer is given its first message after a second.
        while (told := session.hear(2)) is not None:
            if told not in heard or told[0] != ACTIVE_CONSUMER_CHANGE:
                heard.append(told)
        steps.append({"sent": recorded, "answers": heard})
    lines = ",\n".join(json.dumps(step) for step in steps)
    print(f'{{"ledger": {session.recorded_ledger}, "steps": [\n{lines}\n]}}')


def replay(arguments):
    golden = json.loads(FILE.read_text())
    session = Session(arguments.url)
    session.recorded_ledger = golden["ledger"]
    for number, step in enumerate(golden["steps"]):
        kind = session.say(step["sent"])
        complaint = compare(session, step["answers"])
        print(f"FAILED step-{number}-{kind}: {complaint}" if complaint else f"ok step-{number}-{kind}", flush=True)
        if complaint:
            return
    surplus = session.hear(QUIET_SECONDS)
    if surplus is not None and surplus[0] != ACTIVE_CONSUMER_CHANGE:
        print(f"FAILED surplus: {surplus}")


def compare(session, expected):
    """Why the answers are not those; their order is free, as a broker's threads are."""
    due = collections.Counter(json.dumps(each) for each in expected)
    while sum(due.values()) > 0:
        told = session.hear(PATIENCE_SECONDS)
        if told is None:
            return f"no answer {list(due.elements())}"
        text = json.dumps(told)
        if due[text] == 0:
            if told[0] == ACTIVE_CONSUMER_CHANGE:
                continue
            return f"{text} instead of {list(due.elements())}"
        due[text] -= 1
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["record", "answer", "replay"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--namespace", help="not used: the recorded topic is in public/default")
    parser.add_argument("--java")
    arguments = parser.parse_args()
    {"record": record, "answer": answer, "replay": replay}[arguments.verb](arguments)


main()
