#!/usr/bin/env python3
"""The bridge side by side with others that do the same, in one run on one machine.

    run.py check                 starts each runner once and sends little through it
    run.py run                   every trial of every runner, interleaved: each runner once before any of them again
    run.py report                the table of what was measured

--part says which: `forwards` (tunnels), `relay` (between two real clusters), `embedded` (between brokers in memory).

Refuses a machine that others use (--noisy goes on nevertheless and says so), repeats what was disturbed, and hides
nothing: what failed stands in the results as failed.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

import in_memory  # noqa: E402
import machine  # noqa: E402
import organisations  # noqa: E402
import relay_trials  # noqa: E402
import relays  # noqa: E402
import table  # noqa: E402
import trials  # noqa: E402
from tunnels import HOME, TUNNELS  # noqa: E402

BINARY = HERE.parent.parent / "target/release/bridge"


@dataclass(frozen=True)
class Part:
    """What is compared, and by what. Its table is in table.py."""

    runners: list
    trials: dict
    # What a check does with a runner.
    carries: Callable
    # What stands during the whole run: `how.stage` of its trials.
    standing: Callable = contextlib.nullcontext
    missing: Callable = list
    # The share of the first trial's messages that each runner carries beforehand, which is forgotten.
    warm_up: float = 0


PARTS = {
    "forwards": Part(TUNNELS, trials.TRIALS, trials.carries),
    "relay": Part(
        relays.RELAYS, relay_trials.TRIALS, relay_trials.carries, organisations.standing, organisations.missing, 1
    ),
    "embedded": Part(
        relays.IN_MEMORY, relay_trials.IN_MEMORY_TRIALS, relay_trials.carries, in_memory.standing, in_memory.missing
    ),
}  # fmt: skip
# How often a disturbed or failed trial is tried again.
AGAIN_MAX = 2


def main():
    arguments = parse()
    for runner in arguments.runners:
        runner.bridge = arguments.bridge.resolve()
    (HOME / "run").mkdir(parents=True, exist_ok=True)
    # sshd wants it.
    os.makedirs("/run/sshd", exist_ok=True)
    # Ends like any other way out, so that what it started ends with it.
    signal.signal(signal.SIGTERM, told_to_stop)
    try:
        return {"check": check, "run": run, "report": report}[arguments.what](arguments)
    except organisations.places.TestbedError as error:
        sys.exit(f"run.py: {error}")


def told_to_stop(*_):
    # Once: a second word would end the cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("run.py: told to stop")


def check(arguments):
    part, broken, runners = PARTS[arguments.part], 0, present(arguments)
    with part.standing(arguments) as arguments.stage:
        for runner in runners:
            try:
                print(f"{runner.name}: {part.carries(runner, arguments)}", flush=True)
            except Exception as error:
                broken += 1
                print(f"{runner.name}: {type(error).__name__}: {error}", flush=True)
    return 1 if broken else 0


def run(arguments):
    share, load = machine.disturbance()
    print(f"others take {share:.1%} of {machine.CORES} cores, load average {load:.2f}", flush=True)
    if share > machine.QUIET_SHARE and not arguments.noisy:
        sys.exit(f"not a quiet machine: above {machine.QUIET_SHARE:.0%} the figures are of no use (--noisy: go on)")
    part, runners = PARTS[arguments.part], present(arguments)
    results = {
        "machine": machine.description(),
        "bridge": version(arguments.bridge),
        "began": time.strftime("%F %T"),
        "seconds": arguments.seconds,
        "scale": arguments.scale,
        "repetitions": arguments.repetitions,
        "others_at_start": round(share, 4),
        "load_at_start": round(load, 2),
        "runs": [],
    }
    with part.standing(arguments) as arguments.stage:
        warm_up(arguments, part, runners)
        for repetition in range(arguments.repetitions):
            for trial in arguments.trials:
                for runner in runners:
                    if is_asked(runner, trial) and (trial not in trials.ONCE or repetition == 0):
                        attempt(arguments, results, runner, trial, repetition)
        for _ in range(0 if arguments.noisy else AGAIN_MAX):
            by_name = {runner.name: runner for runner in runners}
            for one in [one for one in results["runs"] if is_spoilt(one) and not one.get("replaced")]:
                again = attempt(arguments, results, by_name[one["tunnel"]], one["trial"], one["repetition"])
                one["replaced"] = not is_spoilt(again)
                again["replaced"] = not one["replaced"]
    results["ended"] = time.strftime("%F %T")
    save(arguments, results)
    return report(arguments)


def is_asked(runner, trial):
    return trial in getattr(runner, "trials", [trial])


def warm_up(arguments, part, runners):
    """Until Java has compiled what is used."""
    trial, asked = arguments.trials[0], argparse.Namespace(**vars(arguments))
    asked.scale *= part.warm_up
    for runner in runners:
        if part.warm_up and is_asked(runner, trial):
            attempt(asked, None, runner, trial, "warm-up")


def attempt(arguments, results, runner, trial, repetition):
    try:
        figures = PARTS[arguments.part].trials[trial](runner, arguments)
    except Exception as error:
        figures = {"error": f"{type(error).__name__}: {error}"[:400]}
    one = {"part": arguments.part, "tunnel": runner.name, "trial": trial, "repetition": repetition} | figures
    if results:
        results["runs"].append(one)
        save(arguments, results)
    shown = {name: one[name] for name in table.SHOWN if name in one}
    print(f"{time.strftime('%H:%M:%S')} {repetition} {trial:15} {runner.name:15} {shown}", flush=True)
    return one


def is_spoilt(one):
    return "error" in one or one.get("others", 0) + one.get("stolen", 0) > machine.DISTURBED_SHARE


def report(arguments):
    results = json.loads(arguments.out.read_text())
    text = table.markdown(results, {name: part.runners for name, part in PARTS.items()})
    print(text)
    arguments.out.with_suffix(".md").write_text(text)
    return 1 if any("error" in one and not one.get("replaced") for one in results["runs"]) else 0


def save(arguments, results):
    part = arguments.out.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(arguments.out)


def present(arguments):
    lacking = PARTS[arguments.part].missing()
    if lacking:
        sys.exit(f"run.py: there is no {', '.join(lacking)}: benches/compare/setup relay")
    found = []
    for runner in arguments.runners:
        missing = runner.missing()
        if missing:
            print(f"{runner.name}: left out, there is no {', '.join(sorted(set(missing)))}", flush=True)
        else:
            found.append(runner)
    return found


def version(binary):
    said = subprocess.run([binary, "--version"], capture_output=True, text=True)
    return said.stdout.strip() or said.stderr.strip()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("check", "run", "report"))
    parser.add_argument("--part", choices=PARTS, default="forwards")
    parser.add_argument("--runners", "--tunnels", help="which, with commas between; else all that are here")
    parser.add_argument("--trials", help="which, with commas between; else all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of a trial that takes as long as it is told")
    parser.add_argument("--scale", type=float, default=1, help="of the messages of a backlog")
    parser.add_argument("--out", type=pathlib.Path, help="else results.json, or PART.json; the table lies beside it")
    parser.add_argument("--bridge", type=pathlib.Path, default=BINARY)
    parser.add_argument("--noisy", action="store_true", help="also on a machine that others use")
    arguments = parser.parse_args()
    part = PARTS[arguments.part]
    file = "results" if arguments.part == "forwards" else arguments.part
    arguments.out = arguments.out or HOME / f"{file}.json"
    arguments.runners = chosen(parser, arguments.runners, {runner.name: runner for runner in part.runners})
    arguments.trials = chosen(parser, arguments.trials, {name: name for name in part.trials})
    return arguments


def chosen(parser, names, known):
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            parser.error(f"no {name}: {', '.join(known)}")
    return [known[name] for name in wanted]


if __name__ == "__main__":
    sys.exit(main())
