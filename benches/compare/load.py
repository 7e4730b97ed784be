#!/usr/bin/env python3
"""The load, each kind a process of its own: load.py KIND PORT …, on 127.0.0.1. Prints one line of JSON.

    serve PORT                     echoes what it is sent; a connection that begins with `B` is only read
    ping PORT COUNT SECONDS        one connection, 64 bytes there and back, again and again
    short PORT COUNT AT_ONCE       connections: opened, 64 bytes there and back, closed
    hold PORT COUNT                opens them, 64 bytes through each, and holds them until its stdin ends
    flood PORT MBIT_S              writes until its stdin ends, at that rate; 0: as fast as it goes

Knows no tunnel.
"""

import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time

MESSAGE = b"p" * 64
BULK = b"B"
CHUNK = bytes(64 << 10)
WARM_UP = 200
PATIENCE_SECONDS = 20


def serve(port):
    gc.disable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    selector = selectors.EpollSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                accept(listener, selector)
            else:
                answer(key.fileobj, selector)


def accept(listener, selector):
    try:
        sock, _ = listener.accept()
    except OSError:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(sock, selectors.EVENT_READ)


def answer(sock, selector):
    try:
        said = sock.recv(65536)
        if said[:1] == BULK:
            # In a process of its own: who reads in bulk answers no ping in time.
            if os.fork() == 0:
                discard(sock)
        elif said:
            sock.sendall(said)
            return
    except OSError:
        pass
    selector.unregister(sock)
    sock.close()


def discard(sock):
    buffer = bytearray(1 << 20)
    try:
        while sock.recv_into(buffer):
            pass
    finally:
        os._exit(0)


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def there_and_back(sock):
    sock.sendall(MESSAGE)
    left = len(MESSAGE)
    while left:
        said = sock.recv(left)
        if not said:
            raise OSError("the connection ended")
        left -= len(said)


def ping(port, count, seconds):
    gc.disable()
    sock = connect(port)
    # Without a timeout `recv` needs no poll before it.
    sock.settimeout(None)
    for _ in range(WARM_UP):
        there_and_back(sock)
    took, clock = [], time.perf_counter_ns
    until = clock() + seconds * 1_000_000_000
    while len(took) < count and (began := clock()) < until:
        there_and_back(sock)
        took.append(clock() - began)
    took.sort()
    at = lambda share: took[min(int(len(took) * share), len(took) - 1)] / 1e3  # noqa: E731
    tell({"p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1), "round_trips": len(took)})


def short(port, count, at_once):
    left, lock, failed = iter(range(count)), threading.Lock(), []

    def work():
        while True:
            with lock:
                if next(left, None) is None:
                    return
            try:
                with connect(port) as sock:
                    there_and_back(sock)
            except OSError as error:
                failed.append(str(error))

    began = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tell({"took_s": time.perf_counter() - began, "failed": len(failed), "first_failure": next(iter(failed), None)})


def hold(port, count):
    held, failed = [], 0
    for _ in range(count):
        try:
            sock = connect(port)
            there_and_back(sock)
            held.append(sock)
        except OSError:
            failed += 1
    tell({"open": len(held), "failed": failed})
    sys.stdin.read()


def flood(port, mbit_s):
    sock = connect(port)
    sock.sendall(BULK)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    began, sent = time.perf_counter(), 0
    while not ended.is_set():
        sock.sendall(CHUNK)
        sent += len(CHUNK)
        if mbit_s:
            ahead = sent * 8 / (mbit_s * 1e6) - (time.perf_counter() - began)
            if ahead > 0:
                time.sleep(ahead)
    tell({"mbit_s": sent * 8 / 1e6 / (time.perf_counter() - began)})
    # What still waits in a tunnel is of no interest.
    os._exit(0)


def tell(figures):
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    kinds = {"serve": serve, "ping": ping, "short": short, "hold": hold, "flood": flood}
    kinds[sys.argv[1]](*map(int, sys.argv[2:]))
