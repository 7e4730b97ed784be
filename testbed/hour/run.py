#!/usr/bin/env python3
"""One long run from a clone of a commit, as `testbed/long/hour` starts it in the background: builds, runs hub, edge,
brokers and load, writes a line of JSON for each minute into FOLDER/lines.jsonl, and at the end what they come to
(report.md, verdict.json, plots). Ends with 1 unless it held.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

import ends  # noqa: E402
import judge  # noqa: E402
from ends import BATCH, INTERVAL_SECONDS, SILENCE_SECONDS, SIZE, Ended, NotReady  # noqa: E402
from machine import Meter, description  # noqa: E402
from tunnels import end  # noqa: E402

ROOT = HERE.parents[1]
SAMPLE_SECONDS = 5
# Below that the run ends while there is still room to say so.
DISK_FREE_MIN = 256 << 20


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: stop())
    try:
        binary = build(arguments)
    except (Ended, OSError) as error:
        print(f"hour: cannot build: {error}", flush=True)
        return 1
    lines = Lines(arguments.folder / "lines.jsonl")
    seed = random.SystemRandom().randrange(2**32)
    lines.add(
        "begin", commit=arguments.commit, tag=arguments.tag, seed=seed, minutes=arguments.minutes,
        mbit_s=arguments.rate, size=SIZE, batch=BATCH, at=time.strftime("%Y-%m-%d %H:%M:%S"), machine=description(),
    )  # fmt: skip
    result, complaint = {}, ""
    try:
        result = measure(arguments, binary, seed, lines)
    except (Ended, NotReady) as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"cannot go on: {error}"
    lines.add("end", complaint=complaint, **result)
    return conclude(lines, binary, arguments.folder)


def stop():
    raise Ended("told to stop")


def build(arguments):
    """The commit's own binary, kept with the results: others may build in the same place."""
    target = arguments.target
    command = ["cargo", "build", "--locked", "--release", "--bin", "bridge", "--target-dir", str(target)]
    cargo = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = cargo.wait()
    finally:
        # With the compilers that it started.
        end(cargo)
    if code != 0:
        raise Ended(f"cargo ended with {code}")
    return pathlib.Path(shutil.copy2(target / "release/bridge", arguments.folder / "bridge"))


def measure(arguments, binary, seed, lines):
    """What the load found at the end."""
    with ends.running(binary, arguments.folder, arguments.rate, arguments.minutes, seed) as (stage, load):
        print(f"hour: seed {seed}, {', '.join(f'{name} {one.pid}' for name, one in stage.agents.items())}", flush=True)
        for minute in range(1, arguments.minutes + 1):
            line = watched(stage, load, arguments.folder)
            lines.add("minute", minute=minute, **line)
        return load.result()


def watched(stage, load, folder):
    """One minute: what the load says at its end, and what the processes took meanwhile."""
    agents = [process.pid for process in stage.agents.values()]
    brokers = [process.pid for name, process in stage.others.items() if name != "load"]
    samples, said = [], None
    silent_at = time.monotonic() + INTERVAL_SECONDS + SILENCE_SECONDS
    next_at = time.monotonic() + SAMPLE_SECONDS
    with Meter(agents, brokers) as meter:
        while said is None:
            said = load.line(next_at - time.monotonic())
            if said and "lost" in said:
                complaint = load.complaints.read_text(errors="replace")[-300:]
                raise Ended(f"the load ended before its time, with {said}: {complaint}")
            if said is None or len(samples) < INTERVAL_SECONDS // SAMPLE_SECONDS:
                samples.append(sampled(stage))
            next_at += SAMPLE_SECONDS
            stage.look()
            if shutil.disk_usage(folder).free < DISK_FREE_MIN:
                raise Ended(f"the disk is full: less than {DISK_FREE_MIN >> 20} MiB are free at {folder}")
            if time.monotonic() > silent_at:
                raise Ended(f"the load has said nothing for {INTERVAL_SECONDS + SILENCE_SECONDS} s")
    return said | figures(stage, meter.figures, samples, said["messages"] * SIZE / 1e9)


def figures(stage, spent, samples, gigabytes):
    each = dict(zip(stage.agents, spent["each_cpu_s"], strict=True))
    of = lambda names, nth: {name: [sample[name][nth] for sample in samples] for name in names}  # noqa: E731
    return {
        "rss_mib": of(stage.agents, 0),
        "anon_mib": of(stage.agents, 1),
        "others_rss_mib": {name: values[-1] for name, values in of(stage.others, 0).items()},
        "cpu_s": each,
        # Of a minute in which nothing came it says nothing.
        "cpu_s_per_gb": {name: round(cpu / gigabytes, 3) for name, cpu in each.items()} if gigabytes else None,
        "load": round(os.getloadavg()[0], 2),
        "others_share": spent["others"],
        "stolen_share": spent["stolen"],
        "at": time.strftime("%H:%M:%S"),
    }


def sampled(stage):
    """Resident and anonymous MiB of every process."""
    return {name: resident(name, process.pid) for name, process in (stage.agents | stage.others).items()}


def resident(name, pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        return [round(int(found[field].split()[0]) / 1024, 2) for field in ("VmRSS", "RssAnon")]
    except (OSError, KeyError):
        raise Ended(f"the {name} ended by itself") from None


class Lines:
    """The file, a line at a time; what is in it stays there."""

    def __init__(self, path):
        self.path, self.all = path, []

    def add(self, kind, **more):
        self.all.append({"kind": kind} | more)
        with open(self.path, "a") as file:
            file.write(json.dumps(self.all[-1]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"hour: {judge.told(self.all[-1])}", flush=True)


def conclude(lines, binary, folder):
    verdict = judge.judge(lines.all)
    (folder / "report.md").write_text(judge.report(lines.all, verdict))
    if any(line["kind"] == "minute" for line in lines.all):
        subprocess.run([str(binary), "perf", "report", str(lines.path), "--out", str(folder)], check=False)
    # Last: who finds it finds everything.
    part = folder / "verdict.part"
    part.write_text(json.dumps({"held": verdict.held(), "complaints": verdict.complaints}))
    part.rename(folder / "verdict.json")
    return 0 if verdict.held() else 1


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where everything goes")
    parser.add_argument("--target", type=pathlib.Path, required=True, help="cargo's target directory")
    parser.add_argument("--commit", required=True, help="that this is a clone of")
    parser.add_argument("--tag", default="", help="its name")
    parser.add_argument("--minutes", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="Mbit/s")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
