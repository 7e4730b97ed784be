"""What is asked of each tunnel, one trial at a time: bytes in bulk, round trips by themselves and beside bulk,
connections, memory, and whether anything can be read on the wire between its ends. Compares nothing.
"""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time

from machine import Meter, resident_mib, tree
from tunnels import end, free_port, is_listening

LOAD = pathlib.Path(__file__).resolve().parent / "load.py"
SETTLE_SECONDS = 0.4
PATIENCE_SECONDS = 120
PINGS = 5000
CONNECTIONS = 1000
HELD = 200
# Bulk beside which round trips are tried: half of what the slowest tunnel carries.
LOADED_MBIT_S = 1000
MARK = b"plaintext-marker-0123456789abcdef"


class Broken(Exception):
    """A trial that came to no figure."""


def bulk(tunnel, seconds, streams, back):
    """iperf3 through the tunnel."""
    with server("iperf3", "-s", "-p", port := free_port(), "-B", "127.0.0.1", port=port):
        with tunnel.between(port) as (entry, roots):
            time.sleep(SETTLE_SECONDS)
            command = ["iperf3", "-c", "127.0.0.1", "-p", entry, "-t", seconds, "-P", streams, "-J", *["-R"] * back]
            with Meter(roots) as meter:
                done = subprocess.run(
                    list(map(str, command)), capture_output=True, text=True, timeout=seconds + PATIENCE_SECONDS
                )  # fmt: skip
    said = json.loads(done.stdout or "{}")
    if "end" not in said or "error" in said:
        raise Broken(f"iperf3: {said.get('error') or done.stderr}")
    received = said["end"]["sum_received"]
    gigabytes = received["bytes"] / 1e9
    return {
        "mbit_s": round(received["bits_per_second"] / 1e6, 1),
        "cpu_s_per_gb": round(meter.cpu / gigabytes, 4),
        "machine_cpu_s_per_gb": round(meter.figures["machine_cpu_s"] / gigabytes, 4),
    } | meter.figures


def ping(tunnel, seconds, beside=None):
    """Round trips of 64 bytes on one connection; `beside` so many Mbit/s of another one."""
    with served(tunnel) as (entry, roots), contextlib.ExitStack() as stack:
        if beside is not None:
            flood = stack.enter_context(load("flood", entry, beside, stdin=subprocess.PIPE))
            # Its windows have grown by then.
            time.sleep(1)
        with Meter(roots) as meter:
            figures = told("ping", entry, PINGS, seconds)
        if beside is not None:
            flood.stdin.close()
            figures["beside_mbit_s"] = round(json.loads(flood.stdout.readline() or "{}").get("mbit_s", 0), 1)
    trips = figures["round_trips"]
    return figures | {"cpu_us_per_round_trip": round(meter.cpu / trips * 1e6, 1)} | meter.figures


def connections(tunnel, at_once):
    """Connections, each with one round trip."""
    with served(tunnel) as (entry, roots):
        with Meter(roots) as meter:
            figures = told("short", entry, CONNECTIONS, at_once)
    if figures["failed"]:
        raise Broken(f"{figures['failed']} of {CONNECTIONS} connections failed: {figures['first_failure']}")
    return {
        "per_s": round(CONNECTIONS / figures["took_s"], 1),
        "cpu_ms_per_connection": round(meter.cpu / CONNECTIONS * 1e3, 3),
    } | meter.figures


def memory(tunnel):
    """Before the first connection, with many, and after bulk on one."""
    with served(tunnel) as (entry, roots):
        idle = resident_mib(roots)
        with load("hold", entry, HELD, stdin=subprocess.PIPE) as holding:
            figures = json.loads(holding.stdout.readline())
            time.sleep(SETTLE_SECONDS)
            held = resident_mib(roots)
            holding.stdin.close()
        with load("flood", entry, 0, stdin=subprocess.PIPE) as flood:
            time.sleep(2)
            in_bulk = resident_mib(roots)
            flood.stdin.close()
        processes = len(tree(roots))
    if figures["failed"]:
        raise Broken(f"{figures['failed']} of {HELD} connections failed")
    names = ("idle", "held", "in_bulk")
    both = {f"{name}_mib": value for name, value in zip(names, (idle[0], held[0], in_bulk[0]), strict=True)}
    shared = {f"{name}_pss_mib": value for name, value in zip(names, (idle[1], held[1], in_bulk[1]), strict=True)}
    return both | shared | {"processes": processes}


