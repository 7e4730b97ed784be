"""The bench's own judgement: what bit, what waited, what adds up. Needs no Pulsar and no network."""

import pathlib
import sys
import tempfile
import time
import types
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from pulse import DRAINED_ASKS, Pulse  # noqa: E402
from record import Record  # noqa: E402

TOPICS = ("one", "two")


def row(topic, confirmed, session=1, end="source", duplicates=0):
    fixed = {"state": "running", "duplicates": duplicates, "end": end}
    return {"topic": topic, "confirmed": confirmed, "session": session, **fixed}


def looking():
    """A pulse that has seen both topics get on, and starts a stretch."""
    pulse = Pulse(types.SimpleNamespace(both=()), TOPICS, lambda name: name == "two")
    for confirmed in (0, 5):
        pulse.take(7, [row(topic, confirmed) for topic in TOPICS], time.monotonic())
    return pulse, pulse.begin()


class ThePulse(unittest.TestCase):
    def test_the_outage_is_that_of_the_partition_that_waited_longest(self):
        pulse, stretch = looking()
        pulse.take(7, [row("one", 6), row("two", 5)], stretch.began + 1)
        pulse.take(7, [row("one", 7), row("two", 6)], stretch.began + 4)
        self.assertEqual((round(stretch.outage, 3), stretch.where), (4, "two"))

    def test_waiting_before_the_stretch_does_not_count(self):
        pulse, stretch = looking()
        pulse.got_on = dict.fromkeys(TOPICS, stretch.began - 100)
        pulse.take(7, [row("one", 6)], stretch.began + 0.5)
        self.assertEqual(round(stretch.outage, 3), 0.5)

    def test_a_new_session_or_process_is_seen_and_a_counter_that_begins_anew_is_no_progress(self):
        pulse, stretch = looking()
        pulse.expect_all()
        pulse.take(7, [row("one", 5, session=2)], stretch.began + 1)
        pulse.take(8, [row("two", 0)], stretch.began + 1)
        self.assertEqual((stretch.sessions, stretch.waiting), (2, set(TOPICS)))
        pulse.take(8, [row("two", 1)], stretch.began + 2)
        self.assertEqual(stretch.waiting, {"one"})

    def test_who_has_not_got_on_is_named(self):
        pulse, stretch = looking()
        self.assertEqual(pulse.wait_all(0), list(TOPICS))
        pulse.take(7, [row("one", 6)], stretch.began + 1)
        self.assertEqual(stretch.waiting, {"two"})

    def test_one_that_has_nothing_to_relay_is_waited_for_and_its_wait_not_counted(self):
        pulse, stretch = looking()
        pulse.expect_all()
        pulse.take(7, [row("one", 6)], stretch.began + 2)
        for turn in range(DRAINED_ASKS):
            self.assertEqual(pulse.drained, set(), turn)
            pulse.ask_drained()
        self.assertEqual(pulse.drained, {"two"})
        pulse.take(7, [row("two", 6)], stretch.began + 50)
        self.assertEqual((round(stretch.outage, 3), stretch.where, stretch.waiting), (2, "one", set()))
        self.assertEqual(pulse.drained, set())
        pulse.take(7, [row("two", 7)], stretch.began + 60)
        self.assertEqual((round(stretch.outage, 3), stretch.where), (10, "two"))

    def test_sinks_are_not_looked_at_and_duplicates_are_counted(self):
        pulse, stretch = looking()
        pulse.take(7, [row("one", 99, end="sink"), row("two", 6, duplicates=3)], stretch.began + 1)
        pulse.take(7, [row("two", 6, duplicates=5)], stretch.began + 1)
        self.assertNotIn("one", {stretch.where})
        self.assertEqual(stretch.duplicates, 5)


class TheRecord(unittest.TestCase):
    def leg(self, **more):
        leg = Record(7, messages=1000, seconds=60, **more)
        leg.note("cut", True, 3.0)
        leg.note("seek", False, 0.2)
        return leg

    def test_legs_add_up_and_survive_the_file(self):
        record = Record(7)
        record.add(self.leg())
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "state.json"
            record.save(path)
            record = Record.load(path)
        record.add(self.leg())
        self.assertEqual((record.faults(), record.bitten, record.idle), (2, {"cut": 2}, {"seek": 2}))
        self.assertEqual((record.legs, record.messages, record.outage_of), (2, 2000, "cut"))
        self.assertTrue(record.is_clean())
        line = record.line()
        for part in ("2 bitten (cut 2)", "did not bite: seek 2", "2,000 messages", "lost 0, repeated 0, disordered 0"):
            self.assertIn(part, line)
        self.assertNotIn("\n", line)

    def test_each_finding_and_each_complaint_spoils_it(self):
        for kind in ("lost", "repeated", "disordered", "damaged", "foreign"):
            record = Record(7)
            record.found[kind] = 1
            self.assertFalse(record.is_clean())
            self.assertEqual(record.is_clean(may_repeat=True), kind in ("repeated", "disordered"))
            self.assertIn(f"{kind} 1", record.line())
        self.assertFalse(Record(7, complaints=["stuck"]).is_clean(may_repeat=True))


if __name__ == "__main__":
    unittest.main()
