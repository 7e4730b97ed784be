"""What relays of Pulsar topics have lost messages or stood still by, one case each: ids that claim too much, batches
of a thousand, a destination without partitions, one that takes less, a topic that takes less than what is joined, a
subscription that was rewound."""

import struct
import threading
import time

import guest
import rest
import wire
from case_entries import EARLIEST_TIME, HIGHEST, publish
from case_faults import cli_status, stage_wait, stopped_by
from case_quarantine import limit
from case_reasons import change_route
from payload import Writer
from stage import Load, explain, hold_that, verdict
from wire import Crafted, field

SINGLE_MESSAGE_PAYLOAD_SIZE = 3
UNLOADS = 4
SMALL, LARGE = 1 << 20, 5 << 20
CAP, CAPPED_KILLS = 3000, 6


def claims(stage):
    """Batches whose metadata claim a highest id near 2^63; the destination topic is unloaded four times while they
    come, and is rebuilt each time from what is stored: nothing lost, nothing repeated."""
    topic = stage.topic("claims")
    pair, routes = running(stage, topic)
    writer, each, rounds = Writer("claimer", 100, dressed=False), 2, 1500
    total = 0
    for _ in range(UNLOADS):
        entries = batches(writer, total, rounds, each, field(wire.HIGHEST_SEQUENCE_ID, HIGHEST))
        total += rounds * each
        load = threading.Thread(target=publish, args=(stage, topic, "claimer", entries))
        load.start()
        before = confirmed(pair)
        pair.wait(20, "entries come", lambda _, before=before: confirmed(pair) > before)
        hold_that(load.is_alive(), "the load was over before the unload")
        stage.brokers["bank"].admin.put(f"{rest.topic_path(topic)}/unload")
        load.join()
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, {"claimer": total})
    stage.record(f"{UNLOADS} unloads, ids near 2^63", messages=total, **verdict(report))
    pair.stop()


def thousands(stage):
    """A backlog of batches of a thousand messages, of which a broker's permits count each one: the route does not
    stand still."""
    topic = stage.topic("thousands")
    stage.create_topic("riskfuel", topic)
    writer, each, count = Writer("thousander", 60, dressed=False), 1000, 150
    publish(stage, topic, "thousander", batches(writer, 0, count, each))
    pair = stage.pair([stage.route("trap", "riskfuel", "bank", topic, start="earliest")])
    pair.start()
    started = time.monotonic()
    stage.wait_drained(pair, pair.routes, STALL_SECONDS_MAX)
    stage.say(f"{count} batches of {each}: {time.monotonic() - started:.1f} s from start to the last acknowledgement")
    report = stage.verify("bank", topic, {"thousander": count * each})
    stalls = [line for line in pair.hub.log_lines() if "subscribing again" in line]
    hold_that(not stalls, f"the source stood still: {stalls}")
    stage.record(f"{count} batches of {each}", messages=count * each, **verdict(report))
    pair.stop()


def unprepared(stage):
    """A partitioned destination that is missing, and that the bridge cannot make for want of an admin URL: it says
    `destination_missing` and makes no topic in its stead; once the topic is made, everything is there."""
    topic = stage.topic("unprepared")
    stage.create_topic("riskfuel", topic, partitions=3)
    pair = stage.pair([stage.route("unprepared", "riskfuel", "bank", topic, start="earliest")])
    del pair.pulsar["bank"]["admin_url"]
    pair.pulsar["bank"]["deduplication"] = "asserted"
    pair.configure()
    pair.start()
    expected = stage.load(Load("early", "riskfuel", topic, 3000, dressed=True))

    def missing(rows):
        told = [row for row in rows if row["end"] == "source" and row["reason"] == "destination_missing"]
        return told if len(told) == 3 else None

    rows = pair.wait(30, "each partition says destination_missing", missing)
    hold_that("create the destination topic" in rows[0]["remedy"], f"the remedy is {rows[0]['remedy']}")
    hold_that("destination_missing" in cli_status(pair), "`bridge status` does not say destination_missing")
    there = stage.brokers["bank"].admin.get(f"/admin/v2/persistent/public/{stage.namespace}")
    hold_that(not any("unprepared" in name for name in there), f"topics were made in its stead: {there}")
    stage.create_topic("bank", topic, partitions=3)
    stage.wait_drained(pair, pair.routes, 60)
    report = stage.verify("bank", topic, expected)
    stage.record("made by hand, 3 partitions", messages=3000, **verdict(report))
    pair.stop()


def smaller(stage):
    """A destination whose brokers take less than the source's: an entry beyond that is not sent, the route stops with
    `entry_too_large`; with the limit raised and the source's agent started again it goes on: nothing lost, nothing
    repeated."""
    with guest.instead(stage, "bank", guest.Guest("bank", maxMessageSize=SMALL)) as broker:
        topic = stage.topic("smaller")
        stage.create_topic("riskfuel", topic)
        pair = stage.pair([stage.route("smaller", "riskfuel", "bank", topic, start="earliest")])
        guest.use(pair, "bank")
        pair.start()
        expected = stage.load(Load("before", "riskfuel", topic, 500, dressed=True))
        expected |= stage.load(Load("large", "riskfuel", topic, 3, size=2 << 20, batch=0))
        expected |= stage.load(Load("behind", "riskfuel", topic, 500, dressed=True))
        row = pair.wait(60, "the route stops with entry_too_large", stopped_by("entry_too_large"))
        hold_that("maxMessageSize" in row["remedy"], f"the remedy is {row['remedy']}")
        broker.stop()
        broker.own["maxMessageSize"] = LARGE
        broker.start()
        broker.wait()
        pair.hub.stop()
        pair.hub.start()
        stage.wait_drained(pair, pair.routes, 60)
        report = stage.verify("bank", topic, expected)
        stage.record("2 MiB into 1 MiB, then 5 MiB", messages=1003, **verdict(report))
        pair.stop()


