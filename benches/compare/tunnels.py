"""The tunnels: how each is started on this machine, its two ends as processes of their own, between a port to enter by
and a port where the load is served. Measures nothing.

A `Tunnel` is named in one place, `TUNNELS`. In its commands and files stand {entry}: the port to listen at; {target}:
the port to reach; {inner}: a free port between its ends; {folder}: a folder of its own; {keys}: what `setup` made;
{bin}: what it installed; {bridge}: the bridge's binary. Other braces are doubled.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import time

HOME = pathlib.Path(os.environ.get("BRIDGE_COMPARE_HOME", pathlib.Path.home() / ".cache/pulsar-bridge-compare"))
READY_SECONDS = 15
END_SECONDS = 5
LOOK_AGAIN_SECONDS = 0.02
# The bridge carries so many connections of each side on a link.
BRIDGE_CONNECTIONS = 256
# A root shell that came by plain `su` lacks the first.
os.environ["PATH"] += ":/usr/sbin"
# Below what the system gives to clients.
PORTS = itertools.cycle(range(20_000, 32_000))


class NotReady(Exception):
    """A tunnel that does not carry."""


class Tunnel:
    """One way to carry a TCP connection between two processes. `prepare` is called with the words for its commands
    before they start, one after the other."""

    def __init__(self, name, encryption, *commands, files=None, prepare=None):
        self.name, self.encryption, self.commands = name, encryption, commands
        self.files, self.prepare = files or {}, prepare
        self.processes, self.bridge = [], None

    def missing(self):
        """What it needs and is not there."""
        programs = [shlex.split(fill(command, self.words(0, 0)))[0] for command in self.commands]
        return [program for program in programs if not (shutil.which(program) or os.path.exists(program))]

    def words(self, entry, target):
        return {
            "entry": entry, "target": target, "inner": free_port(), "folder": HOME / "run" / self.name,
            "keys": HOME / "keys", "bin": HOME / "bin", "bridge": self.bridge,
        }  # fmt: skip

    @contextlib.contextmanager
    def between(self, target):
        """Runs it in front of a port; gives the port to enter by, and its processes."""
        words = self.words(free_port(), target)
        folder = words["folder"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in self.files.items():
            (folder / name).write_text(fill(text, words))
        if self.prepare:
            self.prepare(words)
        try:
            for number, command in enumerate(self.commands):
                self.processes.append(start(fill(command, words), folder / f"{number}.log"))
                # The second dials the first.
                self.wait(words["inner"] if number == 0 else words["entry"])
            yield words["entry"], [process.pid for process in self.processes]
        finally:
            self.end()

    def wait(self, port):
        deadline = time.monotonic() + READY_SECONDS
        while not is_listening(port):
            gone = [process for process in self.processes if process.poll() is not None]
            if gone or time.monotonic() > deadline:
                raise NotReady(f"{self.name} does not listen at {port}: {self.last_words()}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def last_words(self):
        logs = sorted((HOME / "run" / self.name).glob("*.log"))
        return " | ".join(log.read_text(errors="replace")[-300:] for log in logs)

    def end(self):
        for process in reversed(self.processes):
            end(process)
        self.processes = []


class Nothing(Tunnel):
    """No tunnel: the load and who serves it talk to each other."""

    def __init__(self):
        super().__init__("none", "–")

    @contextlib.contextmanager
    def between(self, target):
        yield target, []


def fill(text, words):
    return text.format(**words)


def start(command, log):
    with open(log, "ab") as out:
        return subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip


def end(process):
    """Ends a process that has a session of its own, and what it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port():
    while True:
        port = next(PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def is_listening(port, pid="self"):
    """By looking, not by connecting: iperf3 would take that for its client. In the network of that process."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            # It has ended.
            return False
        for line in lines:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


def link(words):
    """The bridge's two sites: a link, and a forward that listens at each of them."""
    folder, bridge = words["folder"], words["bridge"]
    command = [bridge, "init", "--hub", "hub", "--edge", "edge", "--out", folder / "link"]
    done = subprocess.run([*command, "--url", f"tls://127.0.0.1:{words['inner']}"], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotReady(f"bridge init: {done.stderr}")
    allowed = [{"target": f"127.0.0.1:{words['target']}", "max_connections": BRIDGE_CONNECTIONS}]
    # Both forwards are there in either case; the load enters by one.
    ports = {"hub": free_port(), "edge": free_port()} | {words["at"]: words["entry"]}
    for site, other in (("hub", "edge"), ("edge", "hub")):
        file = folder / "link" / site / f"{site}.json"
        config = json.loads(file.read_text())
        config.pop("pulsar")
        config.pop("admin")
        config["routes"] = []
        config["forwards"] = [
            {
                "name": f"from-{site}", "from": site, "listen": f"127.0.0.1:{ports[site]}", "to": other,
                "target": f"127.0.0.1:{words['target']}", "max_connections": BRIDGE_CONNECTIONS,
            }
        ]  # fmt: skip
        if site == "hub":
            config["tunnel"]["listen"] = f"127.0.0.1:{words['inner']}"
            config["tunnel"]["edges"][0]["policy"] = {"forward": allowed}
        else:
            config["policy"] = {"forward": allowed}
        file.write_text(json.dumps(config, indent=2))


def bridge(name, at):
    run = "{bridge} run --config {folder}/link/%s/%s.json"
    return Tunnel(
        name, "TLS 1.3, AES-256-GCM, both sides by key", run % ("hub", "hub"), run % ("edge", "edge"),
        prepare=lambda words: link(words | {"at": at}),
    )  # fmt: skip


HAPROXY = """global
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    maxconn 2000
listen tunnel
    bind 127.0.0.1:%s
    server next 127.0.0.1:%s
"""


def haproxy(name, encryption, server, client):
    return Tunnel(
        name, encryption, "haproxy -db -f {folder}/server.cfg", "haproxy -db -f {folder}/client.cfg",
        files={
            "server.cfg": HAPROXY % ("{inner}" + server, "{target}"),
            "client.cfg": HAPROXY % ("{entry}", "{inner}" + client),
        },
    )  # fmt: skip


STUNNEL = "foreground = yes\npid =\ndebug = 3\n[tunnel]\n"
SSHD = """Port {inner}
ListenAddress 127.0.0.1
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
PidFile none
"""


def ssh(name, cipher):
    client = (
        f"ssh -F none -N -T -i {{keys}}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={{keys}}/known_hosts "
        f"-o StrictHostKeyChecking=yes -o HostKeyAlias=compare -o ExitOnForwardFailure=yes -o ControlPath=none "
        f"-c {cipher} -L 127.0.0.1:{{entry}}:127.0.0.1:{{target}} -p {{inner}} root@127.0.0.1"
    )
    return Tunnel(name, cipher, "/usr/sbin/sshd -D -e -f {folder}/sshd_config", client, files={"sshd_config": SSHD})


RATHOLE = {
    "server.toml": """[server]
bind_addr = "127.0.0.1:{inner}"
default_token = "compare"
[server.services.tunnel]
bind_addr = "127.0.0.1:{entry}"
[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{keys}/leaf.p12"
pkcs12_password = "compare"
""",
    "client.toml": """[client]
remote_addr = "127.0.0.1:{inner}"
default_token = "compare"
[client.services.tunnel]
local_addr = "127.0.0.1:{target}"
[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{keys}/ca.pem"
hostname = "localhost"
""",
}

TUNNELS = [
    Nothing(),
    # Entered at the hub, against the direction of the dial (as rathole does); and entered at the edge, along with it (as
    # the others do here).
    bridge("bridge", "hub"),
    bridge("bridge-edge", "edge"),
    haproxy("haproxy-plain", "none", "", ""),
    haproxy(
        "haproxy-tls", "TLS 1.3, the server by certificate", " ssl crt {keys}/both.pem",
        " ssl verify required ca-file {keys}/ca.pem verifyhost localhost",
    ),
    ssh("ssh-aes128-gcm", "aes128-gcm@openssh.com"),
    ssh("ssh-chacha20", "chacha20-poly1305@openssh.com"),
    Tunnel(
        "stunnel", "TLS 1.3, the server by certificate",
        "stunnel4 {folder}/server.conf", "stunnel4 {folder}/client.conf",
        files={
            "server.conf": STUNNEL + "accept = 127.0.0.1:{inner}\nconnect = 127.0.0.1:{target}\n"
            "cert = {keys}/leaf.pem\nkey = {keys}/leaf.key\n",
            "client.conf": STUNNEL + "client = yes\naccept = 127.0.0.1:{entry}\nconnect = 127.0.0.1:{inner}\n"
            "verifyChain = yes\nCAfile = {keys}/ca.pem\ncheckHost = localhost\n",
        },
    ),
    Tunnel(
        "rathole-tls", "TLS 1.2, the server by certificate", "{bin}/rathole --server {folder}/server.toml",
        "{bin}/rathole --client {folder}/client.toml", files=RATHOLE,
    ),
    Tunnel(
        "chisel", "ssh in a WebSocket", "{bin}/chisel server --host 127.0.0.1 --port {inner}",
        "{bin}/chisel client http://127.0.0.1:{inner} 127.0.0.1:{entry}:127.0.0.1:{target}",
    ),
    Tunnel(
        "wstunnel", "TLS in wss, the server not verified", "{bin}/wstunnel server wss://127.0.0.1:{inner}",
        "{bin}/wstunnel client -L tcp://127.0.0.1:{entry}:127.0.0.1:{target} wss://127.0.0.1:{inner}",
    ),
]  # fmt: skip
