"""Two brokers in memory, `bridge perf broker`, new ones for each trial, with the same interface as `organisations.py`:
what remains is what the relay itself can do. The clock is a consumer, `bridge perf consume`, and a part of the load.
"""

import contextlib
import re
import subprocess
import time

import organisations
from machine import PAGE_LEN
from organisations import Job
from tunnels import HOME, NotReady, end, free_port

# The most that a trial leaves, several times.
MEMORY = "4GiB"
TOPIC = "persistent://public/default/messages"
# As much of what arrived is seen as growth.
FIRST_BYTES = 4 << 20
LOOK_SECONDS = 0.005
AGGREGATED = re.compile(r"--- (\d+) records received --- ([0-9.]+) msg/s")


class InMemory:
    """A broker, on this machine's loopback."""

    address, inside = "127.0.0.1", []

    def __init__(self, name, binary, options=("--memory", MEMORY, "--retain"), folder=HOME / "run"):
        command = [binary, "perf", "broker", "--listen", "127.0.0.1:0", *options]
        log = folder / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as said:
            self.process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
                start_new_session=True,
            )  # fmt: skip
        self.service_url = self.process.stdout.readline().strip()
        if not self.service_url:
            raise NotReady(f"bridge perf broker: see {log}")

    def pulsar(self):
        """As a bridge's configuration names it."""
        return {"service_url": self.service_url, "deduplication": "asserted", "replicas": 1}

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_LEN


class Brokers:
    """Starts both for each job."""

    backlog = requests = 1_000_000

    def __init__(self, binary):
        self.binary, self.both = binary, []

    def broker_pids(self):
        return [broker.process.pid for broker in self.both]

    @contextlib.contextmanager
    def job(self):
        try:
            self.both = []
            for name in ("source", "target"):
                self.both.append(InMemory(name, self.binary))
            source, target = self.both
            yield Job(source, target, TOPIC, source, free_port())
        finally:
            for broker in self.both:
                end(broker.process)
            self.both = []

    def link_bytes(self):
        """Nobody knows: all of it is this machine's loopback."""

    @contextlib.contextmanager
    def clock(self, job):
        clock = Clock(job, self.binary)
        try:
            yield clock
        finally:
            end(clock.process)


class Clock:
    """Takes what arrives, and says how many in which time."""

    def __init__(self, job, binary):
        self.job = job
        command = [
            binary, "perf", "consume", job.topic, "-u", job.target.service_url, "-m", job.messages, "-i", 3600,
            "--subscription", "clock", "--subscription-type", "exclusive", "--subscription-position", "earliest",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip

    def wait_first(self, tick):
        before = self.job.target.resident()
        while self.job.target.resident() < before + FIRST_BYTES and self.process.poll() is None:
            tick()
            time.sleep(LOOK_SECONDS)

    def begin(self):
        """The consumer counts from the first message on by itself."""

    def wait_all(self, tick):
        """How many came, and in how many seconds from the first to the last."""
        while self.process.poll() is None:
            tick("the consumer still waits")
            time.sleep(LOOK_SECONDS)
        said = AGGREGATED.search(self.process.stdout.read())
        if not said or int(said[1]) < self.job.messages:
            raise NotReady(f"bridge perf consume: {said[0] if said else 'no figures'}")
        return int(said[1]), int(said[1]) / float(said[2])


@contextlib.contextmanager
def standing(how):
    """Nothing stands between two trials."""
    yield Brokers(how.bridge.resolve())


def missing():
    """What the clients need and is not there."""
    return [] if organisations.python().exists() else [str(organisations.python())]
