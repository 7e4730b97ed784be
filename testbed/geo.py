"""Pulsar's own geo-replication from one place to another, set up through the admin REST of both."""

from places import PLACES
from rest import Admin


def replicate(namespace, source="bank", target="partner"):
    """What is written to `public/NAMESPACE` at the source is forwarded to the target. May be called again."""
    here, there = Admin(PLACES[source]), Admin(PLACES[target])
    if target not in here.get("/admin/v2/clusters"):
        urls = {"serviceUrl": PLACES[target].admin_url, "brokerServiceUrl": PLACES[target].service_url}
        here.put(f"/admin/v2/clusters/{target}", urls)
    here.post("/admin/v2/tenants/public", {"adminRoles": [], "allowedClusters": [source, target]})
    # The target's first: a replicator that finds no namespace waits long before it looks again.
    for admin, clusters in ((there, [target]), (here, [source, target])):
        if f"public/{namespace}" not in admin.get("/admin/v2/namespaces/public"):
            admin.put(f"/admin/v2/namespaces/public/{namespace}", {"replication_clusters": clusters})
