"""The bank's cluster as one of two brokers, with one ZooKeeper and one bookie whose disk is small enough to fill.

It takes the place of the bank's standalone: the same network, the same name, never both at once. Each broker has an
address of its own. Data lives until `forget`, as a standalone's.
"""

import contextlib
import os
import pathlib
import socket
import time

import brokers
import places
import rest
from places import PLACES, TestbedError

PLACE = PLACES["bank"]
ADDRESSES = {"bank-1": PLACE.address, "bank-2": "198.18.2.2"}
ZOOKEEPER_PORT, BOOKIE_PORT = 2181, 3181
METADATA = f"zk:{PLACE.address}:{ZOOKEEPER_PORT}"
# How long the killed one's bundles stay its own.
SESSION_MILLIS = 5000
# They are started often and have little to do.
FRUGAL = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# A name of both, in the bank's network only: who dials it tries one after the other.
BOTH = "brokers.bank"
HOSTS = pathlib.Path("/etc/netns", PLACE.namespace, "hosts")
# As a file with holes: only what is written takes room.
DISK_LEN = 6 << 30
# Above this share of its disk a bookie only reads.
DISK_FULL_SHARE = 0.90
FILL_LEFT_LEN = 48 << 20


class Part(brokers.Broker):
    """One process of the cluster."""

    conf_variable = None
    verb = None

    def command(self):
        return [self.verb]

    def environment(self):
        return super().environment() | {self.conf_variable: str(self.configuration()), "PULSAR_GC": FRUGAL}

    def quarrels_with_itself(self):
        # Its locks are ZooKeeper's.
        return False

    def accepts(self, port):
        try:
            with places.entered(self.place.namespace):
                socket.create_connection((self.address, port), timeout=1).close()
            return None
        except OSError as error:
            return f"port {port}: {error}"


class ZooKeeper(Part):
    memory = "-Xms64m -Xmx192m"
    template, conf_variable, verb = "zookeeper.conf", "PULSAR_ZK_CONF", "zookeeper"

    def settings(self):
        return {
            "dataDir": str(self.dir / "data"), "clientPort": str(ZOOKEEPER_PORT), "tickTime": "1000",
            "forceSync": "no", "admin.enableServer": "false", "metricsProvider.httpPort": "8010",
        }  # fmt: skip

    def unready(self):
        return self.accepts(ZOOKEEPER_PORT)


class Bookie(Part):
    memory = "-Xms128m -Xmx384m -XX:MaxDirectMemorySize=384m"
    template, conf_variable, verb = "bookkeeper.conf", "PULSAR_BOOKKEEPER_CONF", "bookie"

    @property
    def disk(self):
        return self.dir / "disk"

    def settings(self):
        return {
            "advertisedAddress": self.address, "bookiePort": str(BOOKIE_PORT),
            "metadataServiceUri": f"metadata-store:{METADATA}", "prometheusStatsHttpPort": "8011",
            "journalDirectory": str(self.disk / "journal"), "ledgerDirectories": str(self.disk / "ledgers"),
            "journalMaxSizeMB": "64", "journalMaxBackups": "0", "journalPreAllocSizeMB": "4",
            "logSizeLimit": str(64 << 20), "gcWaitTime": "30000", "minUsableSizeForIndexFileCreation": "1048576",
            "dbStorage_writeCacheMaxSizeMb": "64", "dbStorage_readAheadCacheMaxSizeMb": "32",
            "diskUsageThreshold": str(DISK_FULL_SHARE), "diskUsageWarnThreshold": str(DISK_FULL_SHARE - 0.05),
            "diskUsageLwmThreshold": str(DISK_FULL_SHARE), "diskCheckInterval": "500",
        }  # fmt: skip

    def unready(self):
        return self.accepts(BOOKIE_PORT)

    def mount(self):
        """A small filesystem of its own: a file behind a loop device, or memory where there are no loop devices."""
        if self.disk.is_mount():
            return
        self.disk.mkdir(parents=True, exist_ok=True)
        image = self.dir / "disk.ext4"
        if not image.exists():
            with open(image, "wb") as file:
                file.truncate(DISK_LEN)
            places.run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        if places.run("mount", "-o", "loop", str(image), str(self.disk), check=False).returncode != 0:
            places.run("mount", "-t", "tmpfs", "-o", f"size={DISK_LEN}", "bookie", str(self.disk))

    def unmount(self):
        if self.disk.is_mount():
            places.run("umount", str(self.disk))

    def fill(self):
        """Leaves its disk a few MiB; gives how much was taken."""
        room = os.statvfs(self.disk)
        take = room.f_bavail * room.f_frsize - FILL_LEFT_LEN
        with open(self.disk / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, take)
        return take

    def free(self):
        (self.disk / "filler").unlink(missing_ok=True)


