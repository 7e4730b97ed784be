"""Looks at both agents several times a second and remembers when each partition got on. Touches nothing.

A partition *gets on* when its source counts another confirmation by the destination. Says of a stretch of time which
sessions came and how long the longest partition waited: from these it is known whether a fault bit. The official
client waits up to a minute before it connects anew, so a partition without anything to relay is not counted as waiting.
"""

import threading
import time
from dataclasses import dataclass, field

LOOK_SECONDS = 0.1
# An agent that is stopped answers nobody.
ANSWER_SECONDS = 1.0
DRAINED_SECONDS = 1.0
# In a row: whoever was just thrown out is back before that.
DRAINED_ASKS = 5


@dataclass
class Stretch:
    """From `began` on: what was seen."""

    began: float
    outage: float = 0.0
    where: str = ""
    sessions: int = 0
    duplicates: int = 0
    # Since a moment within the stretch, see `Pulse.expect_all`.
    waiting: set = field(default_factory=set)


class Pulse(threading.Thread):
    """Of one pair of agents, until `finish`."""

    def __init__(self, pair, partitions, is_drained):
        super().__init__(name="pulse", daemon=True)
        self.pair, self.partitions, self.is_drained = pair, partitions, is_drained
        for agent in pair.both:
            agent.http.patience = ANSWER_SECONDS
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.marks, self.got_on, self.duplicates = {}, {}, {}
        self.running, self.asks, self.drained = set(), {}, set()
        self.stretch = Stretch(time.monotonic())

    def run(self):
        while not self.ended.wait(LOOK_SECONDS):
            for agent in self.pair.both:
                process, report = agent.process, agent.status()
                if report and process:
                    self.take(process.pid, report["routes"], time.monotonic())

    def take(self, pid, rows, now):
        """What one agent said of its sources."""
        with self.lock:
            for row in rows:
                if row["end"] != "source":
                    continue
                name, mark = row["topic"], (pid, row["session"], row["confirmed"])
                before = self.marks.get(name)
                self.marks[name] = mark
                if before and before[:2] != mark[:2]:
                    self.stretch.sessions += 1
                (self.running.add if row["state"] == "running" else self.running.discard)(name)
                self.count_duplicates(name, pid, row["duplicates"])
                if before and before[2] != mark[2] and mark[2] > 0:
                    self.note_outage(name, now)
                    self.got_on[name] = now
                    self.drained.discard(name)
                    self.stretch.waiting.discard(name)

    def count_duplicates(self, name, pid, count):
        before = self.duplicates.get(name, (pid, 0))
        self.duplicates[name] = (pid, count)
        self.stretch.duplicates += count - before[1] if before[0] == pid and count > before[1] else 0

    def note_outage(self, name, now):
        since = now - max(self.got_on.get(name, self.stretch.began), self.stretch.began)
        if name not in self.drained and since > self.stretch.outage:
            self.stretch.outage, self.stretch.where = since, name

    def begin(self):
        """A new stretch."""
        with self.lock:
            self.stretch = Stretch(time.monotonic())
            self.asks.clear()
            return self.stretch

    def expect_all(self):
        """From now on `waiting` names the partitions that have not got on."""
        with self.lock:
            self.stretch.waiting = set(self.partitions)

    def wait_all(self, patience, idle_may=True):
        """Until all partitions have got on since now, or have nothing to relay; those that have not, otherwise."""
        self.expect_all()
        now = time.monotonic()
        deadline, ask_at = now + patience, now + DRAINED_SECONDS
        while self.stretch.waiting - self.drained and (now := time.monotonic()) < deadline and not self.ended.is_set():
            if idle_may and now > ask_at:
                self.ask_drained()
                ask_at = time.monotonic() + DRAINED_SECONDS
            time.sleep(LOOK_SECONDS)
        with self.lock:
            return sorted(self.stretch.waiting - self.drained)

    def ask_drained(self):
        """Ends the wait of partitions that have nothing to relay, as far as it counts."""
        for name in sorted(self.stretch.waiting - self.drained):
            self.asks[name] = self.asks.get(name, 0) + 1 if name in self.running and self.is_drained(name) else 0
            if self.asks[name] >= DRAINED_ASKS:
                with self.lock:
                    self.note_outage(name, time.monotonic())
                    self.drained.add(name)

    def finish(self):
        self.ended.set()
        self.join()
