"""The verdicts as a table: for a terminal, and as a section of docs/kinds.md. Judges nothing."""

import re
import time

NAMES = {"java": "Java", "python": "Python"}
LOOKS = ("entries", "java", "python")


class Table:
    """Verdicts {kind: {writer: {what was looked at: why it failed, None when it passed}}}."""

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def cells(self):
        for kind, writers in self.verdicts.items():
            for writer, looks in writers.items():
                for look, reason in looks.items():
                    yield kind, writer, look, reason

    def passed(self):
        return sum(reason is None for *_, reason in self.cells())

    def failures(self):
        return [f"{kind}, {writer}, {look}: {reason}" for kind, writer, look, reason in self.cells() if reason]

    def rows(self, fail="FAILED"):
        head = ["kind"] + [f"by {NAMES[writer]}: {look_name(look)}" for writer in NAMES for look in LOOKS]
        rows = [head]
        for kind, writers in self.verdicts.items():
            if "" in writers:
                cell = fail if writers[""][""] else "pass"
                rows.append([kind, cell, *[""] * (len(head) - 2)])
                continue
            marks = []
            for writer in NAMES:
                looks = writers.get(writer)
                marks += ["–"] * len(LOOKS) if looks is None else [fail if looks[look] else "pass" for look in LOOKS]
            rows.append([kind, *marks])
        return rows

    def text(self):
        rows = self.rows()
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)

    def markdown(self):
        rows = self.rows("**failed**")
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|---|" + ":-:|" * (len(rows[0]) - 1))
        return "\n".join(lines)


def look_name(look):
    return look if look == "entries" else f"read by {NAMES[look]}"


def write_section(path, name, text):
    """Puts a section of a generated document in its place; the others stay as they are."""
    begin, end = f"<!-- {name}: generated, do not edit -->", f"<!-- end of {name} -->"
    whole = path.read_text()
    found = re.subn(rf"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", whole, flags=re.S)
    if found[1] != 1:
        raise ValueError(f"{path} has no place for {name}")
    path.write_text(found[0])


def made_by(command, *parts):
    """What a generated section says of itself."""
    return f"Made by `{command}` on {time.strftime('%Y-%m-%d')}: {', '.join(parts)}."
