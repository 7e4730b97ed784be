"""The two agents under test: made by `bridge init`, run each in its organisation's network, killed and started again.

Figures (CPU time, peak memory) add up over all incarnations. Refuses to signal anything but its own children.
"""

import json
import os
import pathlib
import signal
import subprocess
import time

import places
import rest
from places import PLACES, TestbedError

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
ADMIN_PORT = 9600
REPLICA_ADMIN_PORT = 9602
REPLICA_LINK_PORT = 8002
DRAIN_SECONDS = 40


class Agent:
    """One `bridge run`."""

    def __init__(self, binary, place, config, admin_port=ADMIN_PORT):
        self.binary, self.config, self.admin_port = binary, config, admin_port
        self.log = config.with_suffix(".log")
        # `BRIDGE_LOG`; what it is for the suite itself where a case says nothing.
        self.verbosity = None
        # What else its environment has, from its next start on.
        self.environment = {}
        self.move(place)
        self.process = None
        self.forget_figures()

    def move(self, place):
        """Where it runs from its next start on."""
        self.place, self.http = place, rest.Admin(place, self.admin_port, address="127.0.0.1")

    def start(self):
        if self.is_alive():
            raise TestbedError(f"{self.place.name}'s agent runs already")
        self.reap()
        command = ["ip", "netns", "exec", self.place.namespace, self.binary, "run", "--config", str(self.config)]
        with open(self.log, "ab") as log:
            # In a session of its own: the terminal's Ctrl-C is for us, who then end it in order.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | ({"BRIDGE_LOG": self.verbosity} if self.verbosity else {}) | self.environment,
            )  # fmt: skip

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def reap(self):
        if self.process is not None:
            self.process.wait()
            self.process = None

    def kill(self):
        """SIGKILL; False when it was dead already, which no case expects."""
        if not self.is_alive():
            return False
        self.note_figures()
        self.process.kill()
        self.reap()
        return True

    def stop(self):
        """SIGTERM; the exit code."""
        if not self.is_alive():
            raise TestbedError(f"{self.place.name}'s agent is not running: {self.last_words()}")
        self.note_figures()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise TestbedError(f"{self.place.name}'s agent does not end within {DRAIN_SECONDS} s of SIGTERM") from None
        self.process = None
        return code

    def status(self):
        """The report of /api/v1/status; None while it does not answer."""
        try:
            return self.http.get("/api/v1/status")
        except OSError:
            return None

    def forget_figures(self):
        self._cpu, self._peak_kib = 0.0, 0

    def note_figures(self):
        """Keeps what an incarnation used, before it ends."""
        self._cpu, self._peak_kib = self.cpu_seconds(), self.peak_kib()

    def cpu_seconds(self):
        return self._cpu + (cpu_seconds(self.process.pid) if self.is_alive() else 0.0)

    def peak_kib(self):
        return max(self._peak_kib, resident_kib(self.process.pid, "VmHWM") if self.is_alive() else 0)

    def resident_kib(self):
        return resident_kib(self.process.pid, "VmRSS")

    def log_lines(self):
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def last_words(self):
        return "\n".join(self.log_lines()[-15:]) + f"\n(whole log: {self.log})"


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_kib(pid, key):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise TestbedError(f"/proc/{pid}/status has no {key}")


