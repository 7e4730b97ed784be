"""Relayed topics over a long line: two networks joined packet by packet (`testbed/link/distant`), so that TCP of both
kernels meets the delay, the rate and the losses. The brokers are read and written beside the line, as at their sites.
All but `afar` are named only: their figures want a quiet machine.
"""

import itertools
import json
import os
import pathlib
import sys
import time

from places import LINK_PORT, TestbedError
from scene import EDGE, HUB, TOPICS, Failed, broker_url, hold_that, route

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "link"))
from distant import STOCK, DistantLink, congestion_controls, set_buffers  # noqa: E402

FAR = {HUB: "198.18.31.1", EDGE: "198.18.31.2"}
# What README.md asks for at 1 Gbit/s and 200 ms there and back.
DOCUMENTED = ("4096 131072 67108864", "4096 16384 67108864")
SIZE, BATCH = 1024, 100
WANTED_MBIT_S = 400
SPREAD_MIN = 3.5
LANES = PARTITIONS = 4
REPETITIONS, SECONDS = 5, 12
# Where packets get lost: cubic has to have lost some.
LOSSY_SECONDS = 45
# Of the brief case: seven seconds of its line.
MESSAGES = 400_000
PATIENCE_SECONDS = 60


def afar(scene):
    """Over 200 ms there and back one partition gets more than a window of 8 MiB lets through (335 Mbit/s) on a line of 500,
    nothing is lost, repeated or out of order, and `bridge check` says how far the hub is and what the kernel lacks."""
    with Line(scene, 200, rate_mbit_s=500, buffers=DOCUMENTED) as line:
        ends = line.started()
        told = checked(scene, ends)
        hold_that(200 <= told["links"][0]["round_trip_ms"] < 300, f"bridge check: {told['links']}")
        hold_that(told["kernel"] == [], f"these buffers are enough: {told['kernel']}")
        set_buffers(EDGE.namespace, STOCK)
        lacking = checked(scene, ends)["kernel"][0]["set"]
        hold_that([row.split()[0] for row in lacking] == ["net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"], f"{lacking}")
        set_buffers(EDGE.namespace, DOCUMENTED)
        rates, report = line.relayed(MESSAGES)
        scene.say(f"Mbit/s each second: {' '.join(f'{rate:.0f}' for rate in rates)}; {report}")
        hold_that(report["lost"] + report["repeated"] + report["disordered"] == 0, f"{report}")
        hold_that(max(rates) >= 360, f"at most {max(rates):.0f} Mbit/s")
        counts = line.link.counts()
        hold_that(counts["from_one"]["longest"] == 1500, f"the line carries packets: {counts}")


def distances(scene):
    """One partition at 100 and at 200 ms there and back, 1 Gbit/s, cubic and bbr: with stock buffers, and with documented ones at
    least 400 Mbit/s."""
    for millis, congestion in itertools.product((100, 200), controls()):
        for name, buffers in (("stock", STOCK), ("documented", DOCUMENTED)):
            found = repeated(scene, [{}], millis=millis, congestion=congestion, buffers=buffers)[0]
            scene.say(f"{millis} ms, {congestion}, {name} buffers: {told_of(found)}")
            if name == "documented":
                hold_that(median(found, "steady") >= WANTED_MBIT_S, told_of(found))


