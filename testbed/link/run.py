#!/usr/bin/env python3
"""The faulty link: a TCP proxy in user space between edge and hub, told over a local socket what to do to the traffic.

    testbed/link/run.py --listen 198.18.0.254:8001 --to 198.18.1.1:8001 --control link.sock

The edge's `connect` names --listen. One line of JSON in, one out, as often as you like:

    {"do": "forward"}                           ends every fault; a delay stays
    {"do": "cut", "seconds": 2}                 RST to both sides; for so long new connections are reset too
    {"do": "vanish", "seconds": 12}             nothing is read, written or closed any more, and new connections are
                                                taken into nothing; those that vanished never come back
    {"do": "stall", "seconds": 5}               reading ceases, then goes on
    {"do": "trickle", "seconds": 5}             a byte at a time, a millisecond apart
    {"do": "reset", "way": "to_hub", "bytes": 700}      RST to both sides after so many bytes more that way
    {"do": "half-close", "way": "to_edge"}      the end (FIN) that way, while the other goes on
    {"do": "delay", "ms": 50}                   each way; 0 ends it
    {"do": "counts"}

Without "seconds" a fault lasts until `forward`. `"of": "busiest"` limits a fault to the connection that carried most.
Every answer holds the counts: connections (in all, open), bytes each way, and by fault how many connections it hit,
so that a fault that hit nothing is known. What a kernel does is not undone: it acknowledges what fits its buffers.
Refuses to look into the bytes, and to carry more than a bounded number of connections.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import socket
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

from flow import WAYS, Connection, close_hard  # noqa: E402

CONNECTIONS_MAX = 1024
# Sockets that vanished stay open, so that neither side is told; the oldest go when there are more.
VANISHED_MAX = 256
LINE_LEN_MAX = 4096


class Terms:
    """What holds for the link as a whole, new connections included."""

    def __init__(self):
        self.delay_seconds = 0.0
        self.refuses = self.swallows = self.stalls = self.trickles = False

    def forward(self):
        self.refuses = self.swallows = self.stalls = self.trickles = False


class Link:
    """All connections, and the faults as they are told."""

    def __init__(self, address):
        self.address, self.terms = address, Terms()
        self.hits = collections.Counter()
        self.connections, self.vanished = {}, collections.deque()
        self.taken, self.carried_before = 0, dict.fromkeys(WAYS, 0)
        self.timers = {}

    async def serve(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self.taken += 1
            if self.terms.refuses or len(self.connections) >= CONNECTIONS_MAX:
                self.hits["cut"] += self.terms.refuses
                close_hard(client)
            elif self.terms.swallows:
                self.hits["vanish"] += 1
                self.swallow(client)
            else:
                connection = Connection(client, self.terms, self.hits)
                task = asyncio.create_task(connection.run(self.address))
                self.connections[connection] = task
                task.add_done_callback(lambda done, one=connection: self.forget(one, done))

    def forget(self, connection, task):
        del self.connections[connection]
        for name, way in connection.ways.items():
            self.carried_before[name] += way.carried
        if connection.vanished:
            self.swallow(connection.client, connection.server)
        if not task.cancelled() and task.exception():
            raise task.exception()

    def swallow(self, *sides):
        self.vanished.extend(sides)
        while len(self.vanished) > VANISHED_MAX:
            self.vanished.popleft().close()

    def flowing(self, of):
        """The connections that a fault is meant for."""
        connected = [one for one in self.connections if one.ways and one.ending is None]
        return connected if of == "all" else sorted(connected, key=lambda one: one.carried)[-1:]

    async def do(self, order):
        fault = order.pop("do")
        act = self.FAULTS[fault]
        of = order.pop("of", "all")
        if of not in ("all", "busiest"):
            raise ValueError(f"`of` is `all` or `busiest`, not {of!r}")
        if order.get("way", WAYS[0]) not in WAYS:
            raise ValueError(f"`way` is one of {WAYS}, not {order['way']!r}")
        done = act(self, of, **order)
        if done is not None:
            await done
        return self.counts()

    def forward(self, _of):
        self.terms.forward()
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()
        for one in self.flowing("all"):
            one.resume()

    def lasting(self, flag, of, seconds):
        """A fault of the whole link lasts; one of a single connection is over for those that come later."""
        if of == "all":
            setattr(self.terms, flag, True)
        if seconds is not None:
            self.after(flag, seconds, lambda: setattr(self.terms, flag, False))

    def after(self, what, seconds, act):
        if what in self.timers:
            self.timers.pop(what).cancel()
        self.timers[what] = asyncio.get_running_loop().call_later(seconds, act)

    async def cut(self, of, seconds=0):
        if seconds != 0:
            self.lasting("refuses", of, seconds)
        await asyncio.gather(*(one.reset("cut") for one in self.flowing(of)))

    async def vanish(self, of, seconds=None):
        self.lasting("swallows", of, seconds)
        await asyncio.gather(*(one.vanish() for one in self.flowing(of)))

    def stall(self, of, seconds=None):
        self.lasting("stalls", of, None)
        for one in self.flowing(of):
            one.stall()
        if seconds is not None:
            self.after("stalls", seconds, self.resume)

    def resume(self):
        self.terms.stalls = False
        for one in self.flowing("all"):
            one.resume()

    def trickle(self, _of, seconds=None):
        self.lasting("trickles", "all", seconds)

    def reset(self, of, way, bytes):
        if bytes < 1:
            raise ValueError("`bytes` is at least 1")
        for one in self.flowing(of):
            one.reset_later(way, bytes)

    async def half_close(self, of, way):
        await asyncio.gather(*(one.half_close(way) for one in self.flowing(of)))

    def delay(self, _of, ms):
        self.terms.delay_seconds = ms / 1000

    def counts(self, _of=None):
        carried = self.carried_before | {}
        for one in self.connections:
            for name, way in one.ways.items():
                carried[name] += way.carried
        opened = len(self.connections)
        return {"connections": self.taken, "open": opened, "bytes": carried, "hit": dict(self.hits)}

    FAULTS = {
        "forward": forward, "cut": cut, "vanish": vanish, "stall": stall, "trickle": trickle, "reset": reset,
        "half-close": half_close, "delay": delay, "counts": lambda *_: None,
    }  # fmt: skip

    async def obey(self, reader, writer):
        """One connection of the control socket."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    answer = await self.do(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    answer = {"error": f"{line.decode(errors='replace').strip()}: {type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()


async def run(arguments):
    listener = socket.create_server(split(arguments.listen), backlog=128)
    listener.setblocking(False)
    link = Link(split(arguments.to))
    server = await asyncio.start_unix_server(link.obey, arguments.control, limit=LINE_LEN_MAX)
    async with server:
        print(json.dumps({"listening": "{}:{}".format(*listener.getsockname()[:2])}), flush=True)
        await link.serve(listener)


def split(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where the edge dials; port 0: any")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the hub")
    parser.add_argument("--control", required=True, metavar="PATH", help="of the local socket")
    arguments = parser.parse_args()
    pathlib.Path(arguments.control).unlink(missing_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
