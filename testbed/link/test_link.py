"""The faulty link, held to its word: each fault bites, is counted, and leaves the bytes as they were."""

import pathlib
import socket
import sys
import tempfile
import threading
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from faulty import FaultyLink  # noqa: E402

PATIENCE = 10
# Longer than anything here takes unless it is kept back.
LATE = 0.3


class Hub:
    """Takes connections, and leaves what to do with them to the test."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.address = "127.0.0.1:{}".format(self.listener.getsockname()[1])

    def accept(self):
        side, _ = self.listener.accept()
        side.settimeout(PATIENCE)
        return side


class TheLink(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="bridge-link-")
        self.hub = Hub()
        self.link = FaultyLink(self.hub.address, f"{self.folder.name}/control")
        self.sides = []

    def tearDown(self):
        for side in self.sides:
            side.close()
        self.link.close()
        self.hub.listener.close()
        self.folder.cleanup()

    def dial(self):
        host, port = self.link.address.split(":")
        edge = socket.create_connection((host, int(port)), PATIENCE)
        self.sides.append(edge)
        return edge

    def joined(self):
        """Both ends of a connection that has carried a byte each way."""
        edge, hub = self.dial(), self.hub.accept()
        self.sides.append(hub)
        for one, other in ((edge, hub), (hub, edge)):
            one.sendall(b"!")
            self.assertEqual(other.recv(1), b"!")
        return edge, hub

    def hits(self, fault):
        return self.link.counts()["hit"].get(fault, 0)

    def assertReset(self, side):
        with self.assertRaises(ConnectionResetError):
            while side.recv(1 << 16):
                pass
            self.fail("it was closed in order")

    def assertSilent(self, side):
        side.settimeout(LATE)
        with self.assertRaises(TimeoutError):
            side.recv(1)
        side.settimeout(PATIENCE)

    def test_what_goes_in_comes_out_and_is_counted(self):
        edge, hub = self.joined()
        sent = bytes(range(256)) * 40_000
        for one, other, way in ((edge, hub, "to_hub"), (hub, edge, "to_edge")):
            writer = threading.Thread(target=one.sendall, args=(sent,))
            writer.start()
            self.assertEqual(read(other, len(sent)), sent)
            writer.join()
            self.assertEqual(self.link.counts()["bytes"][way], len(sent) + 1)
        self.assertEqual((self.link.counts()["connections"], self.link.counts()["hit"]), (1, {}))

    def test_an_end_is_passed_on_alone_and_the_other_way_goes_on(self):
        edge, hub = self.joined()
        edge.shutdown(socket.SHUT_WR)
        self.assertEqual(hub.recv(1), b"")
        hub.sendall(b"later")
        hub.close()
        self.assertEqual(read(edge, 5) + edge.recv(1), b"later")

    def test_a_cut_resets_both_sides_and_the_next_connection_goes_through(self):
        edge, hub = self.joined()
        self.link.tell("cut")
        self.assertReset(edge)
        self.assertReset(hub)
        self.joined()
        self.assertEqual(self.hits("cut"), 1)

    def test_a_cut_that_lasts_resets_new_connections_too(self):
        self.link.tell("cut", seconds=60)
        self.assertReset(self.dial())
        self.assertEqual(self.hits("cut"), 1)
        self.link.tell("forward")
        self.joined()

    def test_what_vanished_is_neither_carried_nor_closed_and_never_comes_back(self):
        edge, hub = self.joined()
        self.link.tell("vanish")
        later = self.dial()
        for side in (edge, hub, later):
            side.sendall(b"?")
        for side in (edge, hub, later):
            self.assertSilent(side)
        edge.close()
        self.link.tell("forward")
        self.assertSilent(hub)
        self.assertSilent(later)
        self.joined()
        self.assertEqual(self.hits("vanish"), 2)

    def test_a_stall_holds_everything_back_and_gives_it_out_whole(self):
        edge, hub = self.joined()
        self.link.tell("stall")
        edge.sendall(b"first")
        self.assertSilent(hub)
        self.link.tell("forward")
        self.assertEqual(read(hub, 5), b"first")
        self.link.tell("stall", seconds=LATE)
        hub.sendall(b"second")
        self.assertEqual(read(edge, 6), b"second")
        self.assertEqual(self.hits("stall"), 1)

    def test_a_trickle_is_a_byte_at_a_time(self):
        edge, hub = self.joined()
        self.link.tell("trickle")
        edge.sendall(b"x" * 100)
        started, pieces = time.monotonic(), []
        while sum(pieces) < 100:
            pieces.append(len(hub.recv(100)))
        self.assertGreater(time.monotonic() - started, 0.09)
        self.assertEqual(pieces[0], 1)
        self.link.tell("forward")
        edge.sendall(b"y" * 1_000_000)
        self.assertEqual(read(hub, 1_000_000), b"y" * 1_000_000)
        self.assertEqual(self.hits("trickle"), 1)

    def test_a_reset_comes_after_exactly_so_many_bytes(self):
        edge, hub = self.joined()
        self.link.tell("reset", way="to_hub", bytes=700)
        self.assertEqual(self.hits("reset"), 0)
        hub.sendall(b"the other way does not count" * 100)
        edge.sendall(b"z" * 699)
        self.assertEqual(read(hub, 699), b"z" * 699)
        self.assertEqual(self.hits("reset"), 0)
        edge.sendall(b"zz")
        self.assertReset(edge)
        self.assertReset(hub)
        self.assertEqual((self.hits("reset"), self.link.counts()["bytes"]["to_hub"]), (1, 701))

    def test_a_half_close_ends_one_way_only(self):
        edge, hub = self.joined()
        self.link.tell("half-close", way="to_hub")
        self.assertEqual(hub.recv(1), b"")
        hub.sendall(b"still")
        self.assertEqual(read(edge, 5), b"still")
        edge.sendall(b"not read any more")
        hub.close()
        # Unread bytes at the link make its kernel answer with RST where a FIN would do.
        try:
            self.assertEqual(edge.recv(1), b"")
        except ConnectionResetError:
            pass
        self.assertEqual(self.hits("half-close"), 1)

    def test_a_delay_delays_and_keeps_the_order_when_it_ends(self):
        edge, hub = self.joined()
        self.link.tell("delay", ms=200)
        started = time.monotonic()
        edge.sendall(b"a" * 1000)
        self.assertEqual(hub.recv(1), b"a")
        self.assertGreater(time.monotonic() - started, 0.19)
        edge.sendall(b"b" * 1000)
        self.link.tell("delay", ms=0)
        edge.sendall(b"c" * 1000)
        self.assertEqual(read(hub, 2999), b"a" * 999 + b"b" * 1000 + b"c" * 1000)

    def test_the_busiest_connection_alone_can_be_hit(self):
        (quiet, quiet_hub), (busy, busy_hub) = self.joined(), self.joined()
        busy.sendall(b"x" * 1000)
        read(busy_hub, 1000)
        self.link.tell("cut", of="busiest")
        self.assertReset(busy)
        quiet.sendall(b"q")
        self.assertEqual(quiet_hub.recv(1), b"q")
        self.assertEqual(self.hits("cut"), 1)

    def test_a_side_that_resets_resets_the_other(self):
        edge, hub = self.joined()
        edge.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        edge.close()
        self.assertReset(hub)

    def test_an_order_that_makes_no_sense_is_refused_and_the_link_goes_on(self):
        for order in ({"do": "dance"}, {"do": "reset"}, {"do": "half-close", "way": "up"}, {"do": "cut", "of": "it"}):
            with self.assertRaises(ValueError):
                self.link.tell(**order)
        self.joined()

    def test_no_hub_means_no_connection(self):
        self.hub.listener.close()
        self.assertReset(self.dial())


def read(side, length):
    found = bytearray()
    while len(found) < length:
        piece = side.recv(min(1 << 20, length - len(found)))
        if not piece:
            break
        found += piece
    return bytes(found)


if __name__ == "__main__":
    unittest.main()
