"""Entries that no client would write: what a source broker refuses by itself, and what crosses bit for bit."""

import json
import pathlib
import struct
import subprocess

import rest
import wire
from places import TestbedError
from stage import hold_that
from wire import Crafted, field

EARLIEST_TIME = 1_700_000_000_000
HIGHEST = (1 << 63) - 1
# What a destination's entry may not keep of its source's (beside `replicate_to`, unless it names only `__local__`).
REWRITTEN = {
    wire.PRODUCER_NAME, wire.SEQUENCE_ID, wire.REPLICATED_FROM, wire.SCHEMA_VERSION, wire.TXN_LEAST, wire.TXN_MOST,
    wire.HIGHEST_SEQUENCE_ID,
}  # fmt: skip
LOCAL_ONLY = "kept off other clusters"


def entries(stage):
    """Entries with unknown fields, claims that are not true and payloads that nobody can decode cross bit for bit,
    in order, exactly once also after an unload; what the source broker refuses or withholds itself is told."""
    topic, withheld = stage.topic("crafted"), stage.topic("withheld")
    for site in PLACES_USED:
        for name in (topic, withheld):
            stage.create_topic(site, name)
    routes = [
        stage.route("crafted", "riskfuel", "bank", topic, start="earliest"),
        stage.route("withheld", "riskfuel", "bank", withheld, start="earliest"),
    ]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    crafted = crafted_entries(stage.random)
    for name, entry in crafted.items():
        answer = publish(stage, topic, f"writer of {name}", [entry])[0]
        hold_that(answer["answer"] == "stored", f"{name}: the source broker answers {answer}")
    stage.wait_drained(pair, routes, 60)
    judge(stage, topic, crafted, "before the unload")

    stage.brokers["bank"].admin.put(f"{rest.topic_path(topic)}/unload")
    crafted["after the unload"] = plain(1, b"one more")
    publish(stage, topic, "another writer", [crafted["after the unload"]])
    stage.wait_drained(pair, routes, 60)
    judge(stage, topic, crafted, "after the unload")
    stage.record(f"{len(crafted)} crafted entries", messages=len(crafted), lost=0, repeated=0, disordered=0)

    refused_by_the_source(stage, pair, routes, withheld)
    rows = [row for row in pair.rows() if row["route"] == "crafted"]
    hold_that({row["state"] for row in rows} == {"running"}, f"the route is not running: {rows}")
    pair.stop()


def plain(sequence_id, payload, extra=b"", **more):
    metadata = (
        field(wire.PRODUCER_NAME, "a writer") + field(wire.SEQUENCE_ID, sequence_id)
        + field(wire.PUBLISH_TIME, EARLIEST_TIME) + extra
    )  # fmt: skip
    return Crafted(sequence_id, metadata, payload, **more)


