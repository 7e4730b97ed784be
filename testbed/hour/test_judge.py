"""The judgement of a long run over lines as a run leaves them. Needs no Pulsar and no process."""

import copy
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import judge  # noqa: E402

SAMPLES, MINUTES, MIB = 12, 60, 40.0
MESSAGES = 2_929_687


def minute(nth, hub=MIB, edge=MIB):
    samples = {"hub": [hub] * SAMPLES, "edge": [edge] * SAMPLES}
    return {
        "kind": "minute", "minute": nth, "seconds": 60.0, "messages": MESSAGES, "mbit_s": 400.0,
        "latency_ms": {"mean": 1.0, "p50": 1.0, "p99": 3.0, "p99_9": 4.0, "max": 9.0}, "sent": nth * MESSAGES,
        "received": nth * MESSAGES, "missing": 0, "repeated": 0, "disordered": 0, "rss_mib": samples,
        "anon_mib": copy.deepcopy(samples), "cpu_s_per_gb": {"hub": 0.8, "edge": 0.7}, "load": 1.5,
        "others_share": 0.01, "stolen_share": 0.0, "at": "12:00:00",
    }  # fmt: skip


def run(memory=lambda nth: MIB, minutes=MINUTES):
    """A run whose hub holds so much in each minute."""
    begin = {
        "kind": "begin", "commit": "c" * 40, "tag": "t", "seed": 7, "minutes": minutes, "mbit_s": 400.0, "size": 1024,
        "batch": 100, "at": "2026-01-01 12:00:00", "machine": {"cores": 2, "cpu": "one"},
    }  # fmt: skip
    count = minutes * MESSAGES
    end = {
        "kind": "end", "complaint": "", "sent": count, "received": count, "lost": 0, "repeated": 0, "disordered": 0,
    }  # fmt: skip
    return [begin, *(minute(nth, memory(nth)) for nth in range(1, minutes + 1)), end]


def climb(share):
    """From minute to minute, so that the medians of the two windows are that far apart."""
    first, last = 6, MINUTES - 4.5
    return lambda nth: MIB * (1 + share * (nth - first) / (last - first))


class TheJudgement(unittest.TestCase):
    def assert_complaint(self, lines, *parts):
        verdict = judge.judge(lines)
        self.assertFalse(verdict.held())
        self.assertEqual(len(verdict.complaints), 1, verdict.complaints)
        for part in parts:
            self.assertIn(part, verdict.complaints[0])
        self.assertIn(verdict.complaints[0], judge.report(lines, verdict))

    def test_a_flat_run_in_which_all_arrived_holds(self):
        lines = run()
        verdict = judge.judge(lines)
        self.assertEqual((verdict.complaints, verdict.remarks), ([], []))
        report = judge.report(lines, verdict)
        for part in ("**It held.**", "lost 0, repeated 0", "minutes 2–10", "minutes 51–60", "latency.svg"):
            self.assertIn(part, report)

    def test_memory_that_climbs_by_six_per_cent_is_not_flat_and_by_four_it_is(self):
        self.assert_complaint(run(climb(0.06)), "the hub's resident memory", "+6.0%")
        self.assertTrue(judge.judge(run(climb(0.04))).held())

    def test_memory_of_the_edge_counts_and_so_does_a_fall(self):
        lines = run()
        for line in lines[-11:-1]:
            line["rss_mib"]["edge"] = [MIB * 0.94] * SAMPLES
        self.assert_complaint(lines, "the edge's resident memory", "-6.0%")

    def test_the_warm_up_and_what_lies_between_are_not_compared(self):
        self.assertTrue(judge.judge(run(lambda nth: MIB / 2 if nth == 1 else MIB)).held())
        lines = run(lambda nth: MIB * 2 if nth == 30 else MIB)
        self.assertTrue(judge.judge(lines).held())
        self.assertIn(f"{MIB * 2:.2f}", judge.report(lines, judge.judge(lines)))
        # Of the first ten minutes only the first is the warm-up.
        self.assertFalse(judge.judge(run(lambda nth: MIB / 2 if nth in range(2, 8) else MIB)).held())

    def test_a_short_run_is_judged_by_its_halves(self):
        lines = run(minutes=2)
        self.assertTrue(judge.judge(lines).held())
        lines[2]["rss_mib"]["hub"] = [MIB] * (SAMPLES // 2) + [MIB * 1.06] * (SAMPLES // 2)
        self.assert_complaint(lines, "the hub's", "+6.0%")

    def test_one_message_that_is_lost_repeated_or_disordered_spoils_it(self):
        for kind, received in (("lost", -1), ("repeated", 1), ("disordered", 0)):
            lines = run()
            lines[-1][kind] = 1
            lines[-1]["received"] += received
            self.assert_complaint(lines, f"{kind} 1")

    def test_counts_that_do_not_add_up_are_believed_by_nobody(self):
        lines = run()
        lines[-1]["received"] -= 1
        self.assert_complaint(lines, "does not add up")

    def test_a_rate_that_was_not_kept_is_told(self):
        lines = run()
        for line in lines[1:-1]:
            line["mbit_s"] = 395.0
        self.assert_complaint(lines, "395.0 Mbit/s instead of 400")
        lines = run()
        lines[20]["mbit_s"], lines[20]["others_share"] = 380.0, 0.4
        verdict = judge.judge(lines)
        self.assertTrue(verdict.held())
        self.assertEqual(verdict.remarks, ["minute 20: 380.0 of 400 Mbit/s", "minute 20: others took 40% of the cores"])

    def test_a_run_that_ended_before_its_time_did_not_hold(self):
        lines = run()[:31]
        last = {"kind": "end", "complaint": "the hub ended by itself with -9: "}
        complaints = judge.judge([*lines, last]).complaints
        self.assertEqual(complaints[1:], ["30 of 60 minutes were measured"])
        self.assertIn("the hub ended by itself", complaints[0])
        lines[-1]["missing"] = 100
        self.assertIn("missing so far 100", judge.judge(lines).complaints)
        for few in (run()[:1], run()[:2]):
            self.assertFalse(judge.judge(few).held())
            judge.report(few, judge.judge(few))


if __name__ == "__main__":
    unittest.main()
