"""Who somebody is at a guarded broker: certificates by openssl, and tokens (JWT, HS256). Made anew for each run;
nothing of it is worth keeping."""

import base64
import hashlib
import hmac
import json
import secrets
import time

import places

SETTINGS = """\
[req]
distinguished_name = empty
prompt = no
[empty]
[authority]
basicConstraints = critical, CA:TRUE
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:{address}
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
"""
# PKCS#8, which Netty wants.
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


class Authority:
    """Signs certificates of brokers and clients into a folder of its own."""

    def __init__(self, folder, address):
        folder.mkdir(parents=True)
        self.folder, self.settings = folder, folder / "openssl.cnf"
        self.settings.write_text(SETTINGS.format(address=address))
        self.cert, self.key = self.make("authority", f"{folder.name}-root")

    def server(self, name):
        return self.make("server", name, "-CA", str(self.cert), "-CAkey", str(self.key))

    def client(self, name):
        """Certificate and key of a client; its common name is its role."""
        return self.make("client", name, "-CA", str(self.cert), "-CAkey", str(self.key))

    def make(self, section, name, *signer):
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        places.run(
            "openssl", "req", "-x509", "-config", str(self.settings), "-extensions", section, *NEW_KEY, "-days", "2",
            "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(cert), *signer,
        )  # fmt: skip
        return cert, key


class Tokens:
    """Issues tokens of one secret, and remembers them."""

    def __init__(self):
        self.secret, self.issued = secrets.token_bytes(32), []

    def issue(self, role, seconds=3600):
        head, claims = {"alg": "HS256"}, {"sub": role, "exp": int(time.time() + seconds), "jti": secrets.token_hex(8)}
        signed = ".".join(text64(json.dumps(part).encode()) for part in (head, claims))
        seal = hmac.new(self.secret, signed.encode(), hashlib.sha256).digest()
        self.issued.append(f"{signed}.{text64(seal)}")
        return self.issued[-1]

    def setting(self):
        """As a broker's `tokenSecretKey`."""
        return f"data:;base64,{base64.b64encode(self.secret).decode()}"


def text64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
