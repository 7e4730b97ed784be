"""Strangers who want to hold a hub down: an honest edge keeps its link and its traffic, and a new one gets in."""

import json
import pathlib
import re
import sys
import time

import servers
from agents import read_json
from places import LINK_PORT, TestbedError
from scene import HUB, MIDDLE, Failed, hold_that, told

HERE = pathlib.Path(__file__).resolve().parent
FLOOD, ROGUE = HERE / "flood.py", HERE / "rogue.py"
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
    strangers(scene)
    ends = scene.ends().start()
    traffic, before = honest(scene, ends)
    for manner in ("silent", "trickle", "hello"):
        held(scene, ends, manner, before, (HUB.address, LINK_PORT))
    scene.say(told(traffic.end()))


def crowd(scene):
    """10,000 strangers whom a real nginx lets through to the hub, each with an upgrade to a WebSocket and not a word more:
    the edge, which comes by the same nginx, keeps its traffic, the hub its memory, and an edge that the hub never saw joins
    within 5 s. Strangers who do not even upgrade stay at the nginx."""
    strangers(scene)
    ca_file = servers.authority(scene)
    ends = scene.ends(
        url=f"wss://{servers.NAME}/bridge", edge={"tunnel": {"outer_ca_file": str(ca_file)}},
        hub={"tunnel": {"trusted_proxies": [MIDDLE.address]}},
    )  # fmt: skip
    server, port = servers.nginx(scene)
    server.wait_listening(port)
    ends.start()
    traffic, before = honest(scene, ends)
    for manner in ("silent", "upgrade"):
        held(scene, ends, manner, before, (MIDDLE.address, servers.PLAIN_PORT))
    scene.say(told(traffic.end()))


def strangers(scene):
    """Their addresses, in the middle network."""
    for number in range(ADDRESSES):
        own = f"198.18.{64 + (number + 1) // 256}.{(number + 1) % 256}"
        code, _, complaint = scene.run(MIDDLE, "ip", "addr", "replace", f"{own}/32", "dev", "lo")
        hold_that(code == 0, complaint)
    scene.run(HUB, "ip", "route", "replace", "198.18.64.0/20", "via", MIDDLE.address, "dev", "eth0")


def honest(scene, ends):
    """Traffic of the edge both ways; it, and what there is without strangers: Mbit/s, the hub's MiB."""
    ends.wait_up()
    traffic = ends.traffic(rate=RATE, size=SIZE)
    ends.wait_flowing()
    before = mbit_s(ends), ends.hub.resident_kib() / 1024
    scene.say(f"before: {before[0]:.0f} Mbit/s, hub {before[1]:.1f} MiB")
    return traffic, before


def held(scene, ends, manner, before, to):
    before, memory_before = before
    flood = scene.program(
        MIDDLE, sys.executable, FLOOD, *to, "--manner", manner, "--connections", CONNECTIONS,
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
    # An ingress by itself ends none of these.
    hold_that(manner != "upgrade" or figures["ended"] >= 1000, f"the hub ended only {figures['ended']} of them")
    ends.wait_flowing()


def welcomed(scene):
    """An edge with a good token floods its control lane: with frames that nobody may send, with streams that it opens and
    keeps, or opens and resets, with window updates, with pings. Another edge keeps at least 80 % of its traffic and comes
    back within 5 s, the hub takes at most 32 MiB more, and its log does not grow with the flood."""
    ends = scene.ends()
    token = another_edge(scene, ends, "rogue")
    traffic, (before, memory_before) = honest(scene, ends.start())
    for manner in ("strange", "streams", "resets", "updates", "pings"):
        lines = len(ends.hub.log_lines())
        rogue = scene.program(
            MIDDLE, sys.executable, ROGUE, HUB.address, LINK_PORT, "--token", token, "--manner", manner,
            name=f"rogue-{manner}",
        )  # fmt: skip
        ends.wait(20, "the rogue was welcomed", lambda: flooded(rogue).get("frames"))
        used = ends.hub.cpu_seconds()
        during, memory = mbit_s(ends), ends.hub.resident_kib() / 1024
        used = (ends.hub.cpu_seconds() - used) / LOOK_SECONDS
        ends.edge.kill()
        ends.edge.start()
        seconds, _ = ends.wait_up()
        figures = flooded(rogue)
        rogue.end()
        lines = len(ends.hub.log_lines()) - lines
        scene.say(
            f"{manner}: {during:.0f} Mbit/s ({100 * during / before:.0f} %), hub {memory:.1f} MiB and {used:.2f} cores, an "
            f"edge joins after {seconds:.1f} s; {figures['frames']} frames, welcomed {figures['welcomed']} times, {lines} "
            "lines in the hub's log"
        )  # fmt: skip
        hold_that(during >= 0.8 * before, f"{manner}: {during:.0f} of {before:.0f} Mbit/s")
        hold_that(memory - memory_before <= 32, f"{manner}: the hub took {memory - memory_before:.1f} MiB more")
        hold_that(seconds <= 5, f"{manner}: the edge was out for {seconds:.1f} s")
        hold_that(lines <= 100 + 20 * figures["welcomed"], f"{manner}: {lines} lines in the hub's log")
        ends.wait_flowing()
    scene.say(told(traffic.end()))


def another_edge(scene, ends, name):
    """Makes one more edge that may join and may do nothing; its token's file."""
    folder = ends.folder
    code, said, complaint = scene.run(HUB, scene.binary, "init", "--edge", name, "--out", folder)
    key = re.search(rf"bk1\.{name}\.[\w.-]+", said)
    if code != 0 or not key:
        raise TestbedError(f"bridge init --edge {name}: {complaint}{said}")
    edges = read_json(ends.hub.config)["tunnel"]["edges"]
    ends.change(ends.hub, {"tunnel": {"edges": [*edges, {"name": name, "keys": [key.group()], "policy": {}}]}})
    return folder / name / "token"


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

