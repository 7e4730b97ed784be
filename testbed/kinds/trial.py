"""One kind by one client, from the source to the destination: written, relayed, read at both ends by every client and
as stored entries, and compared. A trial fails with the first difference that it finds; nothing is forgiven here.
"""

import contextlib
import json
import time

import rest
import wire
from case_entries import REWRITTEN, hexes, raw
from places import TestbedError
from stage import hold_that

SUBSCRIPTION = "bridge.riskfuel.bank"
RELAY_SECONDS = 60
ACTION_SECONDS = 60
LOOK_AGAIN_SECONDS = 0.2
SHARED_PATIENCE_MS = 60_000
# What may differ at the destination; all but the time of reading are looked at by themselves.
OWN = {"ledger", "entry", "producer", "sequence_id", "schema_version", "received_at"}


class Trial:
    """A topic of its own, as long as the run."""

    def __init__(self, stage, programs, kind, writer):
        self.stage, self.programs, self.kind, self.writer = stage, programs, kind, writer
        words = "".join(letter if letter.isalnum() else " " for letter in kind.name.lower()).split()
        self.topic = stage.topic("-".join([*words, writer]))
        self.source, self.target = stage.brokers["riskfuel"], stage.brokers["bank"]

    def waits(self):
        """Whether this takes long and little work."""
        return bool(self.kind.read.get("shared") or self.kind.producer.get("chunking"))

    def prepare(self):
        """The source's topic; and at the destination what is to be there before the first message."""
        if self.source.admin:
            self.stage.create_topic("riskfuel", self.topic)
        if self.kind.beforehand and self.target.admin:
            self.stage.create_topic("bank", self.topic)
            declared = self.kind.beforehand
            body = {"type": declared["type"], "schema": declared["definition"], "properties": {}}
            self.target.admin.post(f"{schema_path(self.topic)}/schema", body)

    def run(self, pair, readers):
        """{what was looked at: why it failed, None when it passed}."""
        verdicts = dict.fromkeys(["entries", *readers], "not reached")
        try:
            self.produce()
            wait_relayed(self.stage, pair, self.topic)
            metadata = self.compare_entries(pair)
            verdicts["entries"] = None
            if self.kind.read.get("compacted"):
                for broker in (self.source, self.target):
                    compact(broker, self.topic)
        except Exception as error:
            return verdicts | {"entries": plain(error)}
        for reader in readers:
            try:
                self.compare(reader, metadata)
                verdicts[reader] = None
            except Exception as error:
                verdicts[reader] = plain(error)
        return verdicts

    def produce(self):
        kind = self.kind
        job = {"topic": self.topic, "producer": kind.producer, "messages": kind.messages, "outcome": kind.outcome}
        sent = self.programs["riskfuel", self.writer].ask("produce", **job)["sent"]
        hold_that(sent == len(kind.messages), f"{sent} of {len(kind.messages)} were sent")

    def compare_entries(self, pair):
        """What the destination stores is what the source gives out, but for the fields that change; the source's
        metadata."""
        count = relayed(pair, self.topic)
        there, here = (stored(self.stage, site, self.topic, count) for site in ("riskfuel", "bank"))
        compare_stored(there, here, written_by(self.topic))
        return [bytes.fromhex(entry["metadata_hex"]) for entry in there]

    def compare(self, reader, metadata):
        kind = self.kind
        there = self.read("riskfuel", reader)
        hold_that(kind.shows(there, metadata), f"the source does not show {kind.name}: {brief(there)}")
        if not kind.partial:
            self.compare_with_sent(there)
        here = self.read("bank", reader)
        if kind.read.get("shared"):
            # A Shared subscription promises no order, but each has to be in time here too.
            there, here = by_time(there), by_time(here)
            hold_that(kind.shows(here, metadata), f"the destination does not show {kind.name}: {brief(here)}")
        hold_that(len(here) == len(there), f"{len(there)} messages at the source, {len(here)} at the destination")
        for sent, found in zip(there, here, strict=True):
            self.compare_messages(sent, found, self.topic)

    def compare_with_sent(self, there):
        due = self.kind.expected()
        hold_that(len(there) == len(due), f"{len(due)} messages were sent, the source has {brief(there)}")
        got = [message["sha256"] if digest else None for message, digest in zip(there, due, strict=True)]
        same = sorted(map(str, got)) == sorted(map(str, due)) if self.kind.reorders else got == due
        hold_that(same, f"the source does not hold what was sent: {brief(there)}")

    def compare_messages(self, sent, found, topic):
        differ = {name: (sent[name], found[name]) for name in sent if name not in OWN and sent[name] != found[name]}
        hold_that(not differ, f"(source, destination): {differ}")
        due = written_by(topic)
        hold_that(found["producer"] == due, f"the producer is {found['producer']}, not {due}")
        if "sequence_id" in sent:
            single = sent["ledger"] << 28 | sent["entry"]
            due = single if sent["batch_index"] == -1 else sent["sequence_id"]
            hold_that(found["sequence_id"] == due, f"the sequence id is {found['sequence_id']}, not {due}")
        hold_that(not found.get("replicated_from"), f"replicated from {found.get('replicated_from')}")
        self.compare_schemas(sent["schema_version"], found["schema_version"])

    def compare_schemas(self, there, here):
        hold_that((there is None) == (here is None), f"schema version {there} at the source, {here} at the destination")
        if there is None:
            hold_that("schema" not in self.kind.producer, "the source's messages have no schema")
            return
        if not (self.source.admin and self.target.admin):
            return
        ahead = int(self.kind.beforehand is not None)
        hold_that(here == there + ahead, f"version {there} is {here} at the destination, {there + ahead} is due")
        sent, found = schema(self.source, self.topic, there), schema(self.target, self.topic, here)
        hold_that(sent == found, f"version {there} says {sent} at the source, {here} at the destination {found}")

    def read(self, site, reader):
        kind = self.kind
        job = dict(kind.read)
        if "schema" in job:
            declared = kind.producer["schema"]
            job["schema"] = declared[-1] if isinstance(declared, list) else declared
        if job.get("shared"):
            job |= {"count": len(kind.messages), "patience_ms": SHARED_PATIENCE_MS}
        if self.stage.brokers[site].admin is None:
            # pulsar-lite's last message id names an entry and no message in it: a reader may think it is at the end.
            job["at_least"] = len(kind.expected())
        found = self.programs[site, reader].ask("read", topic=self.topic, **job)["messages"]
        if "schema" in job:
            unread = [message for message in found if not message["value"]]
            hold_that(not unread, f"{reader} does not understand {brief(unread)} at {site}")
        return found


