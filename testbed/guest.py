"""A broker in the place of a site's own cluster, with settings of its own. It lives as long as its `with` block, and so
does its data unless something failed."""

import contextlib

import brokers
from places import GUEST


class Guest(brokers.Passing):
    """A standalone; `settings` may be changed between two starts."""

    # Beside the others, and with little to do.
    memory = "-Xms256m -Xmx640m -XX:MaxDirectMemorySize=640m"

    def __init__(self, site, **settings):
        super().__init__(GUEST)
        self.site, self.own = site, settings

    def settings(self):
        return super().settings() | {"clusterName": self.site} | self.own


@contextlib.contextmanager
def instead(stage, site, broker):
    """The site's cluster is this one until the block ends: for the agents of pairs made in it, and for clients."""
    plain = stage.brokers[site], stage.access[site]
    with broker:
        stage.brokers[site], stage.access[site] = broker, ["--url", GUEST.service_url]
        try:
            if broker.admin:
                stage.make_namespace(site)
            yield broker
        finally:
            stage.brokers[site], stage.access[site] = plain


def use(pair, site, broker=None):
    """The site's agent goes to the guest from its next start on."""
    pair.pulsar[site] = {"service_url": GUEST.service_url, "admin_url": GUEST.admin_url}
    if broker is not None and broker.admin is None:
        # Without admin REST, and without a word on which consumer is the active one.
        pair.pulsar[site] = {"service_url": GUEST.service_url, "replicas": 1}
    pair.configure()
