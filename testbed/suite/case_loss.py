"""Losses that the bridge does not cause: what expires, is evicted, skipped or cleared at the source, and a destination
that is deleted. They are noticed, counted and told once, `at most` where the cursor's properties went with them;
transactions, whose markers look alike, are not."""

import sys
import time

import rest
from case_faults import cli_status, stage_wait
from places import PLACES
from stage import HERE, KINDS, Load, explain, hold_that

sys.path.append(str(HERE.parent / "kinds"))
import programs  # noqa: E402

OURS = "bridge.riskfuel.bank"
EACH = 300
SKIPPED = 120
QUOTA_SECONDS_MAX = 150


def skipped(stage):
    """Messages expire, are skipped and cleared at the source, while both bridges are down and while only the link is:
    each route counts them and tells them once, and brings everything else once. A topic with transactions
    raises no alarm. A destination topic that is deleted is told of once, and gets what comes after."""
    moves = {name: Move(stage, name) for name in ("expired", "skipped", "cleared")}
    quiet, deleted = stage.topic("transactions"), stage.topic("deleted")
    for topic in (quiet, deleted):
        stage.create_topic("riskfuel", topic)
    routes = [move.route for move in moves.values()]
    routes += [stage.route(name, "riskfuel", "bank", topic, start="earliest") for name, topic in (
        ("transactions", quiet), ("deleted", deleted),
    )]  # fmt: skip
    pair = stage.pair(routes)
    writer = transactional(stage)
    transact(writer, quiet)
    pair.start()
    pair.wait_running()
    for move in moves.values():
        move.load(20)
    stage.load(Load("before", "riskfuel", deleted, 100, batch=0))
    stage.wait_drained(pair, routes, 60)
    transact(writer, quiet)

    pair.stop()
    lose(stage, moves.values(), "while the bridges are down")
    transact(writer, quiet)
    pair.start()
    for move in moves.values():
        # What drops the cursor's properties leaves no word of what had been confirmed.
        move.hold_counted(pair, "" if move.name == "expired" else "at most ")
    # From then on this process knows itself what was confirmed.
    for move in moves.values():
        move.load(20)
    stage.wait_drained(pair, routes, 60)

    pair.edge.stop()
    missed = lambda: all(row["reason"] == "link_down" for row in pair.hub.status()["routes"])  # noqa: E731
    stage_wait(missed, "the link is missed")
    lose(stage, moves.values(), "while the link is down")
    transact(writer, quiet)
    pair.edge.start()
    for move in moves.values():
        move.hold_counted(pair)
    forget(stage, pair, deleted)
    shown = " ".join(cli_status(pair).split())
    for code in (f"source_skipped: {EACH}", "destination_forgotten: 1"):
        hold_that(code in shown, f"`bridge status` does not say {code}: {shown}")

    for move in moves.values():
        move.load(20)
    transact(writer, quiet)
    stage.wait_drained(pair, routes, 60)
    for move in moves.values():
        move.judge()
    hold_quiet(stage, pair, quiet)
    pair.stop()


def lose(stage, moves, when):
    for move in moves:
        move.load(EACH)
    # Expiry goes by whole seconds.
    time.sleep(2.2)
    for move in moves:
        move.strike()
    stage.say(f"{when}: {', '.join(f'{move.name} {move.lost[-1]}' for move in moves)}")


class Move:
    """A topic whose cursor somebody else moves."""

    PATHS = {"expired": "expireMessages/1", "skipped": f"skip/{SKIPPED}", "cleared": "skip_all"}

    def __init__(self, stage, name):
        self.stage, self.name, self.topic = stage, name, stage.topic(name)
        stage.create_topic("riskfuel", self.topic)
        self.route = stage.route(name, "riskfuel", "bank", self.topic, start="earliest")
        self.path = f"{rest.topic_path(self.topic)}/subscription/{OURS}/{self.PATHS[name]}"
        self.loads, self.lost, self.gaps = {}, [], {}

    def load(self, count):
        name = f"{self.name}-{len(self.loads)}"
        self.loads |= self.stage.load(Load(name, "riskfuel", self.topic, count, batch=0))

    def strike(self):
        """The broker's own count says what is lost."""
        waiting = lambda: self.stage.backlog("riskfuel", self.topic, OURS)  # noqa: E731
        before = waiting()
        hold_that(before == EACH, f"{self.name}: {before} messages wait, {EACH} were written")
        self.stage.brokers["riskfuel"].admin.post(self.path)
        due = EACH - SKIPPED if self.name == "skipped" else 0
        stage_wait(lambda: waiting() == due, f"{self.name}: the broker moves the cursor")
        self.lost.append(before - due)
        self.gaps[list(self.loads)[-1]] = [[0, before - due - 1]]

    def row(self, pair):
        rows = (row for row in pair.rows() if row["route"] == self.name and row["end"] == "source")
        return next(rows, {"source_skipped": None})

    def hold_counted(self, pair, how=""):
        """Since the hub started, which it did after the first strike."""
        due = sum(self.lost)
        counted = lambda _: self.row(pair)["source_skipped"] == due  # noqa: E731
        pair.wait(30, f"{self.name} counts {due} lost", counted)
        told = [line for line in pair.hub.log_lines() if "lost at the source" in line and self.topic in line]
        hold_that(len(told) == len(self.lost), f"{self.name} was told {len(told)} times: {told}")
        last = self.row(pair)["noticed"]
        hold_that(last["detail"].startswith(f"{how}{self.lost[-1]} entries from"), f"{self.name}: {last}")

    def judge(self):
        report = self.stage.judge("bank", self.topic, self.loads, idle=3)
        found = {kind: report[kind] for kind in KINDS if report[kind]}
        hold_that(
            found == {"lost": sum(self.lost)} and report["lost_ranges"] == self.gaps,
            f"{self.name}: {explain(report)}, {self.gaps} are due",
        )
        self.stage.record(f"{self.name}, noticed", messages=sum(self.loads.values()), **{
            "lost": report["lost"], "repeated": 0, "disordered": 0,
        })  # fmt: skip


