"""Kinds of topics: one that grows under load, one that appears later, one that is deleted and made again, and what is
refused for good. Messages are compared as in `trial.py`.
"""

import json
import subprocess
import threading

import rest
from kinds import Kind, texts
from stage import hold_that
from trial import Trial, compare_stored, plain, relayed, stored, wait, wait_relayed, written_by

SEEN_SECONDS = 100
BEFORE, AFTER = 2, 4
PAUSE_MS = 30


def kind(name):
    return Kind(name, [], lambda seen, _: bool(seen), partial=True)


class Shape(Trial):
    """A trial that moves its topic about; `play` gives what riskfuel's readers saw of it before: {reader: messages}."""

    name = ""

    def __init__(self, stage, programs, writer):
        super().__init__(stage, programs, kind(self.name), writer)

    def waits(self):
        return True

    def run(self, pair, readers):
        verdicts = dict.fromkeys(["entries", *readers], "not reached")
        try:
            earlier = self.play(pair, readers)
            verdicts["entries"] = None
        except Exception as error:
            return verdicts | {"entries": plain(error)}
        for reader in readers:
            try:
                count = sum(self.compare_all(topic, reader, earlier.get(reader, [])) for topic in self.topics())
                hold_that(count == self.sent, f"{self.sent} were sent, {count} arrived")
                verdicts[reader] = None
            except Exception as error:
                verdicts[reader] = plain(error)
        return verdicts

    def compare_all(self, topic, reader, earlier):
        there = earlier + self.read_of("riskfuel", reader, topic)
        here = self.read_of("bank", reader, topic)
        hold_that(there and len(here) == len(there), f"{topic}: {len(there)} at the source, {len(here)} here")
        for sent, found in zip(there, here, strict=True):
            self.compare_messages(sent, found, topic)
        return len(here)

    def read_of(self, site, reader, topic):
        return self.programs[site, reader].ask("read", topic=topic)["messages"]

    def write(self, count, **more):
        self.sent += count
        job = {"topic": self.topic, "producer": {}, "messages": texts(count), **more}
        self.programs["riskfuel", self.writer].ask("produce", **job)

    def topics(self):
        return [self.topic]

    def await_reason(self, pair, reason, end):
        """The row of this topic, or of one of its partitions, that has this reason."""

        def look():
            rows = (row for row in pair.rows() if row["topic"].startswith(self.topic) and row["end"] == end)
            return next((row for row in rows if row["reason"] == reason), None)

        return wait(pair, SEEN_SECONDS, f"{self.topic} says {reason}", look)


class Grown(Shape):
    """Partitions are added at the source while it is written to; the bridge adds them at the destination."""

    name = "partitions added under load"

    def prepare(self):
        self.sent = 0
        self.stage.create_topic("riskfuel", self.topic, partitions=BEFORE)

    def topics(self):
        return [f"{self.topic}-partition-{index}" for index in range(AFTER)]

    def play(self, pair, _readers):
        wait(pair, SEEN_SECONDS, f"{self.topic} runs", lambda: self.running(pair) == BEFORE)
        load = threading.Thread(target=self.write, args=(100,), kwargs={"pause_ms": PAUSE_MS})
        load.start()
        path = f"{rest.topic_path(self.topic)}/partitions"
        self.source.admin.post(path, AFTER)
        load.join()
        # A producer that knows all of them.
        more = threading.Thread(target=self.write, args=(100,), kwargs={"pause_ms": PAUSE_MS})
        more.start()
        wait(pair, SEEN_SECONDS, f"all of {self.topic} run", lambda: self.running(pair) == AFTER)
        more.join()
        created = self.target.admin.get(path)["partitions"]
        hold_that(created == AFTER, f"the destination has {created} partitions")
        wait_relayed(self.stage, pair, self.topic)
        for topic in self.topics():
            count = relayed(pair, topic)
            there, here = (stored(self.stage, site, topic, count) for site in ("riskfuel", "bank"))
            compare_stored(there, here, written_by(topic))
        return {}

    def running(self, pair):
        rows = [row for row in pair.rows() if row["topic"].startswith(self.topic) and row["end"] == "sink"]
        return sum(row["state"] == "running" for row in rows)


class Later(Shape):
    """A topic that nobody has made when its route starts; its first producer makes it."""

    name = "topic made later"

    def prepare(self):
        self.sent = 0

    def play(self, pair, _readers):
        self.await_reason(pair, "source_missing", "source")
        self.write(50)
        wait_relayed(self.stage, pair, self.topic)
        there, here = (stored(self.stage, site, self.topic, 50) for site in ("riskfuel", "bank"))
        compare_stored(there, here, written_by(self.topic))
        return {}


class Remade(Shape):
    """A topic that is deleted when everything is relayed, and made again: the destination has both."""

    name = "topic deleted and made again"

    def prepare(self):
        self.sent = 0
        self.stage.create_topic("riskfuel", self.topic)

    def play(self, pair, readers):
        self.write(20)
        wait_relayed(self.stage, pair, self.topic)
        earlier = {reader: self.read_of("riskfuel", reader, self.topic) for reader in readers}
        before = stored(self.stage, "riskfuel", self.topic, 20)
        self.source.admin.delete(f"{rest.topic_path(self.topic)}?force=true")
        self.await_reason(pair, "source_missing", "source")
        self.stage.create_topic("riskfuel", self.topic)
        self.write(30)
        wait_relayed(self.stage, pair, self.topic)
        there = before + stored(self.stage, "riskfuel", self.topic, 30)
        compare_stored(there, stored(self.stage, "bank", self.topic, 50), written_by(self.topic))
        return earlier


SHAPES = (Grown, Later, Remade)


def refuses_non_persistent(stage, pair):
    """Why the bridge did not refuse a route of a non-persistent topic by name; None when it did."""
    config = json.loads((pair.folder / "hub/hub.json").read_text())
    topic = stage.topic("fleeting").replace("persistent://", "non-persistent://")
    config["routes"] = [stage.route("fleeting", "riskfuel", "bank", topic)]
    path = pair.folder / "hub/fleeting.json"
    path.write_text(json.dumps(config))
    done = subprocess.run([stage.binary, "check", "--config", str(path)], capture_output=True, text=True)
    path.unlink()
    said = done.stdout + done.stderr
    if done.returncode == 78 and "non_persistent" in said and "routes[0].topics[0]" in said:
        return None
    return f"exit {done.returncode}: {said}"