def crafted_entries(chance):
    """By what is strange about each, in the order of their publishing."""
    noise = chance.randbytes
    pair = lambda key, value: field(wire.PROPERTIES, field(1, key) + field(2, value))  # noqa: E731
    batch = lambda count: field(wire.NUM_MESSAGES, count)  # noqa: E731
    chunk = lambda index: (  # noqa: E731
        field(wire.UUID, "a writer-7") + field(wire.NUM_CHUNKS, 2) + field(wire.TOTAL_CHUNK_LEN, 600)
        + field(wire.CHUNK_ID, index)
    )  # fmt: skip
    unknown = field(999, b"\xffunknown") + field(998, 1 << 63) + wire.varint(997 << 3 | 1) + struct.pack("<Q", 5)
    unknown += wire.varint(996 << 3 | 5) + struct.pack("<I", 6)
    encrypted = (
        field(wire.ENCRYPTION_KEYS, field(1, "key-1") + field(2, noise(256)))
        + field(wire.ENCRYPTION_ALGORITHM, "aes") + field(wire.ENCRYPTION_PARAMETER, noise(12)) + batch(3)
    )  # fmt: skip
    dressed = (
        pair("one", "1") + pair("two", "zwei ü") + field(wire.PARTITION_KEY, "key") + field(wire.ORDERING_KEY, b"\0\1")
        + field(wire.EVENT_TIME, 1_600_000_000_000)
    )  # fmt: skip
    zstd = field(wire.COMPRESSION, 3) + field(wire.UNCOMPRESSED_SIZE, 100_000) + batch(100)
    poison = field(wire.HIGHEST_SEQUENCE_ID, HIGHEST)
    twice = field(wire.PRODUCER_NAME, "and another") + field(wire.SEQUENCE_ID, 2) + poison
    return {
        "nothing": plain(1, b"hello"),
        "unknown fields": plain(1, b"payload", unknown),
        "encrypted": plain(1, noise(300), encrypted, messages=3),
        "zstd that is noise": plain(1, noise(500), zstd, messages=100),
        "unknown compression": plain(1, noise(400), field(wire.COMPRESSION, 9) + field(wire.UNCOMPRESSED_SIZE, 1)),
        "a million messages": plain(1, noise(40), batch(1_000_000), messages=1_000_000),
        "minus five messages": plain(1, noise(40), batch(-5)),
        "a batch of one": plain(1, noise(40), batch(1)),
        "highest id near 2^63": plain(1, b"highest", poison + batch(2), highest_sequence_id=HIGHEST),
        "highest id in the metadata only": plain(1, b"hidden", poison),
        "a null value": plain(1, b"", field(wire.PARTITION_KEY, "gone") + field(wire.NULL_VALUE, 1)),
        "the first chunk": plain(1, noise(300), chunk(0)),
        "the last chunk": plain(1, noise(300), chunk(1)),
        "keys, properties and event time": plain(1, b"dressed", dressed),
        "replicated from elsewhere": plain(1, b"far", field(wire.REPLICATED_FROM, "elsewhere")),
        "meant for other clusters": plain(1, b"abroad", field(wire.REPLICATE_TO, "elsewhere")),
        LOCAL_ONLY: plain(1, b"home", field(wire.REPLICATE_TO, "__local__")),
        "transaction ids": plain(1, b"txn", field(wire.TXN_LEAST, 4) + field(wire.TXN_MOST, 5)),
        "a schema version that nobody has": plain(1, b"{}", field(wire.SCHEMA_VERSION, struct.pack(">Q", 77))),
        "fields that come twice": plain(1, b"twice", twice),
        "no checksum": plain(1, noise(64), checksum=False),
        "an empty payload": plain(1, b""),
        "a megabyte of noise": plain(1, noise(1 << 20)),
        "nothing again": plain(1, b"goodbye"),
    }


def judge(stage, topic, crafted, when):
    """What the bank stores is what riskfuel stores, but for the fields that change."""
    there, here = (read(stage, site, topic, f"judge {when}", len(crafted)) for site in PLACES_USED)
    hold_that(len(there) == len(here) == len(crafted), f"{when}: {len(there)} at riskfuel, {len(here)} at the bank")
    name_written = f"bridge/riskfuel/bank/{topic}/1"
    for (name, sent), source, found in zip(crafted.items(), there, here, strict=True):
        what = f"{name}, {when}"
        hold_that(source["metadata_hex"] == sent.metadata.hex(), f"{what}: the source broker itself changed it: {source}")
        hold_that(
            (found["payload_sha256"], found["payload_len"]) == (sent.payload_sha256(), len(sent.payload)),
            f"{what}: the payload arrived as {found}",
        )
        hold_that(found["has_checksum"] and found["checksum_holds"], f"{what}: the checksum does not hold: {found}")
        sequence_id = source["ledger"] << 28 | source["entry"]
        due = [field(wire.PRODUCER_NAME, name_written), field(wire.SEQUENCE_ID, sequence_id)]
        due += [span for number, span in wire.fields(sent.metadata) if not is_rewritten(number, name)]
        got = [span for _, span in wire.fields(bytes.fromhex(found["metadata_hex"]))]
        hold_that(sorted(got) == sorted(due), f"{what}: fields {hexes(due)} are due, {hexes(got)} arrived")
        # Repeated fields keep their order.
        hold_that(got == due, f"{what}: the fields' order changed: {hexes(due)} became {hexes(got)}")


