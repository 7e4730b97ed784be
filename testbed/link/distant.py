"""A test's hand on the distant link (`distant/`): builds it, lays it between two networks, asks it what became of the
packets, and sets what decides over TCP on it. Decides nothing. Refuses to touch any kernel setting outside a namespace.
"""

import json
import os
import pathlib
import subprocess

PACKAGE = pathlib.Path(__file__).resolve().parent / "distant"
ROOT = PACKAGE.parents[2]
DEVICE = "far"
# Of one connection, in bytes: (tcp_rmem, tcp_wmem) as Linux has had them for long, and as README.md asks for.
STOCK = ("4096 131072 6291456", "4096 16384 4194304")
# Before the other programs of a loaded machine: a link without time for its packets is no link of that length.
NICENESS = -15


class LinkError(Exception):
    """The link did not come up, or ended by itself."""


def build():
    """The program; compiled when it is not there as the sources are."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "distant"
    command = ["cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", str(PACKAGE / "Cargo.toml")]
    done = subprocess.run([*command, "--target-dir", str(target)], capture_output=True, text=True)
    if done.returncode != 0:
        raise LinkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return target / "release/distant"


class DistantLink:
    """A running link. `one` and `other` are (namespace, address)."""

    def __init__(self, one, other, delay_ms, rate_mbit_s, loss=0.0, seed=1, queue_kib=None, congestion="cubic"):
        command = ["nice", "-n", str(NICENESS), str(build())]
        command += ["--one", ":".join(one), "--other", ":".join(other), "--delay-ms", str(delay_ms)]
        command += ["--rate-mbit-s", str(rate_mbit_s), "--loss", str(loss), "--seed", str(seed)]
        command += ["--queue-kib", str(queue_kib)] if queue_kib else []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.answer()
        # By the route: as a namespace's own default, a kernel lets only those be chosen that everybody may.
        for (namespace, own), (_, away) in ((one, other), (other, one)):
            run("ip", "-n", namespace, "route", "replace", away, "dev", DEVICE, "src", own, "congctl", congestion)

    def counts(self):
        """What became of the packets of each direction (`from_one`, `from_other`)."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise LinkError(f"the link ended: exit code {self.process.wait()} of {' '.join(self.process.args)}")
        return json.loads(line)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        """Ends it; its devices go with it. Gives the last counts, or None when it had ended before."""
        if self.process.poll() is None:
            self.process.stdin.close()
            last = self.process.stdout.readline()
            self.process.wait(10)
            self.process.stdout.close()
            return json.loads(last) if last else None
        return None


def set_buffers(namespace, buffers):
    """For the sockets that are made there from now on."""
    receive, send = buffers
    # Nothing that one connection has found out is told the next one.
    settings = {"tcp_rmem": receive, "tcp_wmem": send, "tcp_no_metrics_save": "1"}
    words = [f"net.ipv4.{name}={value}" for name, value in settings.items()]
    run("ip", "netns", "exec", namespace, "sysctl", "-q", "-w", *words)


def congestion_controls():
    """What this kernel has."""
    return pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LinkError(f"{' '.join(command)}: {done.stderr.strip()}")
