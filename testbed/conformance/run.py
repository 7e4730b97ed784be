#!/usr/bin/env python3
"""One suite on two brokers: the one in memory (`bridge perf broker`) and a real one of the testbed, tried by the
official Python and Java clients, and with the frames in golden.json that the Java client once wrote.

Prints a table, case by broker, ends with `N passed, N failed`, and with exit code 1 when anything failed.
"""

import argparse
import contextlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent)]

import brokers  # noqa: E402
import rest  # noqa: E402
from brokers import Broker  # noqa: E402
from hold import hold  # noqa: E402
from places import PLACES, TestbedError  # noqa: E402

REAL = PLACES["riskfuel"]
PARTITIONED = ("parts-python", "parts-java")
PARTITIONS = 3
DEADLINE_SECONDS = 180
UNRETAINED = "unretained"
# They read what is acknowledged, or what was sent before anybody subscribed.
NEED_RETENTION = ("seek_by_id", "seek_by_time", "reader_earliest", "reader_seek_by_time")


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("conformance: told to stop"))
    try:
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-conformance-")))
            sides = []
            if "embedded" not in arguments.without:
                sides.append(stack.enter_context(embedded(arguments.bridge)))
                sides.append(stack.enter_context(embedded(arguments.bridge, retain=False)))
            java = compiled(folder)
            if "real" not in arguments.without:
                stack.enter_context(hold("conformance", arguments.wait))
                sides.append(stack.enter_context(real()))
            return judge(sides, java, arguments.case)
    except TestbedError as error:
        print(f"conformance: {error}", file=sys.stderr)
        print("0 passed, 1 failed")
        return 1


@contextlib.contextmanager
def embedded(bridge, retain=True):
    """The broker in memory, as (its name, URL, namespace, what its clients are started with). A real one keeps
    nothing that is acknowledged either, but not so soon that a case could see it."""
    namespace = "public/conformance"
    topics = [f"--partitions=persistent://{namespace}/{topic}={PARTITIONS}" for topic in PARTITIONED]
    process = subprocess.Popen(
        [str(bridge.resolve()), "perf", "broker", "--listen", "127.0.0.1:0", *["--retain"] * retain, *topics],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise TestbedError(f"{bridge} perf broker did not start")
        yield "embedded" if retain else UNRETAINED, url, namespace, []
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def real():
    """A namespace of its own on a real broker."""
    done = subprocess.run([str(HERE.parent / "clusters"), "up"], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"the clusters did not come up: {done.stderr.strip()}")
    admin = Broker(REAL).admin
    namespace = f"public/conformance-{random.SystemRandom().randrange(16**6):06x}"
    admin.put(f"/admin/v2/namespaces/{namespace}", {"replication_clusters": [REAL.name]})
    try:
        for topic in PARTITIONED:
            admin.put(f"{rest.topic_path(f'persistent://{namespace}/{topic}')}/partitions", PARTITIONS)
        yield f"Pulsar {brokers.PULSAR_VERSION}", REAL.service_url, namespace, ["ip", "netns", "exec", REAL.namespace]
    finally:
        with contextlib.suppress(rest.Refused, OSError):
            admin.delete(f"/admin/v2/namespaces/{namespace}?force=true")


def compiled(folder):
    """The Java cases, as a command."""
    libraries = f"{brokers.distribution()}/lib/*"
    source = str(HERE / "Conformance.java")
    if not shutil.which("javac"):
        raise TestbedError("`javac` is missing: run testbed/setup")
    done = subprocess.run(["javac", "-cp", libraries, "-d", str(folder), source], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"Conformance.java: {done.stderr.strip()}")
    # What it logs is not read: the exceptions say what happened.
    options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dlog4j.configurationFile=log4j2.yaml"]
    return ["java", *options, "-cp", f"{folder}:{libraries}", "Conformance"]


def judge(sides, java, cases):
    """Runs every client against every broker at once: they mostly wait."""
    python = str(brokers.home() / "venv/bin/python")
    started = time.monotonic()
    running = {}
    for side, url, namespace, prefix in sides:
        clients = {
            "python": [python, "-B", str(HERE / "cases.py"), "--url", url, "--namespace", namespace, *cases],
            "java": [*java, url, namespace, *cases],
            "golden": [python, "-B", str(HERE / "golden.py"), "replay", "--url", url, "--namespace", namespace],
        }
        if side == UNRETAINED:
            clients["python"] += ["--without", *NEED_RETENTION]
            del clients["java"]
        for client, command in clients.items():
            running[client, side] = subprocess.Popen(
                [*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    try:
        verdicts = {key: collect(process) for key, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    return show(verdicts, [side for side, *_ in sides], time.monotonic() - started)


def collect(process):
    """{case: None when it passed, else why not}."""
    try:
        out, complaint = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, complaint = process.communicate()
        out += f"FAILED (all): not done after {DEADLINE_SECONDS} s\n"
    found = {}
    for line in out.splitlines():
        kind, _, rest_of_line = line.partition(" ")
        name, _, reason = rest_of_line.partition(": ")
        if kind in ("ok", "FAILED"):
            found[name] = reason if kind == "FAILED" else None
    if process.returncode != 0 or not found:
        found["(all)"] = f"exit {process.returncode}: {complaint.strip()[-500:]}"
    return found


def show(verdicts, sides, seconds):
    passed, failed = 0, []
    width = max(len(side) for side in sides)
    for client in ("python", "java", "golden"):
        names = dict.fromkeys(name for side in sides for name in verdicts.get((client, side), {}))
        for name in names:
            cells = []
            for side in sides:
                if (client, side) not in verdicts or side == UNRETAINED and name in NEED_RETENTION:
                    cells.append("-")
                    continue
                reason = verdicts[client, side].get(name, "not tried")
                cells.append("ok" if reason is None else "FAILED")
                passed += reason is None
                if reason is not None:
                    failed.append(f"{client} {name} on {side}: {reason}")
            print(f"{client:8}{name:24}" + "  ".join(f"{cell:{width}}" for cell in cells).rstrip())
        print()
    print("client  case".ljust(32) + "  ".join(f"{side:{width}}" for side in sides))
    for line in failed:
        print(f"FAILED {line}")
    print(f"{seconds:.0f} s")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bridge", type=pathlib.Path, default=HERE.parent.parent / "target/release/bridge")
    parser.add_argument("--wait", type=float, default=1800, help="seconds to wait for another user of the testbed")
    parser.add_argument("--without", action="append", default=[], choices=["embedded", "real"])
    parser.add_argument("case", nargs="*", help="only these")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
