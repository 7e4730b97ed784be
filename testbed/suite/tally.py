"""Judges what a consumer got: lost, repeated, disordered, damaged or foreign. Holds no socket and no clock.

A message that the broker hands out again after a reconnect has the position it had before: that is the consumer's
own redelivery and no repeat. A repeat is the same producer and sequence at another position.
"""

import payload

EXAMPLES_MAX = 5
# How far one message may lie ahead of the others of a producer that writes on: far more than can be on its way.
AHEAD_MAX = 1 << 20


class Tally:
    """Of one or several topics, partitions counted as topics of their own. A producer expected with None writes on:
    how much it wrote is told later, by `expect`. Needs a byte for each message."""

    def __init__(self, expected):
        self.expected = dict(expected)
        self.counts = dict.fromkeys(("received", "redelivered", "repeated", "disordered", "damaged", "foreign"), 0)
        self.payload_bytes = 0
        self.examples = []
        self._seen = {producer: bytearray(count or 0) for producer, count in self.expected.items()}
        self._arrived = dict.fromkeys(self.expected, 0)
        self._position = {}
        self._highest = {}

    def expect(self, producer, count):
        """What one of those wrote that were expected with None."""
        self.expected[producer] = count
        seen = self._seen[producer]
        surplus = seen[count:].count(1)
        self.counts["foreign"] += surplus
        self._arrived[producer] -= surplus
        del seen[count:]
        seen.extend(bytes(count - len(seen)))

    def take(self, topic, position, content, dress):
        """One message: where it stands in its topic, its payload, and a function that gives the rest of it."""
        last = self._position.get(topic)
        if last is not None and position <= last:
            self.counts["redelivered"] += 1
            return
        self._position[topic] = position
        self.counts["received"] += 1
        self.payload_bytes += len(content)
        label = payload.read(content)
        if label is None or not self._is_due(label):
            return self._note("foreign", topic, position, label)
        if not label.whole:
            return self._note("damaged", topic, position, label)
        self._judge_dress(topic, position, label, dress())
        self._judge_place(topic, position, label)

    def _is_due(self, label):
        seen = self._seen.get(label.producer)
        if seen is None:
            return False
        if self.expected[label.producer] is None and len(seen) <= label.sequence < len(seen) + AHEAD_MAX:
            seen.extend(bytes(label.sequence + AHEAD_MAX // 2 - len(seen)))
        return label.sequence < len(seen)

    def _judge_dress(self, topic, position, label, worn):
        due = payload.dress(label.producer, label.sequence) if label.dressed else payload.NAKED
        if worn != due:
            wrong = {part: worn.get(part) for part in due if worn.get(part) != due[part]}
            self._note("damaged", topic, position, label, f"{wrong} instead of {({part: due[part] for part in wrong})}")

    def _judge_place(self, topic, position, label):
        seen = self._seen[label.producer]
        if seen[label.sequence]:
            return self._note("repeated", topic, position, label)
        seen[label.sequence] = 1
        self._arrived[label.producer] += 1
        writer = (topic, label.producer)
        if label.sequence < self._highest.get(writer, -1):
            self._note("disordered", topic, position, label, f"after {self._highest[writer]}")
        else:
            self._highest[writer] = label.sequence

    def _note(self, fault, topic, position, label, detail=""):
        self.counts[fault] += 1
        if sum(example.startswith(fault) for example in self.examples) < EXAMPLES_MAX:
            who = f"{label.producer} {label.sequence}" if label else "not one of ours"
            self.examples.append(f"{fault}: {who} at {topic} {position} {detail}".rstrip())

    def missing(self):
        """Of those whose count is known."""
        return sum(count - self._arrived[who] for who, count in self.expected.items() if count is not None)

    def is_complete(self):
        return None not in self.expected.values() and self.missing() == 0

    def lost(self):
        """Ranges of sequences that never came, by producer."""
        known = ((who, self._seen[who]) for who, count in self.expected.items() if count is not None)
        return {who: gaps(seen) for who, seen in known if 0 in seen}

    def report(self):
        lost = self.lost()
        return {
            **self.counts,
            "expected": sum(count or 0 for count in self.expected.values()),
            "lost": self.missing(),
            "payload_bytes": self.payload_bytes,
            "lost_ranges": {who: ranges[: EXAMPLES_MAX * 2] for who, ranges in lost.items()},
            "examples": self.examples,
            "clean": not lost and all(self.counts[fault] == 0 for fault in FAULTS),
        }


FAULTS = ("repeated", "disordered", "damaged", "foreign")


def gaps(seen):
    """[first, last] of each run of zeros."""
    found, at = [], seen.find(0)
    while at >= 0:
        end = seen.find(1, at)
        found.append([at, (end if end >= 0 else len(seen)) - 1])
        at = seen.find(0, end) if end >= 0 else -1
    return found