def forget(stage, pair, topic):
    """The destination topic goes while nothing is on its way."""
    stage.brokers["bank"].admin.delete(f"{rest.topic_path(topic)}?force=true")
    rows = lambda rows: [row for row in rows if row["route"] == "deleted" and row["end"] == "source"]  # noqa: E731
    pair.wait(30, "it is told", lambda found: rows(found)[0]["destination_forgotten"] == 1)
    after = stage.load(Load("after", "riskfuel", topic, 50, batch=0))
    stage.wait_drained(pair, [route for route in pair.routes if route["name"] == "deleted"], 30)
    stage.verify("bank", topic, after)
    told = [line for line in pair.hub.log_lines() if "forgot what" in line]
    hold_that(len(told) == 1 and topic in told[0], f"the deleted destination was told {len(told)} times: {told}")
    stage.record("destination deleted", messages=50, lost=0, repeated=0, disordered=0)


def transactional(stage):
    """The Java client at riskfuel, which alone makes transactions."""
    folder = stage.folder / "client"
    folder.mkdir(parents=True)
    command = ["ip", "netns", "exec", PLACES["riskfuel"].namespace, *programs.compiled(folder)]
    program = programs.Program("java", [*command, PLACES["riskfuel"].service_url, str(folder)], folder / "java.log")
    stage.programs.append(program)
    return program


def transact(writer, topic):
    """Committed, aborted and plain ones; what ends them are markers."""
    messages = [{"text": f"{number}", "txn": (None, "kept", "dropped")[number % 3]} for number in range(12)]
    job = {"topic": topic, "messages": messages, "producer": {}, "outcome": {"kept": "commit", "dropped": "abort"}}
    writer.ask("produce", **job)
    # And one that ends with its marker, with nothing behind it.
    writer.ask("produce", **job | {"messages": messages[1:2], "outcome": {"kept": "commit"}})


def hold_quiet(stage, pair, topic):
    row = next(row for row in pair.rows() if row["topic"] == topic and row["end"] == "source")
    hold_that((row["source_skipped"], row.get("noticed")) == (0, None), f"transactions raised an alarm: {row}")
    told = [line for line in pair.hub.log_lines() if topic in line and "at the source" in line]
    hold_that(not told, f"transactions raised an alarm: {told}")


def evicted(stage):
    """A backlog quota that evicts, under a route whose link is down: what the broker throws away is counted exactly.
    It looks once a minute."""
    topic = stage.topic("evicted")
    stage.create_topic("riskfuel", topic)
    routes = [stage.route("evicted", "riskfuel", "bank", topic, start="earliest")]
    pair = stage.pair(routes)
    pair.start()
    pair.wait_running()
    loads = stage.load(Load("first", "riskfuel", topic, 100, batch=0))
    stage.wait_drained(pair, routes, 30)
    pair.edge.stop()
    loads |= stage.load(Load("second", "riskfuel", topic, 2000, batch=0))
    admin = stage.brokers["riskfuel"].admin
    admin.post(f"/admin/v2/namespaces/public/{stage.namespace}/retention", {})
    admin.post(
        f"/admin/v2/namespaces/public/{stage.namespace}/backlogQuota",
        {"limitSize": 1 << 20, "policy": "consumer_backlog_eviction"},
    )
    waiting = lambda: stage.backlog("riskfuel", topic, OURS)  # noqa: E731
    stage_wait(lambda: waiting() < 2000, "the broker evicts", QUOTA_SECONDS_MAX)
    time.sleep(2)
    lost = 2000 - waiting()
    pair.edge.start()
    row = lambda rows: next((row for row in rows if row["end"] == "source"), None)  # noqa: E731
    pair.wait(30, f"{lost} are counted", lambda rows: row(rows) and row(rows)["source_skipped"] == lost)
    stage.wait_drained(pair, routes, 60)
    report = stage.judge("bank", topic, loads, idle=3)
    hold_that(report["lost_ranges"] == {"second": [[0, lost - 1]]}, explain(report))
    stage.record(f"evicted, noticed: {lost}", messages=2100, lost=report["lost"], repeated=0, disordered=0)
    pair.stop()
