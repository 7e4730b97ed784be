"""What others get on the same long line: one stream through chisel, beside a forward of the bridge, and Pulsar's own
replication of one topic between two real clusters. Named only. Judges nothing: the figures stand beside `case_afar.py`'s.
"""

import itertools
import json
import os
import pathlib
import time

import brokers
import places
import rest
from case_afar import BATCH, DOCUMENTED, FAR, SECONDS, SIZE, Line, controls, repetitions, set_buffers, summed
from distant import DistantLink, run
from places import PLACES, TestbedError
from scene import EDGE, HUB

COMPARE = pathlib.Path(os.environ.get("BRIDGE_COMPARE_HOME", pathlib.Path.home() / ".cache/pulsar-bridge-compare"))
SERVER_PORT, ENTRY_PORT, TARGET_PORT = 7201, 7202, 7203
MESSAGES = 800_000
# From the site that lets nobody in to the one that it can dial: the way in which replication needs no tunnel.
SOURCE, TARGET = PLACES["bank"], PLACES["riskfuel"]
PATIENCE_SECONDS = 60


def streams(scene):
    """One stream from the hub's site to the edge's, through chisel and through a forward of the bridge, at 100 and at 200 ms with
    large buffers."""
    for millis, congestion in itertools.product((100, 200), controls()):
        for name, dig in (("chisel", chisel), ("a forward", forward)):
            rates = []
            for _ in range(repetitions()):
                with Line(scene, millis, buffers=DOCUMENTED, congestion=congestion) as line:
                    scene.program(HUB, "iperf3", "-s", "-B", "127.0.0.1", "-p", TARGET_PORT)
                    wait(lambda: listening(scene, HUB, TARGET_PORT), "iperf3 listens")
                    dig(scene, line)
                    wait(lambda: listening(scene, EDGE, ENTRY_PORT), f"{name} listens")
                    rates.append(stream(scene))
            scene.say(f"{millis} ms, {congestion}, large buffers, {name}: {summed(rates)}")


def chisel(scene, _line):
    program = COMPARE / "bin/chisel"
    if not program.is_file():
        raise TestbedError(f"there is no {program}: benches/compare/setup")
    server = scene.program(HUB, program, "server", "--host", FAR[HUB], "--port", SERVER_PORT)
    server.wait_listening(SERVER_PORT, FAR[HUB])
    way = (f"http://{FAR[HUB]}:{SERVER_PORT}", f"127.0.0.1:{ENTRY_PORT}:127.0.0.1:{TARGET_PORT}")
    scene.program(EDGE, program, "client", *way, name="chisel-client")


def forward(scene, line):
    target = f"127.0.0.1:{TARGET_PORT}"
    row = {"name": "far", "from": "edge", "listen": f"127.0.0.1:{ENTRY_PORT}", "to": "hub", "target": target}
    line.ends = scene.ends(
        url=f"tls://{FAR[HUB]}:{places.LINK_PORT}", edge={"forwards": [row]}, allow={"forward": [target]}, pulsar=False
    )  # fmt: skip
    line.ends.start()


def listening(scene, place, port):
    """Without a connection: to iperf3 that would be a client."""
    return bool(scene.run(place, "ss", "-Hltn", f"sport = :{port}")[1])


