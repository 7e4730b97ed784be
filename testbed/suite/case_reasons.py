"""Cases in which a route does not run for a reason that somebody has to do something about: what `bridge status` says,
its remedy followed to the letter, and the route running again. Which test does that for which reason of the catalogue:
docs/remedies.md.
"""

import json
import struct

import rest
import wire
from agents import read_json, write_json
from case_entries import plain, publish, raw
from case_faults import cli_status, stage_wait
from stage import HERE, KINDS, Load, explain, hold_that

# A sequence id beyond any position of a young cluster.
FAR_AHEAD = 1 << 58


def reasons(stage):
    """Routes that are refused, terminated, mismatched, poisoned, behind or ahead say so with a remedy; the remedy is
    followed, and each relays what waited, exactly once."""
    faults = {made.name: made for made in (fault(stage) for fault in FAULTS)}
    for fault in faults.values():
        fault.prepare()
    pair = stage.pair([fault.route() for fault in faults.values()])
    for fault in faults.values():
        fault.spoil(pair)
    pair.start()
    faults["generation_behind"].overtake(pair)
    faults["poison"].write()
    for fault in faults.values():
        row = pair.wait(60, f"{fault.topic} does not run for {fault.reason}", fault.is_told)
        hold_that(row["state"] == fault.state, f"{fault.reason} is {row['state']}: {row}")
        hold_that(row["remedy"], f"{fault.reason} has no remedy: {row}")
    # What only waits stands in the way after a while.
    pair.wait(60, "`bridge status` says each reason with its remedy", lambda rows: all_said(faults, pair, rows))
    heeded = [fault for fault in faults.values() if fault.is_heeded]
    for fault in heeded:
        fault.mend(pair)
    # Looked at again every half minute, without a restart.
    pair.wait(60, "what was mended is noticed", lambda rows: all(fault.runs(rows) for fault in heeded))
    pair.stop()
    for fault in faults.values():
        if not fault.is_heeded:
            fault.mend(pair)
    pair.start()
    pair.wait_running(90)
    for fault in faults.values():
        fault.prove(pair)
        stage.record(fault.name, messages=COUNT + sum(fault.waited.values()), lost=0, repeated=0, disordered=0)
    pair.stop()


def all_said(faults, pair, rows):
    printed = " ".join(cli_status(pair).split())
    remedies = {row["reason"]: row["remedy"] for row in rows if row["end"] == "source"}
    return all(f"{fault.reason} -> {remedies.get(fault.reason)}" in printed for fault in faults.values())


class Fault:
    """One reason: its cause, and the remedy as its row words it."""

    reason, state = None, "stopped"
    # Of the route; another one where a reason has several remedies.
    name = None
    # Noticed while the bridge runs; else it is stopped, mended and started.
    is_heeded = False

    def __init__(self, stage):
        self.stage, self.name = stage, self.name or self.reason
        # What waited at the source when it did not run: {producer: count}.
        self.waited = {}
        self.topic = stage.topic(self.name.replace("_", "-"))
        self.path = rest.topic_path(self.topic)
        self.source, self.destination = (stage.brokers[site].admin for site in ("riskfuel", "bank"))

    def route(self):
        return self.stage.route(self.name, "riskfuel", "bank", self.topic, start="earliest")

    def prepare(self):
        for site in ("riskfuel", "bank"):
            self.stage.create_topic(site, self.topic)

    def spoil(self, pair):
        """Makes the cause, before the agents start."""

    def mend(self, pair):
        """Does what the remedy says."""

    def rows(self, rows):
        return [row for row in rows if row["route"] == self.name and row["end"] == "source"]

    def is_told(self, rows):
        return next((row for row in self.rows(rows) if row["reason"] == self.reason), None)

    def runs(self, rows):
        return {row["state"] for row in self.rows(rows)} == {"running"}

    # What the judge cannot read, because it was made by hand.
    foreign = 0

    def prove(self, pair):
        """The route carries what waited and what comes now."""
        later = self.stage.load(Load(f"after-{self.name}", "riskfuel", self.topic, COUNT, batch=0))
        expected = self.waited | later
        report = self.stage.judge("bank", self.topic, expected, idle=10)
        found = {kind: report[kind] for kind in KINDS if report[kind]}
        due = {"foreign": self.foreign} if self.foreign else {}
        hold_that(found == due, f"{self.topic}: {explain(report)}")


class TopicTerminated(Fault):
    reason = "topic_terminated"

    def spoil(self, pair):
        self.destination.post(f"{self.path}/terminate")

    def mend(self, pair):
        self.destination.delete(f"{self.path}?force=true")
        self.stage.create_topic("bank", self.topic)


