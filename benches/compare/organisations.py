"""Two real clusters, one in each organisation's network, as the testbed starts them: topics of their own for each
trial, programs with the official client, and a clock that counts what arrives. Relays nothing itself.

Messages go from the bank, whose network lets nobody in, to Riskfuel, which the bank can dial: the one direction in
which geo-replication works without a tunnel. The link's bytes are those that the bank's only interface carried.
"""

import contextlib
import http
import http.client
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

from tunnels import HOME

TESTBED = pathlib.Path(__file__).resolve().parent.parent.parent / "testbed"
sys.path.append(str(TESTBED))
# Networks of our own, beside those in which a suite may leave its clusters.
os.environ.setdefault("BRIDGE_TESTBED_NAME", "compare")

import brokers  # noqa: E402
import places  # noqa: E402
import rest  # noqa: E402
from hold import hold  # noqa: E402
from places import PLACES  # noqa: E402

SOURCE, TARGET = "bank", "riskfuel"
# Where a tunnel's client listens in the source's network, and the target's broker in its own: to who asks there, its
# lookups answer with this very address, so that no connection goes around the tunnel.
TUNNEL_PORT = 16650
# Names under which the source knows the target, each with another way to it.
PLAIN, TLS, TUNNELLED = TARGET, f"{TARGET}-tls", f"{TARGET}-tunnel"
FLUSH_SECONDS = 3
LOOK_SECONDS, LOOK_SECONDS_MAX = 0.02, 0.25
ADMIN_PATIENCE, REFUSALS_MAX = 30.0, 20
RETAINED = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}


class Standalone(brokers.Broker):
    """Of one side, with data of its own."""

    def __init__(self, site):
        super().__init__(PLACES[site], f"compare-{site}")
        self.service_url, self.inside = self.place.service_url, ["ip", "netns", "exec", self.place.namespace]
        self.admin = rest.Admin(self.place, patience=ADMIN_PATIENCE)

    def settings(self):
        # A backlog is asked for before anybody replicates it, and must be on the disk soon.
        ours = {"replicationStartAt": "earliest", "flushInterval": str(FLUSH_SECONDS * 1000)}
        return super().settings() | ours

    def pulsar(self):
        """As a bridge's configuration names it."""
        return {"service_url": self.service_url, "admin_url": self.place.admin_url}

    def create(self, topic):
        namespace = "/".join(topic.split("/")[2:4])
        self.admin.put(f"/admin/v2/namespaces/{namespace}", {"replication_clusters": [self.place.name]})
        self.admin.post(f"/admin/v2/namespaces/{namespace}/retention", RETAINED)
        self.admin.put(rest.topic_path(topic))

    def remove(self, topic):
        namespace = "/".join(topic.split("/")[2:4])
        try:
            self.admin.delete(f"/admin/v2/namespaces/{namespace}?force=true")
        except (rest.Refused, OSError) as error:
            print(f"  ({namespace} stays at {self.place.name}: {error})", flush=True)

    def replicate(self, topic, cluster):
        """To that cluster from the topic's first message on; None: no more."""
        namespace = "/".join(topic.split("/")[2:4])
        clusters = [self.place.name] + ([cluster] if cluster else [])
        self.admin.post(f"/admin/v2/namespaces/{namespace}/replication", clusters)

    def forget_cached(self):
        """What it stored is read from the disk from now on. Its own caches hold what was read or written lately, and
        let go of that when it is flushed."""
        time.sleep(FLUSH_SECONDS + 2)
        for path in self.dir.rglob("*"):
            if path.is_file():
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read_from_disk(self):
        """Bytes, since its start."""
        lines = pathlib.Path(f"/proc/{self.pid()}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


class Reached(Standalone):
    """The target: also by TLS, and by who comes through a tunnel."""

    def settings(self):
        keys, address = HOME / "keys", self.place.address
        ours = super().settings() | {
            "advertisedListeners": f"internal:pulsar://{address}:6650,internal:pulsar+ssl://{address}:6651,"
            f"tunnel:pulsar://127.0.0.1:{TUNNEL_PORT}",
            "internalListenerName": "internal",
            "bindAddresses": f"tunnel:pulsar://127.0.0.1:{TUNNEL_PORT}",
            "brokerServicePortTls": "6651",
            "tlsCertificateFilePath": str(keys / "leaf.pem"),
            "tlsKeyFilePath": str(keys / "leaf.key"),
        }
        # The listeners say it.
        ours.pop("advertisedAddress")
        return ours

    def command(self):
        command = super().command()
        at = command.index("-a")
        return command[:at] + command[at + 2 :]


class Job:
    """One topic that is to be brought from one cluster to the other. `hub` is the one whose network is dialled, there
    at `link_port`; `messages` and `batching` are the trial's to say."""

    def __init__(self, source, target, topic, hub, link_port):
        self.source, self.target, self.topic = source, target, topic
        self.hub, self.link_port = hub, link_port
        self.messages, self.batching = 0, None


class Organisations:
    """Both clusters, and what trials need of them."""

    backlog, requests = 600_000, 200_000

    def __init__(self):
        self.source, self.target = Standalone(SOURCE), Reached(TARGET)
        self.both = (self.source, self.target)

    def broker_pids(self):
        return [broker.pid() for broker in self.both if broker.pid()]

    def start(self):
        networks = [broker.place for broker in self.both]
        places.up(networks)
        for broker in self.both:
            broker.stop()
            broker.forget()
            broker.start()
        for broker in self.both:
            broker.wait()
        places.prove(networks)
        there = self.target.place
        urls = {"serviceUrl": there.admin_url, "brokerServiceUrl": there.service_url}
        tls = {
            "brokerServiceUrlTls": f"pulsar+ssl://{there.address}:6651", "brokerClientTlsEnabled": True,
            "brokerClientTrustCertsFilePath": str(HOME / "keys/ca.pem"),
        }  # fmt: skip
        tunnelled = {"brokerServiceUrl": f"pulsar://127.0.0.1:{TUNNEL_PORT}"}
        admin = self.source.admin
        for name, way in ((PLAIN, {}), (TLS, tls), (TUNNELLED, tunnelled)):
            admin.put(f"/admin/v2/clusters/{name}", urls | way)
        every = [SOURCE, PLAIN, TLS, TUNNELLED]
        admin.post("/admin/v2/tenants/public", {"adminRoles": [], "allowedClusters": every})

    def stop(self):
        for broker in self.both:
            broker.stop()
            broker.forget()
        places.down([broker.place for broker in self.both])

    @contextlib.contextmanager
    def job(self):
        """In namespaces that nobody has used: no deduplication state of before is met."""
        topic = f"persistent://public/compare-{random.SystemRandom().randrange(16**8):08x}/messages"
        try:
            for broker in self.both:
                broker.create(topic)
            yield Job(self.source, self.target, topic, self.target, places.LINK_PORT)
        finally:
            for broker in self.both:
                broker.remove(topic)

    def link_bytes(self):
        """That the source's network has sent and received."""
        lines = pathlib.Path(f"/proc/{self.source.pid()}/net/dev").read_text().splitlines()
        fields = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("eth0:"))
        return int(fields[0]) + int(fields[8])

    @contextlib.contextmanager
    def clock(self, job):
        with contextlib.closing(Clock(job)) as clock:
            yield clock


