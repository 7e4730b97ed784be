"""Who brings a topic's messages from one cluster to the other: how each is started, by what its makers recommend.
Measures nothing, and starts no cluster.

A `Relay` is named in one place, `RELAYS`, or in `IN_MEMORY` for brokers without an admin API.
"""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import time

import organisations
from tunnels import HOME, LOOK_AGAIN_SECONDS, READY_SECONDS, SSHD, NotReady, end, fill, is_listening, start

HERE = pathlib.Path(__file__).resolve().parent
# What is asked of whom: whole batches, and unbatched requests that are joined on the way, or joined and compressed.
BACKLOGS, LATENCIES = {"cached", "disk"}, {"latency", "latency-requests"}
EVERYTHING = BACKLOGS | LATENCIES | {"requests", "requests-zstd"}


class Relay:
    """One way from cluster to cluster. `begin` starts it for a job, in processes of its own or by asking a broker."""

    trials = EVERYTHING - {"requests-zstd"}

    def __init__(self, name, encryption):
        self.name, self.encryption = name, encryption
        self.bridge, self.processes = None, []

    def missing(self):
        """What it needs and is not there."""
        return []

    @property
    def folder(self):
        return HOME / "run" / f"relay-{self.name}"

    @contextlib.contextmanager
    def relaying(self, job):
        """Gives the processes, which end with the block."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            self.begin(job)
            yield [process.pid for process in self.processes]
        finally:
            self.finish(job)
            for process in reversed(self.processes):
                end(process)
            self.processes = []

    def begin(self, job):
        raise NotImplementedError

    def finish(self, job):
        """Before its processes end."""

    def read_at(self, job):
        """The cluster at which its messages come out."""
        return job.target

    def run(self, cluster, *command):
        """Starts a process in that cluster's network."""
        words = [*cluster.inside, *map(str, command)]
        self.processes.append(start(shlex.join(words), self.folder / f"{len(self.processes)}.log"))
        return self.processes[-1]

    def wait_listening(self, process, port):
        deadline = time.monotonic() + READY_SECONDS
        while not is_listening(port, process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReady(f"{self.name} does not listen at {port}: {self.last_words()}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def is_working(self):
        """False when one of its processes has ended, as a loop does when it has passed on everything. Who ended is not
        reaped: the kernel would forget its CPU time."""
        ways = os.WEXITED | os.WNOHANG | os.WNOWAIT
        ended = [found for one in self.processes if (found := os.waitid(os.P_PID, one.pid, ways))]
        for one in ended:
            if one.si_status != 0:
                raise NotReady(f"{self.name} ended with {one.si_status}: {self.last_words()}")
        return not ended

    def last_words(self):
        logs = sorted(self.folder.glob("*.log"))
        return " | ".join(log.read_text(errors="replace")[-300:].strip() for log in logs)


class Nothing(Relay):
    """Who writes and who reads are at one cluster: what a message takes without any relay."""

    trials = LATENCIES

    def begin(self, job):
        pass

    def read_at(self, job):
        return job.source


class Bridge(Relay):
    """A hub and an edge, each beside its cluster, and the link between them. The source's site declares the route."""

    trials = EVERYTHING

    def begin(self, job):
        self.configure(job)
        for site, cluster in self.sites(job).items():
            self.run(cluster, self.bridge, "run", "--config", self.folder / f"link/{site}/{site}.json")

    def sites(self, job):
        edge = job.source if job.hub is job.target else job.target
        return {"hub": job.hub, "edge": edge}

    def configure(self, job):
        listen = f"{job.hub.address}:{job.link_port}"
        command = [self.bridge, "init", "--hub", "hub", "--edge", "edge", "--out", self.folder / "link"]
        done = subprocess.run([*command, "--url", f"tls://{listen}"], capture_output=True, text=True)
        if done.returncode != 0:
            raise NotReady(f"bridge init: {done.stderr}")
        sites = self.sites(job)
        source, target = sorted(sites, key=lambda site: sites[site] is job.target)
        route = {"name": "compared", "from": source, "to": target, "topics": [job.topic]}
        if job.batching is not None:
            route["batching"] = job.batching
        for site, cluster in sites.items():
            file = self.folder / f"link/{site}/{site}.json"
            config = json.loads(file.read_text()) | {"pulsar": cluster.pulsar(), "routes": []}
            config.pop("admin")
            policy = {"receive": [job.topic]} if site == target else {}
            if site == "hub":
                config["tunnel"]["listen"] = listen
                config["tunnel"]["edges"][0]["policy"] = policy
            else:
                config["policy"] = policy
            if site == source:
                config["routes"] = [route]
            file.write_text(json.dumps(config, indent=2))


class RustLoop(Relay):
    """`examples/pulsar_rs_loop.rs`, beside the bridge's binary; in the source's network, which may dial out."""

    @property
    def program(self):
        return self.bridge.parent / "examples/pulsar_rs_loop"

    def missing(self):
        there = self.bridge is None or self.program.is_file()
        return [] if there else [f"{self.program} (cargo build --release --example pulsar_rs_loop)"]

    def begin(self, job):
        urls = ("--from-url", job.source.service_url, "--to-url", job.target.service_url)
        self.run(job.source, self.program, *urls, "--topic", job.topic, "--messages", job.messages)


class PythonLoop(Relay):
    """A loop of the official Python client, likewise; batches as Pulsar's clients do, and compresses where asked to."""

    trials = EVERYTHING

    def begin(self, job):
        urls = ("--from-url", job.source.service_url, "--to-url", job.target.service_url)
        more = ("--compression", job.batching["compression"].upper()) if "compression" in (job.batching or {}) else ()
        words = ("--topic", job.topic, "--messages", job.messages, *more)
        self.run(job.source, organisations.python(), "-B", HERE / "python_loop.py", *urls, *words)


class Geo(Relay):
    """Pulsar's own replication, which the source's broker does: `cluster` is the name of a way to the target, and
    `tunnel` starts what lies on that way."""

    def __init__(self, name, encryption, cluster, tunnel=None):
        super().__init__(name, encryption)
        self.cluster, self.tunnel = cluster, tunnel

    def missing(self):
        return [program for program in (self.tunnel or {}).get("programs", ()) if not shutil.which(program)]

    def begin(self, job):
        if self.tunnel:
            self.dig(job)
        job.source.replicate(job.topic, self.cluster)

    def dig(self, job):
        """Server in the target's network, client in the source's."""
        words = {
            "at": job.target.address, "inner": job.link_port, "port": organisations.TUNNEL_PORT, "folder": self.folder,
            "keys": HOME / "keys", "bin": HOME / "bin",
        }  # fmt: skip
        for name, text in self.tunnel.get("files", {}).items():
            (self.folder / name).write_text(fill(text, words))
        ends = ((job.target, job.link_port), (job.source, organisations.TUNNEL_PORT))
        for command, (cluster, port) in zip(self.tunnel["commands"], ends, strict=True):
            process = self.run(cluster, *shlex.split(fill(command, words)))
            self.wait_listening(process, port)

    def finish(self, job):
        job.source.replicate(job.topic, None)


CHISEL = {
    "programs": (str(HOME / "bin/chisel"),),
    "commands": (
        "{bin}/chisel server --host {at} --port {inner}",
        "{bin}/chisel client http://{at}:{inner} 127.0.0.1:{port}:127.0.0.1:{port}",
    ),
}
SSH = {
    "programs": ("ssh", "/usr/sbin/sshd"),
    "commands": (
        "/usr/sbin/sshd -D -e -f {folder}/sshd_config",
        "ssh -F none -N -T -i {keys}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={keys}/known_hosts "
        "-o StrictHostKeyChecking=yes -o HostKeyAlias=compare -o ExitOnForwardFailure=yes -o ControlPath=none "
        "-c aes128-gcm@openssh.com -L 127.0.0.1:{port}:127.0.0.1:{port} -p {inner} root@{at}",
    ),
    "files": {"sshd_config": SSHD.replace("127.0.0.1", "{at}")},
}
LINK = "TLS 1.3, AES-256-GCM, both sides by key"
RELAYS = [
    Nothing("none", "–"),
    Bridge("bridge", LINK),
    RustLoop("pulsar-rs-loop", "none"),
    PythonLoop("python-loop", "none"),
    Geo("geo", "none", organisations.PLAIN),
    Geo("geo-tls", "TLS 1.3, the server by certificate", organisations.TLS),
    Geo("geo-chisel", "ssh in a WebSocket", organisations.TUNNELLED, CHISEL),
    Geo("geo-ssh", "aes128-gcm@openssh.com", organisations.TUNNELLED, SSH),
]
# Brokers in memory do not replicate.
IN_MEMORY = [relay for relay in RELAYS if not isinstance(relay, Geo)]
