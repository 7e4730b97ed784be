"""The link through what ends TLS on the way, or shares its port with others. The edge reaches nothing but that."""

import servers
from places import LINK_PORT
from scene import EDGE, HUB, MIDDLE, hold_that, told


def nginx(scene):
    """Through a real nginx that ends TLS, killed and started again: nothing lost, nothing repeated."""
    through_ingress(scene, servers.nginx)


def haproxy(scene):
    """Through a real haproxy that ends TLS, killed and started again: nothing lost, nothing repeated."""
    through_ingress(scene, servers.haproxy)


def through_ingress(scene, start_server):
    ca_file = servers.authority(scene)
    ends = scene.ends(
        url=f"wss://{servers.NAME}/bridge", edge={"tunnel": {"outer_ca_file": str(ca_file)}},
        hub={"tunnel": {"trusted_proxies": [MIDDLE.address]}},
    )  # fmt: skip
    outlives(scene, ends, start_server, "wss", "wss")
    code, told, _ = scene.run(EDGE, scene.binary, "check", "--config", ends.edge.config)
    line = next(line for line in told.splitlines() if line.startswith("  link "))
    scene.say(line.strip())
    hold_that(code == 0 and "`CN=Ingress Authority`, opaque to it" in line, f"check: {code}\n{told}")
    # X-Forwarded-For, believed of who is trusted.
    remote = ends.link(ends.hub)["remote"]
    hold_that(remote.startswith(f"{EDGE.address} (by {MIDDLE.address}:"), f"the hub takes {remote} for the caller")


def sni(scene):
    """Past a real haproxy that shares port 443 by SNI and tells who calls: the link's own TLS, unopened."""
    ends = scene.ends(url=f"tls://{servers.NAME}:443", hub={"tunnel": {"trusted_proxies": [MIDDLE.address]}})
    outlives(scene, ends, servers.sni_router, "tls", "tls")
    remote = ends.link(ends.hub)["remote"]
    hold_that(remote.startswith(f"{EDGE.address}:") and MIDDLE.address in remote, f"the caller is {remote}")


def failover(scene):
    """An ingress that dies is passed over for the hub's own port."""
    ca_file = servers.authority(scene)
    urls = [f"wss://{servers.NAME}/bridge", f"tls://{HUB.address}:{LINK_PORT}"]
    ends = scene.ends(url=urls[0], edge={"tunnel": {"connect": urls, "outer_ca_file": str(ca_file)}})
    server, port = servers.nginx(scene)
    server.wait_listening(port)
    ends.start()
    ends.wait_up()
    hold_that(goes(ends, "wss"), f"the link goes {ends.link(ends.edge)['lanes']}")
    traffic = ends.traffic()
    ends.wait_flowing()
    server.end()
    ends.wait(20, "the link goes another way", lambda: goes(ends, "tls"))
    scene.say(f"another way, messages after {ends.wait_flowing():.1f} s")
    scene.say(told(traffic.end()))


def goes(ends, transport):
    """Whether every lane of a link with all its lanes goes so."""
    lanes = ends.link(ends.edge).get("lanes", [])
    return len(lanes) == 2 and all(lane["transport"] == transport for lane in lanes)


def outlives(scene, ends, start_server, at_hub, at_edge):
    """A link through a server that is killed and started again, with traffic all the while."""
    scene.close_way(EDGE, HUB, LINK_PORT)
    server, port = start_server(scene)
    server.wait_listening(port)
    ends.start()
    seconds, _ = ends.wait_up()
    for agent, transport in ((ends.hub, at_hub), (ends.edge, at_edge)):
        lanes = ends.link(agent)["lanes"]
        hold_that(all(lane["transport"] == transport for lane in lanes), f"{agent.place.name}: {lanes}")
    scene.say(f"up after {seconds:.1f} s: {at_edge}")
    traffic = ends.traffic()
    ends.wait_flowing()
    server.end()
    ends.wait(20, "the edge notices", lambda: ends.link(ends.edge)["state"] != "up")
    server.start().wait_listening(port)
    seconds, _ = ends.wait_up()
    flows = ends.wait_flowing()
    scene.say(f"killed and started again: up after {seconds:.1f} s, messages after {flows:.1f} s more")
    scene.say(told(traffic.end()))