class Clock:
    """Looks again and again how many messages the target has taken in."""

    def __init__(self, job):
        self.path, self.job = f"{rest.topic_path(job.topic)}/stats?subscriptionBacklogSize=false", job
        self.connection = self.first = None

    def look(self):
        """Messages so far, and when. An answer without figures, as a topic has that has just been loaded, is asked for
        again."""
        for _ in range(REFUSALS_MAX):
            status, text = self.ask()
            if status == http.HTTPStatus.OK:
                return json.loads(text)["msgInCounter"], time.monotonic()
            self.close()
            time.sleep(LOOK_SECONDS_MAX)
        raise places.TestbedError(f"{self.path}: {status} {text[:300]}")

    def ask(self):
        """On one connection, which stays."""
        if self.connection is None:
            place = self.job.target.place
            self.connection = http.client.HTTPConnection(place.address, 8080, timeout=ADMIN_PATIENCE)
            with places.entered(place.namespace):
                self.connection.sock = socket.create_connection((place.address, 8080), timeout=ADMIN_PATIENCE)
        self.connection.request("GET", self.path)
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def wait_first(self, tick):
        while self.look()[0] == 0:
            tick()
            time.sleep(LOOK_SECONDS)

    def begin(self):
        """What counts comes from now on."""
        self.first = self.look()

    def wait_all(self, tick):
        """How many came since, and in how many seconds."""
        while (seen := self.look())[0] < self.job.messages:
            tick(f"{seen[0]} of {self.job.messages} messages")
            time.sleep(self.pause(*seen))
        return seen[0] - self.first[0], seen[1] - self.first[1]

    def pause(self, count, now):
        """Until half of what is missing has come: each look costs the broker a millisecond."""
        came, since = count - self.first[0], now - self.first[1]
        left = (self.job.messages - count) * since / came if came else LOOK_SECONDS
        return min(max(left / 2, LOOK_SECONDS), LOOK_SECONDS_MAX)

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None


def python():
    """An interpreter that has the official client."""
    return brokers.home() / "venv/bin/python"


def program(cluster, *words, stdin=subprocess.DEVNULL):
    """A program with the official client, in that cluster's network."""
    return subprocess.Popen(
        [*cluster.inside, *map(str, (python(), "-B", *words))], stdin=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def missing():
    """What the clusters need and is not there."""
    needed = [brokers.home() / f"apache-pulsar-{brokers.PULSAR_VERSION}", python(), HOME / "keys/ca.pem"]
    root = [] if os.geteuid() == 0 else ["root's rights, for networks"]
    return [str(path) for path in needed if not path.exists()] + root


@contextlib.contextmanager
def standing(_how):
    """Both clusters, fresh, until the block ends."""
    with hold("benches/compare"):
        organisations = Organisations()
        try:
            organisations.start()
            yield organisations
        finally:
            organisations.stop()
