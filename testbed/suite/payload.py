"""What the suite's messages hold: payloads that say who wrote them, as the how-manieth, and whether they are whole.

    [ magic 4 | flags u8 | producer_len u8 | producer … | sequence u64 | crc32 u32 | body … ]   big endian

The body does not compress, unless it is said to be text. A *dressed* message also has a key, an ordering key,
properties and an event time, all of which follow from its sequence, so that the reader knows what they must be.
"""

import json
import random
import struct
import zlib
from dataclasses import dataclass

MAGIC = b"PBT1"
DRESSED = 1
FIRST_EVENT_TIME = 1_700_000_000_000
POOL_LEN = 4 << 20
_HEAD = struct.Struct(">4sBB")
_TAIL = struct.Struct(">QI")


class Writer:
    """One producer's messages."""

    def __init__(self, producer, size, dressed, text=False):
        name = producer.encode()
        if len(name) > 255:
            raise ValueError(f"producer name {producer!r} is longer than 255 bytes")
        self.producer, self.dressed = producer, dressed
        self._head = _HEAD.pack(MAGIC, DRESSED if dressed else 0, len(name)) + name
        self._body_len = size - len(self._head) - _TAIL.size
        if not 0 <= self._body_len < POOL_LEN:
            raise ValueError(f"size {size} leaves no room for a body, or is above {POOL_LEN}")
        # Slices of one pool: neighbours in a batch never overlap, so no codec finds anything to save.
        chance = random.Random(producer)
        self._pool = requests(chance) if text else chance.randbytes(POOL_LEN)

    def payload(self, sequence):
        start = sequence * self._body_len % (POOL_LEN - self._body_len)
        body = self._pool[start : start + self._body_len]
        return self._head + _TAIL.pack(sequence, zlib.crc32(body)) + body

    def dress(self, sequence):
        """The other arguments of `send`."""
        return dress(self.producer, sequence) if self.dressed else {}


def requests(chance):
    """JSON as data-generation requests are: compresses as well as those do."""
    found, left = [], POOL_LEN
    while left > 0:
        ranges = {name: [round(chance.uniform(0, 1), 4), round(chance.uniform(1, 2), 4)] for name in ("spot", "vol")}
        request = {
            "id": chance.randrange(1 << 53), "experiment": f"exp-{chance.randrange(1000):04}", "model": "black_scholes",
            "ranges": ranges, "seed": chance.randrange(1 << 32), "points": 512,
        }  # fmt: skip
        found.append(json.dumps(request, separators=(",", ":")).encode())
        left -= len(found[-1])
    return b"".join(found)[:POOL_LEN]


def dress(producer, sequence):
    return {
        "partition_key": f"key-{sequence % 997}",
        "ordering_key": f"order-{sequence % 13}",
        "properties": {"sequence": str(sequence), "producer": producer, "größe": "", "n" * (sequence % 7 + 1): "x"},
        "event_timestamp": FIRST_EVENT_TIME + sequence,
    }


NAKED = {"partition_key": "", "ordering_key": "", "properties": {}, "event_timestamp": 0}


@dataclass(frozen=True)
class Label:
    """What a payload says of itself."""

    producer: str
    sequence: int
    dressed: bool
    whole: bool


def read(payload):
    """The label of a payload; None when it is not one of ours."""
    if len(payload) < _HEAD.size:
        return None
    magic, flags, name_len = _HEAD.unpack_from(payload)
    body_at = _HEAD.size + name_len + _TAIL.size
    if magic != MAGIC or len(payload) < body_at:
        return None
    sequence, crc = _TAIL.unpack_from(payload, _HEAD.size + name_len)
    name = payload[_HEAD.size : _HEAD.size + name_len].decode(errors="replace")
    return Label(name, sequence, bool(flags & DRESSED), zlib.crc32(payload[body_at:]) == crc)