class TwinBroker(Part):
    memory = "-Xms384m -Xmx640m -XX:MaxDirectMemorySize=640m"
    template, conf_variable, verb = "broker.conf", "PULSAR_BROKER_CONF", "broker"

    def settings(self):
        ours = super().settings()
        return {key: ours[key] for key in ("brokerDeduplicationEnabled", "forceDeleteNamespaceAllowed")} | {
            "clusterName": PLACE.name, "bindAddress": self.address, "advertisedAddress": self.address,
            "metadataStoreUrl": METADATA, "configurationMetadataStoreUrl": METADATA,
            "metadataStoreSessionTimeoutMillis": str(SESSION_MILLIS),
            "managedLedgerDefaultEnsembleSize": "1", "managedLedgerDefaultWriteQuorum": "1",
            "managedLedgerDefaultAckQuorum": "1",
            # A bundle moves only when somebody moves it.
            "loadBalancerSheddingEnabled": "false", "loadBalancerAutoBundleSplitEnabled": "false",
            "managedLedgerMinLedgerRolloverTimeMinutes": "1", "managedLedgerMaxLedgerRolloverTimeMinutes": "5",
        }  # fmt: skip

    def unready(self):
        try:
            if f"{self.address}:8080" not in self.admin.get(f"/admin/v2/brokers/{PLACE.name}"):
                return "not among the brokers yet"
            if "public/default" not in self.admin.get("/admin/v2/namespaces/public"):
                return "no namespace public/default yet"
            # Answered once bundles have owners; without, every call that makes a topic waits.
            self.admin.get("/lookup/v2/topic/persistent/public/default/testbed-readiness")
            return None
        except (OSError, rest.Refused) as error:
            return str(error)


class TwinAdmin(rest.Admin):
    """Asks whichever broker answers, and follows to the other."""

    def __init__(self):
        super().__init__(PLACE)
        self.others = tuple(ADDRESSES.values())

    def ask(self, method, path, body=None):
        try:
            return super().ask(method, path, body)
        except OSError:
            return self.ask_at(ADDRESSES["bank-2"], method, path, body)


class Twin:
    """The whole cluster; where a case wants the bank's broker, this stands for it."""

    def __init__(self):
        self.place = PLACE
        self.zookeeper, self.bookie = ZooKeeper(PLACE, "bank-zookeeper"), Bookie(PLACE, "bank-bookie")
        self.brokers = {name: TwinBroker(PLACE, name, address) for name, address in ADDRESSES.items()}
        for broker in self.brokers.values():
            broker.admin.others = tuple(ADDRESSES.values())
        self.parts = (self.zookeeper, self.bookie, *self.brokers.values())
        self.admin = TwinAdmin()
        self.service_url = "pulsar://" + ",".join(f"{address}:6650" for address in ADDRESSES.values())
        self.admin_url = f"http://{BOTH}:8080"

    def start(self):
        """Starts what does not run, and waits until both brokers serve."""
        self.take_addresses()
        HOSTS.parent.mkdir(parents=True, exist_ok=True)
        HOSTS.write_text("".join(f"{address} {BOTH}\n" for address in ADDRESSES.values()) + "127.0.0.1 localhost\n")
        self.bookie.mount()
        self.zookeeper.start()
        self.zookeeper.wait()
        self.initialise()
        self.bookie.start()
        self.bookie.wait()
        for broker in self.brokers.values():
            broker.start()
        for broker in self.brokers.values():
            broker.wait()

    def wait(self):
        for broker in self.brokers.values():
            broker.wait()

    def take_addresses(self):
        held = places.inside(PLACE.namespace, "ip", "-o", "addr", "show", "dev", "eth0").stdout
        for address in ADDRESSES.values():
            if f" {address}/" not in held:
                places.inside(PLACE.namespace, "ip", "addr", "add", f"{address}/{places.PREFIX}", "dev", "eth0")

    def initialise(self):
        """Once for its data."""
        mark = self.zookeeper.dir / "initialised"
        if mark.exists():
            return
        urls = [f"--web-service-url=http://{PLACE.address}:8080", f"--broker-service-url=pulsar://{PLACE.address}:6650"]
        places.inside(
            PLACE.namespace, str(brokers.distribution() / "bin/pulsar"), "initialize-cluster-metadata",
            "--cluster", PLACE.name, "--metadata-store", METADATA, "--configuration-metadata-store", METADATA, *urls,
        )  # fmt: skip
        mark.touch()

    def pid(self):
        return next((pid for part in self.parts if (pid := part.pid())), None)

    def pids(self):
        return {part.pid() for part in self.parts} - {None}

    def stop(self):
        for part in reversed(self.parts):
            part.stop()
        self.bookie.unmount()

    def kill(self):
        for part in reversed(self.parts):
            part.kill()

    def forget(self):
        HOSTS.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            HOSTS.parent.rmdir()
        self.bookie.unmount()
        for part in self.parts:
            part.forget()

    def owner(self, topic):
        """The name of the broker that serves a topic; asks whoever answers."""
        path = topic.replace("://", "/")
        url = self.admin.get(f"/lookup/v2/topic/{path}")["brokerUrl"]
        return next(name for name, address in ADDRESSES.items() if f"//{address}:" in url)

    def bundle(self, topic):
        return self.admin.get(f"/lookup/v2/topic/{topic.replace('://', '/')}/bundle")

    def unload(self, namespace, bundle, destination=None):
        """A bundle's topics are closed, and opened by `destination` or whoever is asked first."""
        query = f"?destinationBroker={ADDRESSES[destination]}:8080" if destination else ""
        self.admin.put(f"/admin/v2/namespaces/{namespace}/{bundle}/unload{query}")

    def move(self, namespace, topic, destination, patience=30):
        """Until the broker of that name has it."""
        deadline, complaint = time.monotonic() + patience, ""
        while time.monotonic() < deadline:
            try:
                if self.owner(topic) == destination:
                    return
                self.unload(namespace, self.bundle(topic), destination)
            except (OSError, rest.Refused) as error:
                complaint = f": {error}"
                time.sleep(0.2)
        raise TestbedError(f"{topic} is still not {destination}'s after {patience} s{complaint}")
