"""A broker that asks everybody who he is: TLS only, tokens and client certificates, authorization. It lives as long as
its `with` block, and its data too unless something failed."""

import re
import ssl

import brokers
import rest
from credentials import Authority, Tokens
from places import GUARDED

PROVIDERS = "org.apache.pulsar.broker.authentication.AuthenticationProvider"
CLIENT_PLUGIN = "org.apache.pulsar.client.impl.auth.AuthenticationToken"
OPERATOR = "operator"
REFRESHED = re.compile(r"\[(/[0-9.]+:[0-9]+)\] Refreshed authentication credentials for role (\S+)")


class Guarded(brokers.Passing):
    """In the place of a site's own cluster; its certificates are made in `folder`."""

    # Beside three others, and with little to do.
    memory = "-Xms256m -Xmx640m -XX:MaxDirectMemorySize=512m"

    def __init__(self, site, folder):
        super().__init__(GUARDED)
        self.site = site
        self.authority, self.tokens = Authority(folder, GUARDED.address), Tokens()
        self.cert, self.key = self.authority.server("broker")
        context = ssl.create_default_context(cafile=self.authority.cert)
        self.admin = rest.Admin(GUARDED, patience=60.0, tls=context, token=self.tokens.issue(OPERATOR))

    def settings(self):
        trusted = str(self.authority.cert)
        return super().settings() | {
            "clusterName": self.site,
            "brokerServicePort": "", "brokerServicePortTls": "6651", "webServicePort": "", "webServicePortTls": "8443",
            "tlsCertificateFilePath": str(self.cert), "tlsKeyFilePath": str(self.key),
            "tlsTrustCertsFilePath": trusted,
            "authenticationEnabled": "true", "authorizationEnabled": "true",
            "authenticationProviders": f"{PROVIDERS}Token,{PROVIDERS}Tls",
            "tokenSecretKey": self.tokens.setting(), "superUserRoles": OPERATOR,
            # A token that has expired is asked about at the next of these looks.
            "authenticationRefreshCheckSeconds": "1",
            "brokerClientTlsEnabled": "true", "brokerClientTrustCertsFilePath": trusted,
            "brokerClientAuthenticationPlugin": CLIENT_PLUGIN,
            "brokerClientAuthenticationParameters": f"token:{self.tokens.issue(OPERATOR)}",
        }  # fmt: skip

    def grant(self, role, topic, *actions):
        """As `pulsar-admin topics grant-permission`."""
        self.admin.post(f"{rest.topic_path(topic)}/permissions/{role}", list(actions))

    def grant_all(self, role, namespace, *actions):
        """As `pulsar-admin namespaces grant-permission`."""
        self.admin.post(f"/admin/v2/namespaces/{namespace}/permissions/{role}", list(actions))

    def refreshes(self):
        """How often each connection proved itself anew: {(address, role): count}."""
        found = {}
        for match in REFRESHED.finditer(self.log.read_text(errors="replace")):
            found[match.groups()] = found.get(match.groups(), 0) + 1
        return found