def written_by(topic):
    """The bridge's producer for a topic-partition."""
    return f"bridge/riskfuel/bank/{topic}/1"


def stored(stage, site, topic, count):
    """Every entry that the broker gives out, also beyond `count`; fails when fewer come."""
    arguments = ["--topic", topic, "--subscription", "judge-of-entries", "--count", str(count), "--linger", "0.5"]
    return raw(stage, site, ["read", *arguments])


def compare_stored(there, here, name_written):
    """Entry by entry, byte by byte, but for the fields that a bridge writes."""
    hold_that(there and len(there) == len(here), f"{len(there)} entries at the source, {len(here)} at the destination")
    for sent, found in zip(there, here, strict=True):
        at = f"{sent['ledger']}:{sent['entry']}"
        parts = ("payload_sha256", "payload_len")
        hold_that(all(sent[part] == found[part] for part in parts), f"{at}: the payload arrived as {found}")
        hold_that(found["checksum_holds"], f"{at}: the checksum does not hold")
        due = [span for number, span in wire.fields(bytes.fromhex(sent["metadata_hex"])) if number not in REWRITTEN]
        arrived = wire.fields(bytes.fromhex(found["metadata_hex"]))
        got = [span for number, span in arrived if number not in REWRITTEN]
        hold_that(got == due, f"{at}: fields {hexes(due)} are due, {hexes(got)} arrived")
        sequence_id = sent["ledger"] << 28 | sent["entry"]
        written = [wire.field(wire.PRODUCER_NAME, name_written), wire.field(wire.SEQUENCE_ID, sequence_id)]
        ours = [span for number, span in arrived if number in REWRITTEN - {wire.SCHEMA_VERSION}]
        hold_that(ours == written, f"{at}: {hexes(written)} were to be written, {hexes(ours)} were")


def wait_relayed(stage, pair, topic, patience=RELAY_SECONDS):
    """Until the source broker says that all of it is acknowledged; one that does not tell is believed to give all."""
    source = stage.brokers["riskfuel"]
    drained = lambda: stage.backlog("riskfuel", topic, SUBSCRIPTION) == 0  # noqa: E731
    settled = lambda: any(row["messages"] and not row["in_flight"] for row in rows_of(pair, topic))  # noqa: E731
    try:
        wait(pair, patience, f"everything in {topic} is acknowledged", drained if source.admin else settled)
    except TestbedError as error:
        said = [f"{row['end']} {row['state']} {row['reason'] or ''}".strip() for row in rows_of(pair, topic)]
        raise TestbedError(f"{error}: {', '.join(said) or 'no rows'}") from None


def relayed(pair, topic):
    """How many entries the bridge says the destination has taken."""
    return sum(row["entries"] for row in rows_of(pair, topic) if row["end"] == "sink")


def rows_of(pair, topic):
    return [row for row in pair.rows() if row["topic"] == topic]


def wait(pair, patience, what, until):
    """As `Pair.wait`, but seldom: many trials wait side by side."""
    deadline = time.monotonic() + patience
    while not (found := until()):
        pair.check_alive()
        if time.monotonic() > deadline:
            raise TestbedError(f"not after {patience} s: {what}")
        time.sleep(LOOK_AGAIN_SECONDS)
    return found


def compact(broker, topic):
    """Compacts a topic and waits until that is done."""
    path = f"{rest.topic_path(topic)}/compaction"
    broker.admin.put(path)
    deadline = time.monotonic() + ACTION_SECONDS
    while (status := broker.admin.get(path)["status"]) != "SUCCESS":
        hold_that(status == "RUNNING" and time.monotonic() < deadline, f"the compaction is {status}")
        time.sleep(LOOK_AGAIN_SECONDS)


def schema(broker, topic, version):
    """What a cluster says of a schema's version; definitions as values, for spaces have no meaning."""
    said = broker.admin.get(f"{schema_path(topic)}/schema/{version}")
    definition = said["data"]
    with contextlib.suppress(ValueError):
        definition = json.loads(definition)
    return {"type": said["type"], "definition": definition, "properties": said["properties"]}


def schema_path(topic):
    return rest.topic_path(topic).replace("/persistent/", "/schemas/")


def by_time(messages):
    return sorted(messages, key=lambda message: (message["publish_time"], message["sha256"]))


def brief(messages):
    telling = ("len", "key", "null", "batch_index", "schema_version", "value", "encryption")
    return [{name: message[name] for name in telling if message[name]} for message in messages[:4]]


def plain(error):
    return str(error) or type(error).__name__
