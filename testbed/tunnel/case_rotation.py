"""Everything that trust is made of is replaced, one after the other, while messages and connections pass."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

from agents import Agent, read_json, write_json
from places import LINK_PORT, TestbedError
from scene import EDGE, HUB, MIDDLE, hold_that, told

STREAM = pathlib.Path(__file__).resolve().parent / "stream.py"
# 200 Mbit/s of payload each way.
RATE, SIZE = 1526, 16384
GAP_MS_MAX, ENDED_SECONDS_MAX = 1000.0, 2.0
# Traffic between two changes.
STEADY_SECONDS = 3
RELOADS = 20
TARGET_PORT = 7100
# Where the hub listens, by the name of the edge that it leads to.
FORWARDS = {"other": (7001, MIDDLE), "edge": (7002, EDGE), "gone": (7003, MIDDLE)}


def rotation(scene):
    """At 200 Mbit/s each way and beside long forwarded streams: an edge's key, the hub's leaf, its issuer, the edges'
    `trust_after`, the root; 20 reloads of policies and forwards; another edge revoked. Nothing is lost or repeated, no
    message comes later than 1 s, the untouched edge's stream goes on, the revoked one's ends within 2 s."""
    ends = scene.ends(policy={"forward": [f"{EDGE.address}:{TARGET_PORT}"]})
    others = [beside(scene, ends, name, 9610 + turn) for turn, name in enumerate(("other", "gone"))]
    for place in (EDGE, MIDDLE):
        server = (sys.executable, STREAM, "serve", place.address, TARGET_PORT)
        scene.program(place, *server, name=f"target-{place.name}").wait_listening(TARGET_PORT)
    ends.start()
    for agent in others:
        agent.start()
        scene.undo.callback(agent.kill)
    ends.wait_up()
    streams = {name: Reader(scene, ends, name) for name in FORWARDS}
    traffic = ends.traffic(rate=RATE, size=SIZE)
    ends.wait_flowing()
    time.sleep(STEADY_SECONDS)

    leaf = leaf_of(scene)
    for turn in range(RELOADS):
        with changed(ends.hub) as hub:
            entry(hub, "other")["policy"]["receive"] = [f"persistent://public/default/t-{turn}"]
            hub["forwards"] = hub["forwards"][: len(FORWARDS)] + [forward(f"extra-{turn}", 7200 + turn, "other", MIDDLE)]
        reload(ends, ends.hub)
    hold_that(leaf_of(scene) != leaf, "the hub still presents the leaf that it began with")
    scene.say(f"{RELOADS} reloads of a policy and a forward, each with a new leaf: {standstills(streams)}")

    since = time.monotonic()
    with changed(ends.hub) as hub:
        hub["tunnel"]["edges"] = [edge for edge in hub["tunnel"]["edges"] if edge["name"] != "gone"]
        hub["forwards"] = [it for it in hub["forwards"] if it["to"] != "gone"]
    ends.hub.process.send_signal(signal.SIGHUP)
    streams.pop("gone").wait_end(ends)
    gone = time.monotonic() - since
    ends.wait(5, "the revoked edge knows why", lambda: reason_at(others[1]) == "refused_unknown_key")
    knows = time.monotonic() - since
    hold_that(gone <= ENDED_SECONDS_MAX, f"the revoked edge's connection lived for {gone:.2f} s")
    scene.say(f"an edge revoked: its stream was reset after {gone:.2f} s, it knows why after {knows:.2f} s")
    time.sleep(STEADY_SECONDS)

    rotate_key(scene, ends, streams)
    replace_issuer_and_root(scene, ends, streams)

    reports = traffic.end()
    rates = ", ".join(f"{name} {report['mbit_s']:.0f} Mbit/s" for name, report in reports.items())
    scene.say(f"{told(reports)}; {rates}")
    latest = {name: latest_ms(log) for name, (_, log) in traffic.flows.items()}
    for name, (_, log) in traffic.flows.items():
        hold_that(latest[name] <= GAP_MS_MAX, f"a message of {name} came after {latest[name]:.0f} ms: {intervals(log)}")
    scene.say(f"the latest message: {', '.join(f'{name} {ms:.0f} ms' for name, ms in latest.items())}")
    streams["other"].check()
    scene.say(f"longest standstills: {standstills(streams)}")


def rotate_key(scene, ends, streams):
    before = lanes(ends)
    key = re.search(r'"(bk1\.edge\.[^"]+)"', init(scene, "--rotate", "edge", "--out", ends.folder)).group(1)
    with changed(ends.hub) as hub:
        entry(hub, "edge")["keys"].append(key)
    reload(ends, ends.hub)
    put(ends.folder / "edge/token-2", ends.folder / "edge/token")
    moved(ends, before)
    streams["edge"].check()
    scene.say(f"the edge has its new key, and what was forwarded before goes on: {standstills(streams)}")
    with changed(ends.hub) as hub:
        entry(hub, "edge")["keys"] = [key]
    since = time.monotonic()
    reload(ends, ends.hub)
    # It came by the old key, and goes with it.
    seconds = ended_with_its_link(scene, ends, streams, since)
    moved(ends, before)
    scene.say(f"the old key is gone, and {seconds:.2f} s later the connection that it had let in")
    time.sleep(STEADY_SECONDS)


def replace_issuer_and_root(scene, ends, streams):
    folder, keys = ends.folder, ends.folder / "hub/keys"
    before = lanes(ends)
    said = init(scene, "--renew-issuer", folder / "offline", "--out", folder / "renewed")
    put_identity(ends, folder / "renewed", keys)
    hold_that(lanes(ends) == before, "a new issuer touched the edge's lanes")
    with changed(ends.edge) as edge:
        edge["tunnel"]["trust_after"] = re.search(r'"trust_after": "([^"]+)"', said).group(1)
    since = time.monotonic()
    reload(ends, ends.edge)
    moved(ends, before)
    seconds = ended_with_its_link(scene, ends, streams, since)
    scene.say(
        f"a new issuer, the edge trusts none from before, and what came by one was reset {seconds:.2f} s after the "
        f"reload: {standstills(streams)}"
    )
    time.sleep(STEADY_SECONDS)

    said = init(scene, "--rotate-root", folder / "offline", "--out", folder / "rooted")
    both, new = re.findall(r"--pin (\S+) ", said)
    put_identity(ends, folder / "rooted/keys", keys)
    repin(scene, ends, both, "both")
    streams["edge"].check()
    # From here on over a link that both roots vouch for.
    streams["edge"] = Reader(scene, ends, "edge")
    said = init(scene, "--renew-issuer", folder / "rooted/offline", "--out", folder / "under-new")
    put_identity(ends, folder / "under-new", keys)
    repin(scene, ends, new, "new")
    streams["edge"].check()
    scene.say(f"another root, by way of both: {standstills(streams)}")


def ended_with_its_link(scene, ends, streams, since):
    """How long what holds no more let the edge's stream live; another one is begun."""
    streams["edge"].wait_end(ends)
    seconds = time.monotonic() - since
    hold_that(seconds <= ENDED_SECONDS_MAX, f"a connection outlived what had let it in by {seconds:.2f} s")
    streams["edge"] = Reader(scene, ends, "edge")
    return seconds


