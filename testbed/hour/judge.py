"""What a long run's lines come to: did it hold, and the table that shows it. Reads no file and starts nothing.

Lines: one `begin`, a `minute` each, one `end`. Minute 1 is the warm-up: shown, and left out of every figure.
"""

import statistics
from dataclasses import dataclass, field

SITES = ("hub", "edge")
MINUTE_SECONDS, WINDOW_SECONDS, WARM_UP_SECONDS = 60, 600, 60
# "Within 5 %", and what counts as the rate that was asked for.
FLAT_SHARE, RATE_SHARE_MIN = 0.05, 0.99
# As `benches/compare` has it.
DISTURBED_SHARE = 0.10
KINDS = {"rss_mib": "resident", "anon_mib": "anonymous"}


@dataclass
class Verdict:
    # Why it did not hold.
    complaints: list = field(default_factory=list)
    # What a reader has to know though it held.
    remarks: list = field(default_factory=list)

    def held(self):
        return not self.complaints


@dataclass(frozen=True)
class Memory:
    """The middle samples of the two windows, and the highest of all: what an agent holds for the seconds in which the
    machine stands still is in that one."""

    first: float
    last: float
    highest: float

    def change(self):
        return self.last / self.first - 1


def judge(lines):
    """The verdict over all lines of a run."""
    begin, minutes, end = parts(lines)
    verdict = Verdict()
    complain, remark = verdict.complaints.append, verdict.remarks.append
    if end is None:
        complain("it ended without a last line")
    elif end["complaint"]:
        complain(f"it ended before its time: {end['complaint']}")
    if len(minutes) != begin["minutes"]:
        complain(f"{len(minutes)} of {begin['minutes']} minutes were measured")
    for complaint in missing(minutes, end):
        complain(complaint)
    asked, steady = begin["mbit_s"], minutes[1:]
    if steady:
        rate = statistics.fmean(minute["mbit_s"] for minute in steady)
        if rate < asked * RATE_SHARE_MIN:
            complain(f"{rate:.1f} Mbit/s instead of {asked:g}: the rate was not kept")
    for site in SITES:
        memory = windows(minutes, site, "rss_mib")
        if memory is None:
            complain(f"no two stretches of the {site}'s memory to compare")
        elif abs(memory.change()) > FLAT_SHARE:
            complain(f"the {site}'s resident memory changed by {memory.change():+.1%}: {told_change(memory)}")
    for minute in steady:
        if minute["mbit_s"] < asked * RATE_SHARE_MIN:
            remark(f"minute {minute['minute']}: {minute['mbit_s']:.1f} of {asked:g} Mbit/s")
        others = minute["others_share"] + minute["stolen_share"]
        if others > DISTURBED_SHARE:
            remark(f"minute {minute['minute']}: others took {others:.0%} of the cores")
    return verdict


def missing(minutes, end):
    """What is said to be lost, repeated or disordered."""
    if end is None or "sent" not in end:
        # The last minute's counts are all there is.
        last = minutes[-1] if minutes else {}
        found = {"missing so far": last.get("missing", 0)} | {kind: last.get(kind, 0) for kind in ("repeated", "disordered")}
    else:
        found = {kind: end[kind] for kind in ("lost", "repeated", "disordered")}
        if not end["sent"]:
            yield "nothing was sent"
        if end["received"] - end["repeated"] + end["lost"] != end["sent"]:
            yield f"sent {end['sent']}, received {end['received']}, and the rest does not add up"
    yield from (f"{kind} {count}" for kind, count in found.items() if count)


def windows(minutes, site, what):
    """Memory of the first ten minutes without the warm-up, and of the last ten; of a short run, of both halves. None if
    nothing was sampled there."""
    samples = []
    for minute in minutes:
        values, began = minute[what][site], (minute["minute"] - 1) * MINUTE_SECONDS
        samples += [(began + MINUTE_SECONDS * (nth + 1) / len(values), value) for nth, value in enumerate(values)]
    samples = [(at, value) for at, value in samples if at > WARM_UP_SECONDS]
    if len(samples) < 2:
        return None
    over = len(minutes) * MINUTE_SECONDS
    half = WARM_UP_SECONDS + (over - WARM_UP_SECONDS) / 2
    first = [value for at, value in samples if at <= min(WINDOW_SECONDS, half)]
    last = [value for at, value in samples if at > max(over - WINDOW_SECONDS, half)]
    return Memory(statistics.median(first), statistics.median(last), max(value for _, value in samples))


