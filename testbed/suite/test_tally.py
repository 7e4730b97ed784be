"""The judge, judged: every fault is injected and must be found, by kind and number. Needs no Pulsar and no network."""

import unittest

import payload
from payload import Writer
from tally import Tally, gaps

TOPIC = "persistent://public/default/t-partition-0"


def stored(count, producer="p", dressed=False):
    """What a faithful relay leaves in the destination: (payload, dress) in order."""
    writer = Writer(producer, 200, dressed)
    return [
        (writer.payload(sequence), writer.dress(sequence) if dressed else payload.NAKED) for sequence in range(count)
    ]


def judged(messages, expected, topic=TOPIC):
    tally = Tally(expected)
    for entry, (content, dress) in enumerate(messages):
        tally.take(topic, (7, entry, -1), content, lambda dress=dress: dress)
    return tally.report()


class TheJudge(unittest.TestCase):
    def assertFaults(self, report, **faults):
        due = dict.fromkeys(("lost", "repeated", "disordered", "damaged", "foreign"), 0) | faults
        self.assertEqual({fault: report[fault] for fault in due}, due, report["examples"])
        self.assertEqual(report["clean"], not faults)

    def test_a_faithful_copy_is_clean(self):
        self.assertFaults(judged(stored(50) + stored(30, "q", dressed=True), {"p": 50, "q": 30}))

    def test_lost_messages_are_counted_and_named(self):
        messages = stored(50)
        report = judged(messages[:10] + messages[12:49], {"p": 50})
        self.assertFaults(report, lost=3)
        self.assertEqual(report["lost_ranges"], {"p": [[10, 11], [49, 49]]})

    def test_a_producer_that_never_came_is_lost_whole(self):
        self.assertFaults(judged([], {"p": 5}), lost=5)

    def test_a_repeat_is_found_wherever_it_stands(self):
        messages = stored(50)
        self.assertFaults(judged(messages + messages[:3], {"p": 50}), repeated=3)
        self.assertFaults(judged(messages[:7] + messages[6:], {"p": 50}), repeated=1)

    def test_swapped_neighbours_are_one_disorder(self):
        messages = stored(50)
        messages[20], messages[21] = messages[21], messages[20]
        self.assertFaults(judged(messages, {"p": 50}), disordered=1)

    def test_order_is_each_producers_own(self):
        one, other = stored(20), stored(20, "q")
        mixed = [message for pair in zip(one, other, strict=True) for message in pair]
        self.assertFaults(judged(mixed, {"p": 20, "q": 20}))

    def test_order_is_each_partitions_own_and_a_repeat_across_partitions_is_found(self):
        tally = Tally({"p": 6})
        for topic, sequences in (("t-partition-0", (0, 3, 5)), ("t-partition-1", (1, 2, 4, 5))):
            for entry, sequence in enumerate(sequences):
                tally.take(topic, (1, entry, 0), stored(6)[sequence][0], lambda: payload.NAKED)
        self.assertFaults(tally.report(), repeated=1)

    def test_one_changed_bit_of_the_body_is_damage(self):
        messages = stored(5)
        content, dress = messages[2]
        messages[2] = (content[:-1] + bytes([content[-1] ^ 1]), dress)
        # A damaged message does not count as arrived.
        self.assertFaults(judged(messages, {"p": 5}), damaged=1, lost=1)

    def test_every_part_of_the_dress_counts(self):
        for part, wrong in (
            ("partition_key", "key-0"), ("ordering_key", ""), ("event_timestamp", 0),
            ("properties", {}), ("properties", payload.dress("p", 3)["properties"] | {"more": "1"}),
        ):  # fmt: skip
            messages = stored(5, dressed=True)
            messages[3] = (messages[3][0], messages[3][1] | {part: wrong})
            self.assertFaults(judged(messages, {"p": 5}), damaged=1)

    def test_something_added_to_a_naked_message_is_damage(self):
        messages = stored(5)
        messages[3] = (messages[3][0], payload.NAKED | {"properties": {"bridge.origin": "x"}})
        self.assertFaults(judged(messages, {"p": 5}), damaged=1)

    def test_strangers_and_surplus_are_foreign(self):
        self.assertFaults(judged([*stored(5), (b"hello", payload.NAKED)], {"p": 5}), foreign=1)
        self.assertFaults(judged(stored(5) + stored(2, "stranger"), {"p": 5}), foreign=2)
        self.assertFaults(judged(stored(6), {"p": 5}), foreign=1)
        self.assertFaults(judged([*stored(5), (stored(1)[0][0][:12], payload.NAKED)], {"p": 5}), foreign=1)

    def test_a_redelivery_from_the_same_position_is_no_repeat(self):
        tally = Tally({"p": 5})
        for entry in (0, 1, 2, 1, 2, 3, 4):
            tally.take(TOPIC, (7, entry, -1), stored(5)[entry][0], lambda: payload.NAKED)
        self.assertFaults(tally.report())
        self.assertEqual(tally.report()["redelivered"], 2)

    def test_it_is_complete_only_when_nothing_is_missing(self):
        tally = Tally({"p": 2})
        for entry, complete in ((0, False), (1, True)):
            tally.take(TOPIC, (7, entry, -1), stored(2)[entry][0], lambda: payload.NAKED)
            self.assertEqual(tally.is_complete(), complete)

    def test_one_who_writes_on_is_judged_at_once_and_what_is_lost_when_the_count_is_known(self):
        tally = Tally({"p": None})
        for entry, sequence in enumerate((0, 1, 3, 3, 2)):
            tally.take(TOPIC, (7, entry, -1), stored(4)[sequence][0], lambda: payload.NAKED)
        self.assertFaults(tally.report(), repeated=1, disordered=1)
        self.assertFalse(tally.is_complete())
        tally.expect("p", 6)
        self.assertFaults(tally.report(), repeated=1, disordered=1, lost=2)
        self.assertEqual(tally.report()["lost_ranges"], {"p": [[4, 5]]})

    def test_surplus_of_one_who_wrote_on_is_foreign_and_leaps_are_not_followed(self):
        tally = Tally({"p": None})
        leap = Writer("p", 200, False).payload(1 << 40)
        for entry, content in enumerate([content for content, _ in stored(5)] + [leap]):
            tally.take(TOPIC, (7, entry, -1), content, lambda: payload.NAKED)
        self.assertFaults(tally.report(), foreign=1)
        tally.expect("p", 4)
        self.assertFaults(tally.report(), foreign=2)
        self.assertTrue(tally.is_complete())

    def test_gaps_are_ranges(self):
        for seen, due in ((b"\1\1", []), (b"\0", [[0, 0]]), (b"\0\0\1\0", [[0, 1], [3, 3]]), (b"", [])):
            self.assertEqual(gaps(bytearray(seen)), due)


class ThePayload(unittest.TestCase):
    def test_it_has_the_size_that_was_asked_for_and_reads_back(self):
        for size in (40, 1024, 65536):
            content = Writer("producer-ü", size, dressed=True).payload(3)
            self.assertEqual(len(content), size)
            self.assertEqual(payload.read(content), payload.Label("producer-ü", 3, True, True))

    def test_a_batch_of_it_does_not_compress(self):
        import zlib

        writer = Writer("p", 1024, dressed=False)
        batch = b"".join(writer.payload(sequence) for sequence in range(5000, 5500))
        self.assertGreater(len(zlib.compress(batch)), len(batch) * 0.98)


if __name__ == "__main__":
    unittest.main()