def stream(scene):
    """Mbit/s towards the client, without the first seconds, in which windows grow."""
    how = ("-R", "-J", "-O", SECONDS // 3, "-t", SECONDS - SECONDS // 3)
    code, said, complaint = scene.run(EDGE, "iperf3", "-c", "127.0.0.1", "-p", ENTRY_PORT, *how, patience=90)
    if code != 0 or "error" in json.loads(said):
        raise TestbedError(f"iperf3: exit {code}: {complaint or said}")
    return json.loads(said)["end"]["sum_received"]["bits_per_second"] / 1e6


class Replicating(brokers.Broker):
    """A cluster that replicates what was written before it was asked to."""

    def settings(self):
        return super().settings() | {"replicationStartAt": "earliest"}


def replication(scene):
    """A backlog of one topic by Pulsar's own replication between two real clusters, at 100 and at 200 ms with large buffers."""
    clusters = [Replicating(place) for place in (SOURCE, TARGET)]
    source, target = clusters
    places.up([SOURCE, TARGET])
    scene.undo.callback(places.down, [SOURCE, TARGET], wire=False)
    for cluster in clusters:
        cluster.stop()
        cluster.forget()
        cluster.start()
        scene.undo.callback(cluster.forget)
        scene.undo.callback(cluster.stop)
    for cluster in clusters:
        cluster.wait()
    turns = itertools.count()
    for millis, congestion in itertools.product((100, 200), controls()):
        rates = [replicated(scene, source, target, f"far-{next(turns)}", millis, congestion) for _ in range(repetitions())]
        scene.say(f"{millis} ms, {congestion}, large buffers, geo-replication: {summed(rates)}")


def replicated(scene, source, target, name, millis, congestion):
    """Mbit/s of a new topic's backlog, without the first seconds. The target has a new name at the source each time, so that
    no connection is left of an earlier line."""
    urls = {"serviceUrl": TARGET.admin_url, "brokerServiceUrl": TARGET.service_url}
    source.admin.put(f"/admin/v2/clusters/{name}", urls)
    source.admin.post("/admin/v2/tenants/public", {"adminRoles": [], "allowedClusters": [SOURCE.name, name]})
    namespace = f"public/{name}"
    topic = f"persistent://{namespace}/messages"
    for cluster in (source, target):
        cluster.admin.put(f"/admin/v2/namespaces/{namespace}", {"replication_clusters": [cluster.place.name]})
        forever = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
        cluster.admin.post(f"/admin/v2/namespaces/{namespace}/retention", forever)
        cluster.admin.put(rest.topic_path(topic))
    load = ("perf", "produce", topic, "-u", SOURCE.service_url, "-r", "0", "-m", MESSAGES, "-s", SIZE)
    code, _, complaint = scene.run(SOURCE, scene.binary, *load, "--batch-max-messages", BATCH, "-o", BATCH, patience=120)
    if code != 0:
        raise TestbedError(f"perf produce: {complaint}")
    ends = ((SOURCE, FAR[EDGE], TARGET, FAR[HUB]), (TARGET, FAR[HUB], SOURCE, FAR[EDGE]))
    line = DistantLink(*((here.namespace, at) for here, at, _, _ in ends), delay_ms=millis / 2, rate_mbit_s=1000)
    try:
        for here, _, there, _ in ends:
            set_buffers(here.namespace, DOCUMENTED)
            # What they say to each other goes over the line, whatever addresses they know of each other.
            way = (f"{there.address}/32", "dev", "far", "src", here.address, "congctl", congestion)
            run("ip", "-n", here.namespace, "route", "replace", *way)
        source.admin.post(f"/admin/v2/namespaces/{namespace}/replication", [SOURCE.name, name])
        path = f"{rest.topic_path(topic)}/stats?subscriptionBacklogSize=false"
        count = lambda: target.admin.get(path)["msgInCounter"]  # noqa: E731
        wait(count, "messages arrive")
        time.sleep(SECONDS / 3)
        first, began = count(), time.monotonic()
        if first >= MESSAGES / 2:
            raise TestbedError(f"the backlog is too short: {first} of {MESSAGES} messages in {SECONDS / 3:.0f} s")
        last, ended = first, began
        while last < MESSAGES and ended - began < SECONDS:
            time.sleep(0.1)
            last, ended = count(), time.monotonic()
        source.admin.post(f"/admin/v2/namespaces/{namespace}/replication", [SOURCE.name])
        return (last - first) * SIZE * 8 / 1e6 / (ended - began)
    finally:
        line.close()


def wait(until, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not until():
        if time.monotonic() > deadline:
            raise TestbedError(f"not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.1)
