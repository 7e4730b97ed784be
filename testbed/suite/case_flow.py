"""Cases in which nothing is broken: the judge itself, the bulk, joining, backlog, both ways at once."""

import pathlib
import time

import geo
import rest
from places import PLACES
from stage import KINDS, Load, explain, hold_that, other, rates, verdict


def verifier(stage):
    """The judge sees each fault that is injected on a real cluster, and nothing else."""
    source, count = stage.topic("source"), 400
    stage.create_topic("bank", source)
    stage.brokers["bank"].admin.put(f"{rest.topic_path(source)}/subscription/copy", EARLIEST)
    expected = stage.load(Load("original", "bank", source, count, size=300, dressed=True))
    for fault, due in (
        ("none", {}), ("lose", {"lost": 1}), ("repeat", {"repeated": 1}), ("swap", {"disordered": 1}),
        ("corrupt", {"damaged": 1, "lost": 1}), ("undress", {"damaged": 1}),
    ):  # fmt: skip
        target = stage.topic(f"with-{fault}")
        rewind(stage, source, "copy")
        command = ["--source", source, "--target", target, "--count", str(count), "--fault", fault]
        copy = stage.program("bank", [COPY, "--url", PLACES["bank"].service_url, *command])
        _, complaint = copy.communicate()
        hold_that(copy.returncode == 0, f"copy_badly {fault}: {complaint}")
        report = stage.judge("bank", target, expected, idle=2, linger=1)
        found = {kind: report[kind] for kind in KINDS if report[kind]}
        hold_that(found == due, f"{fault} was injected, the judge found {found or 'nothing'}: {explain(report)}")
        hold_that(report["clean"] == (not due), f"{fault}: clean is {report['clean']}")
    stage.record("6 injected faults", messages=count, lost=0, repeated=0, disordered=0)


def rewind(stage, topic, subscription):
    path = f"{rest.topic_path(topic)}/subscription/{subscription}/resetcursor"
    stage.brokers["bank"].admin.post(path, EARLIEST)


def bulk(stage):
    """A million batched messages, a hundred thousand single ones, four partitions, and the other way; each drained
    from a cached backlog by agents that just started, then judged."""
    shapes = bulk_loads(stage)
    for load, partitions in shapes:
        stage.create_topic(load.site, load.topic, partitions)
    routes = [
        stage.route(load.name, load.site, other(load.site), load.topic, start="earliest") for load, _ in shapes
    ]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    pair.stop()
    for (load, _), route in zip(shapes, routes, strict=True):
        expected = stage.load(load)
        for agent in pair.both:
            agent.forget_figures()
        seconds = drain(stage, pair, route, load.count)
        payload_bytes = load.count * load.size
        figures = stage.figures(pair, payload_bytes)
        pair.stop()
        report = stage.verify(other(load.site), load.topic, expected)
        hold_that(report["topics"] == max(1, dict_of(shapes)[load.name]), f"{load.name}: {report['topics']} partitions")
        stage.record(
            f"{load.name} {load.site}→{other(load.site)}", messages=load.count,
            **rates(load.count, payload_bytes, seconds), **figures, **verdict(report),
        )  # fmt: skip
        stage.say(f"{load.name}: {load.count:,} in {seconds:.1f} s, verified")


def bulk_loads(stage):
    def load(name, site, count, **more):
        return Load(f"{name}-writer", site, stage.topic(name), stage.scaled(count), **more)

    return [
        (load("batches", "riskfuel", 1_000_000, compression="LZ4"), 0),
        (load("singles", "riskfuel", 100_000, batch=0, dressed=True), 0),
        (load("partitions", "riskfuel", 200_000, dressed=True), 4),
        (load("answers", "bank", 200_000, compression="LZ4"), 0),
    ]


def dict_of(shapes):
    return {load.name: partitions for load, partitions in shapes}


def drain(stage, pair, route, count):
    """Seconds from the first confirmed entry to the moment when the source broker has nothing left."""
    mine = {"route": route["name"], "end": "source"}

    def confirmed(rows):
        return sum(row["confirmed"] for row in rows if mine.items() <= row.items())

    pair.start()
    began = time.monotonic()
    pair.wait(60, "the first entry is confirmed", confirmed)
    started = time.monotonic()
    waited = started - began
    hold_that(waited < FIRST_SECONDS_MAX, f"{route['name']}: {waited:.1f} s from start to the first confirmed entry")
    stage.wait_drained(pair, [route], 60 + count / 2000)
    return max(time.monotonic() - started, 0.05)


