"""One TCP connection through the faulty link, and what can be done to it. Decides nothing: `run.py` tells it.

Each connection has two ways, one for each direction. A way reads a piece, keeps it back as long as it is told to, and
writes it whole, byte by byte, or late. Refuses to look into the bytes, and to hold more than a bound of them.
"""

import asyncio
import collections
import contextlib
import itertools
import socket
import struct
import time

PIECE_LEN_MAX = 256 << 10
# Of one way, while there is a delay: 1 Gbit/s for an eighth of a second.
HELD_LEN_MAX = 16 << 20
# Between two bytes of a trickle.
TRICKLE_SECONDS = 0.001
CONNECT_SECONDS = 10
WAYS = ("to_hub", "to_edge")


class Way:
    """One direction of a connection."""

    def __init__(self, connection, source, target):
        self.connection, self.source, self.target = connection, source, target
        self.carried = 0
        self.reset_after = None
        self.moves = asyncio.Event()
        self.moves.set()
        self.held, self.held_len = collections.deque(), 0
        self.changed = asyncio.Event()
        self.tasks = []

    def start(self):
        self.tasks = [asyncio.create_task(self.carry()), asyncio.create_task(self.deliver())]
        return self.tasks

    async def carry(self):
        """Reads until the source ends."""
        loop = asyncio.get_running_loop()
        buffer = bytearray(PIECE_LEN_MAX)
        view = memoryview(buffer)
        while True:
            await self.moves.wait()
            piece_len = await loop.sock_recv_into(self.source, buffer)
            if piece_len == 0:
                break
            await self.pass_on(view[:piece_len])
            # Neither read nor write has waited if there is always something and always room.
            await asyncio.sleep(0)
        self.hold(None)

    async def pass_on(self, piece):
        terms = self.connection.terms
        while piece:
            await self.moves.wait()
            part = piece
            if terms.trickles:
                part = part[:1]
                self.connection.mark("trickle")
            if self.reset_after is not None:
                part = part[: self.reset_after]
            await self.write(part)
            self.carried += len(part)
            piece = piece[len(part) :]
            if self.reset_after is not None:
                self.reset_after -= len(part)
                if self.reset_after == 0:
                    self.connection.reset("reset")
                    return
            if terms.trickles:
                await asyncio.sleep(TRICKLE_SECONDS)

    async def write(self, part):
        if self.connection.terms.delay_seconds == 0 and not self.held:
            await asyncio.get_running_loop().sock_sendall(self.target, part)
            return
        self.connection.mark("delay")
        while self.held_len > HELD_LEN_MAX:
            self.changed.clear()
            await self.changed.wait()
        self.hold(bytes(part))

    def hold(self, part):
        """For `deliver`; None is the end."""
        self.held.append((time.monotonic() + self.connection.terms.delay_seconds, part))
        self.held_len += len(part or b"")
        self.changed.set()

    async def deliver(self):
        """Writes what is held when its time has come, and the end after it."""
        loop = asyncio.get_running_loop()
        while True:
            while not self.held:
                self.changed.clear()
                await self.changed.wait()
            due, part = self.held[0]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.moves.wait()
            if part is None:
                with contextlib.suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self.target, part)
            # Only now: what comes meanwhile must not overtake it.
            self.held.popleft()
            self.held_len -= len(part)
            self.changed.set()

    async def give_up(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Connection:
    """From the edge's connection to the end of both ways. `terms` is what holds for the link as a whole."""

    numbers = itertools.count()

    def __init__(self, client, terms, hits):
        self.number, self.client, self.terms, self.hits = next(self.numbers), client, terms, hits
        self.server, self.ways = None, {}
        self.marks, self.ending, self.vanished = set(), None, False

    @property
    def carried(self):
        return sum(way.carried for way in self.ways.values())

    def mark(self, fault):
        """Counts a fault once for each connection that it hit."""
        if fault not in self.marks:
            self.marks.add(fault)
            self.hits[fault] += 1

    async def run(self, address):
        """Ends when both ways have ended, or with a reset of both sides when one of them was reset."""
        if not await self.connect(address):
            return close_hard(self.client)
        pairs = ((self.client, self.server), (self.server, self.client))
        self.ways = {name: Way(self, *pair) for name, pair in zip(WAYS, pairs, strict=True)}
        if self.terms.stalls:
            self.stall()
        tasks = [task for way in self.ways.values() for task in way.start()]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if self.ending is not None:
            await self.ending
            return
        await self.give_up()
        faults = [task.exception() for task in done if not task.cancelled() and task.exception()]
        if faults:
            self.close_hard()
        else:
            self.client.close()
            self.server.close()
        for fault in faults:
            if not isinstance(fault, OSError):
                raise fault

    async def connect(self, address):
        self.server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for side in (self.client, self.server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(self.server, address), CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError):
            self.server.close()
            return False
        return True

    def stall(self):
        self.mark("stall")
        for way in self.ways.values():
            way.moves.clear()

    def resume(self):
        for way in self.ways.values():
            way.moves.set()

    def reset(self, fault):
        """RST to both sides."""
        self.mark(fault)
        return self.end(self.close_hard)

    def vanish(self):
        """Nothing is read, written or closed any more: each side finds out by itself."""
        self.mark("vanish")
        self.vanished = True
        return self.end(lambda: None)

    def end(self, close):
        """A task, so that a way may be what ends its connection."""
        if self.ending is None:
            self.ending = asyncio.create_task(self.end_both(close))
        return self.ending

    async def end_both(self, close):
        await self.give_up()
        close()

    def reset_later(self, way, bytes_more):
        self.ways[way].reset_after = bytes_more

    async def half_close(self, name):
        """The end to one side only; that way is not read any more, the other goes on."""
        self.mark("half-close")
        way = self.ways[name]
        await way.give_up()
        with contextlib.suppress(OSError):
            way.target.shutdown(socket.SHUT_WR)

    async def give_up(self):
        for way in self.ways.values():
            await way.give_up()

    def close_hard(self):
        for side in (self.client, self.server):
            close_hard(side)


def close_hard(side):
    """RST instead of FIN."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()