class Poison(Fault):
    reason = "poison"

    def prepare(self):
        super().prepare()
        self.limit(LIMIT)

    def write(self):
        """Not before the hub was started again, which would make it a hole marker."""
        self.waited = self.stage.load(Load("good", "riskfuel", self.topic, 4, batch=0))
        self.waited |= self.stage.load(Load("too-large", "riskfuel", self.topic, 1, size=LIMIT + 1000, batch=0))

    def mend(self, pair):
        # In this order.
        change_route(pair, self.name, generation=2)
        self.limit(100 * LIMIT)

    def limit(self, size):
        path = f"{self.path}/maxMessageSize"
        self.destination.post(path, size)
        stage_wait(lambda: self.destination.get(path) == size, "the topic policy is in force")


class SchemaRefused(Fault):
    reason, foreign = "schema_refused", 1

    def prepare(self):
        super().prepare()
        for admin, kind in ((self.source, "int"), (self.destination, "string")):
            admin.post(self.path.replace("/v2/persistent/", "/v2/schemas/") + "/schema", avro(kind))

    def spoil(self, pair):
        version = wire.field(wire.SCHEMA_VERSION, struct.pack(">Q", 0))
        answer = publish(self.stage, self.topic, "avro", [plain(1, b"\x02", version)])[0]
        hold_that(answer["answer"] == "stored", f"the entry with a schema: {answer}")

    def mend(self, pair):
        # "make the schema compatible at the destination"
        policy = f"/admin/v2/namespaces/public/{self.stage.namespace}/schemaCompatibilityStrategy"
        self.destination.put(policy, "ALWAYS_COMPATIBLE")


class PartitionMismatch(Fault):
    reason, state, is_heeded = "partition_mismatch", "waiting", True

    def prepare(self):
        self.stage.create_topic("riskfuel", self.topic, 2)
        self.stage.create_topic("bank", self.topic, 3)

    def mend(self, pair):
        # "give the destination topic the source's number of partitions": it has more, which only a new one undoes.
        self.destination.delete(f"{self.path}/partitions?force=true")
        self.stage.create_topic("bank", self.topic, 2)


class AnyPartitions(PartitionMismatch):
    name, is_heeded = "any_partitions", False

    def mend(self, pair):
        change_route(pair, self.name, partitions="any")


class RefusedByPolicy(Fault):
    reason, state = "refused_by_policy", "waiting"

    def spoil(self, pair):
        self.change(pair, lambda topics: topics.remove(self.topic))

    def mend(self, pair):
        self.change(pair, lambda topics: topics.append(self.topic))

    def change(self, pair, how):
        config = read_json(pair.edge.config)
        how(config["policy"]["receive"])
        write_json(pair.edge.config, config)


class SubscriptionInUse(Fault):
    reason, state = "subscription_in_use", "waiting"

    def spoil(self, pair):
        ours = "bridge.riskfuel.bank"
        command = ["--topic", self.topic, "--subscription", ours, "--expect", "nobody=1", "--idle", "600"]
        program = [str(HERE / "verify.py"), *self.stage.access["riskfuel"], *command]
        self.other = self.stage.program("riskfuel", program)
        held = lambda: self.source.get(f"{self.path}/stats")["subscriptions"].get(ours, {}).get("consumers")  # noqa: E731
        stage_wait(held, "another consumer is there")

    def mend(self, pair):
        # The other one stays.
        change_route(pair, self.name, subscription="bridge.of-its-own")


class DuplicateRun(Fault):
    reason, foreign = "duplicate_run", 2

    def spoil(self, pair):
        name = f"bridge/riskfuel/bank/{self.topic}/1"
        entry = plain(FAR_AHEAD, b"of another life", wire.field(wire.PRODUCER_NAME, name))
        command = ["publish", "--topic", self.topic, "--producer", name]
        raw(self.stage, "bank", command, lines(entry))
        publish(self.stage, self.topic, "writer", [plain(1, b"of this life")])

    def mend(self, pair):
        change_route(pair, self.name, generation=2)


class GenerationBehind(Fault):
    reason = "generation_behind"

    def route(self):
        return super().route() | {"generation": 2}

    def overtake(self, pair):
        """The edge sees generation 2, then the hub comes with 1."""
        running = lambda rows: any(row["route"] == self.reason and row["state"] == "running" for row in rows)  # noqa: E731
        pair.wait(60, "generation 2 runs", running)
        hold_that(pair.hub.stop() == 0, f"the hub did not drain: {pair.hub.last_words()}")
        change_route(pair, self.name, generation=1)
        pair.hub.start()

    def mend(self, pair):
        change_route(pair, self.name, generation=2)


def change_route(pair, name, **more):
    config = read_json(pair.hub.config)
    next(route for route in config["routes"] if route["name"] == name).update(more)
    write_json(pair.hub.config, config)


def avro(kind):
    record = '{"type":"record","name":"Point","fields":[{"name":"x","type":"%s"}]}' % kind
    return {"type": "AVRO", "schema": record, "properties": {}}


def lines(*entries):
    return "".join(json.dumps(entry.line()) + "\n" for entry in entries)


FAULTS = (
    TopicTerminated, Poison, SchemaRefused, PartitionMismatch, AnyPartitions, RefusedByPolicy, SubscriptionInUse,
    DuplicateRun, GenerationBehind,
)  # fmt: skip
COUNT = 200
LIMIT = 2000
