"""What the destination refuses goes to a quarantine topic, and comes back by `bridge replay`."""

import struct
import subprocess
import time

import rest
import wire
from case_entries import plain, publish, read
from case_faults import cli_status, stage_wait
from case_reasons import avro
from stage import HERE, Load, hold_that, last_line, verdict

BIG = 5000
LIMIT = 2000


def quarantine(stage):
    """A message too large for the destination's topic, among a thousand and as a topic's very first: everything else
    arrives in order, it lies in quarantine where an official client reads it, and `bridge replay` brings it once, when
    the limit is raised. Hub and edge are killed while more are refused: each is in quarantine once."""
    main, first, aside = stage.topic("main"), stage.topic("first"), stage.topic("aside")
    for site in ("riskfuel", "bank"):
        for topic in (main, first):
            stage.create_topic(site, topic)
    limit(stage, (main, first), LIMIT)
    routes = [
        stage.route(name, "riskfuel", "bank", topic, start="earliest", quarantine=aside)
        for name, topic in (("main", main), ("first", first))
    ]
    pair = stage.pair(routes)
    stage.load(Load("big-first", "riskfuel", first, 1, size=BIG, batch=0))
    behind = stage.load(Load("behind", "riskfuel", first, 20, batch=0))
    pair.start()
    expected = stage.load(Load("before", "riskfuel", main, 500, batch=0))
    stage.load(Load("big", "riskfuel", main, 1, size=BIG, batch=0))
    expected |= stage.load(Load("after", "riskfuel", main, 500, batch=0))
    stage.wait_drained(pair, routes, 90)
    stage.verify("bank", first, behind)
    report = stage.verify("bank", main, expected)
    stage.record("one of 1001 refused", messages=1000, **verdict(report))
    found = records(stage, aside)
    hold_records(found, [first, main])
    counted = [row for row in pair.rows() if row["route"] == "main"]
    hold_that([row["quarantined"] for row in counted] == [1, 1], f"not counted at both ends: {counted}")
    shown = cli_status(pair)
    hold_that("quarantined: 1 entry" in shown, f"`bridge status` does not tell of it:\n{shown}")
    # As `replay` below has it.
    remedy = f"at bank: bridge replay --config FILE main --from riskfuel --quarantine {aside}"
    hold_that(remedy in shown, f"`bridge status` does not say {remedy}:\n{shown}")

    expected |= storm(stage, pair, routes, main, aside)

    code, told = replay(stage, pair, aside, "main", "--dry-run")
    hold_that(code == 0 and told.count("waits for") == 1 + STORM, f"dry run: {code}\n{told}")
    code, told = replay(stage, pair, aside, "main", "--limit", "1")
    hold_that(code == 69 and "REFUSED AGAIN" in told, f"replay against the limit: {code}\n{told}")
    limit(stage, (main, first), 100_000)
    for name, count in (("main", 1 + STORM), ("first", 1), ("main", 0), ("first", 0)):
        code, told = replay(stage, pair, aside, name)
        hold_that(code == 0 and told.count(": replayed to") == count, f"replay of {name}: {code}\n{told}")
        hold_that(told.count("its place in the order is lost") == count, f"replay of {name} hides it:\n{told}")
    stage.verify("bank", first, behind | {"big-first": 1})
    bigs = {"big": 1} | {f"big-{nth}": 1 for nth in range(STORM)}
    report = stage.verify("bank", main, expected | bigs)
    stage.record(f"{1 + STORM} replayed", messages=sum((expected | bigs).values()), **verdict(report))
    pair.stop()


FOREIGN = 300