def joined(stage):
    """Single messages with keys, properties and event times, joined across keys and compressed before the link: the
    official client at the destination gets each as it was, in order, from far fewer entries and bytes."""
    topic, count = stage.topic("joined"), 20_000
    for site in ("riskfuel", "bank"):
        stage.create_topic(site, topic)
    batching = {"join": "any-key", "compression": "zstd"}
    routes = [stage.route("joined", "riskfuel", "bank", topic, start="earliest", batching=batching)]
    expected = stage.load(Load("single", "riskfuel", topic, count, size=64, batch=0, dressed=True))
    pair = stage.pair(routes)
    pair.start()
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, expected)
    sent, kept = (
        stage.brokers[site].admin.get(f"{rest.topic_path(topic)}/internalStats") for site in ("riskfuel", "bank")
    )
    entries, ratio = kept["entriesAddedCounter"], kept["totalSize"] / sent["totalSize"]
    hold_that(sent["entriesAddedCounter"] == count, f"{sent['entriesAddedCounter']} entries at riskfuel: not single")
    hold_that(entries * 20 < count, f"{entries} entries for {count} messages")
    hold_that(ratio < 0.5, f"{ratio:.2f} of the bytes that riskfuel stores: not compressed")
    stage.record(f"{entries} entries, {ratio:.2f} of the bytes", messages=count, **verdict(report))
    pair.stop()


def backlog(stage):
    """The bank's cluster down while a backlog builds up: the agents' memory does not grow; drained without loss."""
    topic = stage.topic("backlog")
    stage.create_topic("riskfuel", topic)
    routes = [stage.route("backlog", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    before = stage.load(Load("before", "riskfuel", topic, 2000))
    stage.wait_drained(pair, routes, 60)
    at_rest = [agent.resident_kib() / 1024 for agent in pair.both]
    stage.brokers["bank"].stop()
    try:
        big = Load("piled-up", "riskfuel", topic, stage.scaled(30_518), size=65_536, batch=0)
        expected = before | stage.load(big)
        pair.check_alive()
        piled = [agent.resident_kib() / 1024 for agent in pair.both]
        waiting = stage.backlog("riskfuel", topic, "bridge.riskfuel.bank")
        hold_that(waiting == big.count, f"{waiting} messages wait at riskfuel, {big.count} were written")
    finally:
        stage.brokers["bank"].start()
    stage.brokers["bank"].wait()
    started = time.monotonic()
    stage.wait_drained(pair, routes, 300)
    seconds = time.monotonic() - started
    for name, quiet, full in zip(("hub", "edge"), at_rest, piled, strict=True):
        stage.say(f"{name}: {quiet:.1f} MiB at rest, {full:.1f} MiB with {big.count * big.size / 1e9:.2f} GB waiting")
        hold_that(full < quiet + GROWTH_MIB_MAX, f"{name} grew from {quiet:.1f} to {full:.1f} MiB with the backlog")
    payload_bytes = big.count * big.size
    report = stage.verify("bank", topic, expected)
    stage.record(
        f"{payload_bytes / 1e9:.2f} GB waited", messages=big.count, **rates(big.count, payload_bytes, seconds),
        **stage.figures(pair, payload_bytes), **verdict(report),
    )  # fmt: skip
    pair.stop()


def active_active(stage):
    """One topic relayed both ways does not echo, and the bank's own geo-replication forwards what was bridged."""
    geo.replicate(stage.namespace)
    # Retention is a cluster's own policy, the partner's included.
    stage.brokers["bank"].admin.post(f"/admin/v2/namespaces/public/{stage.namespace}/replication", ["bank", "partner"])
    stage.retain("partner")
    topic = stage.topic("both-ways")
    for site in ("riskfuel", "bank"):
        stage.create_topic(site, topic)
    routes = [
        stage.route("out", "riskfuel", "bank", topic, start="earliest"),
        stage.route("back", "bank", "riskfuel", topic, start="earliest"),
    ]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    count = stage.scaled(10_000)
    begun = [
        stage.begin(Load("from-riskfuel", "riskfuel", topic, count, dressed=True, rate=2000)),
        stage.begin(Load("from-bank", "bank", topic, count, dressed=True, rate=2000)),
    ]
    expected = {who: written for load in begun for who, written in stage.finish(load).items()}
    stage.wait_drained(pair, routes, 120)
    for site in ("riskfuel", "bank", "partner"):
        # Pulsar's replicator writes this property into what it forwards.
        added = ["__MSG_PROP_REPL_SOURCE_POSITION"] if site == "partner" else []
        report = stage.verify(site, topic, expected, linger=4, ignore=added)
        stage.record(f"as {site} has it", messages=report["received"], **verdict(report))
    skipped = sum(row["skipped"] for row in pair.rows() if row["end"] == "source")
    hold_that(skipped > 0, "no entry was skipped as a bridge's own, yet both sites have both loads")
    pair.stop()


COPY = str(pathlib.Path(__file__).resolve().parent / "copy_badly.py")
# Connecting, joining and the second that a broker takes to activate a Failover consumer need about two.
FIRST_SECONDS_MAX = 10
# Buffers of a window that filled while nothing could be delivered; a backlog of any size adds no more.
GROWTH_MIB_MAX = 32
EARLIEST = {"ledgerId": -1, "entryId": -1}