class Pair:
    """Hub at riskfuel, edge at the bank, with the routes and policies of a case; or two of each."""

    def __init__(self, binary, folder, routes):
        self.folder, self.routes = folder, routes
        # `pulsar` of both configurations; a change counts from the next `configure` and start on.
        self.pulsar = {name: pulsar_of(PLACES[name]) for name in ("riskfuel", "bank")}
        # What the edge dials; None: what `init` wrote, the hub itself. Likewise.
        self.connect = None
        initialise(binary, folder)
        self.configure()
        self.hub = Agent(binary, PLACES["riskfuel"], folder / "hub/hub.json")
        self.edge = Agent(binary, PLACES["bank"], folder / "bank/edge.json")
        self.both = (self.hub, self.edge)

    def replicate(self, machines=None):
        """A second process of each site, by the keys of the first; all four on `machines` of their own where given (the
        hubs', the edges'). Each edge dials another hub first."""
        hubs, edges = machines or ([PLACES["riskfuel"]] * 2, [PLACES["bank"]] * 2)
        ports = (places.LINK_PORT, REPLICA_LINK_PORT)
        listens = [f"{place.address}:{port}" for place, port in zip(hubs, ports, strict=True)]
        urls = [f"tls://{listen}" for listen in listens]
        hub, edge = read_json(self.hub.config), read_json(self.edge.config)
        hub["tunnel"]["listen"], edge["tunnel"]["connect"] = listens[0], urls
        for first, config, place in ((self.hub, hub, hubs[0]), (self.edge, edge, edges[0])):
            write_json(first.config, config)
            first.move(place)
        hub["tunnel"]["listen"], edge["tunnel"]["connect"] = listens[1], urls[::-1]
        for first, config, place in ((self.hub, hub, hubs[1]), (self.edge, edge, edges[1])):
            config["admin"]["listen"] = f"127.0.0.1:{REPLICA_ADMIN_PORT}"
            path = first.config.with_stem(first.config.stem + "-2")
            write_json(path, config)
            self.both += (Agent(first.binary, place, path, REPLICA_ADMIN_PORT),)

    def configure(self):
        """Writes routes and policies into what `init` made; keys and tokens stay as they are."""
        to_bank, to_riskfuel = (
            [topic for route in self.routes if route["to"] == site for topic in written_by(route)]
            for site in ("bank", "riskfuel")
        )
        hub = read_json(self.folder / "hub/hub.json")
        hub["pulsar"] = self.pulsar["riskfuel"]
        hub["tunnel"]["listen"] = f"{PLACES['riskfuel'].address}:{places.LINK_PORT}"
        hub["tunnel"]["edges"][0]["policy"] = {"receive": to_riskfuel, "send": to_bank}
        hub["routes"] = self.routes
        edge = read_json(self.folder / "bank/edge.json")
        edge["pulsar"] = self.pulsar["bank"]
        edge["tunnel"]["connect"] = self.connect or edge["tunnel"]["connect"]
        edge["policy"] = {"receive": to_bank, "send": to_riskfuel}
        for config, path in ((hub, "hub/hub.json"), (edge, "bank/edge.json")):
            config["admin"] = {"listen": f"127.0.0.1:{ADMIN_PORT}"}
            write_json(self.folder / path, config)

    def start(self):
        for agent in self.both:
            agent.start()

    def stop(self):
        """Drains both; exit codes other than 0 are a fault."""
        for agent in self.both:
            code = agent.stop()
            if code != 0:
                raise TestbedError(f"{agent.place.name}'s agent ended with {code}: {agent.last_words()}")

    def kill(self):
        for agent in self.both:
            agent.kill()

    def rows(self):
        """All status rows of both agents."""
        reports = [agent.status() for agent in self.both]
        return [row for report in reports if report for row in report["routes"]]

    def check_alive(self):
        for agent in self.both:
            if not agent.is_alive():
                code = agent.process.returncode if agent.process else "?"
                raise TestbedError(f"{agent.place.name}'s agent ended by itself with {code}:\n{agent.last_words()}")

    def wait(self, patience, what, until):
        """Looks until `until(rows)` gives something true, which is returned; the last rows are in the complaint."""
        deadline = time.monotonic() + patience
        while True:
            self.check_alive()
            rows = self.rows()
            found = until(rows)
            if found:
                return found
            if time.monotonic() > deadline:
                raise TestbedError(f"not after {patience:.0f} s: {what}\n{self.describe(rows)}")
            time.sleep(0.05)

    def wait_running(self, patience=60):
        """Every route, at both ends."""
        want = {(route["name"], end) for route in self.routes for end in ("source", "sink")}

        def all_run(rows):
            states = {key: [row["state"] for row in rows if (row["route"], row["end"]) == key] for key in want}
            return all(found and set(found) == {"running"} for found in states.values())

        self.wait(patience, "every route runs at both ends", all_run)

    def describe(self, rows):
        lines = [
            f"  {row['route']} {row['topic']} {row['end']}: {row['state']} {row['reason'] or ''} in flight "
            f"{row['in_flight']}, confirmed {row['confirmed']}, acknowledged {row['acknowledged']}"
            for row in rows
        ]
        words = [f"{agent.place.name}'s agent:\n{agent.last_words()}" for agent in self.both]
        return "\n".join((lines or ["  no status rows"]) + words)


def written_by(route):
    return [*route["topics"], *([route["quarantine"]] if "quarantine" in route else [])]


def initialise(binary, folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    url = f"tls://{PLACES['riskfuel'].address}:{places.LINK_PORT}"
    command = [binary, "init", "--hub", "riskfuel", "--edge", "bank", "--url", url, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")


def pulsar_of(place):
    return {"service_url": place.service_url, "admin_url": place.admin_url}


def read_json(path):
    return json.loads(path.read_text())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2))
