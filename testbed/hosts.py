"""Machines of the sites beside their brokers': each has one agent, and can vanish. Then every packet from it and to it
is dropped, so that neither a broker nor the link's other end sees a connection end; what runs there does not know it.
"""

import contextlib

import places
from places import HOSTS, PLACES


@contextlib.contextmanager
def two_each():
    """(riskfuel's two, the bank's two), until the block ends."""
    every = [place for site in HOSTS.values() for place in site]
    places.down(every, wire=False)
    try:
        places.up(every)
        for place in HOSTS["bank"]:
            admit("-I", place)
        yield HOSTS["riskfuel"], HOSTS["bank"]
    finally:
        for place in HOSTS["bank"]:
            with contextlib.suppress(places.TestbedError):
                admit("-D", place)
        places.down(every, wire=False)


def admit(verb, host):
    """The bank's broker is reached from within the bank."""
    places.filter_packets(PLACES["bank"].namespace, verb, "INPUT", "-i", "eth0", "-s", host.address, "-j", "ACCEPT")


def vanish(host):
    drop("-I", host)


def come_back(host):
    drop("-D", host)


def drop(verb, host):
    for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
        places.filter_packets(host.namespace, verb, chain, way, "eth0", "-j", "DROP")