def wire(tunnel):
    """Packets between the ends in which a mark that went through can be read. Needs root."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    with sniffer, served(tunnel) as (entry, roots):
        sniffer.bind(("lo", 0))
        sniffer.settimeout(0.5)
        target = tunnel.target
        with socket.create_connection(("127.0.0.1", entry), 20) as sock:
            for _ in range(20):
                sock.sendall(MARK * 20)
                left = len(MARK) * 20
                while left:
                    left -= len(sock.recv(left)) or left
        inner = clear = 0
        until = time.monotonic() + 3
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < until:
                packet = sniffer.recv(70_000)
                ports = tcp_ports(packet)
                # The load's own connections are as they are.
                if ports and not ports & {entry, target} and len(packet) > 300:
                    inner, clear = inner + 1, clear + (MARK in packet)
    return {"inner_packets": inner, "readable_packets": clear}


def tcp_ports(packet):
    if packet[12:14] != b"\x08\x00" or packet[23] != 6:
        return None
    at = 14 + (packet[14] & 15) * 4
    return {int.from_bytes(packet[at : at + 2], "big"), int.from_bytes(packet[at + 2 : at + 4], "big")}


@contextlib.contextmanager
def served(tunnel):
    """The tunnel in front of the load's own server."""
    with server(sys.executable, LOAD, "serve", port := free_port(), port=port):
        tunnel.target = port
        with tunnel.between(port) as (entry, roots):
            time.sleep(SETTLE_SECONDS)
            yield entry, roots


@contextlib.contextmanager
def server(*command, port):
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"{command[0]} does not listen at {port}")
            time.sleep(0.02)
        yield
    finally:
        end(process)


@contextlib.contextmanager
def load(*words, stdin=None):
    process = subprocess.Popen(
        [sys.executable, str(LOAD), *map(str, words)], stdout=subprocess.PIPE, stdin=stdin, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
        process.wait(PATIENCE_SECONDS)
    finally:
        end(process)


def told(*words):
    """The figures of a load that ends by itself."""
    with load(*words) as process:
        line = process.stdout.readline()
    if not line:
        raise Broken(f"the load `{words[0]}` said nothing")
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in json.loads(line).items()}


def carries(tunnel, _how):
    """A byte, as a check."""
    return f"carries; {ping(tunnel, 1)['p50_us']:.0f} µs there and back"


# By name, what is called with a tunnel and how it is asked: for how many seconds. In this order, so that the short ones
# come first.
TRIALS = {
    "memory": lambda tunnel, _: memory(tunnel),
    "wire": lambda tunnel, _: wire(tunnel),
    "ping": lambda tunnel, how: ping(tunnel, how.seconds),
    "ping-loaded": lambda tunnel, how: ping(tunnel, how.seconds, LOADED_MBIT_S),
    "ping-full": lambda tunnel, how: ping(tunnel, how.seconds, 0),
    "connections-1": lambda tunnel, _: connections(tunnel, 1),
    "connections-16": lambda tunnel, _: connections(tunnel, 16),
    "bulk-1": lambda tunnel, how: bulk(tunnel, how.seconds, 1, False),
    "bulk-1-back": lambda tunnel, how: bulk(tunnel, how.seconds, 1, True),
    "bulk-4": lambda tunnel, how: bulk(tunnel, how.seconds, 4, False),
    "bulk-4-back": lambda tunnel, how: bulk(tunnel, how.seconds, 4, True),
}
# What one repetition tells as well as five.
ONCE = {"wire"}
