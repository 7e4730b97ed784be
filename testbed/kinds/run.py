#!/usr/bin/env python3
"""Every kind of message through the bridge on real clusters: written by the official Java and Python clients at
riskfuel, read by both at both ends, and compared field by field; the stored entries byte by byte.

Prints the table, kind by writer and reader, ends with `N passed, N failed`, and with exit code 1 when anything failed.
--docs writes docs/kinds.md.
"""

import argparse
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "suite"), str(HERE.parent)]

import brokers  # noqa: E402
import programs  # noqa: E402
import shapes  # noqa: E402
import table  # noqa: E402
from hold import run_holding  # noqa: E402
from kinds import BOTH, KINDS  # noqa: E402
from places import TestbedError  # noqa: E402
from stage import Stage  # noqa: E402
from trial import Trial  # noqa: E402

AT_ONCE = 10
FLEETING = "non-persistent topics: refused by name"


def main():
    arguments = parse()
    return run_holding("kinds", "kinds", arguments.wait, lambda: run(arguments))


def run(arguments):
    binary = str(arguments.bridge.resolve())
    if not arguments.bridge.is_file():
        raise TestbedError(f"there is no {binary}: cargo build --release, or name another with --bridge")
    started = time.monotonic()
    clusters_up()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bridge-kinds-"))
    stage = Stage("kinds", binary, 1, 0, folder / "pair")
    try:
        transactions(stage.brokers["riskfuel"])
        verdicts = play(stage, all_trials(stage, arguments.kind))
    finally:
        stage.close()
    print(f"{time.monotonic() - started:.0f} s; agents' and clients' files were in {folder}")
    shown = table.Table(verdicts)
    print(shown.text())
    if arguments.docs:
        said = said_of(binary, "testbed/kinds/run.py --docs")
        table.write_section(ROOT / "docs/kinds.md", "kinds", f"{said}\n\n{shown.markdown()}")
    failures = shown.failures()
    for line in failures:
        print(f"FAILED {line}")
    if not failures:
        shutil.rmtree(folder)
    print(f"{shown.passed()} passed, {len(failures)} failed")
    return 1 if failures else 0


def all_trials(stage, wanted):
    """Those of the kinds, and of the topics' shapes."""
    clients = programs.start(stage)
    trials = [Trial(stage, clients, kind, writer) for kind in KINDS for writer in kind.writers]
    trials += [shape(stage, clients, writer) for shape in shapes.SHAPES for writer in BOTH]
    return [trial for trial in trials if not wanted or any(word in trial.kind.name for word in wanted)]


def play(stage, trials, change=lambda pair: None):
    """{kind: {writer: {what was looked at: why it failed}}}; `change` is made to the agents' configuration."""
    for trial in trials:
        trial.prepare()
    pair = stage.pair([route(stage, trials)])
    change(pair)
    pair.start()
    verdicts = {}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        # What mostly waits goes first.
        order = sorted(trials, key=lambda trial: trial.waits(), reverse=True)
        running = {trial: pool.submit(tried, stage, trial, pair) for trial in order}
        for trial in trials:
            verdicts.setdefault(trial.kind.name, {})[trial.writer] = running[trial].result()
    verdicts[FLEETING] = {"": {"": shapes.refuses_non_persistent(stage, pair)}}
    pair.stop()
    return verdicts


def tried(stage, trial, pair):
    started = time.monotonic()
    verdict = trial.run(pair, BOTH)
    failed = [f"{look}: {reason}" for look, reason in verdict.items() if reason]
    stage.say(f"{trial.kind.name}, {trial.writer}: {'; '.join(failed) or 'ok'} ({time.monotonic() - started:.1f} s)")
    return verdict


def route(stage, trials):
    first, *more = [trial.topic for trial in trials]
    return stage.route("kinds", "riskfuel", "bank", first, start="earliest") | {"topics": [first, *more]}


def said_of(binary, command):
    """What a generated section says of its making."""
    bridge = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    parts = (f"brokers Pulsar {brokers.PULSAR_VERSION}", f"clients Java {brokers.PULSAR_VERSION}")
    return table.made_by(command, bridge, *parts, f"Python {client_version()}")


def client_version():
    command = [str(brokers.home() / "venv/bin/python"), "-c", "import pulsar; print(pulsar.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def clusters_up():
    done = subprocess.run([str(HERE.parent / "clusters"), "up"], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"the clusters did not come up: {done.stderr.strip()}")


def transactions(broker):
    """A broker that was started by an earlier version of the testbed has none: it is started again."""
    settings = broker.admin.get("/admin/v2/brokers/configuration/runtime")
    if settings["transactionCoordinatorEnabled"] != "true":
        broker.stop()
        broker.start()
        broker.wait()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="*", help="only those whose name has one of these words in it")
    parser.add_argument("--bridge", type=pathlib.Path, default=ROOT / "target/release/bridge")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for another user of the testbed")
    parser.add_argument("--docs", action="store_true", help="write docs/kinds.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
