"""The bank's Kubernetes API by plain kubectl: a real kube-apiserver with etcd in the edge's network, which nobody gets
into, and kubectl in the hub's, by what `bridge kubeconfig` prints. Its certificate is verified throughout.
"""

import base64
import json
import os
import pathlib
import socket
import ssl
import subprocess
import time

import places
from places import TestbedError
from scene import EDGE, HUB, hold_that

VERSION = "1.34.2"
NAME = "kube.bank.internal"
PORT, LISTEN_PORT = 16443, 6443
# What it did, one line of JSON each; a watch is told once its answer has begun.
AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{ level: Metadata, verbs: [watch], resources: [{ group: "", resources: [configmaps] }] }, { level: None }]
"""
MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: { name: applied, namespace: default, labels: { of: bridge } }
data: { key: value }
"""


def kubectl(scene):
    """kubectl through a forward says and does what it says and does at the cluster itself, also across a cut link."""
    kube = Kube(scene)
    target = f"{NAME}:{PORT}"
    forward = {"name": "kube-api", "from": "hub", "listen": f"127.0.0.1:{LISTEN_PORT}", "to": "edge", "target": target}
    ends = scene.ends(pulsar=False, hub={"forwards": [forward]}, policy={"forward": [target]}).start()
    wait_listening(ends)
    kube.through = scene.folder / "through.conf"
    command = (scene.binary, "kubeconfig", "--forward", "kube-api", "--config", ends.hub.config, "--from", kube.direct)
    code, printed, said = scene.run(HUB, *command)
    hold_that((code, said) == (0, ""), f"bridge kubeconfig: {code} {said}")
    kube.through.write_text(printed)
    hold_that("insecure" not in printed and NAME in printed, "the printed kubeconfig does not verify")

    same(kube, "get", "namespaces", "--output", "name", "--sort-by", "metadata.name")
    same(kube, "get", "--raw", "/version")
    same(kube, "get", "configmap", "nobody", expect=1)
    same(kube, "auth", "can-i", "create", "namespaces")
    (scene.folder / "applied.yaml").write_text(MANIFEST)
    code, out, _ = kube.at_hub("apply", "-f", scene.folder / "applied.yaml")
    hold_that((code, out) == (0, "configmap/applied created\n"), f"apply: {code} {out}")
    same(kube, "apply", "-f", scene.folder / "applied.yaml")
    same(kube, "get", "configmap", "applied", "--output", "yaml")
    scene.say("get, apply, and what fails: output and exit code as at the cluster")
    other = kube.wrong_name()
    hold_that(other != 0, "a kubeconfig with another tls-server-name was believed")
    watched_across_a_cut(scene, kube, ends)
    upgraded(scene, kube)


def watched_across_a_cut(scene, kube, ends):
    """`kubectl wait` watches, and begins anew when the watch breaks; `kubectl get --watch` ends then. What either asks
    before it watches must not break: it ends with that."""
    condition = ("wait", "configmap/applied", "--for", "jsonpath={.data.key}=changed", "--timeout", "60s")
    waits = kube.begin(*condition)
    watches = kube.begin("get", "configmap", "applied", "--watch", "--output", "name")
    wait_until(lambda: kube.watches() == 2, "the API server answers two watches")
    hold_that(open_connections(ends) >= 2, "the watches do not go through the forward")
    ends.hub.kill()
    code = watches.wait(20)
    ends.hub.start()
    wait_listening(ends)
    hold_that(waits.poll() is None, f"kubectl wait ended with the link: {waits.poll()}")
    code_of_patch, _, said = kube.at_edge("patch", "configmap", "applied", "--patch", '{"data": {"key": "changed"}}')
    hold_that(code_of_patch == 0, said)
    hold_that(waits.wait(60) == 0, f"kubectl wait: {waits.stderr.read().decode()}")
    scene.say(f"a watch across the cut saw what came after it; `get --watch` ended with the link (exit code {code})")


def upgraded(scene, kube):
    """A WebSocket, by HTTP Upgrade: a watch whose events come as frames."""
    for place, address in ((EDGE, (EDGE.address, PORT)), (HUB, ("127.0.0.1", LISTEN_PORT))):
        with kube.websocket(place, address) as upgraded:
            name = f"from-{place.name}"
            code, _, said = kube.at_edge("create", "configmap", name)
            hold_that(code == 0, said)
            seen = []
            while name not in seen:
                event = json.loads(frame(upgraded))
                hold_that(event["type"] != "ERROR", f"the API server ended the watch: {event}")
                seen.append(event["object"]["metadata"]["name"])
    scene.say("a WebSocket watch: upgraded, and its frames came")


