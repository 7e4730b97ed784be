"""What a case works with: topics of its own on both clusters, loads, verdicts, figures. Knows no case."""

import itertools
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass

import brokers
import rest
from agents import Pair
from brokers import Broker
from places import PLACES, TestbedError

HERE = pathlib.Path(__file__).resolve().parent
PEAK_MIB_MAX = 100
TAIL_LEN = 64 << 10
KINDS = ("lost", "repeated", "disordered", "damaged", "foreign")


class Failed(Exception):
    """A case's assertion did not hold."""


def hold_that(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


@dataclass(frozen=True)
class Load:
    """One producer's messages into one topic of one site."""

    name: str
    site: str
    topic: str
    count: int
    size: int = 1024
    batch: int = 1000
    compression: str = "NONE"
    dressed: bool = False
    typed: bool = False
    rate: float = 0

    def command(self, access):
        return [
            str(HERE / "produce.py"), *access, "--topic", self.topic,
            "--producer", self.name, "--count", str(self.count), "--size", str(self.size),
            "--batch", str(self.batch), "--compression", self.compression, "--rate", str(self.rate),
            *(["--dressed"] if self.dressed else []), *(["--typed"] if self.typed else []),
        ]  # fmt: skip


class Unheard(subprocess.Popen):
    """One that nobody listens to before it ends: what it says goes into files. A client whose log finds no more room
    in a pipe stands still, and the official one logs every message that a broker under faults refuses."""

    def __init__(self, command, **more):
        self.said = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]
        super().__init__(command, stdout=self.said[0], stderr=self.said[1], **more)

    def communicate(self, input=None):
        """The ends of both."""
        super().communicate(input)
        return tuple(tail(file) for file in self.said)


def tail(file):
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - TAIL_LEN))
    return file.read()


