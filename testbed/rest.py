"""Pulsar's admin REST, spoken from inside an organisation's network. Holds no policy and retries nothing."""

import http.client
import json
import socket
import urllib.parse

import places


# While a bundle changes its owner, brokers may point at each other.
HOPS_MAX = 8


class Refused(Exception):
    """An answer other than 2xx."""

    def __init__(self, method, path, status, text):
        super().__init__(f"{method} {path}: {status} {text[:300]}")
        self.status = status


class Admin:
    """One HTTP port inside a place; a new connection for each call, so that a restarted server needs no care.
    With `tls` (an SSL context) and `token` where the place wants them."""

    def __init__(self, place, port=None, address=None, patience=10.0, tls=None, token=None):
        self.place, self.port, self.patience = place, port or (8443 if tls else 8080), patience
        self.address, self.tls = address or place.address, tls
        # Those of a cluster's other brokers: where answers may lead to.
        self.others = ()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method, path, body=None):
        return self.ask_at(self.address, method, path, body)

    def ask_at(self, address, method, path, body, hops=0):
        connection = http.client.HTTPConnection(address, self.port, timeout=self.patience)
        try:
            with places.entered(self.place.namespace):
                connection.sock = socket.create_connection((address, self.port), timeout=self.patience)
            if self.tls:
                connection.sock = self.tls.wrap_socket(connection.sock, server_hostname=address)
            text = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"} if text is not None else {}
            connection.request(method, path, text, self.headers | kind)
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
            if 300 <= answer.status < 400:
                return self.follow(method, answer, body, hops + 1)
            if not 200 <= answer.status < 300:
                raise Refused(method, path, answer.status, said)
            return as_value(said)
        except OSError as error:
            raise OSError(f"{method} {address}:{self.port}{path}: {error}") from error
        finally:
            connection.close()

    def follow(self, method, answer, body, hops):
        # Several admin calls answer 307 to the owner of the bundle, which with one broker is this very address.
        location = urllib.parse.urlsplit(answer.getheader("Location") or "")
        if location.hostname not in (self.address, *self.others):
            raise Refused(method, location.geturl(), answer.status, "redirected to another broker")
        if hops > HOPS_MAX:
            raise Refused(method, location.geturl(), answer.status, f"redirected more than {HOPS_MAX} times")
        path = f"{location.path}?{location.query}" if location.query else location.path
        return self.ask_at(location.hostname, method, path, body, hops)

    def get(self, path):
        return self.ask("GET", path)

    def put(self, path, body=None):
        return self.ask("PUT", path, body)

    def post(self, path, body=None):
        return self.ask("POST", path, body)

    def delete(self, path):
        return self.ask("DELETE", path)


def as_value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def topic_path(topic):
    """`persistent://t/n/name` as it stands in admin paths."""
    scheme, rest = topic.split("://")
    tenant, namespace, name = rest.split("/")
    return f"/admin/v2/{scheme}/{tenant}/{namespace}/{urllib.parse.quote(name, safe='')}"
