"""What is asked of each relay, one trial at a time: a backlog from the first message that arrives to the last, of whole
batches or unbatched requests, and how late a message is at a tenth of the load. Every message is judged by the
official client. Compares nothing.
"""

import contextlib
import json
import subprocess
import time
from dataclasses import dataclass

from machine import Meter, resident_mib
from organisations import TESTBED, program
from trials import Broken
from tunnels import end

SUITE, HERE = TESTBED / "suite", TESTBED.parent / "benches/compare"
FIRST_SECONDS, ALL_SECONDS, PROGRAM_SECONDS = 60, 300, 300
# The share of the messages that comes after the first look.
SEEN_MIN = 0.5
# After a loop has ended.
LAST_SECONDS = 5
RESIDENT_EVERY_SECONDS = 0.25
SIZE, BATCH, REQUEST_SIZE = 1024, 100, 200
FEW = 50_000
# A relay around which messages go costs less.
TUNNEL_CPU_S_PER_GB_MIN = 0.3


@dataclass(frozen=True)
class Load:
    """Messages that are written before anybody relays them; `batch` 0: unbatched, like requests."""

    size: int
    batch: int

    def write(self, job):
        said = finished(
            program(
                job.source, SUITE / "produce.py", "--url", job.source.service_url, "--topic", job.topic,
                "--producer", "load", "--count", job.messages, "--size", self.size, "--batch", self.batch,
                *["--text"] * (self.batch == 0),
            )
        )  # fmt: skip
        return {"load": said["count"]}


@dataclass(frozen=True)
class Pace:
    """Messages that are written while they are relayed."""

    size: int
    rate: int
    burst: int


WHOLE, REQUESTS = Load(SIZE, BATCH), Load(REQUEST_SIZE, 0)
# A tenth of what the fastest relay carries from cluster to cluster; and requests, one by one.
TENTH, ONE_BY_ONE = Pace(SIZE, 15_000, BATCH), Pace(REQUEST_SIZE, 1_000, 1)
WARM_SECONDS = 2


class Watch:
    """Looked at while a relay works: it must live, get on, and be looked at for its memory now and then."""

    def __init__(self, relay, roots, seconds):
        self.relay, self.roots, self.deadline = relay, roots, time.monotonic() + seconds
        self.peak, self.looked = 0.0, 0.0

    def tick(self, so_far="nothing arrived"):
        now = time.monotonic()
        if not self.relay.is_working():
            self.deadline = min(self.deadline, now + LAST_SECONDS)
        if now > self.deadline:
            raise Broken(f"{so_far} in time: {self.relay.last_words()}")
        if now > self.looked + RESIDENT_EVERY_SECONDS:
            self.looked, self.peak = now, max(self.peak, resident_mib(self.roots)[0])


def drain(relay, how, load, count, batching=None, cold=False):
    """A backlog."""
    stage = how.stage
    with stage.job() as job:
        job.messages, job.batching = count, batching
        written = load.write(job)
        if cold:
            job.source.forget_cached()
        figures = drained(relay, stage, job, load, cold)
        verify(job, written)
    return figures


def drained(relay, stage, job, load, cold):
    on_disk = job.source.read_from_disk() if cold else 0
    with stage.clock(job) as clock, relay.relaying(job) as roots:
        watch = Watch(relay, roots, FIRST_SECONDS)
        clock.wait_first(watch.tick)
        watch.deadline += ALL_SECONDS
        on_link = stage.link_bytes()
        with Meter(roots, stage.broker_pids()) as meter:
            clock.begin()
            count, seconds = clock.wait_all(watch.tick)
        on_link = stage.link_bytes() - on_link if on_link is not None else None
        on_disk = job.source.read_from_disk() - on_disk if cold else 0
    if count < job.messages * SEEN_MIN:
        raise Broken(f"the first look came after {job.messages - count} of {job.messages} messages")
    gigabytes = count * load.size / 1e9
    figures = {
        "messages": count,
        "mbit_s": round(gigabytes * 8e3 / seconds, 1),
        "msg_s": round(count / seconds),
        "peak_mib": watch.peak,
        "cpu_s_per_gb": round(meter.cpu / gigabytes, 4),
        "brokers_cpu_s_per_gb": round(meter.brokers_cpu / gigabytes, 4),
        "all_cpu_s_per_gb": round((meter.cpu + meter.brokers_cpu) / gigabytes, 4),
        "cpu_us_per_message": round(meter.cpu / count * 1e6, 3),
        "brokers_cpu_us_per_message": round(meter.brokers_cpu / count * 1e6, 3),
    }
    if on_link is not None:
        figures["link_bytes_per_message"] = round(on_link / count, 1)
    if cold:
        figures["disk_share"] = round(on_disk / (job.messages * load.size), 3)
    if getattr(relay, "tunnel", None) and figures["cpu_s_per_gb"] < TUNNEL_CPU_S_PER_GB_MIN:
        raise Broken(f"it went around the tunnel, which cost {figures['cpu_s_per_gb']} CPU-s/GB")
    return figures | meter.figures