class Stage:
    """One case's share of the testbed; its namespaces are new, so no deduplication state of before is met."""

    def __init__(self, case, binary, scale, seed, folder, former=None, **instead):
        """`instead` of a site's standalone: a cluster that has its `admin`, `pid` and `service_url`."""
        self.case, self.binary, self.scale, self.folder = case, binary, scale, folder
        # Another version's binary, for the case that needs one.
        self.former = former
        self.random = random.Random(f"{case} {seed}")
        self.namespace = f"{case.replace('_', '-')}-{random.SystemRandom().randrange(16**6):06x}"
        self.brokers = {name: Broker(place) for name, place in PLACES.items()} | instead
        # How programs with the official client reach a site's cluster: arguments of `connecting.py`.
        urls = PLACES | instead
        self.access = {name: ["--url", place.service_url] for name, place in urls.items()}
        self.pairs, self.programs = [], []
        self.rows = []
        # A subscription of its own for each, or the second judgement of a topic would begin where the first ended.
        self.judgements = itertools.count()
        for name in ("riskfuel", "bank"):
            self.make_namespace(name)

    def close(self):
        for pair in self.pairs:
            pair.kill()
        for program in self.programs:
            program.kill()
            program.wait()
        for name, broker in self.brokers.items():
            if broker.pid() and f"public/{self.namespace}" in broker.admin.get("/admin/v2/namespaces/public"):
                try:
                    broker.admin.post(f"/admin/v2/namespaces/public/{self.namespace}/replication", [name])
                    broker.admin.delete(f"/admin/v2/namespaces/public/{self.namespace}?force=true")
                except (rest.Refused, OSError) as error:
                    print(f"  (namespace {self.namespace} stays at {name}: {error})")

    def make_namespace(self, site):
        admin = self.brokers[site].admin
        if f"public/{self.namespace}" not in admin.get("/admin/v2/namespaces/public"):
            admin.put(f"/admin/v2/namespaces/public/{self.namespace}", {"replication_clusters": [site]})
        self.retain(site)

    def retain(self, site):
        """Everything stays readable from the start, whoever subscribed when."""
        keep = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
        self.brokers[site].admin.post(f"/admin/v2/namespaces/public/{self.namespace}/retention", keep)

    def topic(self, name):
        return f"persistent://public/{self.namespace}/{name}"

    def scaled(self, count):
        return max(100, int(count * self.scale))

    def create_topic(self, site, topic, partitions=0):
        path = rest.topic_path(topic)
        if partitions:
            self.brokers[site].admin.put(f"{path}/partitions", partitions)
        else:
            self.brokers[site].admin.put(path)

    def pair(self, routes):
        """A fresh pair of agents; not started."""
        folder = self.folder / f"pair-{len(self.pairs)}"
        pair = Pair(self.binary, folder, routes)
        self.pairs.append(pair)
        return pair

    def route(self, name, source, target, topic, **more):
        return {"name": name, "from": source, "to": target, "topics": [topic], **more}

    def program(self, site, command, stdin=subprocess.DEVNULL, kind=None):
        """A program of the suite with the official client, inside a site's network; ends with the case."""
        python = str(brokers.home() / "venv/bin/python")
        heard = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if kind is None else {}
        program = (kind or subprocess.Popen)(
            ["ip", "netns", "exec", PLACES[site].namespace, python, "-B", *command], stdin=stdin, text=True, **heard
        )
        self.programs.append(program)
        return program

    def load(self, load):
        """Writes a load to its end and gives what it wrote: {producer: count}."""
        return self.finish(self.begin(load))

    def begin(self, load, hold=False):
        """Starts a load in the background; with `hold` it goes on past its count until `finish`."""
        command = load.command(self.access[load.site]) + (["--hold"] if hold else [])
        return load, self.program(load.site, command, stdin=subprocess.PIPE, kind=Unheard)

    def finish(self, begun):
        load, process = begun
        out, complaint = process.communicate()
        if process.returncode != 0:
            raise TestbedError(f"the load {load.name} failed: {out.strip()} {complaint.strip()[-2000:]}")
        return {load.name: last_line(out)["count"]}

    def judge(self, site, topic, expected, idle=60, linger=2.0, ignore=()):
        """What an official consumer gets there from the start of the topic."""
        command = [
            str(HERE / "verify.py"), *self.access[site], "--topic", topic,
            "--subscription", f"verify-{next(self.judgements)}", "--idle", str(idle), "--linger", str(linger),
            *(argument for who, count in expected.items() for argument in ("--expect", f"{who}={count}")),
            *(argument for name in ignore for argument in ("--ignore-property", name)),
        ]  # fmt: skip
        out, complaint = (process := self.program(site, command)).communicate()
        if process.returncode not in (0, 1) or not out.strip():
            raise TestbedError(f"verify failed: {complaint.strip()[-2000:]}")
        report = last_line(out)
        if report["clean"] != (process.returncode == 0):
            raise TestbedError(f"verify contradicts itself: exit {process.returncode}, {out}")
        return report

    def verify(self, site, topic, expected, **more):
        """Exactly once, in order, unchanged, or the case fails."""
        report = self.judge(site, topic, expected, **more)
        hold_that(report["clean"], f"{topic} at {site}: {explain(report)}")
        return report

    def backlog(self, site, topic, subscription):
        """Messages that the subscription has not acknowledged; None while broker or subscription cannot tell."""
        path = rest.topic_path(topic)
        try:
            admin = self.brokers[site].admin
            partitioned = admin.get(f"{path}/partitions")["partitions"] > 0
            stats = admin.get(f"{path}/partitioned-stats" if partitioned else f"{path}/stats")
            return stats["subscriptions"][subscription]["msgBacklog"]
        except (OSError, rest.Refused, KeyError):
            return None

    def wait_drained(self, pair, routes, patience):
        """Until the source broker itself says that everything of these routes is acknowledged."""
        for route in routes:
            site, topic = route["from"], route["topics"][0]
            ours = f"bridge.{site}.{route['to']}"
            pair.wait(
                patience,
                f"everything in {topic} is acknowledged at {site}",
                lambda _, place=(site, topic, ours): self.backlog(*place) == 0,
            )

    def figures(self, pair, payload_bytes):
        """CPU-seconds per GB of payload and peak MiB of both agents; memory above the promise fails the case."""
        found = {}
        for agent, name in ((pair.hub, "hub"), (pair.edge, "edge")):
            found[f"{name} CPU-s/GB"] = f"{agent.cpu_seconds() / (payload_bytes / 1e9):.2f}"
            peak = agent.peak_kib() / 1024
            found[f"{name} peak MiB"] = f"{peak:.0f}"
            hold_that(peak < PEAK_MIB_MAX, f"{name} used {peak:.0f} MiB, {PEAK_MIB_MAX} are promised")
        return found

    def record(self, load, **figures):
        self.rows.append({"case": self.case, "load": load, **figures})

    def say(self, text):
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


def other(site):
    """The site at the other end of a route."""
    return "bank" if site == "riskfuel" else "riskfuel"


def last_line(out):
    """What a program of ours reports; the client's own complaints about broken connections stand above it."""
    return json.loads(out.strip().splitlines()[-1])


def rates(messages, payload_bytes, seconds):
    """Columns of speed; a drain shorter than a second is looked at too seldom to be one."""
    if seconds < 1:
        return {"seconds": "< 1"}
    mbit_s = payload_bytes * 8 / seconds / 1e6
    return {"seconds": f"{seconds:.2f}", "msg/s": f"{messages / seconds:,.0f}", "Mbit/s": f"{mbit_s:.0f}"}


def verdict(report):
    """The columns that every table row has."""
    return {fault: report[fault] for fault in KINDS[:3]}


def explain(report):
    faults = {key: value for key, value in report.items() if key in KINDS and value}
    return f"{faults}, lost {report['lost_ranges']}, e.g. {report['examples'][:6]}"
