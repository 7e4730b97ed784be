"""The distant link, held to its word by what kernels and programs at its ends see: delay, rate, queue, loss, order; and
nothing longer than a packet on it. Needs root, and iperf3 and ping."""

import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import places  # noqa: E402
from distant import DistantLink, congestion_controls, set_buffers  # noqa: E402

ONE, OTHER = "198.18.41.1", "198.18.41.2"
# A kernel's buffers shall be no bound here.
AMPLE = ("4096 131072 67108864", "4096 16384 67108864")
NUMBER = struct.Struct(">Q")
IP_AND_UDP_LEN = 28
PORT = 7101
SO_RCVBUFFORCE = 33
# What a machine with other work may add to a round trip.
LATE_MS_MAX = 5


class TheLink(unittest.TestCase):
    def setUp(self):
        self.ends = [f"{places.NAME}-far-one", f"{places.NAME}-far-other"]
        for namespace in self.ends:
            places.run("ip", "netns", "add", namespace)
            self.addCleanup(places.run, "ip", "netns", "del", namespace)
            places.inside(namespace, "ip", "link", "set", "lo", "up")
            # Neighbour discovery would be packets that nobody here has sent.
            quiet = ("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
            places.run("ip", "netns", "exec", namespace, *quiet, check=False)
            set_buffers(namespace, AMPLE)

    def lay(self, **terms):
        terms = {"delay_ms": 5, "rate_mbit_s": 100} | terms
        link = DistantLink((self.ends[0], ONE), (self.ends[1], OTHER), **terms)
        self.addCleanup(link.close)
        return link

    def sockets(self):
        """Two of UDP: one that sends and one that takes all that comes."""
        with places.entered(self.ends[0]):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with places.entered(self.ends[1]):
            taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            taker.bind((OTHER, PORT))
        for sock in (sender, taker):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            self.addCleanup(sock.close)
        sender.connect((OTHER, PORT))
        return sender, taker

    def numbered(self, link, count, size, pause):
        """The numbers that arrive of so many datagrams, each with its own, in the order in which they do."""
        sender, taker = self.sockets()
        arrived = []

        def take():
            taker.settimeout(1)
            try:
                while True:
                    arrived.append(NUMBER.unpack_from(taker.recv(2048))[0])
            except TimeoutError:
                pass

        thread = threading.Thread(target=take)
        thread.start()
        for number in range(count):
            sender.send(NUMBER.pack(number).ljust(size, b"."))
            if pause and number % 100 == 99:
                time.sleep(pause)
        thread.join()
        for sock in (sender, taker):
            sock.close()
        return arrived, link.counts()["from_one"]

    def iperf(self, seconds, congestion):
        """Mbit/s that arrive, and segments sent again, as iperf3 has it."""
        server = subprocess.Popen(
            ["ip", "netns", "exec", self.ends[1], "iperf3", "-s", "-1", "--forceflush"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.kill)
        # It listens by its first line.
        server.stdout.readline()
        command = ["iperf3", "-c", OTHER, "-t", str(seconds), "-C", congestion, "-J"]
        said = places.inside(self.ends[0], *command).stdout
        end = json.loads(said)["end"]
        self.assertIn("sum_received", end, said[-500:])
        # While there is a line for its last words.
        server.wait(10)
        return end["sum_received"]["bits_per_second"] / 1e6, end["sum_sent"]["retransmits"]

    def test_a_ping_takes_the_delay_there_and_back(self):
        for delay_ms in (5, 50):
            link = self.lay(delay_ms=delay_ms)
            said = places.inside(self.ends[0], "ping", "-q", "-c", "5", "-i", "0.2", OTHER).stdout
            least = float(said.rsplit("= ", 1)[1].split("/")[0])
            self.assertGreaterEqual(least, 2 * delay_ms)
            self.assertLess(least, 2 * delay_ms + LATE_MS_MAX)
            self.assertEqual(link.close()["from_one"]["delivered"], 5)

    def test_tcp_of_each_congestion_control_fills_the_line_with_packets_of_its_own_size(self):
        controls = [name for name in ("cubic", "bbr") if name in congestion_controls()]
        self.assertIn("cubic", controls)
        for congestion in controls:
            link = self.lay(rate_mbit_s=100, delay_ms=5)
            mbit_s, _ = self.iperf(3, congestion)
            counts = link.close()["from_one"]
            # 1448 bytes of payload in each packet of 1500; bbr also drains the queue now and then.
            self.assertLess(mbit_s, 100 * 1448 / 1500 + 0.5, congestion)
            self.assertGreater(mbit_s, 85, congestion)
            self.assertEqual(counts["longest"], 1500, congestion)
            self.assertGreaterEqual(counts["packets"], counts["bytes"] / 1500, congestion)
            self.assertLessEqual(counts["queued_max"], 256 << 10, congestion)

    def test_as_many_are_lost_as_asked_the_others_arrive_in_order_and_the_same_seed_loses_the_same(self):
        count, loss = 20_000, 0.01
        runs = []
        for seed in (7, 7, 8):
            link = self.lay(rate_mbit_s=1000, loss=loss, seed=seed)
            arrived, counts = self.numbered(link, count, 200, pause=0.005)
            link.close()
            self.assertEqual((counts["packets"], counts["dropped"]), (count, 0))
            self.assertEqual(len(arrived), count - counts["lost"])
            self.assertEqual(arrived, sorted(set(arrived)))
            # Five standard deviations.
            self.assertLess(abs(counts["lost"] - count * loss), 5 * (count * loss) ** 0.5)
            runs.append(arrived)
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0], runs[2])

    def test_what_exceeds_the_queue_is_dropped_from_its_tail(self):
        link = self.lay(rate_mbit_s=8, queue_kib=64)
        arrived, counts = self.numbered(link, 200, 1000 - IP_AND_UDP_LEN, pause=0)
        # 65 wait, and a millisecond lets one more in.
        self.assertEqual(arrived[:65], list(range(65)))
        self.assertEqual(counts["dropped"], 200 - len(arrived))
        self.assertGreater(counts["dropped"], 50)
        self.assertLessEqual(counts["queued_max"], 64 << 10)
        self.assertEqual(counts["lost"], 0)

    def test_both_directions_have_losses_of_their_own_and_delay_does_not_reorder_them(self):
        link = self.lay(rate_mbit_s=1000, loss=0.05, seed=3)
        sender, taker = self.sockets()
        taker.settimeout(1)

        def echo():
            try:
                while True:
                    data, address = taker.recvfrom(64)
                    taker.sendto(data, address)
            except TimeoutError:
                pass

        thread = threading.Thread(target=echo)
        thread.start()
        for number in range(2000):
            sender.send(NUMBER.pack(number))
            if number % 20 == 19:
                time.sleep(0.001)
        thread.join()
        sender.settimeout(0.2)
        numbers = []
        try:
            while True:
                numbers.append(NUMBER.unpack(sender.recv(64))[0])
        except TimeoutError:
            pass
        counts = link.counts()
        there, back = counts["from_one"], counts["from_other"]
        self.assertEqual(there["delivered"], back["packets"])
        self.assertEqual(len(numbers), back["delivered"])
        self.assertEqual(numbers, sorted(numbers))
        self.assertGreater(min(there["lost"], back["lost"]), 50)

    @unittest.skipUnless(os.environ.get("BRIDGE_LONG"), "a quiet machine's: BRIDGE_LONG=1")
    def test_it_carries_a_gigabit_over_a_hundred_milliseconds_on_part_of_a_core(self):
        for congestion in ("cubic", "bbr"):
            link = self.lay(rate_mbit_s=1000, delay_ms=50)
            before = link.cpu_seconds()
            mbit_s, again = self.iperf(15, congestion)
            cores = (link.cpu_seconds() - before) / 15
            counts = link.close()
            print(f"{congestion}: {mbit_s:.0f} Mbit/s, {again} sent again, {cores:.2f} cores, {counts}")
            self.assertGreater(mbit_s, 800)
            self.assertLess(cores, 0.6)


if __name__ == "__main__":
    unittest.main()
