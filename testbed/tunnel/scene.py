"""What a case of the tunnel works with: three networks of their own, the two ends of a link made by `bridge init` with
pieces of configuration of the case's, brokers in memory and traffic through the link, programs that end with the case.
Knows no case, and touches no process and no namespace that it did not make.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import places
from agents import Agent, read_json, write_json
from places import Place, TestbedError

HUB = Place("hub", "198.18.11.1", accepts_inbound=True)
EDGE = Place("edge", "198.18.12.1", accepts_inbound=False)
# Neither site's own: where ingresses and egress proxies live.
MIDDLE = Place("middle", "198.18.13.1", accepts_inbound=True)
EVERY = (HUB, EDGE, MIDDLE)
IPV6 = {HUB: "fd00:198:18:11::1", EDGE: "fd00:198:18:12::1", MIDDLE: "fd00:198:18:13::1"}
BROKER_PORT = 6650
TOPICS = {"out": "persistent://public/default/out", "in": "persistent://public/default/in"}
LOOK_AGAIN_SECONDS = 0.02
# Names as each network knows them (`ip netns exec` puts /etc/netns/NAME/hosts in the place of /etc/hosts).
HOSTS = {
    EDGE: (
        f"{MIDDLE.address} hub.example\n"
        # Nobody has the first.
        f"fd00:198:18:11::dead half.example\n{HUB.address} half.example\n"
    ),
    MIDDLE: f"{HUB.address} hub.example\n",
}


class Failed(Exception):
    """A case's assertion did not hold."""


def hold_that(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


def networks_up():
    places.up(EVERY)
    for place in EVERY:
        # `nodad`: usable at once. Fails where it is there already, which is as good.
        places.run(
            "ip", "-n", place.namespace, "addr", "add", f"{IPV6[place]}/32", "dev", "eth0", "nodad", check=False
        )  # fmt: skip
    rule = ("-I", "INPUT", "-i", "eth0", "-p", "tcp", "--syn", "-j", "DROP")
    places.filter_packets(EDGE.namespace, *rule, tools=("ip6tables", "ip6tables-legacy", "ip6tables-nft"))
    for place, hosts in HOSTS.items():
        folder = hosts_folder(place)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}")


def networks_down():
    places.down(EVERY)
    for place in HOSTS:
        shutil.rmtree(hosts_folder(place), ignore_errors=True)


def hosts_folder(place):
    return pathlib.Path("/etc/netns", place.namespace)


