"""Figures of runs by who, what and name, and rows of a table that show them. Knows no trial."""

from machine import spread


class Figures:
    """What was measured, by tunnel, trial and name."""

    def __init__(self, runs):
        self.found = {}
        for one in runs:
            for name, value in one.items():
                self.found.setdefault((one["tunnel"], one["trial"], name), []).append(value)

    def of(self, tunnel, trial, name):
        return self.found.get((tunnel.name, trial, name), [])

    def cell(self, tunnel, trial, name, form):
        values = self.of(tunnel, trial, name)
        if not values:
            return "–"
        median, least, most = spread(values)
        # Who has no ends has no cost.
        if median == 0:
            return "–"
        return f"{median:{form}} ({least:{form}}–{most:{form}})" if len(values) > 1 else f"{median:{form}}"

    def ratio(self, one, other, trial, name):
        """By medians of the same run."""
        ones, others = self.of(one, trial, name), self.of(other, trial, name)
        known = ones and others and spread(others)[0]
        return f"{spread(ones)[0] / spread(others)[0]:.2f}" if known else "–"


def proportions(title, ours, others, columns, figures):
    """Ours to each other one's."""
    yield from (f"**{title}**", "")
    yield "| to | " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for other in others:
        cells = [figures.ratio(ours, other, *column) for column in columns.values()]
        yield f"| {other.name} | " + " | ".join(cells) + " |"
    yield ""


def rows(title, tunnels, columns, figures, encryption=False, who="tunnel"):
    yield from (f"**{title}**", "")
    yield f"| {who} | " + "encryption | " * encryption + " | ".join(columns) + " |"
    yield "|---|" + "---|" * encryption + "--:|" * len(columns)
    for tunnel in tunnels:
        cells = [figures.cell(tunnel, *column) for column in columns.values()]
        yield f"| {tunnel.name} | " + f"{tunnel.encryption} | " * encryption + " | ".join(cells) + " |"
    yield ""
