#!/usr/bin/env python3
"""The bridge side by side with other tunnels, in one run on one machine.

    run.py check                 starts each tunnel once and sends a byte through it
    run.py run                   every trial of every tunnel, interleaved: each tunnel once before any of them again
    run.py report                the table of what was measured

Refuses a machine that others use (--noisy goes on nevertheless and says so), repeats what was disturbed, and hides
nothing: what failed stands in the results as failed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

import machine  # noqa: E402
import table  # noqa: E402
from trials import ONCE, TRIALS, ping  # noqa: E402
from tunnels import HOME, TUNNELS  # noqa: E402

BINARY = HERE.parent.parent / "target/release/bridge"
# What is compared, and by what: another part brings its own runners and trials, and its table in table.py.
PARTS = {"forwards": (TUNNELS, TRIALS)}
# How often a disturbed or failed trial is tried again.
AGAIN_MAX = 2


def main():
    arguments = parse()
    for runner in arguments.runners:
        runner.bridge = arguments.bridge.resolve()
    (HOME / "run").mkdir(parents=True, exist_ok=True)
    # sshd wants it.
    os.makedirs("/run/sshd", exist_ok=True)
    return {"check": check, "run": run, "report": report}[arguments.what](arguments)


def check(arguments):
    broken = 0
    for tunnel in present(arguments.runners):
        try:
            figures = ping(tunnel, 1)
            print(f"{tunnel.name}: carries; {figures['p50_us']:.0f} µs there and back")
        except Exception as error:
            broken += 1
            print(f"{tunnel.name}: {error}")
    return 1 if broken else 0


def run(arguments):
    share, load = machine.disturbance()
    print(f"others take {share:.1%} of {machine.CORES} cores, load average {load:.2f}", flush=True)
    if share > machine.QUIET_SHARE and not arguments.noisy:
        sys.exit(f"not a quiet machine: above {machine.QUIET_SHARE:.0%} the figures are of no use (--noisy: go on)")
    runners = present(arguments.runners)
    results = {
        "machine": machine.description(),
        "bridge": version(arguments.bridge),
        "began": time.strftime("%F %T"),
        "seconds": arguments.seconds,
        "repetitions": arguments.repetitions,
        "others_at_start": round(share, 4),
        "load_at_start": round(load, 2),
        "runs": [],
    }
    for repetition in range(arguments.repetitions):
        for trial in arguments.trials:
            for runner in runners:
                if trial not in ONCE or repetition == 0:
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


def attempt(arguments, results, runner, trial, repetition):
    _, trials = PARTS[arguments.part]
    try:
        figures = trials[trial](runner, arguments.seconds)
    except Exception as error:
        figures = {"error": f"{type(error).__name__}: {error}"[:400]}
    one = {"part": arguments.part, "tunnel": runner.name, "trial": trial, "repetition": repetition} | figures
    results["runs"].append(one)
    save(arguments, results)
    shown = {name: one[name] for name in table.SHOWN if name in one}
    print(f"{time.strftime('%H:%M:%S')} {repetition} {trial:15} {runner.name:15} {shown}", flush=True)
    return one


def is_spoilt(one):
    return "error" in one or one.get("others", 0) + one.get("stolen", 0) > machine.DISTURBED_SHARE


def report(arguments):
    results = json.loads(arguments.out.read_text())
    text = table.markdown(results, PARTS)
    print(text)
    arguments.out.with_suffix(".md").write_text(text)
    return 1 if any("error" in one and not one.get("replaced") for one in results["runs"]) else 0


def save(arguments, results):
    part = arguments.out.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(arguments.out)


def present(runners):
    found = []
    for runner in runners:
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
    parser.add_argument("--tunnels", help="which, with commas between; else all that are here")
    parser.add_argument("--trials", help="which, with commas between; else all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each trial in bulk")
    parser.add_argument("--out", type=pathlib.Path, default=HOME / "results.json", help="the table lies beside it")
    parser.add_argument("--bridge", type=pathlib.Path, default=BINARY)
    parser.add_argument("--noisy", action="store_true", help="also on a machine that others use")
    arguments = parser.parse_args()
    runners, trials = PARTS[arguments.part]
    arguments.runners = chosen(parser, arguments.tunnels, {runner.name: runner for runner in runners})
    arguments.trials = chosen(parser, arguments.trials, {name: name for name in trials})
    return arguments


def chosen(parser, names, known):
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            parser.error(f"no {name}: {', '.join(known)}")
    return [known[name] for name in wanted]


if __name__ == "__main__":
    sys.exit(main())
