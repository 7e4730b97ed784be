"""What an hour runs on: two brokers in memory, a hub and an edge, as `benches/compare` starts them, and the load, each a
process of its own on 127.0.0.1, with TLS between hub and edge. Measures and judges nothing.
"""

import contextlib
import json
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request

COMPARE = pathlib.Path(__file__).resolve().parents[2] / "benches/compare"
sys.dont_write_bytecode = True
sys.path.append(str(COMPARE))

from in_memory import TOPIC, InMemory  # noqa: E402
from organisations import Job  # noqa: E402
from relays import LINK, Bridge  # noqa: E402
from tunnels import LOOK_AGAIN_SECONDS, NotReady, end, free_port  # noqa: E402

SIZE, BATCH = 1024, 100
INTERVAL_SECONDS = 60
# What is acknowledged goes at once; a relay that stands still for ten seconds finds room for what it has not relayed.
BROKER_OPTIONS = ("--memory", "1GiB")
RUNNING_SECONDS, RESULT_SECONDS, SILENCE_SECONDS = 30, 60, 30
# The load ends by itself if nobody ends it.
LEFT_SECONDS = 300


class Ended(Exception):
    """It is over before its time; says why."""


class Ends(Bridge):
    """The hub beside the source, the edge beside the destination; both tell how they are."""

    def __init__(self, binary, folder):
        super().__init__("hour", LINK)
        self.bridge, self.place = binary, folder / "ends"
        self.ports = {"hub": free_port(), "edge": free_port()}

    @property
    def folder(self):
        return self.place

    def configure(self, job):
        super().configure(job)
        for site, port in self.ports.items():
            file = self.folder / f"link/{site}/{site}.json"
            config = json.loads(file.read_text()) | {"admin": {"listen": f"127.0.0.1:{port}"}}
            file.write_text(json.dumps(config, indent=2))

    def wait_running(self):
        """Until the route runs at both, as what it promises."""
        deadline = time.monotonic() + RUNNING_SECONDS
        while not all(self.is_running(site, end) for site, end in (("hub", "source"), ("edge", "sink"))):
            if not self.is_working() or time.monotonic() > deadline:
                raise NotReady(f"the route does not run: {self.last_words()}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def is_running(self, site, end):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[site]}/api/v1/status", timeout=5) as answer:
                rows = json.load(answer)["routes"]
        except OSError:
            return False
        promised = {"end": end, "state": "running", "promise": "effectively-once"}
        return any(promised.items() <= row.items() for row in rows)


class Load:
    """`bridge perf relay`: writes at a rate, takes what arrives, looks for every message, and says a line each minute."""

    def __init__(self, binary, source, target, rate_mbit_s, minutes, seed, folder):
        self.complaints, self.lines = folder / "load.log", queue.Queue()
        command = [
            binary, "perf", "relay", TOPIC, "--from", source.service_url, "--to", target.service_url,
            "-s", SIZE, "--batch-max-messages", BATCH, "-r", rate_mbit_s * 1e6 / 8 / SIZE, "-i", INTERVAL_SECONDS,
            "--test-duration", minutes * INTERVAL_SECONDS + LEFT_SECONDS, "--output", "json-lines", "--seed", seed,
        ]  # fmt: skip
        with open(self.complaints, "ab") as said:
            self.process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
                start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self, seconds):
        """What it says next, or None when it says nothing for so long."""
        try:
            line = self.lines.get(timeout=max(0, seconds))
        except queue.Empty:
            return None
        if line is None:
            code = self.process.wait()
            raise Ended(f"the load ended by itself with {code}: {self.complaints.read_text(errors='replace')[-300:]}")
        return json.loads(line)

    def result(self):
        """Ends the writing, and gives what it found when all had come or nothing more came."""
        self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + RESULT_SECONDS
        while time.monotonic() < deadline:
            said = self.line(deadline - time.monotonic())
            if said and "lost" in said:
                return said
        raise Ended(f"the load does not end within {RESULT_SECONDS} s of being told to")


class Stage:
    """All processes by name; `agents` are what is measured."""

    def __init__(self, agents, others, ends):
        self.agents, self.others, self.ends = agents, others, ends

    def look(self):
        """All have to live."""
        for name, process in (self.agents | self.others).items():
            # The load's end is told by its last line.
            if name != "load" and process.poll() is not None:
                raise Ended(f"the {name} ended by itself with {process.returncode}: {self.ends.last_words()}")


@contextlib.contextmanager
def running(binary, folder, rate_mbit_s, minutes, seed):
    """Everything, with the load under way; it ends with the block."""
    with contextlib.ExitStack() as stack:
        brokers = []
        for name in ("source", "destination"):
            brokers.append(InMemory(name, binary, BROKER_OPTIONS, folder))
            stack.callback(end, brokers[-1].process)
        source, target = brokers
        # Before the route looks for it. Nobody subscribes: the message is not kept.
        made = [binary, "perf", "produce", TOPIC, "-u", source.service_url, "-m", "1"]
        done = subprocess.run(list(map(str, made)), capture_output=True, text=True)
        if done.returncode != 0:
            raise NotReady(f"bridge perf produce: {done.stderr}")
        ends = Ends(binary, folder)
        stack.enter_context(ends.relaying(Job(source, target, TOPIC, source, free_port())))
        ends.wait_running()
        load = Load(binary, source, target, rate_mbit_s, minutes, seed, folder)
        stack.callback(end, load.process)
        agents = dict(zip(("hub", "edge"), ends.processes, strict=True))
        others = {"source's broker": source.process, "destination's broker": target.process, "load": load.process}
        yield Stage(agents, others, ends), load