def rewound(stage):
    """A subscription that somebody rewinds, under a running bridge or while it is down, is no silent thing: what the
    destination has is not stored again, that is told with what would send it again, and what comes later arrives once.
    With the next generation all of it comes again."""
    topic = stage.topic("rewound")
    pair, routes = running(stage, topic)
    expected = stage.load(Load("first", "riskfuel", topic, 3000, batch=0))
    stage.wait_drained(pair, routes, 30)
    path = f"{rest.topic_path(topic)}/subscription/bridge.riskfuel.bank/resetcursor"
    waiting = lambda: stage.backlog("riskfuel", topic, "bridge.riskfuel.bank")  # noqa: E731
    for times in (1, 2):
        is_down = times == 2
        if is_down:
            pair.hub.stop()
        stage.brokers["riskfuel"].admin.post(path, {"ledgerId": -1, "entryId": -1})
        if is_down:
            hold_that(waiting() == 3000, f"{waiting()} wait after the rewind")
            pair.hub.start()
        stage_wait(lambda: waiting() == 0, "it is acknowledged again", 60)
        told = [line for line in pair.hub.log_lines() if "went back" in line]
        hold_that(len(told) == times and "generation" in told[-1], f"{times} rewinds, told {len(told)} times: {told}")
    # Rows follow a few times a second.
    counted = lambda rows: max(row["duplicates"] for row in rows if row["end"] == "source") >= 3000  # noqa: E731
    pair.wait(10, "status counts what came again", counted)
    expected |= stage.load(Load("second", "riskfuel", topic, 500, batch=0))
    stage.wait_drained(pair, routes, 30)
    report = stage.judge("bank", topic, expected)
    hold_that(report["clean"], f"after the rewind: {explain(report)}")
    stage.record("rewound to the start", messages=3500, **verdict(report))

    # To have all of it again: stopped, the generation raised, rewound, started.
    pair.hub.stop()
    change_route(pair, routes[0]["name"], generation=2)
    stage.brokers["riskfuel"].admin.post(path, {"ledgerId": -1, "entryId": -1})
    hold_that(waiting() == 3500, f"{waiting()} wait after the rewind")
    pair.hub.start()
    stage_wait(lambda: waiting() == 0, "it is acknowledged again", 60)
    report = stage.judge("bank", topic, expected)
    hold_that((report["repeated"], report["lost"]) == (3500, 0), f"generation 2: {explain(report)}")
    told = [line for line in pair.hub.log_lines() if "went back" in line or "lost at the source" in line]
    hold_that(len(told) == 2, f"the next generation raised an alarm: {told}")
    pair.stop()


def capped(stage):
    """A destination topic takes less than the batches that the route joins, and hub and edge are killed while it
    refuses them: what was refused as a batch arrives in smaller ones, nothing lost, nothing repeated."""
    topic = stage.topic("capped")
    for site in ("riskfuel", "bank"):
        stage.create_topic(site, topic)
    limit(stage, (topic,), CAP)
    routes = [stage.route("capped", "riskfuel", "bank", topic, start="earliest", batching={"max_bytes": 65536})]
    pair = stage.pair(routes)
    pair.start()
    begun = stage.begin(Load("capped", "riskfuel", topic, 30_000, size=100, rate=3000, batch=0), hold=True)
    for _ in range(CAPPED_KILLS):
        before = len(pair.edge.log_lines())

        def refused(_, before=before):
            return any("batch_refused" in line for line in pair.edge.log_lines()[before:])

        pair.wait(20, "a batch is refused", refused)
        time.sleep(stage.random.uniform(0, 0.2))
        # The hub as well: it would remember what is too large.
        for agent in (pair.edge, pair.hub):
            hold_that(agent.kill(), "it was dead before it was killed")
        for agent in (pair.hub, pair.edge):
            agent.start()
    expected = stage.finish(begun)
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, expected)
    stored = stage.brokers["bank"].admin.get(f"{rest.topic_path(topic)}/internalStats")["entriesAddedCounter"]
    hold_that(stored < sum(expected.values()), f"{stored} entries for {sum(expected.values())}: nothing was joined")
    stage.record(f"{2 * CAPPED_KILLS} kills, {stored} entries", messages=sum(expected.values()), **verdict(report))
    pair.stop()


def running(stage, topic):
    stage.create_topic("riskfuel", topic)
    routes = [stage.route("trap", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    return pair, routes


def confirmed(pair):
    return sum(row["confirmed"] for row in pair.rows() if row["end"] == "source")


def batches(writer, first, count, each, extra=b""):
    """Batches as a client makes them, but for what `extra` claims."""
    return [batch(writer, first + number * each, each, extra) for number in range(count)]


def batch(writer, first, each, extra):
    metadata = (
        field(wire.PRODUCER_NAME, writer.producer) + field(wire.SEQUENCE_ID, first)
        + field(wire.PUBLISH_TIME, EARLIEST_TIME) + field(wire.NUM_MESSAGES, each) + extra
    )  # fmt: skip
    parts = []
    for sequence in range(first, first + each):
        content = writer.payload(sequence)
        single = field(SINGLE_MESSAGE_PAYLOAD_SIZE, len(content))
        parts += [struct.pack(">I", len(single)), single, content]
    # As the client counts: by the last id of each batch.
    return Crafted(first, metadata, b"".join(parts), highest_sequence_id=first + each - 1, messages=each)


# Drained in three by a route that does not wait; one that forgot its permits asks only after 30 s of silence.
STALL_SECONDS_MAX = 25
