"""The networks of the testbed: one namespace for each organisation, joined by a wire.

The wire is a Linux bridge in a namespace of its own, so that neither the host's firewall (a Docker engine leaves its
FORWARD policy at DROP) nor the host's addresses have a part in it. Refuses to touch any namespace it did not name.
"""

import contextlib
import ctypes
import os
import pathlib
import socket
import subprocess
from dataclasses import dataclass

# Another word here, and another BRIDGE_TESTBED_HOME, is another testbed beside the first.
NAME = os.environ.get("BRIDGE_TESTBED_NAME", "bridge")
WIRE = f"{NAME}-wire"
WIRE_ADDRESS = "198.18.0.254"
PREFIX = 16
LINK_PORT = 8001


# A root shell that came by plain `su` lacks them.
os.environ["PATH"] += ":/usr/sbin:/sbin"


class TestbedError(Exception):
    """What is wrong and what to do about it; printed without a traceback."""


@dataclass(frozen=True)
class Place:
    """One organisation's network."""

    name: str
    address: str
    accepts_inbound: bool
    tls: bool = False

    @property
    def namespace(self):
        return f"{NAME}-{self.name}"

    @property
    def service_url(self):
        return f"pulsar+ssl://{self.address}:6651" if self.tls else f"pulsar://{self.address}:6650"

    @property
    def admin_url(self):
        return f"https://{self.address}:8443" if self.tls else f"http://{self.address}:8080"


PLACES = {
    place.name: place
    for place in (
        Place("riskfuel", "198.18.1.1", accepts_inbound=True),
        Place("bank", "198.18.2.1", accepts_inbound=False),
        Place("partner", "198.18.3.1", accepts_inbound=True),
    )
}
# Its broker lives only as long as the case that needs it (guarded.py).
GUARDED = Place("guarded", "198.18.4.1", accepts_inbound=True, tls=True)
# Likewise, of any version and with settings of its own (guest.py).
GUEST = Place("guest", "198.18.5.1", accepts_inbound=True)
EVERY = (*PLACES.values(), GUARDED, GUEST)
# Machines of a site beside its broker's, for agents that shall vanish alone (hosts.py).
HOSTS = {
    "riskfuel": (Place("riskfuel-a", "198.18.1.11", True), Place("riskfuel-b", "198.18.1.12", True)),
    "bank": (Place("bank-a", "198.18.2.11", False), Place("bank-b", "198.18.2.12", False)),
}


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def exists(namespace):
    return pathlib.Path("/run/netns", namespace).exists()


def pids(namespace):
    """Processes that live in a namespace of ours."""
    if not exists(namespace):
        return []
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).stdout.split()]


def up(places):
    """Makes the wire and the places; what is already there stays as it is."""
    if os.geteuid() != 0:
        raise TestbedError("network namespaces need root: run as root")
    if not exists(WIRE):
        run("ip", "netns", "add", WIRE)
        inside(WIRE, "ip", "link", "set", "lo", "up")
        inside(WIRE, "ip", "link", "add", "wire", "type", "bridge")
        inside(WIRE, "ip", "addr", "add", f"{WIRE_ADDRESS}/{PREFIX}", "dev", "wire")
        inside(WIRE, "ip", "link", "set", "wire", "up")
    for place in places:
        if not exists(place.namespace):
            join(place)


def join(place):
    run("ip", "netns", "add", place.namespace)
    # Both ends are born inside their namespaces: the host never sees an interface of ours.
    run("ip", "-n", WIRE, "link", "add", place.name, "type", "veth", "peer", "name", "eth0", "netns", place.namespace)
    run("ip", "-n", WIRE, "link", "set", place.name, "master", "wire", "up")
    inside(place.namespace, "ip", "link", "set", "lo", "up")
    inside(place.namespace, "ip", "addr", "add", f"{place.address}/{PREFIX}", "dev", "eth0")
    inside(place.namespace, "ip", "link", "set", "eth0", "up")
    if not place.accepts_inbound:
        shut(place)


def shut(place):
    """Lets no connection in; answers to what was dialled from inside still come."""
    try:
        filter_packets(place.namespace, "-A", "INPUT", "-i", "eth0", "-p", "tcp", "--syn", "-j", "DROP")
    except TestbedError:
        run("ip", "netns", "del", place.namespace)
        raise


# Kernels have one of iptables' two back ends, or both.
FILTERS = ("iptables", "iptables-legacy", "iptables-nft")


def filter_packets(namespace, *rule, tools=FILTERS):
    """A rule of the packet filter inside a namespace of ours."""
    refusals = []
    for filter_tool in tools:
        done = run("ip", "netns", "exec", namespace, filter_tool, *rule, check=False)
        if done.returncode == 0:
            return
        refusals.append(f"{filter_tool}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    raise TestbedError(f"no packet filter works in {namespace} ({'; '.join(refusals)}): run testbed/setup")


def prove(places):
    """Holds the promise of the network: who reaches whom, tried with real connections."""
    for here in places:
        for there in places:
            if here is not there:
                reached = reaches(here.namespace, there)
                if reached != there.accepts_inbound:
                    raise TestbedError(
                        f"{here.name} {'reaches' if reached else 'does not reach'} {there.name}'s broker at "
                        f"{there.address}:6650, the opposite was meant: testbed/clusters down, then up"
                    )


def reaches(namespace, there, port=6650, patience=0.5):
    try:
        with entered(namespace):
            socket.create_connection((there.address, port), timeout=patience).close()
        return True
    except TimeoutError:
        return False


def down(places, wire=True):
    for namespace in [place.namespace for place in places] + [WIRE] * wire:
        if exists(namespace):
            run("ip", "netns", "del", namespace)


def inside(namespace, *command):
    return run("ip", "netns", "exec", namespace, *command)


_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def entered(namespace):
    """This thread's new sockets belong to `namespace` until the block ends; a socket keeps its namespace for life."""
    path = pathlib.Path("/run/netns", namespace)
    if not path.exists():
        raise TestbedError(f"there is no network namespace {namespace}: testbed/clusters up")
    with open("/proc/thread-self/ns/net") as home, open(path) as away:
        _setns(away)
        try:
            yield
        finally:
            _setns(home)


def _setns(handle):
    if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
