"""The tables of relays: medians, and least and most of all repetitions that count."""

from figures import Figures, proportions, rows
from machine import spread

OURS, NO_RELAY = "bridge", "none"
BACKLOGS = {
    "cached": "Cached backlog, 1 KiB messages in batches of 100, from the first message that arrives to the last",
    "disk": "The same from the disk: what the source stored is dropped from the system's cache before",
}
REQUESTS = {
    "requests": "Unbatched requests of 200 bytes, the bridge joins",
    "requests-zstd": "Unbatched requests of 200 bytes, joined and compressed with zstd",
}
LATENCIES = {
    "latency": "From hand to hand at a tenth of the load: 15,000 messages of 1 KiB a second, µs",
    "latency-requests": "From hand to hand: 1,000 requests of 200 bytes a second, one by one, µs",
}
RATIOS = {
    "Mbit/s, cached": ("cached", "mbit_s"),
    "Mbit/s, disk": ("disk", "mbit_s"),
    "requests/s": ("requests", "msg_s"),
    "CPU, cached": ("cached", "cpu_s_per_gb"),
    "CPU with brokers, cached": ("cached", "all_cpu_s_per_gb"),
    "CPU with brokers, disk": ("disk", "all_cpu_s_per_gb"),
}


def relays(runs, runners):
    """Each relay in a row."""
    counted = [one for one in runs if "error" not in one and not one.get("replaced")]
    measured = [runner for runner in runners if any(one["tunnel"] == runner.name for one in counted)]
    figures = Figures(counted)
    for number, (trial, title) in enumerate(BACKLOGS.items()):
        columns = {
            "Mbit/s": (trial, "mbit_s", ".0f"),
            "CPU-s/GB besides brokers": (trial, "cpu_s_per_gb", ".2f"),
            "brokers": (trial, "brokers_cpu_s_per_gb", ".2f"),
            "all": (trial, "all_cpu_s_per_gb", ".2f"),
            "MiB": (trial, "peak_mib", ".0f"),
            "bytes a message on the link": (trial, "link_bytes_per_message", ".0f"),
        }
        disk = {"share read from the disk": (trial, "disk_share", ".2f")} if trial == "disk" else {}
        yield from shown(title, measured, columns | disk, figures, number == 0)
    for trial, title in REQUESTS.items():
        columns = {
            "messages/s": (trial, "msg_s", ".0f"),
            "bytes a message on the link": (trial, "link_bytes_per_message", ".1f"),
            "CPU µs a message besides brokers": (trial, "cpu_us_per_message", ".2f"),
            "brokers": (trial, "brokers_cpu_us_per_message", ".2f"),
            "MiB": (trial, "peak_mib", ".0f"),
        }
        yield from shown(title, measured, columns, figures)
    for trial, title in LATENCIES.items():
        columns = {
            "p50": (trial, "p50_us", ".0f"),
            "p99": (trial, "p99_us", ".0f"),
            "CPU besides brokers, cores": (trial, "cpu_share", ".3f"),
            "MiB": (trial, "peak_mib", ".0f"),
        }
        added = {runner.name: additions(runner, runners, trial, figures) for runner in measured}
        yield from shown(title, measured, columns, figures, more=("p50 added", "p99 added"), cells=added)
    yield from ratios(measured, figures)


def shown(title, runners, columns, figures, encryption=False, more=(), cells=None):
    """A table of those that were asked, and further cells for each."""
    asked = [runner for runner in runners if any(figures.of(runner, *column[:2]) for column in columns.values())]
    known = {name: column for name, column in columns.items() if any(figures.of(one, *column[:2]) for one in asked)}
    if not asked:
        return
    lines = list(rows(title, asked, known, figures, encryption, "relay"))
    head, rest = lines[:4], lines[4:]
    if more:
        head[2] += "".join(f" {name} |" for name in more)
        head[3] += "--:|" * len(more)
        rest = [
            line + "".join(f" {cell} |" for cell in cells[one.name]) for line, one in zip(rest, asked, strict=False)
        ] + [""]
    yield from head + rest


def additions(runner, runners, trial, figures):
    """What relaying adds to the time that one cluster takes, by medians of the same run."""
    none = next((one for one in runners if one.name == NO_RELAY), None)
    for name in ("p50_us", "p99_us"):
        mine, base = figures.of(runner, trial, name), figures.of(none, trial, name) if none else []
        relayed = mine and base and runner is not none
        yield f"{spread(mine)[0] - spread(base)[0]:.0f}" if relayed else "–"


def ratios(runners, figures):
    """Ours in proportion to each other one's, by medians of the same run."""
    ours = next((runner for runner in runners if runner.name == OURS), None)
    others = [runner for runner in runners if runner.name not in (OURS, NO_RELAY)]
    if ours is None or not others:
        return
    title = f"`{OURS}` in proportion to the others: rate (more is better), CPU (less is)"
    yield from proportions(title, ours, others, RATIOS, figures)