def foreign_schema(stage):
    """More entries than one marker names have a schema that the destination refuses: all of them go to the quarantine,
    in order, once, and what has none arrives behind them."""
    topic, aside = stage.topic("foreign"), stage.topic("foreign-aside")
    for site, kind in (("riskfuel", "int"), ("bank", "string")):
        stage.create_topic(site, topic)
        path = rest.topic_path(topic).replace("/v2/persistent/", "/v2/schemas/") + "/schema"
        stage.brokers[site].admin.post(path, avro(kind))
    version = wire.field(wire.SCHEMA_VERSION, struct.pack(">Q", 0))
    entries = [plain(nth, b"\x02", version) for nth in range(FOREIGN)] + [plain(FOREIGN, b"behind")]
    publish(stage, topic, "a writer", entries)
    routes = [stage.route("foreign", "riskfuel", "bank", topic, start="earliest", quarantine=aside)]
    pair = stage.pair(routes)
    pair.start()
    stage.wait_drained(pair, routes, 90)
    found = [record["properties"] for record in records(stage, aside)]
    reasons = {record["bridge.reason"] for record in found}
    hold_that(reasons == {"schema_refused"}, f"in quarantine because of {reasons}")
    positions = [tuple(map(int, record["bridge.position"].split(":"))) for record in found]
    hold_that(len(positions) == FOREIGN and positions == sorted(set(positions)), f"in quarantine: {positions}")
    arrived = read(stage, "bank", topic, "who-arrived", 1)
    hold_that(len(arrived) == 1, f"{len(arrived)} entries arrived: {arrived}")
    told = [line for line in pair.edge.log_lines() if "go to the quarantine" in line and "WARN" in line]
    hold_that(0 < len(told) < FOREIGN / 10, f"the log tells of it {len(told)} times")
    stage.record(f"{FOREIGN} in quarantine", messages=1, lost=0, repeated=0, disordered=0)
    pair.stop()


STORM = 4


def storm(stage, pair, routes, main, aside):
    """More are refused while hub and edge are killed under load; gives what was written besides."""
    begun = stage.begin(Load("storm", "riskfuel", main, 100, rate=500, batch=0), hold=True)
    for nth in range(STORM):
        stage.load(Load(f"big-{nth}", "riskfuel", main, 1, size=BIG, batch=0))
        time.sleep(stage.random.uniform(0, 1))
        agent = (pair.hub, pair.edge)[nth % 2]
        hold_that(agent.kill(), "it was dead before it was killed")
        agent.start()
    written = stage.finish(begun)
    stage.wait_drained(pair, routes, 120)
    found = records(stage, aside)
    hold_that(len(found) == 2 + STORM, f"{len(found)} records, {2 + STORM} were refused: {found}")
    positions = {(record["properties"]["bridge.topic"], record["properties"]["bridge.position"]) for record in found}
    hold_that(len(positions) == len(found), f"a record stands twice: {found}")
    stage.say(f"{STORM} kills, {STORM} more refused and in quarantine, once each; {written} written besides")
    return written


def limit(stage, topics, size):
    bank = stage.brokers["bank"].admin
    for topic in topics:
        path = f"{rest.topic_path(topic)}/maxMessageSize"
        bank.post(path, size)
        stage_wait(lambda path=path: bank.get(path) == size, "the topic policy is in force")


def records(stage, topic):
    program = stage.program("bank", [str(HERE / "records.py"), *stage.access["bank"], "--topic", topic])
    out, complaint = program.communicate()
    hold_that(program.returncode == 0, f"the quarantine cannot be read: {complaint[-2000:]}")
    return last_line(out)


def hold_records(found, topics):
    """Each says where it came from, and holds the entry as it was."""
    origins = sorted(record["properties"].get("bridge.topic", "") for record in found)
    hold_that(origins == sorted(topics), f"in quarantine: {found}")
    for record in found:
        properties = record["properties"]
        hold_that(record["begins"] == "0e01" and record["length"] > BIG, f"not the stored entry: {record}")
        wanted = {
            "bridge.reason": "poison", "bridge.from": "riskfuel", "bridge.to": "bank", "bridge.messages": "1",
            "bridge.generation": "1", "bridge.destination": properties["bridge.topic"],
        }  # fmt: skip
        missing = {key for key, value in wanted.items() if properties.get(key) != value}
        hold_that(not missing, f"{missing} of {properties}")


def replay(stage, pair, topic, route, *more):
    """Exit code and output; run where the entries were refused, at the edge."""
    edge = pair.edge
    command = [
        "ip", "netns", "exec", edge.place.namespace, edge.binary, "replay", "--config", str(edge.config), route,
        "--from", "riskfuel", "--quarantine", topic, *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    stage.say(f"replay {route} {' '.join(more)}: exit {done.returncode}: {done.stdout.strip().splitlines()[-1:]}")
    return done.returncode, done.stdout + done.stderr
