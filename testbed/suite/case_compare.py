"""The bridge beside the obvious loop of the pulsar-rs crate, in one run, turn by turn. Not part of the whole suite."""

import pathlib
import subprocess

from case_flow import drain
from places import PLACES, TestbedError
from stage import Load, hold_that, last_line, verdict

TURNS = 5
MESSAGES = 600_000


def against_pulsar_rs(stage):
    """A cached backlog drained by hub, link and edge, and by one pulsar-rs loop without any tunnel; alternating."""
    count = stage.scaled(MESSAGES)
    loads = [Load(f"turn-{turn}", "riskfuel", stage.topic(f"turn-{turn}"), count, batch=60) for turn in range(2 * TURNS)]
    for load in loads[::2]:
        through_bridge(stage, load)
        beside = loads[loads.index(load) + 1]
        through_loop(stage, beside)


def through_bridge(stage, load):
    stage.create_topic("riskfuel", load.topic)
    route = stage.route(load.name, "riskfuel", "bank", load.topic, start="earliest")
    pair = stage.pair([route])
    expected = stage.load(load)
    seconds = drain(stage, pair, route, load.count)
    figures = stage.figures(pair, load.count * load.size)
    pair.stop()
    report = stage.verify("bank", load.topic, expected)
    row(stage, "bridge, TLS between", load, seconds, **figures, **verdict(report))


def through_loop(stage, load):
    stage.create_topic("riskfuel", load.topic)
    stage.create_topic("bank", load.topic)
    stage.load(load)
    # The bank may dial out, so the loop lives there; nothing is encrypted and nothing is between.
    command = [
        "ip", "netns", "exec", PLACES["bank"].namespace, str(example(stage)),
        "--from-url", PLACES["riskfuel"].service_url, "--to-url", PLACES["bank"].service_url,
        "--topic", load.topic, "--messages", str(load.count),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    hold_that(done.returncode == 0, f"pulsar_rs_loop failed: {done.stderr.strip()[-1000:]}")
    said = last_line(done.stdout)
    cpu = said["cpu_seconds"] / (said["payload_bytes"] / 1e9)
    row(stage, "pulsar-rs loop, no tunnel", load, said["seconds"], **{"hub CPU-s/GB": f"{cpu:.2f}"})


def row(stage, name, load, seconds, **figures):
    mbit_s = load.count * load.size * 8 / seconds / 1e6
    stage.say(f"{name}: {mbit_s:.0f} Mbit/s")
    stage.record(
        f"{name}, {load.name}", messages=load.count, seconds=f"{seconds:.2f}",
        **{"msg/s": f"{load.count / seconds:,.0f}", "Mbit/s": f"{mbit_s:.0f}"}, **figures,
    )  # fmt: skip


def example(stage):
    path = pathlib.Path(stage.binary).resolve().parent / "examples/pulsar_rs_loop"
    if not path.is_file():
        raise TestbedError(f"there is no {path}: cargo build --release --example pulsar_rs_loop")
    return path
