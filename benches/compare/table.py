"""The tables of what was measured, as Markdown: medians, and least and most of all repetitions that count. Leaves
nothing out that failed.
"""

import relay_table
from figures import Figures, proportions, rows
from machine import QUIET_SHARE, spread

# What a line of a run's progress shows of its figures.
SHOWN = (
    "mbit_s", "cpu_s_per_gb", "p50_us", "p99_us", "beside_mbit_s", "per_s", "idle_mib", "held_mib", "in_bulk_mib",
    "readable_packets", "msg_s", "link_bytes_per_message", "all_cpu_s_per_gb", "peak_mib", "disk_share", "others",
    "load_before", "error",
)  # fmt: skip
# The tunnel that the others are compared with.
OURS = "bridge"
BULK = {"bulk-1": "1 stream", "bulk-1-back": "1 back", "bulk-4": "4 streams", "bulk-4-back": "4 back"}


def markdown(results, parts):
    """All parts that were measured."""
    here = results["machine"]
    lines = [
        f"{results['bridge']}; {here['cores']} cores ({here['cpu']}), {here['memory_gib']} GiB, {here['kernel']}; "
        f"{results['began']} to {results.get('ended', 'not yet ended')}. Median (least–most) of "
        f"{results['repetitions']} repetitions, interleaved; {results['seconds']} s each"
        + (f", {results['scale']} of the messages." if results.get("scale", 1) != 1 else "."),
    ]
    for part, runners in parts.items():
        of_part = [one for one in results["runs"] if one["part"] == part]
        if of_part:
            lines += ["", *TABLES[part](of_part, runners)]
    return "\n".join([*lines, "", *disturbances(results), ""])


def forwards(runs, tunnels):
    """Each tunnel in a row."""
    counted = [one for one in runs if "error" not in one and not one.get("replaced")]
    measured = [tunnel for tunnel in tunnels if any(one["tunnel"] == tunnel.name for one in counted)]
    figures = Figures(counted)
    yield from rows(
        "Mbit/s through both ends, client and server on the same cores",
        measured, {title: (trial, "mbit_s", ".0f") for trial, title in BULK.items()}, figures, encryption=True,
    )  # fmt: skip
    yield from rows(
        "CPU-seconds of both ends for a GB (10^9 bytes)",
        measured, {title: (trial, "cpu_s_per_gb", ".2f") for trial, title in BULK.items()}, figures,
    )  # fmt: skip
    yield from rows(
        "Round trips of 64 bytes, µs: alone, beside 1 Gbit/s on another connection, beside one that is never full",
        measured,
        {
            f"{quantile}{title}": (trial, f"{quantile}_us", ".0f")
            for trial, title in (("ping", ""), ("ping-loaded", ", 1 Gbit/s"), ("ping-full", ", full"))
            for quantile in ("p50", "p99")
        }
        | {"Mbit/s beside, full": ("ping-full", "beside_mbit_s", ".0f")},
        figures,
    )
    yield from rows(
        "Connections, each with one round trip; resident memory of both ends, MiB",
        measured,
        {
            "per second, one by one": ("connections-1", "per_s", ".0f"),
            "16 at once": ("connections-16", "per_s", ".0f"),
            "CPU ms each": ("connections-1", "cpu_ms_per_connection", ".2f"),
            "idle": ("memory", "idle_mib", ".0f"),
            "200 open": ("memory", "held_mib", ".0f"),
            "in bulk": ("memory", "in_bulk_mib", ".0f"),
        },
        figures,
    )
    yield from ratios(measured, figures)
    told = [one for one in counted if one["trial"] == "wire" and one["inner_packets"]]
    if told:
        said = (f"{one['tunnel']} {'yes' if one['readable_packets'] else 'no'}" for one in told)
        yield f"What goes through can be read between the ends: {', '.join(said)}."


def ratios(tunnels, figures):
    """Ours in proportion to each other one's, by medians of the same run."""
    ours = next((tunnel for tunnel in tunnels if tunnel.name == OURS), None)
    foreign = [tunnel for tunnel in tunnels if not tunnel.name.startswith(OURS)]
    others = [tunnel for tunnel in foreign if tunnel.encryption not in ("–", "none")]
    if ours is None or not others:
        return
    columns = {f"Mbit/s, {title}": (trial, "mbit_s") for trial, title in BULK.items()}
    columns |= {f"CPU, {title}": (trial, "cpu_s_per_gb") for trial, title in BULK.items()}
    title = f"`{OURS}` in proportion to the encrypted others: rate (more is better), CPU (less is)"
    yield from proportions(title, ours, others, columns, figures)


def disturbances(results):
    runs = results["runs"]
    if results["others_at_start"] > QUIET_SHARE:
        yield f"**Not a quiet machine: others took {results['others_at_start']:.0%} of it at the start.**"
    counted = [one for one in runs if "others" in one and not one.get("replaced")]
    if counted:
        shares, loads = ([one[name] for one in counted] for name in ("others", "load_before"))
        stolen = max(one["stolen"] for one in counted)
        yield (
            f"Others took {spread(shares)[0]:.1%} of the cores in the median run and {max(shares):.1%} at most, the "
            f"host at most {stolen:.1%}; load average before a run {spread(loads)[0]:.2f}, at most {max(loads):.2f}; "
            f"{sum(bool(one.get('replaced')) for one in runs)} of {len(runs)} runs were replaced."
        )  # fmt: skip
    failed = [one for one in runs if "error" in one and not one.get("replaced")]
    for one in failed:
        yield f"Failed: {one['tunnel']}, {one['trial']}, repetition {one['repetition']}: {one['error']}"


TABLES = {"forwards": forwards, "relay": relay_table.relays, "embedded": relay_table.relays}
