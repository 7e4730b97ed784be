"""Who has to wait for whom on a link: a forward in bulk beside relayed messages and another forward's round trips, and a
forward whose client reads nothing. Named only: its figures want a quiet machine, its bounds do not.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import time

import places
from places import LINK_PORT, TestbedError
from scene import EDGE, HUB, MIDDLE, hold_that, kill, told

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "link"))
from faulty import FaultyLink  # noqa: E402

LOAD = pathlib.Path(__file__).resolve().parents[2] / "benches/compare/load.py"
# At the hub, each leads to a server of its own at the edge.
PORTS = {"bulk": 7001, "ping": 7002, "stuck": 7003}
TARGET = 100
SECONDS, PINGS = 8, 2000
RATE, SIZE = 400, 2048
BUDGET_MBIT_S = 200
ROUND_TRIP_MS = 100
# A queue of the bytes that a link may hold unread (32 MiB) is 1.3 s of the budget: who waited behind that fails.
RELAY_MS_MAX, PING_MS_MAX = 500, 250


def fairness(scene):
    """A forward that takes all it gets, without and with a budget of 200 Mbit/s, holds up neither relayed messages (p99 within
    500 ms) nor another forward's round trips (250 ms), and gets what they leave; one whose client never reads stops nobody."""
    ends = forwarding(scene)
    ends.start()
    listening(ends)
    alone = beside(scene, ends, "alone", [])
    full = beside(scene, ends, "beside bulk", [bulk])
    hold_that(full["bulk"] >= 100, f"bulk gets {full['bulk']:.0f} Mbit/s")

    with_stuck = beside(scene, ends, "beside bulk and one that is stuck", [bulk, stuck])
    hold_that(with_stuck["bulk"] >= full["bulk"] / 3, f"with one stuck, bulk gets {with_stuck['bulk']:.0f} Mbit/s")

    for agent in ends.both:
        agent.kill()
    ends.change(ends.edge, {"tunnel": {"budget_mbit_s": BUDGET_MBIT_S}})
    for agent in ends.both:
        agent.start()
    listening(ends)
    bounded = beside(scene, ends, f"beside bulk, {BUDGET_MBIT_S} Mbit/s", [bulk])
    hold_that(0.7 * BUDGET_MBIT_S <= bounded["bulk"] <= 1.05 * BUDGET_MBIT_S, f"bulk gets {bounded['bulk']:.0f} Mbit/s")
    for what in (alone, full, with_stuck, bounded):
        hold_that(what["relay"] <= RELAY_MS_MAX, f"relayed messages: p99 {what['relay']:.0f} ms")
        hold_that(what["ping"] <= PING_MS_MAX, f"round trips: p99 {what['ping']:.0f} ms")


def distance(scene):
    """At 100 ms there and back a forward in bulk gets at least 400 Mbit/s alone, and no less beside another one whose
    client never reads: each of them has a lane of its own by then."""
    way = FaultyLink(
        f"{HUB.address}:{LINK_PORT}", scene.folder / "link.sock", f"{MIDDLE.address}:{LINK_PORT}", MIDDLE.namespace
    )  # fmt: skip
    scene.undo.callback(way.close)
    way.tell("delay", ms=ROUND_TRIP_MS / 2)
    ends = forwarding(scene, url=f"tls://{MIDDLE.address}:{LINK_PORT}")
    ends.start()
    listening(ends)
    alone = rate(scene, ends, "alone")
    release = stuck(scene)
    crowded = rate(scene, ends, "beside one that is stuck")
    release()
    freed = rate(scene, ends, "when that is gone")
    hold_that(min(alone, crowded, freed) >= 400, f"{alone:.0f}, {crowded:.0f} beside one that is stuck, then {freed:.0f} Mbit/s")


def rate(scene, ends, title):
    """Mbit/s of the forward in bulk, once its windows have grown."""
    end = bulk(scene)
    time.sleep(SECONDS / 2)
    before, began = bytes_in(ends, "bulk"), time.monotonic()
    time.sleep(SECONDS)
    mbit_s = (bytes_in(ends, "bulk") - before) * 8 / 1e6 / (time.monotonic() - began)
    end()
    ends.wait(20, "its connection is gone", lambda: all(row["open"] == 0 for row in rows_of(ends, "bulk")))
    scene.say(f"at {ROUND_TRIP_MS} ms, {title}: {mbit_s:.0f} Mbit/s")
    return mbit_s


