"""Cases in which something dies, is missing or is refused."""

import random
import subprocess
import threading
import time

import rest
from places import TestbedError
from stage import Load, explain, hold_that, other, verdict

KILLS_EACH = 3
STEADY = 400
UNLOADS = 10


def kills(stage):
    """kill -9 of hub, edge and both brokers, three times each at seeded random moments under load, the destination's
    topics unloaded ten times meanwhile: nothing is lost, repeated or disordered."""
    loads = kill_loads(stage)
    for load, partitions in loads:
        stage.create_topic(load.site, load.topic, partitions)
    routes = [stage.route(load.name, load.site, other(load.site), load.topic, start="earliest") for load, _ in loads]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    begun = [stage.begin(load, hold=True) for load, _ in loads]
    done = storm(stage, pair, routes, begun)
    expected = [stage.finish(load) for load in begun]
    stage.say(f"the storm is over: {done}; written {expected}")
    stage.wait_drained(pair, routes, 300)
    duplicates = sum(row["duplicates"] for row in pair.rows())
    stage.say(f"drained; the last incarnations got {duplicates} receipts that said duplicate")
    pair.stop()
    faults = []
    for route, (load, _), written in zip(routes, loads, expected, strict=True):
        report = stage.judge(route["to"], load.topic, written)
        stage.record(f"{load.name} {route['from']}→{route['to']}", messages=written[load.name], **verdict(report))
        if not report["clean"]:
            faults.append(f"{load.topic} at {route['to']}: {explain(report)}")
    hold_that(not faults, "\n".join(faults))


def kill_loads(stage):
    """The bulk's loads, stretched so that they last about as long as the storm."""
    seconds = 150

    def load(name, site, count, **more):
        count = stage.scaled(count)
        return Load(f"{name}-writer", site, stage.topic(name), count, rate=count / seconds, **more)

    return [
        (load("batches", "riskfuel", 1_000_000, compression="LZ4"), 0),
        (load("singles", "riskfuel", 100_000, batch=0, dressed=True), 0),
        (load("partitions", "riskfuel", 200_000, dressed=True), 4),
        (load("answers", "bank", 200_000, compression="LZ4"), 0),
    ]


def storm(stage, pair, routes, begun):
    victims = [name for name in ("hub", "edge", "riskfuel's broker", "bank's broker") for _ in range(KILLS_EACH)]
    stage.random.shuffle(victims)
    unloader = Unloader(stage, routes, stage.random.random())
    unloader.start()
    try:
        for victim in victims:
            time.sleep(stage.random.uniform(1, 6))
            check_loads(begun)
            stage.say(f"kill -9 {victim}")
            strike(stage, pair, victim)
    finally:
        unloader.finish()
    check_loads(begun)
    return {**{name: victims.count(name) for name in sorted(set(victims))}, "unloads": unloader.unloads}


def strike(stage, pair, victim):
    pause = stage.random.uniform(0, 2)
    if victim in ("hub", "edge"):
        agent = pair.hub if victim == "hub" else pair.edge
        hold_that(agent.kill(), f"{victim} was dead before it was killed: {agent.last_words()}")
        time.sleep(pause)
        agent.start()
        return
    broker = stage.brokers[victim.removesuffix("'s broker")]
    hold_that(broker.kill(), f"{victim} was dead before it was killed: {broker.last_words()}")
    time.sleep(pause)
    broker.start()
    broker.wait()


def check_loads(begun):
    for load, process in begun:
        hold_that(process.poll() is None, f"the load {load.name} ended before the storm did: {process.returncode}")


class Unloader(threading.Thread):
    """Unloads destination topics in turn, until ten unloads were granted."""

    def __init__(self, stage, routes, seed):
        super().__init__(name="unloader", daemon=True)
        self.stage, self.routes = stage, routes
        self.random = random.Random(seed)
        self.unloads, self.complaint, self.ended = 0, None, threading.Event()

    def run(self):
        targets = [(route["to"], route["topics"][0]) for route in self.routes]
        while self.unloads < UNLOADS and not self.ended.wait(self.random.uniform(1, 5)):
            site, topic = targets[self.unloads % len(targets)]
            try:
                self.stage.brokers[site].admin.put(f"{rest.topic_path(topic)}/unload")
                self.unloads += 1
                self.stage.say(f"unloaded {topic} at {site}")
            except (OSError, rest.Refused) as error:
                self.complaint = error

    def finish(self):
        # A broker that is down refuses; the rest follows as soon as it is back, still under load.
        self.join(300)
        self.ended.set()
        hold_that(self.unloads == UNLOADS, f"{self.unloads} unloads of {UNLOADS} were granted: {self.complaint}")


