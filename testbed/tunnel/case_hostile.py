"""Strangers who want to hold a hub down: an honest edge keeps its link and its traffic, and a new one gets in."""

import json
import pathlib
import sys
import time

from places import LINK_PORT
from scene import HUB, MIDDLE, Failed, hold_that, told

HERE = pathlib.Path(__file__).resolve().parent
FLOOD = HERE / "flood.py"
# From 700 addresses of the strangers' own; the network is theirs alone.
ADDRESSES, FIRST = 700, "198.18.64.1"
CONNECTIONS = 10_000
LOOK_SECONDS = 5
# What the honest traffic is: messages per second each way, and bytes of each.
RATE, SIZE = 3000, 4096


def exhaustion(scene):
    """10,000 silent sockets, one byte per second, and ClientHellos without an end, 2000 new ones each second from 700
    addresses: the honest edge keeps at least 80 % of its traffic, the hub at most 32 MiB more, and an edge joins within
    5 s: one that the hub never saw while strangers say no ClientHello, and else one that comes back."""
    for number in range(ADDRESSES):
        own = f"198.18.{64 + (number + 1) // 256}.{(number + 1) % 256}"
        code, _, complaint = scene.run(MIDDLE, "ip", "addr", "replace", f"{own}/32", "dev", "lo")
        hold_that(code == 0, complaint)
    scene.run(HUB, "ip", "route", "replace", "198.18.64.0/20", "via", MIDDLE.address, "dev", "eth0")
    ends = scene.ends().start()
    ends.wait_up()
    traffic = ends.traffic(rate=RATE, size=SIZE)
    ends.wait_flowing()
    before, memory_before = mbit_s(ends), ends.hub.resident_kib() / 1024
    scene.say(f"before: {before:.0f} Mbit/s, hub {memory_before:.1f} MiB")
    for manner in ("silent", "trickle", "hello"):
        held(scene, ends, manner, before, memory_before)
    scene.say(told(traffic.end()))


def held(scene, ends, manner, before, memory_before):
    flood = scene.program(
        MIDDLE, sys.executable, FLOOD, HUB.address, LINK_PORT, "--manner", manner, "--connections", CONNECTIONS,
        "--first", FIRST, "--addresses", ADDRESSES, name=f"flood-{manner}",
    )  # fmt: skip
    ends.wait(30, f"{CONNECTIONS} strangers were there", lambda: flooded(flood)["opened"] >= CONNECTIONS)
    during, memory = mbit_s(ends), ends.hub.resident_kib() / 1024
    ends.edge.kill()
    if manner != "hello":
        # It knows no address any more.
        ends.hub.kill()
        ends.hub.start()
    ends.edge.start()
    seconds, _ = ends.wait_up()
    figures = flooded(flood)
    flood.end()
    scene.say(
        f"{manner}: {during:.0f} Mbit/s ({100 * during / before:.0f} %), hub {memory:.1f} MiB, an edge joins after "
        f"{seconds:.1f} s; {figures['opened']} strangers in all, {figures['held']} open"
    )  # fmt: skip
    hold_that(during >= 0.8 * before, f"{manner}: {during:.0f} of {before:.0f} Mbit/s")
    hold_that(memory - memory_before <= 32, f"{manner}: the hub took {memory - memory_before:.1f} MiB more")
    hold_that(seconds <= 5, f"{manner}: the edge was out for {seconds:.1f} s")
    ends.wait_flowing()


def flooded(flood):
    lines = [line for line in flood.log.read_text().splitlines() if line.startswith("{")]
    if flood.process.poll() is not None:
        raise Failed(flood.last_words())
    return json.loads(lines[-1]) if lines else {"opened": 0, "held": 0, "ended": 0}


def mbit_s(ends):
    """Of the link's lanes, both ways, over some seconds."""
    since, began = bytes_of(ends), time.monotonic()
    time.sleep(LOOK_SECONDS)
    return (bytes_of(ends) - since) * 8 / 1e6 / (time.monotonic() - began)


def bytes_of(ends):
    lanes = ends.link(ends.hub)["lanes"]
    return sum(lane["bytes_in"] + lane["bytes_out"] for lane in lanes)