def repin(scene, ends, pins, name):
    before = lanes(ends)
    token = ends.folder / "edge/token"
    init(scene, "--repin", token, "--pin", pins, "--out", ends.folder / name)
    put(ends.folder / name / "token-2", token)
    moved(ends, before)


class Reader:
    """Reads one long stream through a forward of the hub's."""

    def __init__(self, scene, ends, name):
        self.name, self.port = name, FORWARDS[name][0]
        rows = lambda: (ends.hub.status() or {"forwards": []})["forwards"]  # noqa: E731
        listens = lambda: any(row["forward"] == name and row["state"] == "listening" for row in rows())  # noqa: E731
        ends.wait(20, f"the forward {name} listens", listens)
        command = (sys.executable, STREAM, "read", "127.0.0.1", self.port)
        self.program = scene.program(HUB, *command, name=f"stream-{name}-{len(scene.programs)}")
        ends.wait(10, f"the stream {name} flows", lambda: self.figures()["pieces"] > 0)

    def figures(self):
        lines = [line for line in self.program.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        return json.loads(lines[-1]) if lines else {"pieces": 0, "longest_ms": 0.0, "ended": None}

    def check(self):
        """It goes on."""
        before = self.figures()["pieces"]
        deadline = time.monotonic() + 5
        while self.figures()["pieces"] == before:
            hold_that(time.monotonic() < deadline, f"the stream {self.name} stands still: {self.figures()}")
            time.sleep(0.05)
        hold_that(self.figures()["ended"] is None, f"the stream {self.name} ended: {self.figures()}")

    def wait_end(self, ends):
        """Until it is reset."""
        ends.wait(10, f"the stream {self.name} ends", lambda: self.figures()["ended"])
        how = self.figures()["ended"]
        hold_that(how == "ConnectionResetError", f"the stream {self.name} ended otherwise: {how}")


class changed:
    """Another configuration for an agent; it counts from its next reload."""

    def __init__(self, agent):
        self.agent = agent

    def __enter__(self):
        self.config = read_json(self.agent.config)
        return self.config

    def __exit__(self, *_):
        write_json(self.agent.config, self.config)


def beside(scene, ends, name, admin_port):
    """One more edge, without a cluster, in the middle's network; known to the hub, with a forward that leads there."""
    said = init(scene, "--edge", name, "--out", ends.folder)
    key = re.search(r'"(bk1\.[^"]+)"', said).group(1)
    file = ends.folder / name / "edge.json"
    config = read_json(file)
    config.pop("pulsar")
    config["admin"] = {"listen": f"127.0.0.1:{admin_port}"}
    config["policy"] = {"forward": [f"{MIDDLE.address}:{TARGET_PORT}"]}
    write_json(file, config)
    with changed(ends.hub) as hub:
        hub["tunnel"]["edges"].append({"name": name, "keys": [key], "policy": {}})
        hub["forwards"] = [forward(to, port, to, place) for to, (port, place) in FORWARDS.items()]
    return Agent(scene.binary, MIDDLE, file, admin_port)


def forward(name, port, to, place):
    target = f"{place.address}:{TARGET_PORT}"
    return {"name": name, "from": "hub", "listen": f"127.0.0.1:{port}", "to": to, "target": target}


def entry(hub, name):
    return next(edge for edge in hub["tunnel"]["edges"] if edge["name"] == name)


def init(scene, *words):
    command = [scene.binary, "init", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def loads(agent):
    lines = agent.log_lines()
    refused = [line for line in lines if "the configuration is refused" in line]
    hold_that(not refused, "\n".join(refused[-1:]))
    return sum("the configuration is loaded" in line for line in lines)


def reload(ends, agent):
    before = loads(agent)
    agent.process.send_signal(signal.SIGHUP)
    ends.wait(10, f"{agent.place.name} loads its configuration", lambda: loads(agent) > before)


def put(source, file):
    """In another file's place, at once, as an operator does."""
    following = file.with_suffix(".following")
    following.write_bytes(source.read_bytes())
    following.chmod(0o600)
    following.rename(file)


def put_identity(ends, source, keys):
    before = loads(ends.hub)
    for name in ("issuer.key", "chain.pem"):
        put(source / name, keys / name)
    ends.wait(10, "the hub has found its new issuer", lambda: loads(ends.hub) > before)


def lanes(ends):
    """Of the edge, as the hub shows them."""
    rows = [row for row in ends.hub.status()["links"] if row["peer"] == "edge"]
    return {lane["lane_id"] for row in rows for lane in row["lanes"]}


def moved(ends, before):
    """Until a link of other lanes is up beside those, or in their place."""

    def has_moved():
        rows = [row for row in ends.hub.status()["links"] if row["peer"] == "edge"]
        ids = [{lane["lane_id"] for lane in row["lanes"]} for row in rows]
        return any(len(one) == 2 and not one & before for one in ids)

    ends.wait(20, "the edge has another link", has_moved)
    renewed = lambda: sum("link renewed" in line for line in ends.edge.log_lines())  # noqa: E731
    ends.wait(20, "the edge says so", renewed)


def reason_at(agent):
    report = agent.status() or {"links": []}
    return next((row["reason"] for row in report["links"]), None)


def leaf_of(scene):
    """The certificate that the hub presents now, as a stranger sees it."""
    address = f"{HUB.address}:{LINK_PORT}"
    _, said, _ = scene.run(MIDDLE, "openssl", "s_client", "-connect", address, "-alpn", "bridge/1", "-showcerts")
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
    hold_that(found, f"the hub shows no certificate: {said[-500:]}")
    return found.group(0)


def latest_ms(log):
    """How long the latest message took: longer than any gap between two."""
    said = log.with_suffix(".out").read_text()
    return float(re.findall(r"Aggregated latency.*Max:\s*([0-9.]+)", said)[-1])


def intervals(log):
    each = re.findall(r"Throughput received.*Max:\s*([0-9.]+)", log.with_suffix(".out").read_text())
    return f"by seconds {' '.join(f'{float(ms):.0f}' for ms in each)}"


def standstills(streams):
    return ", ".join(f"{name} {stream.figures()['longest_ms']:.0f} ms" for name, stream in streams.items())