def restart_stays_stopped(stage):
    """An entry that the destination refuses stops its route with the reason `poison`; after a crash of the source's
    broker and restarts, also with the cause gone, it stays stopped by its `hole_marker`; the next generation goes on."""
    topic = stage.topic("poisoned")
    for site in ("riskfuel", "bank"):
        stage.create_topic(site, topic)
    limit = f"{rest.topic_path(topic)}/maxMessageSize"
    bank = stage.brokers["bank"].admin
    bank.post(limit, 2000)
    stage_wait(lambda: bank.get(limit) == 2000, "the topic policy is in force")
    routes = [stage.route("poisoned", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    good = stage.load(Load("good", "riskfuel", topic, 4, batch=0))
    stage.wait_drained(pair, routes, 30)
    # Acknowledgements before the marker, so that the broker has not written it to disk when it crashes.
    good |= stage.load(Load("steady", "riskfuel", topic, STEADY, batch=0, rate=200))
    held = stage.load(Load("too-large", "riskfuel", topic, 1, size=5000, batch=0))
    held |= stage.load(Load("successors", "riskfuel", topic, 5, batch=0))
    for what, reason in (
        ("at once", "poison"),
        ("after a restart", "hole_marker"),
        ("after a restart with the limit raised", "hole_marker"),
    ):
        if what != "at once":
            pair.stop()
            pair.start()
        row = pair.wait(30, f"the route is stopped {what} with the reason {reason}", stopped_by(reason))
        hold_that(row["remedy"], f"the row names no remedy: {row}")
        waiting = stage.backlog("riskfuel", topic, "bridge.riskfuel.bank")
        hold_that(waiting is not None and waiting >= 1, f"{what}: the refused entry was acknowledged, {waiting} wait")
        if what == "at once":
            strike(stage, pair, "riskfuel's broker")
        if what == "after a restart":
            bank.post(limit, 100_000)
            stage_wait(lambda: bank.get(limit) == 100_000, "the raised policy is in force")
    report = stage.judge("bank", topic, good | held, idle=2)
    refused = report["lost_ranges"].get("too-large")
    hold_that(refused == [[0, 0]], f"stopped, yet the refused entry arrived or more is lost: {explain(report)}")
    hold_that(report["repeated"] == 0, f"a stopped route repeated: {explain(report)}")
    pair.stop()
    routes[0]["generation"] = 2
    pair.configure()
    pair.start()
    stage.wait_drained(pair, routes, 60)
    pair.stop()
    report = stage.judge("bank", topic, good | held)
    hold_that(report["lost"] == 0 and report["damaged"] == 0, f"generation 2: {explain(report)}")
    # A crash takes the last acknowledgements along.
    at_most = STEADY + 5
    hold_that(report["repeated"] <= at_most, f"generation 2 repeats only what was unacknowledged: {explain(report)}")
    stage.record("poison, a crash, 2 restarts, generation 2", messages=10 + STEADY, **verdict(report))


def stopped_by(reason):
    def look(rows):
        return next((row for row in rows if row["state"] == "stopped" and row["reason"] == reason), None)

    return look


def stage_wait(until, what, patience=20):
    deadline = time.monotonic() + patience
    while True:
        try:
            if until():
                return
        except (OSError, rest.Refused):
            pass
        if time.monotonic() > deadline:
            raise TestbedError(f"not after {patience} s: {what}")
        time.sleep(0.1)


def source_missing(stage):
    """A route whose topic does not exist waits, healthy, says so, creates nothing, and picks the topic up."""
    topic = stage.topic("later")
    routes = [stage.route("later", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()

    def missing(rows):
        return next((row for row in rows if row["reason"] == "source_missing"), None)

    row = pair.wait(30, "the route says source_missing", missing)
    hold_that(row["state"] == "waiting", f"a missing source is waited for, not {row['state']}")
    printed = cli_status(pair)
    hold_that("source_missing" in printed, f"`bridge status` does not say source_missing: {printed}")
    # A hub without a link makes no progress, whatever its routes say.
    links = lambda: pair.hub.http.get("/api/v1/status")["links"]  # noqa: E731
    pair.wait(30, "the link is up", lambda _: any(link["state"] == "up" for link in links()))
    progress = pair.hub.http.get("/progress")
    stage.say(f"waiting; /progress answers 200 {str(progress)[:80]}")
    for site in ("riskfuel", "bank"):
        there = stage.brokers[site].admin.get(f"/admin/v2/persistent/public/{stage.namespace}")
        hold_that(topic not in there, f"looking for {topic} created it at {site}")
    expected = stage.load(Load("late", "riskfuel", topic, 500, dressed=True))
    pair.wait_running()
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, expected)
    stage.record("appeared later", messages=500, **verdict(report))
    pair.stop()


def reshaped(stage):
    """A topic that is deleted while its route runs and created anew with partitions is picked up in its new shape."""
    topic = stage.topic("reshaped")
    path = rest.topic_path(topic)
    stage.create_topic("riskfuel", topic)
    routes = [stage.route("reshaped", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    stage.verify("bank", topic, stage.load(Load("former", "riskfuel", topic, 50, batch=0)))
    stage.wait_drained(pair, routes, 30)
    stage.brokers["riskfuel"].admin.delete(f"{path}?force=true")

    def missing(rows):
        return any(row["reason"] == "source_missing" for row in rows if row["end"] == "source")

    pair.wait(30, "the source is missed", missing)
    # The sink has closed its producer by then, or it would create the topic anew as it was.
    pair.wait(30, "the sink is idle", lambda rows: all(row["state"] == "waiting" for row in rows))
    stage.brokers["bank"].admin.delete(f"{path}?force=true")
    stage.create_topic("riskfuel", topic, partitions=2)
    expected = stage.load(Load("latter", "riskfuel", topic, 500, dressed=True))
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, expected)
    created = stage.brokers["bank"].admin.get(f"{path}/partitions")["partitions"]
    hold_that(created == 2, f"the destination has {created} partitions")
    stage.record("deleted, re-created in 2 partitions", messages=500, **verdict(report))
    pair.stop()


def cli_status(pair):
    command = ["ip", "netns", "exec", pair.hub.place.namespace, pair.hub.binary, "status", "--admin", ADMIN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    hold_that(done.returncode == 0, f"`bridge status` exits {done.returncode}: {done.stderr}")
    return done.stdout


def bad_start(stage):
    """Agents that start while their brokers are down retry, say so once, stay alive, and go on when they are there."""
    topic = stage.topic("early")
    stage.create_topic("riskfuel", topic)
    routes = [stage.route("early", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    for site in ("riskfuel", "bank"):
        stage.brokers[site].stop()
    try:
        pair.start()
        # The bank's agent needs its broker only when an entry is about to come: its turn is when riskfuel's is back.
        for agent, reason in ((pair.hub, "source_unreachable"), (pair.edge, "destination_unreachable")):
            endure(stage, pair, agent, reason)
            stage.brokers[agent.place.name].start()
            stage.brokers[agent.place.name].wait()
    finally:
        for site in ("riskfuel", "bank"):
            stage.brokers[site].start()
            stage.brokers[site].wait()
    pair.wait_running()
    expected = stage.load(Load("after", "riskfuel", topic, 500))
    stage.wait_drained(pair, routes, 60)
    report = stage.verify("bank", topic, expected)
    stage.record("brokers came later", messages=500, **verdict(report))
    pair.stop()


def endure(stage, pair, agent, reason):
    """Attempt after attempt without its broker, an agent lives, gives the reason, and has told it once."""

    def waits(rows):
        return [row for row in rows if row["reason"] == reason and row["state"] == "waiting"]

    pair.wait(30, f"a route waits with the reason {reason}", waits)
    time.sleep(10)  # long enough for several attempts: what is tested is that they are not all told
    pair.check_alive()
    pair.wait(5, f"it still waits with the reason {reason}", waits)
    hold_that(agent.http.get("/healthz") is not None, f"{agent.place.name}'s agent is not healthy")
    hold_that(agent.http.get("/ready") is not None, f"{agent.place.name}'s agent is not ready")
    told = [line for line in agent.log_lines() if reason in line]
    stage.say(f"{agent.place.name}'s agent told {reason} {len(told)} times in 10 s")
    hold_that(1 <= len(told) <= 3, f"{agent.place.name}'s agent told {len(told)} times:\n" + "\n".join(told[:6]))


ADMIN = "http://127.0.0.1:9600"