def verify(job, written):
    """Exactly once, in order, unchanged, or the trial has failed."""
    report = finished(
        program(
            job.target, SUITE / "verify.py", "--url", job.target.service_url, "--topic", job.topic, "--linger", 0.5,
            "--idle", 30, *(word for who, count in written.items() for word in ("--expect", f"{who}={count}")),
            # Replication writes it into what it forwards.
            "--ignore-property", "__MSG_PROP_REPL_SOURCE_POSITION",
        ),
        codes=(0, 1),
    )  # fmt: skip
    if not report["clean"]:
        faults = ("lost", "repeated", "disordered", "damaged", "foreign")
        raise Broken(f"{({fault: report[fault] for fault in faults})} of {sum(written.values())}")


def finished(process, codes=(0,)):
    """What a program says in its last line."""
    try:
        out, complaint = process.communicate(timeout=PROGRAM_SECONDS)
    except subprocess.TimeoutExpired:
        raise Broken(f"{process.args[-8:]} does not end") from None
    finally:
        end(process)
    if process.returncode not in codes or not out.strip():
        raise Broken(f"{process.args[4:6]}: {process.returncode}: {complaint.strip()[-300:]}")
    return json.loads(out.strip().splitlines()[-1])


def latency(relay, how, pace):
    """From one client's hands into another's, at a rate; the relay's first seconds do not count."""
    warm = pace.rate * WARM_SECONDS
    with how.stage.job() as job, contextlib.ExitStack() as stack:
        job.messages = count = 1 + warm + pace.rate * how.seconds
        if pace.burst == 1:
            job.batching = {}
        at = relay.read_at(job)
        words = (HERE / "late.py", "receive", at.service_url, job.topic, count, warm, pace.burst)
        receiver = stack.enter_context(running(program(at, *words)))
        told(receiver, "ready")
        words = (HERE / "late.py", "send", job.source.service_url, job.topic, count, pace.size, pace.rate, pace.burst)
        sender = stack.enter_context(running(program(job.source, *words, stdin=subprocess.PIPE)))
        roots = stack.enter_context(relay.relaying(job))
        told(receiver, "first")
        with Meter(roots, how.stage.broker_pids()) as meter:
            sender.stdin.write("go\n")
            sender.stdin.flush()
            time.sleep(WARM_SECONDS + how.seconds / 2)
            peak = resident_mib(roots)[0]
            figures = finished(receiver)
            sent = finished(sender)
    if sent["seconds"] > (count / pace.rate) * 1.1:
        raise Broken(f"the load came too slowly: {sent}")
    share = {"cpu_share": round(meter.cpu / meter.seconds, 4), "peak_mib": peak}
    return figures | {"messages": count} | share | meter.figures


@contextlib.contextmanager
def running(process):
    try:
        yield process
    finally:
        end(process)


def told(process, word):
    """Waits for a line."""
    line = process.stdout.readline().strip()
    if line != word:
        raise Broken(f"{process.args[4:6]} says {line!r} instead of {word!r}: {process.stderr.read()[-300:]}")


def carries(relay, how):
    """A few messages, as a check."""
    if "cached" not in relay.trials:
        return "has nothing to carry"
    figures = drain(relay, how, WHOLE, FEW)
    return f"carries; {figures['mbit_s']:.0f} Mbit/s of {figures['messages']} messages"


def scaled(count, how):
    return max(1_000, int(count * how.scale))


# By name, what is called with a relay and how it is asked.
TRIALS = {
    "cached": lambda relay, how: drain(relay, how, WHOLE, scaled(how.stage.backlog, how)),
    "disk": lambda relay, how: drain(relay, how, WHOLE, scaled(how.stage.backlog, how), cold=True),
    "requests": lambda relay, how: drain(relay, how, REQUESTS, scaled(how.stage.requests, how), {}),
    "requests-zstd": lambda relay, how: drain(
        relay, how, REQUESTS, scaled(how.stage.requests, how), {"compression": "zstd"}
    ),
    "latency": lambda relay, how: latency(relay, how, TENTH),
    "latency-requests": lambda relay, how: latency(relay, how, ONE_BY_ONE),
}  # fmt: skip
IN_MEMORY_TRIALS = {name: trial for name, trial in TRIALS.items() if name != "disk"}
