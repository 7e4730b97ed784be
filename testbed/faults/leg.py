"""One leg of the bench: fresh topics and agents, load both ways, faults one after the other, then the judgement.

The riskfuel standalone, the bank's two brokers and the faulty link are used as they run; the topics, agents and
programs are the leg's own and end with it. Knows no kind of fault.
"""

import json
import random
import subprocess
import time

import places
import rest
from faulty import FaultyLink
from kinds import KINDS
from places import PLACES, TestbedError
from pulse import Pulse
from record import FOUND, Record
from stage import HERE as SUITE
from stage import Load, Stage, Unheard, explain, hold_that, last_line, other

# Confirmations come many times a second; this late is not the machine's noise.
LATE_SECONDS = 2.0
RECOVERY_SECONDS = 300
DRAIN_SECONDS = 300
PARTITIONS = 3
WATCH = str(SUITE.parent / "faults/watch.py")


class Leg:
    """Begin, strike as often as wanted, then judge."""

    def __init__(self, name, arguments, seed, folder, twin):
        folder.mkdir(parents=True)
        self.arguments, self.twin = arguments, twin
        self.seed, self.random, self.struck = seed, random.Random(seed), 0
        self.record = Record(arguments.seed)
        self.stage = Stage(name, str(arguments.bridge.resolve()), 1, seed, folder, bank=twin)
        self.brokers, self.riskfuel = self.stage.brokers, self.stage.brokers["riskfuel"]
        self.namespace = f"public/{self.stage.namespace}"
        self.link = self.pulse = self.started = None
        self.loads, self.watches, self.begun = [], {}, []

    def begin(self):
        """Everything runs and is relayed when it returns."""
        self.loads = plan(self.stage, self.arguments.rate)
        self.routes = [route(self.stage, load) for load, _ in self.loads]
        for load, partitions in self.loads:
            for site in ("riskfuel", "bank"):
                self.patiently(lambda site=site, load=load, count=partitions: self.create(site, load.topic, count))
        self.partitions = [
            f"{load.topic}-partition-{index}" if count else load.topic
            for load, count in self.loads
            for index in range(count or 1)
        ]
        if self.arguments.no_dedup:
            self.forget_duplicates()
        hub = f"{PLACES['riskfuel'].address}:{places.LINK_PORT}"
        listen = f"{places.WIRE_ADDRESS}:{places.LINK_PORT}"
        self.link = FaultyLink(hub, self.stage.folder / "link.sock", listen=listen, namespace=places.WIRE)
        self.pair = self.stage.pair(self.routes)
        self.pair.pulsar["bank"] = {"service_url": self.twin.service_url, "admin_url": self.twin.admin_url}
        self.pair.connect = [f"tls://{listen}"]
        self.pair.configure()
        self.pair.start()
        self.pair.wait_running()
        self.watches = {site: self.watch(site) for site in ("riskfuel", "bank")}
        self.begun = [self.stage.begin(load, hold=True) for load, _ in self.loads]
        self.started = time.monotonic()
        self.pulse = Pulse(self.pair, self.partitions, self.is_drained)
        self.pulse.start()
        self.recovered("the load began", idle_may=False)

    def create(self, site, topic, partitions):
        try:
            self.stage.create_topic(site, topic, partitions)
        except rest.Refused as error:
            # Of two attempts the first was heard.
            if error.status != 409:
                raise

    def forget_duplicates(self):
        """At the destinations only: the loads stay free of repeats."""
        for load, _ in self.loads:
            admin, path = self.brokers[other(load.site)].admin, f"{rest.topic_path(load.topic)}/deduplicationEnabled"
            self.patiently(lambda admin=admin, path=path: admin.post(path, False))
            deadline = time.monotonic() + 30
            while admin.get(path) is not False:
                hold_that(time.monotonic() < deadline, f"{load.topic} deduplicates still")
                time.sleep(0.1)

    def watch(self, site):
        """The judge of what arrives there."""
        arriving = [load for load, _ in self.loads if other(load.site) == site]
        command = [WATCH, *self.stage.access[site], "--progress", str(self.progress(site))]
        for load in arriving:
            command += ["--topic", load.topic, "--producer", load.name]
        return self.stage.program(site, command, stdin=subprocess.PIPE, kind=Unheard)

    def progress(self, site):
        return self.stage.folder / f"watch-{site}.json"

    def strike(self, kind):
        """Does one fault and waits until every partition gets on again; whether it bit."""
        self.check(f"before {kind}")
        # Of its own, so that what one fault drew moves nothing in the next.
        self.random, self.struck = random.Random(f"{self.seed} {self.struck} {kind}"), self.struck + 1
        links, stretch = self.link.counts()["connections"], self.pulse.begin()
        detail = KINDS[kind](self)
        self.recovered(kind)
        lost_links = self.link.counts()["connections"] - links
        bit = lost_links > 0 or stretch.sessions > 0 or stretch.outage >= LATE_SECONDS
        self.record.note(kind, bit, stretch.outage)
        self.stage.say(
            f"{'' if bit else 'did not bite: '}{kind} ({detail}): {lost_links} connections, {stretch.sessions} "
            f"sessions, {stretch.duplicates} duplicates dropped, longest wait "
            f"{stretch.outage:.1f} s ({stretch.where.rpartition('/')[2]}){self.idle()}"
        )
        self.check(f"after {kind}")
        time.sleep(self.random.uniform(0.3, 1.0))
        return bit

    def idle(self):
        """Partitions that nobody writes to at the moment."""
        names = [name.rpartition("/")[2] for name in sorted(self.pulse.drained)]
        return f"; without load: {', '.join(names)}" if names else ""

    def recovered(self, after, idle_may=True):
        waiting = self.pulse.wait_all(RECOVERY_SECONDS, idle_may)
        if waiting:
            rows = self.pair.describe(self.pair.rows())
            raise TestbedError(f"{RECOVERY_SECONDS} s after {after} these do not get on: {waiting}\n{rows}")

    def is_drained(self, partition):
        """Nothing waits for the bridge and nobody writes: the load's client has not connected again."""
        site, target = next((one["from"], one["to"]) for one in self.routes if partition.startswith(one["topics"][0]))
        try:
            stats = self.brokers[site].admin.get(f"{rest.topic_path(partition)}/stats")
            return not stats["publishers"] and stats["subscriptions"][f"bridge.{site}.{target}"]["msgBacklog"] == 0
        except (OSError, rest.Refused, KeyError):
            return False

    def check(self, when):
        """Agents, loads and watches live, and nothing wrong has arrived."""
        self.pair.check_alive()
        for what, process in [*self.begun, *self.watches.items()]:
            if process.poll() is not None:
                raise TestbedError(f"{when}: {what} ended by itself: {process.communicate()[1].strip()[-2000:]}")
        for site in self.watches:
            counts = self.counts(site)
            wrong = {kind: counts[kind] for kind in FOUND if counts.get(kind) and not self.may_be(kind)}
            hold_that(not wrong, f"{when}: {site} received {wrong}: {counts['examples']}")

    def may_be(self, kind):
        return self.arguments.no_dedup and kind in ("repeated", "disordered")

    def counts(self, site):
        try:
            return json.loads(self.progress(site).read_text())
        except FileNotFoundError:
            return {"received": 0, "examples": []}

    def received(self):
        return sum(self.counts(site)["received"] for site in self.watches)

    def judge(self):
        """Ends the load, waits until all is relayed, and adds the verdict to the leg's record."""
        self.record.seconds = time.monotonic() - self.started
        self.pulse.finish()
        for _, process in self.begun:
            # All at once: each still has its last receipts to wait for.
            process.stdin.close()
            process.stdin = None
        written = {who: count for begun in self.begun for who, count in self.stage.finish(begun).items()}
        self.begun = []
        self.stage.say(f"{sum(written.values()):,} messages are written")
        self.stage.wait_drained(self.pair, self.routes, DRAIN_SECONDS)
        self.stage.say("all of them are acknowledged at their sources")
        self.record.messages = sum(written.values())
        for site, process in self.watches.items():
            due = {load.name: written[load.name] for load, _ in self.loads if other(load.site) == site}
            out, complaint = process.communicate(json.dumps(due) + "\n")
            hold_that(process.returncode in (0, 1) and out.strip(), f"the watch at {site}: {complaint[-2000:]}")
            report = last_line(out)
            for kind in FOUND:
                self.record.found[kind] += report[kind]
            if not report["clean"]:
                self.stage.say(f"{site}: {explain(report)}")
        self.watches = {}

    def close(self, forget=True):
        if self.pulse:
            self.pulse.finish()
        if self.link:
            self.link.close()
        if not forget:
            # Topics and their entries are what a fault is found by.
            self.stage.brokers = {}
        self.stage.close()

    def lasting(self, low, high):
        """Seconds that a fault is to last."""
        return self.random.uniform(low, low + (high - low) / 8 if self.arguments.brief else high)

    def way(self):
        return self.random.choice(("to_hub", "to_edge"))

    def patiently(self, ask, patience=60):
        """An admin call that a cluster under faults may refuse for a while."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return ask()
            except (OSError, rest.Refused) as error:
                if time.monotonic() > deadline:
                    raise TestbedError(f"refused for {patience} s: {error}") from error
                time.sleep(0.5)


def plan(stage, rate):
    """Four loads, a quarter of the rate each: (load, partitions)."""

    def load(name, site, **more):
        return Load(f"{name}-writer", site, stage.topic(name), 0, size=200, rate=rate / 4, **more)

    return [
        (load("requests", "riskfuel", batch=0, dressed=True), PARTITIONS),
        (load("joined", "riskfuel", batch=0), 0),
        (load("results", "bank", batch=100, dressed=True, compression="LZ4"), PARTITIONS),
        (load("answers", "bank", batch=0), 0),
    ]


def route(stage, load):
    """Small unbatched messages are joined where that says nothing about their keys."""
    joins = {} if load.dressed else {"batching": {"max_messages": 100, "compression": "zstd"}}
    return stage.route(load.name.removesuffix("-writer"), load.site, other(load.site), load.topic, start="earliest", **joins)
