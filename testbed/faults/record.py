"""What the bench has done and found, over all its legs: kept in a file, told in one line. Does nothing itself."""

import json
from dataclasses import asdict, dataclass, field

FOUND = ("lost", "repeated", "disordered", "damaged", "foreign")


@dataclass
class Record:
    """Adds up; a leg counts only when it was judged."""

    seed: int
    legs: int = 0
    seconds: float = 0.0
    messages: int = 0
    bitten: dict = field(default_factory=dict)
    idle: dict = field(default_factory=dict)
    found: dict = field(default_factory=lambda: dict.fromkeys(FOUND, 0))
    outage: float = 0.0
    outage_of: str = ""
    # What failed otherwise, such as a partition that never went on.
    complaints: list = field(default_factory=list)

    @classmethod
    def load(cls, path):
        return cls(**json.loads(path.read_text()))

    def save(self, path):
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.rename(path)

    def add(self, leg):
        """A leg's own record."""
        self.legs += 1
        self.seconds += leg.seconds
        self.messages += leg.messages
        for mine, its in ((self.bitten, leg.bitten), (self.idle, leg.idle), (self.found, leg.found)):
            for key, count in its.items():
                mine[key] = mine.get(key, 0) + count
        if leg.outage > self.outage:
            self.outage, self.outage_of = leg.outage, leg.outage_of
        self.complaints += leg.complaints

    def note(self, kind, bit, outage):
        """A fault that was done."""
        counts = self.bitten if bit else self.idle
        counts[kind] = counts.get(kind, 0) + 1
        if outage > self.outage:
            self.outage, self.outage_of = outage, kind

    def faults(self):
        return sum(self.bitten.values())

    def is_clean(self, may_repeat=False):
        return not self.complaints and not any(
            count for kind, count in self.found.items() if not (may_repeat and kind in ("repeated", "disordered"))
        )

    def line(self):
        """The bench's closing line."""
        idle = f"; did not bite: {listed(self.idle)}" if self.idle else ""
        found = ", ".join(f"{kind} {count:,}" for kind, count in self.found.items() if kind in FOUND[:3] or count)
        return (
            f"faults: {self.faults()} bitten ({listed(self.bitten)}){idle}; {self.messages:,} messages in "
            f"{self.seconds / 60:.1f} min; {found}; longest outage {self.outage:.1f} s ({self.outage_of or 'none'}); "
            f"seed {self.seed}" + (f"; {len(self.complaints)} complaints" if self.complaints else "")
        )


def listed(counts):
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none"