def parts(lines):
    """`begin`, all minutes, and `end` or None."""
    of = {kind: [line for line in lines if line["kind"] == kind] for kind in ("begin", "minute", "end")}
    return of["begin"][0], of["minute"], next(iter(of["end"]), None)


def told(line):
    """One line for who watches."""
    if line["kind"] == "begin":
        return f"{line['minutes']} minutes at {line['mbit_s']:g} Mbit/s, commit {line['commit']}, seed {line['seed']}"
    if line["kind"] == "end":
        return f"over: {line['complaint'] or 'lost {lost}, repeated {repeated}'.format(**line)}"
    memory = ", ".join(f"{site} {line['rss_mib'][site][-1]:.1f} MiB" for site in SITES)
    return (
        f"minute {line['minute']}: {line['mbit_s']:.1f} Mbit/s, p99 {line['latency_ms']['p99']:.1f} ms, missing "
        f"{line['missing']}, repeated {line['repeated']}, {memory}, load {line['load']:.1f}"
    )


def report(lines, verdict):
    """All of it in Markdown, with the plots that `bridge perf report` makes of the same lines."""
    begin, minutes, end = parts(lines)
    name = f"{begin['commit'][:12]}" + (f" ({begin['tag']})" if begin["tag"] else "")
    machine = begin["machine"]
    text = [
        f"{begin['minutes']} minutes at {begin['mbit_s']:g} Mbit/s: {begin['size']} bytes that do not compress, in batches "
        f"of {begin['batch']}, from {begin['at']}; commit {name}, seed {begin['seed']}; {machine['cpu']}, "
        f"{machine['cores']} cores.",
        "",
        "**It held.**" if verdict.held() else "**It did not hold:** " + "; ".join(verdict.complaints) + ".",
        "",
    ]
    if end and "sent" in end:
        text += [
            f"Sent {end['sent']:,}, received {end['received']:,}: lost {end['lost']:,}, repeated {end['repeated']:,}, "
            f"disordered {end['disordered']:,}.",
            "",
        ]
    text += [*memory_rows(minutes), "", *minute_rows(minutes[1:]), ""]
    text += [f"- {remark}" for remark in verdict.remarks] + [""] * bool(verdict.remarks)
    text += ["![ms, minute by minute](latency.svg)", "", "![MiB, minute by minute](memory.svg)"]
    return "\n".join(text) + "\n"


def memory_rows(minutes):
    yield f"| MiB, median | {' | '.join(stretches(minutes))} | difference | highest |"
    yield "|---|--:|--:|--:|--:|"
    for site in SITES:
        for what, word in KINDS.items():
            memory = windows(minutes, site, what)
            if memory:
                cells = f"{memory.first:.2f} | {memory.last:.2f} | {memory.change():+.1%} | {memory.highest:.2f}"
                yield f"| {site}, {word} | {cells} |"


def stretches(minutes):
    """How the two windows are called."""
    count, window = len(minutes), WINDOW_SECONDS // MINUTE_SECONDS
    if count < 2 * window:
        return "first half without minute 1", "last half"
    return f"minutes 2–{window}", f"minutes {count - window + 1}–{count}"


def minute_rows(minutes):
    yield f"| each minute without the first ({len(minutes)}) | median | lowest | highest |"
    yield "|---|--:|--:|--:|"
    if not minutes:
        return
    cpu = lambda minute, *sites: sum((minute["cpu_s_per_gb"] or {}).get(site, 0) for site in sites)  # noqa: E731
    rows = {
        "Mbit/s": (lambda minute: minute["mbit_s"], ".1f"),
        "p50, ms": (lambda minute: minute["latency_ms"]["p50"], ".1f"),
        "p99, ms": (lambda minute: minute["latency_ms"]["p99"], ".1f"),
        "longest, ms": (lambda minute: minute["latency_ms"]["max"], ".1f"),
        "hub, CPU-s/GB": (lambda minute: cpu(minute, "hub"), ".2f"),
        "edge, CPU-s/GB": (lambda minute: cpu(minute, "edge"), ".2f"),
        "both, CPU-s/GB": (lambda minute: cpu(minute, *SITES), ".2f"),
        "load average": (lambda minute: minute["load"], ".1f"),
        "others' share of the cores": (lambda minute: minute["others_share"] + minute["stolen_share"], ".1%"),
    }
    for name, (of, form) in rows.items():
        values = [of(minute) for minute in minutes]
        yield f"| {name} | " + " | ".join(f"{one(values):{form}}" for one in (statistics.median, min, max)) + " |"


def told_change(memory):
    return f"{memory.first:.2f} MiB at first, {memory.last:.2f} at last"