def forwarding(scene, **pieces):
    """Both ends, not started, with the forwards and who serves them."""
    forwards = [
        {"name": name, "from": "hub", "listen": f"127.0.0.1:{port}", "to": "edge", "target": f"127.0.0.1:{port + TARGET}"}
        for name, port in PORTS.items()
    ]  # fmt: skip
    allowed = [forward["target"] for forward in forwards]
    for name, port in PORTS.items():
        server = scene.program(EDGE, sys.executable, LOAD, "serve", port + TARGET, name=f"serve-{name}")
        server.wait_listening(port + TARGET, "127.0.0.1")
    return scene.ends(hub={"forwards": forwards}, policy={"forward": allowed}, **pieces)


def beside(scene, ends, title, others):
    """Relayed messages and round trips for some seconds, beside others; what these got, and both p99 in ms."""
    running = [other(scene) for other in others]
    traffic = ends.traffic(rate=RATE, size=SIZE)
    ends.wait_flowing()
    before, began = bytes_in(ends, "bulk"), time.monotonic()
    code, said, complaint = scene.run(HUB, sys.executable, LOAD, "ping", PORTS["ping"], PINGS, SECONDS)
    hold_that(code == 0, f"ping: {complaint}")
    ping = json.loads(said)
    time.sleep(max(0.0, began + SECONDS - time.monotonic()))
    mbit_s = (bytes_in(ends, "bulk") - before) * 8 / 1e6 / (time.monotonic() - began)
    reports = traffic.end()
    for end in running:
        end()
    relay = {name: latency(log) for name, (_, log) in traffic.flows.items()}
    scene.say(
        f"{title}: round trip p50 {ping['p50_us'] / 1e3:.1f}, p99 {ping['p99_us'] / 1e3:.1f} ms; relayed "
        + ", ".join(f"{name} p50 {p50:.1f}, p99 {p99:.1f} ms" for name, (p50, p99) in relay.items())
        + f"; bulk {mbit_s:.0f} Mbit/s; {told(reports)}"
    )
    return {"bulk": mbit_s, "ping": ping["p99_us"] / 1e3, "relay": max(p99 for _, p99 in relay.values())}


def bulk(scene):
    """Writes as fast as it goes, until it is ended."""
    command = ["ip", "netns", "exec", HUB.namespace, sys.executable, str(LOAD), "flood", str(PORTS["bulk"]), "0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    scene.undo.callback(kill, process)
    return lambda: kill(process)


def stuck(scene):
    """Writes until nothing more is taken, and reads nothing of what comes back."""
    with places.entered(HUB.namespace):
        sock = socket.create_connection(("127.0.0.1", PORTS["stuck"]), timeout=20)
    scene.undo.callback(sock.close)
    sock.setblocking(False)
    written, since = 0, time.monotonic()
    while time.monotonic() - since < 1:
        try:
            written += sock.send(bytes(65536))
            since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    scene.say(f"stuck: {written / 2**20:.1f} MiB were taken before nothing more was")
    return sock.close


def latency(log):
    """p50 and p99 in ms, from a message's publication to its reception at the other side."""
    said = log.with_suffix(".out").read_text() + log.with_suffix(".err").read_text()
    found = re.search(r"Aggregated latency .*? med: +([\d.]+) .*? 99pct: +([\d.]+)", said)
    if not found:
        raise TestbedError(f"no latency in {log}.*")
    return float(found[1]), float(found[2])


def listening(ends):
    ends.wait_up()

    def all_listen():
        rows = (ends.hub.status() or {"forwards": []})["forwards"]
        return len(rows) == len(PORTS) and all(row["state"] == "listening" for row in rows)

    ends.wait(20, "the forwards listen", all_listen)


def bytes_in(ends, name):
    """What a forward has carried, either way."""
    return sum(row["bytes_in"] + row["bytes_out"] for row in rows_of(ends, name))


def rows_of(ends, name):
    return [row for row in ends.hub.status()["forwards"] if row["forward"] == name]
