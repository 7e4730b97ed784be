#!/usr/bin/env python3
"""The fault bench: a relay between a standalone and a cluster of two brokers, under load both ways, through the faulty
link, while one thing after the other is killed, stopped, moved, cut, throttled or filled; and the proof that nothing
was lost, repeated or disordered.

    testbed/faults/run.py --brief                          every kind once: what CI runs
    testbed/faults/run.py --faults 300 --minutes 60        the long form; goes on until both are reached
    testbed/faults/run.py --only cut,seek --faults 20      some kinds
    testbed/faults/run.py --no-dedup --faults 20           destinations that do not deduplicate: repeats are counted
    testbed/faults/run.py --resume                         goes on after the last leg that was judged

A run consists of legs of --leg minutes, each with topics, agents and load of its own and judged for itself; what was
found so far is kept in --state. A fault that did not bite (no connection lost, no session ended, no confirmation
2 s late) is told and not counted. Ends with one line, and exit code 1 unless nothing was lost, repeated or disordered.
"""

import argparse
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "link"), str(HERE.parent / "suite"), str(HERE.parent)]

import brokers  # noqa: E402
import rest  # noqa: E402
from brokers import Broker  # noqa: E402
from hold import run_holding  # noqa: E402
from kinds import KINDS  # noqa: E402
from leg import Leg  # noqa: E402
from places import PLACES, TestbedError  # noqa: E402
from record import Record  # noqa: E402
from stage import Failed  # noqa: E402
from twin import Twin  # noqa: E402


def main():
    arguments = parse()
    return run_holding("faults", "faults", arguments.wait, lambda: run(arguments))


def run(arguments):
    if not arguments.bridge.is_file():
        raise TestbedError(f"there is no {arguments.bridge}: cargo build --release, or name another with --bridge")
    record = resumed(arguments)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bridge-faults-"))
    print(f"faults: seed {record.seed}, agents' files in {folder}, state in {arguments.state}", flush=True)
    complaint = ""
    while not complaint and not done(arguments, record):
        complaint = play(arguments, record, folder / f"leg-{record.legs}")
        if complaint:
            record.complaints.append(complaint)
            print(f"FAILED: {complaint}\n{last_words()}", flush=True)
        record.save(arguments.state)
    clean = record.is_clean(may_repeat=arguments.no_dedup)
    if clean:
        shutil.rmtree(folder)
    print(record.line(), flush=True)
    return 0 if clean else 1


def last_words():
    """Of every broker: the cause may be theirs, and their logs go with the testbed."""
    parts = (Broker(PLACES["riskfuel"]), *Twin().parts)
    return "\n".join(f"--- {part.name}\n{part.last_words()}" for part in parts)


def resumed(arguments):
    """What earlier legs found, or nothing yet."""
    if not arguments.resume:
        return Record(arguments.seed)
    if not arguments.state.exists():
        raise TestbedError(f"there is nothing to resume: no {arguments.state}")
    record = Record.load(arguments.state)
    arguments.seed = record.seed
    return record


def done(arguments, record):
    return (
        record.faults() >= arguments.faults
        and record.seconds >= arguments.minutes * 60
        and record.messages >= arguments.messages
    )


def play(arguments, record, folder):
    """One leg; why it failed, or an empty text. What it found is in the record either way."""
    twin = clusters_up()
    leg, complaint = None, ""
    try:
        leg = Leg("faults", arguments, f"{record.seed} {record.legs}", folder, twin)
        leg.begin()
        strike_on(arguments, record, leg)
        leg.judge()
    except (Failed, TestbedError, rest.Refused) as error:
        complaint = str(error)
    except Exception:
        complaint = f"the bench itself failed\n{traceback.format_exc()}"
    finally:
        if leg:
            leg.close(forget=not complaint and leg.record.is_clean(arguments.no_dedup))
    if leg:
        record.add(leg.record)
    return complaint


def strike_on(arguments, record, leg):
    """Every kind once, shuffled, then again, until the leg or the run has what it wants."""
    kinds, bag, order = arguments.only or list(KINDS), [], random.Random(f"{leg.seed} order")
    ends = time.monotonic() + arguments.leg * 60
    while time.monotonic() < ends or bag:
        if not bag and enough(arguments, record, leg):
            break
        if not bag:
            bag = kinds[:]
            order.shuffle(bag)
        leg.strike(bag.pop())


def enough(arguments, record, leg):
    """Whether the run needs nothing more, with what this leg has so far."""
    return (
        record.faults() + leg.record.faults() >= arguments.faults
        and record.seconds + time.monotonic() - leg.started >= arguments.minutes * 60
        and record.messages + leg.received() >= arguments.messages
    )


def clusters_up():
    """Those that serve are left alone."""
    command = [str(HERE.parent / "clusters"), "up", "--two-brokers"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode != 0:
        raise TestbedError(f"the clusters did not come up: {made.stderr.strip()}")
    return Twin()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = HERE.parent.parent
    parser.add_argument("--bridge", type=pathlib.Path, default=root / "target/release/bridge")
    parser.add_argument("--brief", action="store_true", help="every kind once, and short: what CI runs")
    parser.add_argument("--faults", type=int, help="at least so many that bit; as many as there are kinds without")
    parser.add_argument("--minutes", type=float, default=0, help="and at least so long")
    parser.add_argument("--messages", type=int, default=0, help="and at least so many messages")
    parser.add_argument("--leg", type=float, default=15, help="minutes until a leg is judged")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--rate", type=float, help="messages per second in all; 4000, or 2000 where it is brief")
    parser.add_argument("--no-dedup", action="store_true", help="the destinations do not deduplicate")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--state", type=pathlib.Path, default=brokers.home() / "faults.json")
    parser.add_argument("--resume", action="store_true", help="goes on with --state and its seed")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for another holder of the testbed")
    arguments = parser.parse_args()
    for kind in arguments.only or ():
        if kind not in KINDS:
            parser.error(f"no kind {kind}: {', '.join(KINDS)}")
    arguments.rate = arguments.rate or (2000 if arguments.brief else 4000)
    if arguments.faults is None:
        arguments.faults = max(1, len(arguments.only or KINDS) - IDLE_MAX)
    return arguments


# Where nothing is asked for, each kind is done once, and so many of them need not have bitten.
IDLE_MAX = 3


if __name__ == "__main__":
    sys.exit(main())
