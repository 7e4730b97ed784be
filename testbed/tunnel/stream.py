"""One long TCP stream that knows its own standstills: `stream.py serve HOST PORT` sends numbered pieces at an even pace
to whoever connects; `stream.py read HOST PORT` reads them, checks that none is missing or changed, and prints a line of
JSON every quarter of a second: pieces, the longest standstill in ms, and how the stream ended.
"""

import json
import socket
import struct
import sys
import threading
import time

PIECE_BYTES, EVERY_SECONDS, TELL_SECONDS = 4096, 0.005, 0.25
REST = bytes(range(256)) * (PIECE_BYTES // 256)


def piece(number):
    return struct.pack(">Q", number) + REST[8:]


def serve(host, port):
    listener = socket.create_server((host, port), backlog=16)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=send, args=(stream,), daemon=True).start()


def send(stream):
    began = time.monotonic()
    try:
        for number in range(2**63):
            # What a standstill held back comes after it.
            time.sleep(max(0, began + number * EVERY_SECONDS - time.monotonic()))
            stream.sendall(piece(number))
    except OSError:
        stream.close()


def read(host, port):
    stream = socket.create_connection((host, port), timeout=60)
    figures = {"pieces": 0, "longest_ms": 0.0, "ended": None}
    heard, last, told = b"", time.monotonic(), 0.0
    while figures["ended"] is None:
        try:
            some = stream.recv(65536)
        except OSError as error:
            figures["ended"] = type(error).__name__
            some = b""
        now = time.monotonic()
        if some:
            figures["longest_ms"] = max(figures["longest_ms"], round(1000 * (now - last), 1))
            last, heard = now, heard + some
        elif figures["ended"] is None:
            figures["ended"] = "end"
        while len(heard) >= PIECE_BYTES:
            if heard[:PIECE_BYTES] != piece(figures["pieces"]):
                figures["ended"] = f"piece {figures['pieces']} is not what was sent"
                break
            figures["pieces"] += 1
            heard = heard[PIECE_BYTES:]
        if now - told >= TELL_SECONDS or figures["ended"]:
            print(json.dumps(figures | {"at": time.time()}), flush=True)
            told = now


if __name__ == "__main__":
    {"serve": serve, "read": read}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
