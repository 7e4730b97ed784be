#!/usr/bin/env python3
"""Strangers at a hub's port: holds as many connections as it is told, from many addresses, and opens a new one for each
that the hub ends. Each says nothing (`silent`), one byte of a ClientHello each second (`trickle`), or a whole ClientHello
and then nothing (`hello`), or asks for a WebSocket and then says nothing (`upgrade`). Prints a line of JSON each second.

A stranger's own limits are not the hub's: it opens at most --rate connections per second.
"""

import argparse
import ipaddress
import json
import resource
import selectors
import socket
import ssl
import time

UPGRADE = (
    b"GET /bridge HTTP/1.1\r\nHost: hub.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: bridge.1\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def main():
    arguments = parse()
    resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.connections + 100,) * 2)
    flood = Flood(arguments)
    second = time.monotonic()
    while True:
        flood.step()
        now = time.monotonic()
        if now - second >= 1:
            print(json.dumps({"held": len(flood.held), "opened": flood.opened, "ended": flood.ended}), flush=True)
            second = now


class Flood:
    def __init__(self, arguments):
        self.to = (arguments.host, arguments.port)
        self.wanted, self.rate, self.manner = arguments.connections, arguments.rate, arguments.manner
        first = ipaddress.ip_address(arguments.first)
        self.addresses = [str(first + number) for number in range(arguments.addresses)]
        self.hello = client_hello()
        self.first = {"hello": self.hello, "upgrade": UPGRADE}.get(self.manner)
        self.selector, self.held = selectors.DefaultSelector(), {}
        self.opened = self.ended = 0
        self.began = time.monotonic()
        self.next_byte = self.began

    def step(self):
        """Opens what is due, and lets go of what the hub ended."""
        allowed = int((time.monotonic() - self.began) * self.rate) - self.opened
        for _ in range(max(0, min(allowed, self.wanted - len(self.held), 200))):
            self.open()
        for key, _ in self.selector.select(0.02):
            self.look(key.fileobj)
        if self.manner == "trickle" and time.monotonic() >= self.next_byte:
            self.next_byte += 1
            for sock, said in list(self.held.items()):
                self.say(sock, self.hello[said : said + 1])

    def open(self):
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((self.addresses[self.opened % len(self.addresses)], 0))
        self.opened += 1
        sock.connect_ex(self.to)
        self.held[sock] = 0
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.first else 0)
        self.selector.register(sock, events)

    def look(self, sock):
        if self.first and self.held[sock] == 0:
            self.selector.modify(sock, selectors.EVENT_READ)
            self.say(sock, self.first)
            return
        try:
            if sock.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.let_go(sock)

    def say(self, sock, what):
        try:
            self.held[sock] += sock.send(what)
        except BlockingIOError:
            pass
        except OSError:
            self.let_go(sock)

    def let_go(self, sock):
        if self.held.pop(sock, None) is not None:
            self.ended += 1
            self.selector.unregister(sock)
            sock.close()


def client_hello():
    """What a client of TLS 1.3 says first, with the bridge's protocol in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["bridge/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="hub").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise SystemExit("a handshake that nobody answered succeeded")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--manner", choices=("silent", "trickle", "hello", "upgrade"), default="silent")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2000, help="connections opened per second, at most")
    parser.add_argument("--first", required=True, help="the first of its addresses")
    parser.add_argument("--addresses", type=int, default=1, help="how many follow one another")
    return parser.parse_args()


if __name__ == "__main__":
    main()