def losses(scene):
    """Four partitions at 200 ms, 1 Gbit/s and 0.1 % loss: on 4 lanes at least 3.5 times what they get on one, cubic and bbr, with
    stock buffers; with documented ones, what they get."""
    for congestion, (name, buffers) in itertools.product(controls(), (("stock", STOCK), ("documented", DOCUMENTED))):
        variants = [{"seconds": LOSSY_SECONDS, "lanes": lanes, "partitions": PARTITIONS} for lanes in (1, LANES)]
        found = repeated(scene, variants, millis=200, loss=0.001, congestion=congestion, buffers=buffers)
        ratios = sorted(many["steady"] / one["steady"] for one, many in zip(*found, strict=True))
        title = f"0.1 % loss, 200 ms, {congestion}, {name} buffers"
        for variant, rows in zip(variants, found, strict=True):
            scene.say(f"{title}, lanes {variant['lanes']}: {told_of(rows)}")
        middle = ratios[len(ratios) // 2]
        scene.say(f"{title}: {LANES} lanes to one {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        if name == "stock":
            hold_that(middle >= SPREAD_MIN, f"{title}: {ratios}")


class Line:
    """A line between hub and edge, `millis` there and back, and what runs over it; all of it ends with the block."""

    def __init__(self, scene, millis, rate_mbit_s=1000, buffers=STOCK, **terms):
        self.scene, self.programs = scene, len(scene.programs)
        self.link = DistantLink(
            *((place.namespace, address) for place, address in FAR.items()),
            delay_ms=millis / 2, rate_mbit_s=rate_mbit_s, **terms,
        )  # fmt: skip
        for place in FAR:
            set_buffers(place.namespace, buffers)
        self.ends = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.ends:
            self.ends.kill()
        for program in self.scene.programs[self.programs :]:
            program.end()
        del self.scene.programs[self.programs :]
        self.link.close()

    def started(self, lanes=1, partitions=0):
        """Both ends over the line, with one route from hub to edge, and their brokers."""
        self.ends = self.scene.ends(
            url=f"tls://{FAR[HUB]}:{LINK_PORT}", hub={"routes": [route("out", "hub", "edge")]},
            edge={"tunnel": {"lanes": lanes}},
        )  # fmt: skip
        self.ends.start(*(("--partitions", f"{TOPICS['out']}={partitions}") if partitions else ()))
        self.ends.wait(20, "the link is up", lambda: len(self.ends.link(self.ends.edge).get("lanes", [])) == lanes + 1)
        return self.ends

    def messages(self):
        """Published at the edge's broker so far."""
        report = self.ends.edge.status() or {"routes": []}
        return sum(row["messages"] for row in report["routes"] if row["end"] == "sink")

    def rates(self):
        """Mbit/s of payload, second by second, without end."""
        last, at = self.messages(), time.monotonic()
        while True:
            time.sleep(1)
            count, now = self.messages(), time.monotonic()
            yield (count - last) * SIZE * 8 / 1e6 / (now - at)
            last, at = count, now

    def relayed(self, messages):
        """So many messages from broker to broker, each looked for: Mbit/s second by second, and what was found."""
        command = [
            self.scene.binary, "perf", "relay", TOPICS["out"], "--from", broker_url(HUB), "--to", broker_url(EDGE),
            "-r", "0", "-m", messages, "-s", SIZE, "--batch-max-messages", BATCH, "-o", BATCH, "--output", "json",
        ]  # fmt: skip
        load = self.scene.program(EDGE, *command, name="relay")
        self.ends.wait(20, "messages arrive", self.messages)
        rates = []
        for rate in self.rates():
            if load.process.poll() is not None:
                break
            rates.append(rate)
            if len(rates) > PATIENCE_SECONDS:
                raise Failed(f"not relayed within {PATIENCE_SECONDS} s: {rates}")
        said = [line for line in load.log.read_text().splitlines() if line.startswith("{")]
        if not said:
            raise TestbedError(f"perf relay: {load.last_words()}")
        return rates, json.loads(said[-1])

    def measured(self, seconds=SECONDS, **how):
        """What the line gets for some time of a load that never ceases."""
        self.started(**how)
        load = (self.scene.binary, "perf", "produce", TOPICS["out"], "-u", broker_url(HUB), "-r", "0", "-s", SIZE)
        self.scene.program(HUB, *load, "--batch-max-messages", BATCH, "-o", BATCH, name="produce")
        self.ends.wait(20, "messages arrive", self.messages)
        cpu, began, before, count = self.cpu(), time.monotonic(), self.link.counts(), self.messages()
        rates = list(itertools.islice(self.rates(), seconds))
        gigabytes, took = (self.messages() - count) * SIZE / 1e9, time.monotonic() - began
        after, (agents, link) = self.link.counts(), (now - then for now, then in zip(self.cpu(), cpu, strict=True))
        steady = rates[seconds // 3 :]
        return {
            "whole": gigabytes * 8e3 / took, "steady": sum(steady) / len(steady), "agents": agents / gigabytes,
            "link": link / took, "lost": after["from_one"]["lost"] - before["from_one"]["lost"],
            "dropped": after["from_one"]["dropped"] - before["from_one"]["dropped"],
            "late": (after["late"] - before["late"]) / max(1, after["from_one"]["packets"] - before["from_one"]["packets"]),
            "load": os.getloadavg()[0],
        }  # fmt: skip

    def cpu(self):
        """Seconds of both agents, and of the line itself."""
        return sum(agent.cpu_seconds() for agent in self.ends.both), self.link.cpu_seconds()


def repeated(scene, variants, **terms):
    """What each variant gets, repetition by repetition, the variants by turns and of the same seed."""
    found = [[] for _ in variants]
    for seed in range(1, repetitions() + 1):
        for variant, rows in zip(variants, found, strict=True):
            with Line(scene, seed=seed, **terms) as line:
                rows.append(line.measured(**variant))
    return found


def repetitions():
    return int(os.environ.get("BRIDGE_REPETITIONS", REPETITIONS))


def median(rows, what):
    return sorted(row[what] for row in rows)[len(rows) // 2]


def summed(rates):
    rates = sorted(rates)
    return f"{rates[len(rates) // 2]:.0f} Mbit/s ({rates[0]:.0f} to {rates[-1]:.0f})"


def told_of(rows):
    """The median of each figure, and the lowest and highest of the rate."""
    return (
        f"{summed(row['steady'] for row in rows)}, with its start {median(rows, 'whole'):.0f}, "
        f"agents {median(rows, 'agents'):.2f} CPU-s/GB, line {median(rows, 'link'):.2f} cores, lost {median(rows, 'lost')}, "
        f"dropped {median(rows, 'dropped')}, late {median(rows, 'late'):.2%}, load {median(rows, 'load'):.1f}"
    )


def controls():
    """Of the congestion controls that figures are told of, those that this kernel has."""
    return [name for name in ("cubic", "bbr") if name in congestion_controls()]


def checked(scene, ends):
    """What `bridge check` says at the edge."""
    code, said, complaint = scene.run(EDGE, scene.binary, "check", "--config", ends.edge.config, "--output", "json")
    hold_that(code == 0, f"bridge check: exit {code}: {complaint}")
    return json.loads(said)