class Scene:
    """One case's share."""

    def __init__(self, case, binary, folder):
        self.case, self.binary, self.folder = case, str(binary), folder
        self.programs, self.pairs, self.undo = [], [], contextlib.ExitStack()
        folder.mkdir(parents=True)

    def close(self):
        for ends in self.pairs:
            ends.kill()
        for program in reversed(self.programs):
            program.end()
        self.undo.close()

    def say(self, text):
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)

    def program(self, place, *command, name=None, environment=None):
        """Starts a program inside a place; it ends with the case."""
        program = Program(place, command, self.folder / f"{name or pathlib.Path(command[0]).name}.log", environment)
        self.programs.append(program)
        return program.start()

    def run(self, place, *command, patience=60.0, environment=None):
        """Runs a program inside a place to its end: exit code, what it said, what it complained."""
        inside = ["ip", "netns", "exec", place.namespace, *map(str, command)]
        done = subprocess.run(
            inside, capture_output=True, text=True, timeout=patience, env=os.environ | (environment or {})
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def close_way(self, here, there, port):
        """No connection gets from one place to another's port, until the case ends."""
        rule = ("OUTPUT", "-p", "tcp", "-d", there.address, "--dport", str(port), "-j", "REJECT")
        places.filter_packets(here.namespace, "-I", *rule)
        self.undo.callback(places.filter_packets, here.namespace, "-D", *rule)

    def ends(self, **pieces):
        """A hub and an edge, not started; see `Ends`."""
        ends = Ends(self, self.folder / f"ends-{len(self.pairs)}", **pieces)
        self.pairs.append(ends)
        return ends


class Program:
    """A program in a session of its own, so that its children end with it."""

    def __init__(self, place, command, log, environment=None):
        self.place, self.command, self.log = place, [str(word) for word in command], log
        self.environment, self.process = environment or {}, None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.place.namespace, *self.command], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env=os.environ | self.environment,
            )  # fmt: skip
        return self

    def end(self, how=signal.SIGKILL):
        """Ends it and its children, at once by default."""
        if self.process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        code = self.process.wait(30)
        self.process = None
        return code

    def wait_listening(self, port, address=None, patience=10.0):
        """Until somebody takes connections at its place."""
        deadline = time.monotonic() + patience
        while True:
            if self.process.poll() is not None:
                raise TestbedError(f"{self.command[0]} ended with {self.process.returncode}: {self.last_words()}")
            if listens(self.place, port, address):
                return self
            if time.monotonic() > deadline:
                raise TestbedError(f"{self.command[0]} does not listen at {port}: {self.last_words()}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def last_words(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) + f"\n(whole log: {self.log})"


def listens(place, port, address=None):
    try:
        with places.entered(place.namespace):
            socket.create_connection((address or place.address, port), timeout=1).close()
        return True
    except OSError:
        return False


class Ends:
    """A hub `hub` and an edge `edge`, each in its place; a broker in memory beside each.

    `url`: what the edge dials. `hub`, `edge`: pieces of configuration, merged into what `bridge init` wrote (objects by
    their keys, anything else replaced). `allow`: what the hub's policy lets this edge do; `policy`: what the edge's lets
    the hub do. Both begin with the two relayed topics. With `pulsar=False` there is no broker, no `pulsar` and no route.
    """

    def __init__(self, scene, folder, url=None, hub=None, edge=None, allow=None, policy=None, pulsar=True):
        self.scene, self.folder, self.pulsar = scene, folder, pulsar
        url = url or f"tls://{HUB.address}:{places.LINK_PORT}"
        initialise(scene.binary, folder, url)
        topics = {"receive": [TOPICS["in"]], "send": [TOPICS["out"]]} if pulsar else {}
        hub_config, edge_config = read_json(folder / "hub/hub.json"), read_json(folder / "edge/edge.json")
        hub_config["tunnel"]["listen"] = f"0.0.0.0:{places.LINK_PORT}"
        hub_config["tunnel"]["edges"][0]["policy"] = merged(topics, allow or {})
        hub_config["routes"] = [route("out", "hub", "edge"), route("in", "edge", "hub")] if pulsar else []
        swapped = {"receive": topics["send"], "send": topics["receive"], "from": "earliest"} if pulsar else {}
        edge_config["policy"] = merged(swapped, policy or {})
        for place, config, pieces in ((HUB, hub_config, hub), (EDGE, edge_config, edge)):
            config["admin"] = {"listen": "127.0.0.1:9600"}
            if pulsar:
                config["pulsar"] = {"service_url": broker_url(place), "deduplication": "asserted"}
            else:
                config.pop("pulsar", None)
            file = folder / ("hub/hub.json" if place is HUB else "edge/edge.json")
            write_json(file, merged(config, pieces or {}))
        self.hub = Agent(scene.binary, HUB, folder / "hub/hub.json")
        self.edge = Agent(scene.binary, EDGE, folder / "edge/edge.json")
        self.both = (self.hub, self.edge)

    def change(self, agent, pieces):
        """Merges pieces into an end's file; they count from its next start, or its next reload."""
        write_json(agent.config, merged(read_json(agent.config), pieces))

    def start(self, *broker_options):
        if self.pulsar:
            for place in (HUB, EDGE):
                listen = f"{place.address}:{BROKER_PORT}"
                # `--retain`: the first message is written before a route has seen the topic.
                broker = (self.scene.binary, "perf", "broker", "--listen", listen, "--expose", "--retain", *broker_options)
                self.scene.program(place, *broker, name=f"broker-{place.name}").wait_listening(BROKER_PORT)
        self.hub.start()
        # Before the edge: one that finds nobody at its first URL goes another way.
        self.wait(10, "the hub serves", self.hub.status, ends=(self.hub,))
        self.edge.start()
        return self

    def kill(self):
        for agent in self.both:
            agent.kill()

    def link(self, agent):
        """The row of the other side in an end's status, or {} while it tells none."""
        report = agent.status() or {"links": []}
        rows = report["links"]
        return next((row for row in rows if row["state"] == "up"), rows[0] if rows else {})

    def wait(self, patience, what, until, ends=None):
        """Looks until `until()` gives something true, which is returned; those of `ends` (both) have to live."""
        deadline = time.monotonic() + patience
        while True:
            for agent in ends or self.both:
                if not agent.is_alive():
                    raise TestbedError(f"{agent.place.name} ended by itself:\n{agent.last_words()}")
            found = until()
            if found:
                return found
            if time.monotonic() > deadline:
                words = "\n".join(f"{agent.place.name}: {self.link(agent)}\n{agent.last_words()}" for agent in self.both)
                raise Failed(f"not after {patience:.0f} s: {what}\n{words}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def wait_up(self, patience=20.0):
        """Until both sides have the link with all its lanes; seconds it took, and the edge's row."""
        since = time.monotonic()

        def both_up():
            rows = [self.link(agent) for agent in self.both]
            up = all(row.get("state") == "up" and len(row["lanes"]) == 2 for row in rows)
            return rows[1] if up and rows[0]["link"] == rows[1]["link"] else None

        row = self.wait(patience, "the link is up with all lanes at both ends", both_up)
        return time.monotonic() - since, row

    def wait_reason(self, agent, code, patience=20.0):
        """Until an end tells this reason; its row."""
        self.wait(patience, f"reason {code} at {agent.place.name}", lambda: self.link(agent).get("reason") == code)
        return self.link(agent)

    def wait_flowing(self, patience=20.0):
        """Until messages that were not yet confirmed are, both ways; seconds it took."""
        since, before = time.monotonic(), self.confirmed()

        def both_flow():
            now = self.confirmed()
            return len(now) == len(TOPICS) and all(count > before.get(name, 0) for name, count in now.items())

        self.wait(patience, "messages pass both ways", both_flow)
        return time.monotonic() - since

    def confirmed(self):
        report = self.edge.status()
        return {row["route"]: row["confirmed"] for row in report["routes"]} if report else {}

    def traffic(self, rate=400, size=2048):
        """Relayed messages in both directions until `Traffic.end`."""
        return Traffic(self.scene, rate, size)


class Traffic:
    """`bridge perf relay` from each broker to the other one, begun when both routes run."""

    def __init__(self, scene, rate, size):
        self.flows = {}
        for name, source, target in (("out", HUB, EDGE), ("in", EDGE, HUB)):
            # Always from within the edge's network: nobody gets into it.
            log = scene.folder / f"traffic-{name}"
            command = [
                scene.binary, "perf", "relay", TOPICS[name], "--from", broker_url(source), "--to", broker_url(target),
                "--rate", str(rate), "-s", str(size), "--output", "json", "-i", "1",
            ]  # fmt: skip
            with open(log.with_suffix(".out"), "w") as out, open(log.with_suffix(".err"), "w") as complaint:
                process = subprocess.Popen(
                    ["ip", "netns", "exec", EDGE.namespace, *command], stdin=subprocess.DEVNULL, stdout=out,
                    stderr=complaint, start_new_session=True,
                )  # fmt: skip
            self.flows[name] = (process, log)
            scene.undo.callback(kill, process)

    def end(self, patience=40.0):
        """Stops both and gives what each says; lost, repeated or disordered messages fail the case."""
        for process, _ in self.flows.values():
            process.send_signal(signal.SIGINT)
        reports = {}
        for name, (process, log) in self.flows.items():
            process.wait(patience)
            said = log.with_suffix(".out").read_text().splitlines()
            if not said or not said[-1].startswith("{"):
                raise TestbedError(f"traffic {name}: {log.with_suffix('.err').read_text()[-2000:]}")
            reports[name] = json.loads(said[-1])
        for name, report in reports.items():
            clean = report["lost"] + report["repeated"] + report["disordered"] == 0 and report["sent"] > 0
            hold_that(clean, f"traffic {name}: {report}")
        return reports


def told(reports):
    each = (f"{name} {r['sent']} sent, lost {r['lost']}, repeated {r['repeated']}" for name, r in reports.items())
    return ", ".join(each)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def initialise(binary, folder, url):
    command = [binary, "init", "--hub", "hub", "--edge", "edge", "--url", url, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")


def route(name, source, target):
    return {"name": name, "from": source, "to": target, "topics": [TOPICS[name]]}


def broker_url(place):
    return f"pulsar://{place.address}:{BROKER_PORT}"


def merged(base, pieces):
    if not (isinstance(base, dict) and isinstance(pieces, dict)):
        return pieces
    return base | {key: merged(base[key], value) if key in base else value for key, value in pieces.items()}
