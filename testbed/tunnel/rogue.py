#!/usr/bin/env python3
"""An edge with a good token that wants to hold its hub down: welcomed as any other, then a flood of the multiplexer's frames
on its control lane, as fast as the hub reads them. Dials again when the hub ends it. Prints a line of JSON each second.

    strange   opens streams by numbers that are not its own
    streams   opens streams without an end, and keeps them
    resets    opens streams and resets them at once
    updates   opens some streams, then window updates of a byte
    pings     the multiplexer's pings, each of which wants an answer

Speaks the protocol by itself (TLS by OpenSSL, frames by hand), so that no mistake of the bridge is shared.
"""

import argparse
import base64
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import select
import socket
import ssl
import struct
import subprocess
import tempfile
import time

HELLO, WELCOME = 1, 2
CONTROL_LANE, ALL_FEATURES = 1, (1 << 64) - 1
# Multiplexer's frames (yamux): version, type, flags, stream, length or credit.
YAMUX = struct.Struct(">BBHII")
DATA, UPDATE, PING = 0, 1, 2
SYN, RST = 1, 8
# Of one write.
FRAMES = 4096
STREAMS = 200
PAUSE_SECONDS = 0.2
# PKCS #8 around the 32 bytes of an Ed25519 key (RFC 8410).
PKCS8_HEAD = bytes([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32])


def main():
    arguments = parse()
    context = identity(arguments.token.read_text().strip())
    site = arguments.token.read_text().split(".")[2]
    figures = {"welcomed": 0, "ended": 0, "frames": 0}
    told = time.monotonic()
    while True:
        try:
            with joined(context, arguments, site) as stream:
                figures["welcomed"] += 1
                for frames, count in flood(arguments.manner):
                    push(stream, frames)
                    figures["frames"] += count
                    if time.monotonic() - told >= 1:
                        told = time.monotonic()
                        print(json.dumps(figures), flush=True)
        except (OSError, EOFError) as error:
            figures["ended"] += 1
            print(json.dumps(figures | {"by": str(error)}), flush=True)
            time.sleep(PAUSE_SECONDS)


def identity(token):
    """TLS with the key that the token carries."""
    seed = base64.urlsafe_b64decode(token.split(".")[3] + "=")
    # HKDF-SHA256 (RFC 5869), one block.
    secret = hmac.digest(bytes(32), seed, hashlib.sha256)
    key = hmac.digest(secret, b"bridge/edge-key/v1\x01", hashlib.sha256)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["bridge/1"])
    with tempfile.TemporaryDirectory() as folder:
        der, pem, certificate = (pathlib.Path(folder, name) for name in ("key.der", "key.pem", "certificate.pem"))
        der.write_bytes(PKCS8_HEAD + key)
        openssl("pkey", "-inform", "DER", "-in", der, "-out", pem)
        openssl("req", "-x509", "-key", pem, "-subj", "/CN=rogue", "-days", "2", "-out", certificate)
        context.load_cert_chain(certificate, pem)
    return context


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def joined(context, arguments, site):
    """A control lane, welcomed; its control stream open."""
    stream = context.wrap_socket(socket.create_connection((arguments.host, arguments.port), timeout=20))
    body = hello(site)
    stream.sendall(struct.pack(">IB", len(body) + 1, HELLO) + body)
    length, kind = struct.unpack(">IB", exactly(stream, 5))
    exactly(stream, length - 1)
    if kind != WELCOME:
        raise EOFError(f"answered by a frame of kind {kind}")
    stream.sendall(YAMUX.pack(0, UPDATE, SYN, 1, 0))
    stream.setblocking(False)
    return stream


def hello(site):
    """Protobuf by hand: versions, features, site, instance, and the lane with its kind, attempt and relay lanes."""
    lane = b"\x18" + varint(CONTROL_LANE) + b"\x20\x01\x28\x01"
    parts = ((b"\x0a", b"\x01"), (b"\x1a", site.encode()), (b"\x22", os.urandom(16)), (b"\x2a", lane))
    fields = (tag + varint(len(value)) + value for tag, value in parts)
    return b"".join(fields) + b"\x10" + varint(ALL_FEATURES)


def varint(number):
    coded = b""
    while number > 0x7F:
        coded, number = coded + bytes([number & 0x7F | 0x80]), number >> 7
    return coded + bytes([number])


def exactly(stream, length):
    read = b""
    while len(read) < length:
        piece = stream.recv(length - len(read))
        if not piece:
            raise EOFError("ended before the welcome")
        read += piece
    return read


def flood(manner):
    """Writes, and how many frames each has."""
    fresh = itertools.count(3, 2)
    match manner:
        case "strange":
            while True:
                yield YAMUX.pack(0, UPDATE, SYN, 2, 0) * FRAMES, FRAMES
        case "streams":
            while True:
                yield b"".join(YAMUX.pack(0, UPDATE, SYN, next(fresh), 0) for _ in range(FRAMES)), FRAMES
        case "resets":
            while True:
                yield b"".join(open_and_reset(next(fresh)) for _ in range(FRAMES // 2)), FRAMES
        case "updates":
            streams = [next(fresh) for _ in range(STREAMS)]
            yield b"".join(YAMUX.pack(0, UPDATE, SYN, stream, 0) for stream in streams), STREAMS
            turn = b"".join(YAMUX.pack(0, UPDATE, 0, stream, 1) for stream in [1, *streams] * (FRAMES // STREAMS))
            while True:
                yield turn, len(turn) // YAMUX.size
        case "pings":
            turn = b"".join(YAMUX.pack(0, PING, SYN, 0, number) for number in range(FRAMES))
            while True:
                yield turn, FRAMES


def open_and_reset(stream):
    return YAMUX.pack(0, UPDATE, SYN, stream, 0) + YAMUX.pack(0, DATA, RST, stream, 0)


def push(stream, frames):
    """Writes all of it, and throws away what comes back."""
    left = memoryview(frames)
    while left:
        try:
            left = left[stream.send(left) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            select.select([stream], [stream], [], 1)
        try:
            if not stream.recv(65536):
                raise EOFError("the hub ended it")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--token", type=pathlib.Path, required=True)
    parser.add_argument("--manner", choices=("strange", "streams", "resets", "updates", "pings"), default="streams")
    return parser.parse_args()


if __name__ == "__main__":
    main()
