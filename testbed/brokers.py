"""One organisation's Pulsar: a standalone of its own in its network namespace, known by a pid file.

Data survives `stop` and `kill`; only `forget` removes it. Refuses to signal a process that it did not start.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import places
import rest
from places import TestbedError

PULSAR_VERSION = "4.0.8"
MEMORY = "-Xms512m -Xmx1g -XX:MaxDirectMemorySize=2g"
READY_SECONDS = 240
HEAL_ATTEMPTS = 5
# Other locks are invalidated a few times at a start; a quarrel writes thousands of lines in a second.
QUARREL_LINES = 100
QUARREL_LOG_LEN = 8 << 20
STOP_SECONDS = 30
LOOK_AGAIN_SECONDS = 0.1


def home():
    return pathlib.Path(os.environ.get("BRIDGE_TESTBED_HOME") or pathlib.Path.home() / ".cache/pulsar-bridge-testbed")


def distribution():
    path = home() / f"apache-pulsar-{PULSAR_VERSION}"
    if not (path / "bin/pulsar").exists():
        raise TestbedError(f"Pulsar {PULSAR_VERSION} is not in {home()}: run testbed/setup")
    return path


class Broker:
    """A standalone; its state is on disk, so any number of programs may hold a handle."""

    memory = MEMORY
    template = "standalone.conf"

    def __init__(self, place, name=None, address=None):
        self.place, self.name, self.address = place, name or place.name, address or place.address
        self.dir = home() / "run" / self.name
        self.log = self.dir / "standalone.log"
        self.admin = rest.Admin(place, address=self.address)

    def start(self):
        """Starts with the data that is there. `wait` says when it serves."""
        if self.pid():
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        inside = ["ip", "netns", "exec", self.place.namespace, self.program()]
        with open(self.log, "ab") as log:
            log_from = log.tell()
            # `ip netns exec` and bin/pulsar both exec, so this pid becomes Java's.
            process = subprocess.Popen(
                [*inside, *self.command()], cwd=self.dir, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        kept = {"pid": process.pid, "born": born(process.pid), "log_from": log_from}
        self.pid_file().write_text(json.dumps(kept))

    def program(self):
        return str(self.distribution() / "bin/pulsar")

    def distribution(self):
        return distribution()

    def command(self):
        return [
            "standalone", "-c", str(self.configuration()), "-a", self.address,
            "-nfw", "-nss", "--metadata-dir", str(self.dir / "meta"), "--bookkeeper-dir", str(self.dir / "bk"),
        ]  # fmt: skip

    def environment(self):
        ours = {"PULSAR_MEM": self.memory, "PULSAR_LOG_DIR": str(self.dir), "PULSAR_LOG_APPENDER": "Console"}
        return os.environ | ours

    def wait(self):
        """Until lookups answer with the address that clients are to use."""
        for _ in range(HEAL_ATTEMPTS):
            self.wait_ready(READY_SECONDS)
            if not self.quarrels_with_itself():
                return
            # A clean stop releases the locks, so that the next start finds none.
            self.stop()
            self.start()
        raise TestbedError(f"{self.name}'s broker quarrels about its locks at every start:\n{self.last_words()}")

    def quarrels_with_itself(self):
        """After a SIGKILL a standalone finds the locks of its former life in RocksDB, and now and then deletes and
        re-acquires one of them for ever (ResourceLockImpl.revalidate), which costs a core and its disk."""
        with open(self.log, "rb") as log:
            log.seek(self.kept().get("log_from", 0))
            return log.read(QUARREL_LOG_LEN).count(b"was invalidated. state Valid") > QUARREL_LINES

    def wait_ready(self, deadline_seconds):
        deadline = time.monotonic() + deadline_seconds
        while True:
            if not self.pid():
                raise TestbedError(f"{self.name}'s broker ended while starting:\n{self.last_words()}")
            reason = self.unready()
            if reason is None:
                return
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"{self.name}'s broker is not ready after {deadline_seconds} s ({reason}):\n"
                    f"{self.last_words()}"
                )
            time.sleep(LOOK_AGAIN_SECONDS)

    def unready(self):
        """Why it does not serve yet; None when it does."""
        try:
            if "public/default" not in self.admin.get("/admin/v2/namespaces/public"):
                return "no namespace public/default yet"
            owner = self.admin.get("/lookup/v2/topic/persistent/public/default/testbed-readiness")
        except (OSError, rest.Refused) as error:
            return str(error)
        url = owner.get("brokerUrlTls" if self.place.tls else "brokerUrl")
        return None if url == self.place.service_url else f"lookup answers {url} instead of {self.place.service_url}"

    def stop(self):
        """SIGTERM, and SIGKILL for one that does not end; says whether it ended by itself."""
        return end(self.pid(), STOP_SECONDS)

    def kill(self):
        """SIGKILL, now; False when there was nothing to kill."""
        pid = self.pid()
        if not pid:
            return False
        end(pid, 0)
        return True

    def forget(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def pid(self):
        """The broker's pid while it lives; a pid that was given to another process since does not count."""
        kept = self.kept()
        return kept["pid"] if kept and kept["born"] is not None and born(kept["pid"]) == kept["born"] else None

    def kept(self):
        try:
            return json.loads(self.pid_file().read_text())
        except (OSError, ValueError):
            return None

    def pid_file(self):
        return self.dir / "broker.pid"

    def settings(self):
        """What makes this one an organisation's own."""
        return {
            "clusterName": self.place.name,
            "bindAddress": "0.0.0.0",
            "advertisedAddress": self.address,
            "brokerDeduplicationEnabled": "true",
            "transactionCoordinatorEnabled": "true",
            # A test's topics go when it ends, and what they held soon after; the disk is the slowest part here.
            "forceDeleteNamespaceAllowed": "true",
            "journalMaxSizeMB": "256",
            "journalMaxBackups": "0",
            "gcWaitTime": "60000",
        }

    def configuration(self):
        """The distribution's file with our settings."""
        ours = self.settings()
        lines = (self.distribution() / "conf" / self.template).read_text().splitlines()
        kept = [line for line in lines if line.split("=")[0].strip() not in ours]
        path = self.dir / self.template
        path.write_text("\n".join(kept + [f"{key}={value}" for key, value in ours.items()]) + "\n")
        return path

    def last_words(self):
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        telling = [line for line in lines if " ERROR " in line or "Exception" in line] or lines
        return "\n".join(telling[-15:]) + f"\n(whole log: {self.log})"


class Passing(Broker):
    """One that lives as long as its `with` block, and its data too unless something failed."""

    def __enter__(self):
        places.up([self.place])
        self.stop()
        self.forget()
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, fault, *_):
        self.kill()
        if not fault:
            self.forget()


def born(pid):
    """Start time of a process that lives, in clock ticks since boot; with the pid it names a process for good."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def end(pid, patience):
    """Ends a process by its pid and waits until it is gone; True when it went without SIGKILL."""
    if not pid:
        return True
    mark = born(pid)
    for kind, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
        if seconds == 0:
            continue
        try:
            os.kill(pid, kind)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + seconds
        while mark is not None and born(pid) == mark:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return kind == signal.SIGTERM
    raise TestbedError(f"process {pid} survives SIGKILL")