def is_rewritten(number, name):
    return number in REWRITTEN or (number == wire.REPLICATE_TO and name != LOCAL_ONLY)


def hexes(spans):
    return [span.hex() for span in spans]


def refused_by_the_source(stage, pair, routes, topic):
    """A source broker refuses a broken checksum itself, and never delivers what it cannot read or what it writes
    for itself; the relay goes past the gap."""
    damaged = plain(1, b"damaged", damage=1)
    answer = publish(stage, topic, "damager", [damaged])[0]
    hold_that((answer["answer"], answer.get("error")) == ("refused", "Checksum"), f"a broken CRC: {answer}")
    stage.say(f"a broken CRC-32C: {answer['error']}, {answer['message']}")
    kept = {"before the gap": plain(1, b"before")}
    publish(stage, topic, "writer before", [kept["before the gap"]])
    for name, entry in withheld_entries().items():
        said = publish(stage, topic, f"writer of {name}", [entry])[0]
        stage.say(f"{name}: the source broker answers {said['answer']} {said.get('message', '')}")
    kept["after the gap"] = plain(1, b"after")
    publish(stage, topic, "writer after", [kept["after the gap"]])
    stage.wait_drained(pair, routes, 60)
    judge(stage, topic, kept, "with withheld entries between")
    # `Consumer.sendMessages` gives up a dispatch whose claims add up to nothing; nobody ever gets such an entry
    # while it stands alone, so no bridge can carry it.
    alone = stage.topic("claims-nothing")
    stage.create_topic("riskfuel", alone)
    answer = publish(stage, alone, "a writer", [plain(1, b"nobody", field(wire.NUM_MESSAGES, 0))])[0]
    hold_that(answer["answer"] == "stored", f"an entry that claims no messages: {answer}")
    got = read(stage, "riskfuel", alone, "alone", 0, linger=3)
    hold_that(got == [], f"an entry that claims no messages was delivered, so it can be relayed: {got}")


def withheld_entries():
    nameless = field(wire.PRODUCER_NAME, "a writer") + field(wire.SEQUENCE_ID, 1)
    timed = plain(1, b"", b"").metadata
    return {
        "a marker": plain(1, b"marker", field(wire.MARKER_TYPE, 20)),
        "metadata without publish time": Crafted(1, nameless, b"timeless"),
        "metadata cut short": Crafted(1, timed + field(wire.PARTITION_KEY, "key")[:-1], b""),
        "metadata that is noise": Crafted(1, b"\xff" * 20, b"noise"),
    }


def publish(stage, topic, producer, crafted):
    """The broker's answers to entries of one producer, in order."""
    lines = "".join(json.dumps(entry.line()) + "\n" for entry in crafted)
    out = raw(stage, "riskfuel", ["publish", "--topic", topic, "--producer", producer], lines)
    hold_that(len(out) == len(crafted), f"{producer}: {len(crafted)} entries were sent, the answers are {out}")
    return out


def read(stage, site, topic, subscription, count, linger=1):
    """Every entry of the topic as it is stored there, also those beyond `count`."""
    arguments = ["--topic", topic, "--subscription", subscription, "--count", str(count), "--linger", str(linger)]
    return raw(stage, site, ["read", *arguments])


def raw(stage, site, arguments, lines=""):
    place = stage.brokers[site].place
    command = ["ip", "netns", "exec", place.namespace, tool(stage.binary), *arguments, "--url", place.service_url]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        said = f"{len(found)} lines, the last {str(found[-1:])[:500]} {done.stderr.strip()}"
        raise TestbedError(f"raw_entries {' '.join(arguments)}: exit {done.returncode}, {said}")
    return found


def tool(bridge):
    """The example beside the bridge under test, in either profile."""
    target = pathlib.Path(bridge).parent.parent
    for profile in ("release", "debug"):
        path = target / profile / "examples/raw_entries"
        if path.is_file():
            return str(path)
    raise TestbedError(f"there is no raw_entries below {target}: cargo build --example raw_entries")


PLACES_USED = ("riskfuel", "bank")
