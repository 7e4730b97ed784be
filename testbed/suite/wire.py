"""Entries made by hand: MessageMetadata fields on the wire, CRC-32C, the stored form; and metadata read back.

An implementation of its own, so that a mistake of the bridge's codec is not shared by its judge. Interprets no field.
"""

import hashlib
import struct
from dataclasses import dataclass

PRODUCER_NAME, SEQUENCE_ID, PUBLISH_TIME, PROPERTIES, REPLICATED_FROM, PARTITION_KEY = 1, 2, 3, 4, 5, 6
REPLICATE_TO, COMPRESSION, UNCOMPRESSED_SIZE, NUM_MESSAGES, EVENT_TIME, SCHEMA_VERSION = 7, 8, 9, 11, 12, 16
ENCRYPTION_KEYS, ENCRYPTION_ALGORITHM, ENCRYPTION_PARAMETER, ORDERING_KEY, MARKER_TYPE = 13, 14, 15, 18, 20
DELIVER_AT = 19
TXN_LEAST, TXN_MOST, HIGHEST_SEQUENCE_ID, NULL_VALUE = 22, 23, 24, 25
UUID, NUM_CHUNKS, TOTAL_CHUNK_LEN, CHUNK_ID = 26, 27, 28, 29


def varint(number):
    number &= (1 << 64) - 1  # as protobuf writes a negative int32
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field: an int is a varint, bytes and text have a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(metadata):
    """Every field in order: (number, its whole span)."""
    found, at = [], 0
    while at < len(metadata):
        start = at
        tag, at = read_varint(metadata, at)
        if tag & 7 == 0:
            _, at = read_varint(metadata, at)
        elif tag & 7 == 2:
            length, at = read_varint(metadata, at)
            at += length
        else:
            at += {1: 8, 5: 4}[tag & 7]
        assert at <= len(metadata), f"field {tag >> 3} is cut short"
        found.append((tag >> 3, metadata[start:at]))
    return found


def read_varint(text, at):
    value = shift = 0
    while True:
        byte = text[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def crc32c_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


TABLE = list(crc32c_table())


def crc32c(text):
    crc = 0xFFFFFFFF
    for byte in text:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Crafted:
    """One entry as it is to be sent: what CommandSend says, and the bytes."""

    sequence_id: int
    metadata: bytes
    payload: bytes
    highest_sequence_id: int | None = None
    messages: int | None = None
    damage: int = 0
    checksum: bool = True

    def stored(self):
        covered = struct.pack(">I", len(self.metadata)) + self.metadata + self.payload
        if not self.checksum:
            return covered
        return b"\x0e\x01" + struct.pack(">I", crc32c(covered) ^ self.damage) + covered

    def payload_sha256(self):
        return hashlib.sha256(self.payload).hexdigest()

    def line(self):
        line = {"sequence_id": self.sequence_id, "stored_hex": self.stored().hex()}
        optional = {"highest_sequence_id": self.highest_sequence_id, "messages": self.messages}
        return line | {key: value for key, value in optional.items() if value is not None}