class Kube:
    """etcd, kube-apiserver and an administrator's kubeconfig in the edge's network; they end with the case."""

    def __init__(self, scene):
        self.scene, self.folder, self.through = scene, scene.folder / "kube", None
        self.folder.mkdir()
        self.direct = self.folder / "admin.conf"
        self.hosts()
        self.certificates()
        data, folder = self.folder / "etcd", self.folder
        scene.program(
            EDGE, "etcd", "--data-dir", data, "--listen-client-urls", "http://127.0.0.1:2379",
            "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
        ).wait_listening(2379, "127.0.0.1")  # fmt: skip
        self.audit = folder / "audit.log"
        (folder / "audit.yaml").write_text(AUDIT_POLICY)
        server = scene.program(
            EDGE, apiserver(scene), "--etcd-servers", "http://127.0.0.1:2379", "--secure-port", PORT, "--cert-dir", folder,
            "--tls-cert-file", folder / "server.crt", "--tls-private-key-file", folder / "server.key",
            "--client-ca-file", folder / "ca.crt", "--service-account-key-file", folder / "server.key",
            "--service-account-signing-key-file", folder / "server.key", "--service-account-issuer", "https://kube",
            "--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC",
            "--advertise-address", EDGE.address, "--audit-policy-file", folder / "audit.yaml",
            "--audit-log-path", self.audit, name="kube-apiserver",
        )  # fmt: skip
        server.wait_listening(PORT, EDGE.address, patience=60)
        cluster = {"server": f"https://{NAME}:{PORT}", "certificate-authority": "ca.crt"}
        user = {"client-certificate": "admin.crt", "client-key": "admin.key"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "bank",
            "contexts": [{"name": "bank", "context": {"cluster": "bank", "user": "admin"}}],
            "clusters": [{"name": "bank", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
        }  # fmt: skip
        self.direct.write_text(json.dumps(config))
        ready = lambda: self.at_edge("get", "namespace", "default")[0] == 0  # noqa: E731
        wait_until(ready, f"the API server serves: {server.last_words()}", 60)

    def hosts(self):
        """The server's name, known in the edge's network only."""
        folder = pathlib.Path("/etc/netns", EDGE.namespace)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{EDGE.address} {NAME}\n")
        self.scene.undo.callback(lambda: ((folder / "hosts").unlink(), folder.rmdir()))

    def certificates(self):
        for name, subject, extension in (
            ("ca", "/CN=kube-ca", None),
            ("server", f"/CN={NAME}", f"subjectAltName=DNS:{NAME}"),
            ("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth"),
        ):
            made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
            made += ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", subject]
            if extension:
                made += ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", extension]
            done = subprocess.run(made, cwd=self.folder, capture_output=True, text=True)
            if done.returncode != 0:
                raise TestbedError(f"openssl: {done.stderr}")

    def at_edge(self, *words):
        return self.scene.run(EDGE, "kubectl", "--kubeconfig", self.direct, *words)

    def at_hub(self, *words):
        return self.scene.run(HUB, "kubectl", "--kubeconfig", self.through, *words)

    def begin(self, *words):
        """kubectl in the hub's network, not waited for."""
        command = ["ip", "netns", "exec", HUB.namespace, "kubectl", "--kubeconfig", self.through, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.scene.undo.callback(lambda: process.poll() is None and process.kill())
        return process

    def watches(self):
        """How many watches of kubectl's the server has begun to answer so far."""
        lines = self.audit.read_text().splitlines(keepends=True) if self.audit.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return sum(one["stage"] == "ResponseStarted" and one["userAgent"].startswith("kubectl/") for one in told)

    def wrong_name(self):
        """The exit code where another name is asked of the certificate."""
        text = self.through.read_text()
        other = self.folder / "wrong.conf"
        other.write_text(text.replace(f"tls-server-name: {NAME}", "tls-server-name: other.internal"))
        hold_that(other.read_text() != text, "no tls-server-name to replace")
        return self.scene.run(HUB, "kubectl", "--kubeconfig", other, "get", "--raw", "/version")[0]

    def websocket(self, place, address):
        """An upgraded connection of a watch, its certificate verified by name."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        # Our own CA has no key usage extension, which newer versions of Python ask for by default.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        with places.entered(place.namespace):
            plain = socket.create_connection(address, timeout=20)
        upgraded = context.wrap_socket(plain, server_hostname=NAME)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1", f"Host: {NAME}", "Connection: Upgrade",
            "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Origin: https://{NAME}", "", "",
        )  # fmt: skip
        upgraded.sendall("\r\n".join(lines).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += exactly(upgraded, 1)
        hold_that(head.startswith(b"HTTP/1.1 101 "), head.decode())
        return upgraded


def same(kube, *words, expect=0):
    """Both ways say the same, and end with the same code."""
    direct, through = kube.at_edge(*words), kube.at_hub(*words)
    hold_that(direct[0] == expect, f"kubectl {words}: {direct}")
    hold_that(direct == through, f"kubectl {words}: at the cluster {direct}, through the forward {through}")


def apiserver(scene):
    home = pathlib.Path(os.environ.get("BRIDGE_TESTBED_HOME", pathlib.Path.home() / ".cache/pulsar-bridge-testbed"))
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"kube-apiserver-{VERSION}"
    if not file.exists():
        scene.say("building kube-apiserver, once: some four minutes")
    done = subprocess.run([pathlib.Path(__file__).parent / "kube/build", VERSION, file], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"kube/build: {done.stderr[-2000:]}")
    return file


def frame(stream):
    """The payload of a server's frame (RFC 6455 §5.2), which has no mask."""
    _, length = exactly(stream, 2)
    if length >= 126:
        length = int.from_bytes(exactly(stream, 2 if length == 126 else 8), "big")
    return exactly(stream, length)


def exactly(stream, length):
    read = b""
    while len(read) < length:
        piece = stream.recv(length - len(read))
        hold_that(piece, f"the connection ended after {len(read)} of {length} bytes")
        read += piece
    return read


def forward_row(ends):
    report = ends.hub.status() or {"forwards": []}
    return next(iter(report["forwards"]), {})


def open_connections(ends):
    return forward_row(ends).get("open", 0)


def wait_listening(ends):
    ends.wait(20, "the forward listens", lambda: forward_row(ends).get("state") == "listening")


def wait_until(condition, what, patience=20.0):
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"not after {patience:.0f} s: {what}")
        time.sleep(0.05)
