"""When a link is dead and when it only looks so; and how soon it is back."""

import pathlib
import subprocess
import sys
import time

import places
from agents import cpu_seconds, read_json, write_json
from places import LINK_PORT, TestbedError
from scene import EDGE, HUB, MIDDLE, hold_that, told

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "link"))
from faulty import FaultyLink  # noqa: E402

NOTICED_SECONDS = 15
STALL_SECONDS = 5
TRICKLE_SECONDS = 40
EDGES = 100


def liveness(scene):
    """A half-open link is noticed within 15 s; one that stands still for 5 s, trickles at 8 kbit/s or is saturated is
    not taken for dead; a machine that changed its address is back at once."""
    way = FaultyLink(
        f"{HUB.address}:{LINK_PORT}", scene.folder / "link.sock", f"{MIDDLE.address}:{LINK_PORT}", MIDDLE.namespace
    )  # fmt: skip
    scene.undo.callback(way.close)
    ends = scene.ends(url=f"tls://{MIDDLE.address}:{LINK_PORT}").start()
    ends.wait_up()
    traffic = ends.traffic()
    ends.wait_flowing()
    for moment in range(4):
        # Keepalives are 4 s apart: one of these begins just before one.
        survives(scene, ends, f"a standstill of {STALL_SECONDS} s", lambda: stand_still(ends, way, moment))
    survives(scene, ends, f"{TRICKLE_SECONDS} s at 8 kbit/s", lambda: hold(ends, way, "trickle", TRICKLE_SECONDS))
    scene.say(f"beside both {told(traffic.end())}")
    flood = ends.traffic(rate=0, size=65536)
    survives(scene, ends, "15 s of saturation", lambda: time.sleep(15))
    scene.say(f"saturated: {told(flood.end())}")
    for agent in ends.both:
        seconds = noticed(ends, way, agent)
        scene.say(f"half-open: noticed by the {agent.place.name} after {seconds:.1f} s")
        hold_that(seconds <= NOTICED_SECONDS, f"only after {seconds:.1f} s")
    moved(scene, ends)


def survives(scene, ends, what, meanwhile):
    _, row = ends.wait_up()
    meanwhile()
    _, after = ends.wait_up()
    hold_that(after["link"] == row["link"], f"the link did not live through {what}: {row['link']}, then {after['link']}")
    hold_that(ids(after) == ids(row), f"a lane did not live through {what}: {ids(row)}, then {ids(after)}")
    ends.wait_flowing()
    scene.say(f"lived through {what}")


def ids(row):
    return {(lane["kind"], lane["index"]): lane["lane_id"] for lane in row["lanes"]}


def stand_still(ends, way, moment):
    time.sleep(moment)
    hold(ends, way, "stall", STALL_SECONDS)


def hold(ends, way, fault, seconds):
    way.tell(fault, seconds=seconds)
    time.sleep(seconds)
    way.tell("forward")


def noticed(ends, way, agent):
    """Seconds until an end has ended a link whose packets vanish."""
    _, row = ends.wait_up()
    way.tell("vanish")
    since = time.monotonic()
    ends.wait(2 * NOTICED_SECONDS, "the link is given up", lambda: ends.link(agent).get("link") != row["link"])
    seconds = time.monotonic() - since
    way.tell("forward")
    ends.wait_up(40)
    return seconds


def moved(scene, ends):
    """The edge's machine gets another address."""
    _, row = ends.wait_up()
    other = "198.18.12.9"
    scene.undo.callback(readdress, EDGE, other, EDGE.address)
    since = time.monotonic()
    readdress(EDGE, EDGE.address, other)
    ends.wait(20, "another link is up", lambda: ends.link(ends.edge).get("link") not in (None, row["link"]))
    seconds = time.monotonic() - since
    scene.say(f"another address: linked again after {seconds:.1f} s")
    hold_that(seconds <= 3, f"only after {seconds:.1f} s")


def readdress(place, before, after):
    command = ["ip", "-n", place.namespace, "addr"]
    # In this order: with its first address an interface loses the others of that network.
    places.run(*command, "del", f"{before}/{places.PREFIX}", "dev", "eth0")
    places.run(*command, "add", f"{after}/{places.PREFIX}", "dev", "eth0")


def hundred(scene):
    """100 edges come back at once: how long until all are linked, and what it costs the hub."""
    folder = scene.folder / "many"
    names = [f"edge-{number}" for number in range(EDGES)]
    command = [scene.binary, "init", "--hub", "hub", "--edge", ",".join(names), "--out", str(folder)]
    done = subprocess.run([*command, "--url", f"tls://{HUB.address}:{LINK_PORT}"], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(done.stderr)
    ends = scene.ends()
    write_json(ends.hub.config, many(folder / "hub/hub.json", read_json(ends.hub.config)))
    ends.hub.start()
    for name in names:
        file = folder / name / "edge.json"
        write_json(file, lonely(read_json(file)))
        scene.program(EDGE, scene.binary, "run", "--config", file, name=name)
    seconds = until_linked(ends.hub)
    scene.say(f"{EDGES} edges started one by one: all linked {seconds:.1f} s after the last")
    for turn in range(3):
        ends.hub.kill()
        # Long enough for every edge to have tried in vain, and to wait for as long as it ever does.
        time.sleep(15 * (turn > 0))
        ends.hub.start()
        seconds, peak, all_cpu = watched(ends.hub)
        scene.say(
            f"the hub was away for {15 * (turn > 0)} s: all {EDGES} linked after {seconds:.1f} s, at most {peak:.0f} % "
            f"of a core in 0.2 s, {all_cpu:.2f} CPU-seconds in all, {ends.hub.resident_kib() / 1024:.0f} MiB"
        )  # fmt: skip
        hold_that(seconds <= 15, f"only after {seconds:.1f} s")


def many(file, base):
    made = read_json(file)
    made["tunnel"]["listen"] = base["tunnel"]["listen"]
    made["tunnel"]["identity"] = str(file.parent / made["tunnel"]["identity"])
    made["pulsar"], made["admin"] = base["pulsar"], base["admin"]
    return made | {"routes": []}


def lonely(config):
    config.pop("admin", None)
    return config


def links_up(agent):
    report = agent.status() or {"links": []}
    return sum(row["state"] == "up" and len(row["lanes"]) == 2 for row in report["links"])


def until_linked(agent, patience=60):
    since = time.monotonic()
    while links_up(agent) < EDGES:
        if time.monotonic() - since > patience:
            raise TestbedError(f"{links_up(agent)} of {EDGES} are linked after {patience} s\n{agent.last_words()}")
        time.sleep(0.05)
    return time.monotonic() - since


def watched(agent, patience=60):
    """Seconds until all are linked, the most of a core that the hub took meanwhile, and its CPU-seconds."""
    since = at = time.monotonic()
    used = peak = 0.0
    while True:
        up = links_up(agent)
        now, total = time.monotonic(), cpu_seconds(agent.process.pid)
        if now - at >= 0.2:
            peak, used, at = max(peak, 100 * (total - used) / (now - at)), total, now
        if up >= EDGES:
            return now - since, peak, total
        if now - since > patience:
            raise TestbedError(f"{up} of {EDGES} are linked after {patience} s\n{agent.last_words()}")
        time.sleep(0.02)
