"""The link out of a network that has a proxy and no other way, and over either family of addresses."""

import servers
from case_ingress import outlives
from places import LINK_PORT
from scene import EDGE, HUB, IPV6, MIDDLE, hold_that, told

URL = f"tls://{servers.NAME}:{LINK_PORT}"


def squid(scene):
    """Through a real squid with a password, killed and started again: nothing lost, nothing repeated."""
    through_proxy(scene, servers.squid, "http", password=True)


def tinyproxy(scene):
    """Through a real tinyproxy with a password, killed and started again: nothing lost, nothing repeated."""
    through_proxy(scene, servers.tinyproxy, "http", password=True)


def dante(scene):
    """Through a real dante (SOCKS5, which resolves the hub's name), killed and started again: nothing lost or repeated."""
    through_proxy(scene, servers.dante, "socks5", password=False)


def through_proxy(scene, start_server, scheme, password):
    proxy = f"{scheme}://{MIDDLE.address}:{servers.PROXY_PORT}"
    tunnel = {"proxy": proxy}
    if password:
        user, secret = servers.LOGIN
        file = scene.folder / "proxy-password"
        file.write_text(secret + "\n")
        file.chmod(0o600)
        tunnel |= {"proxy_user": user, "proxy_password_file": str(file)}
    ends = scene.ends(url=URL, edge={"tunnel": tunnel})
    outlives(scene, ends, start_server, "tls", f"tls via {proxy}")
    said = "\n".join(ends.edge.log_lines() + ends.hub.log_lines())
    hold_that(servers.LOGIN[1] not in said, "a log has the proxy's password")


def proxy_auth(scene):
    """Without a password, or with a wrong one, the reason says so; HTTPS_PROXY is taken where no key names a proxy."""
    ends = scene.ends(url=URL)
    scene.close_way(EDGE, HUB, LINK_PORT)
    server, port = servers.squid(scene)
    server.wait_listening(port)
    proxy = f"http://{MIDDLE.address}:{servers.PROXY_PORT}"
    ends.edge.environment = {"HTTPS_PROXY": proxy}
    ends.start()
    row = ends.wait_reason(ends.edge, "proxy_auth")
    hold_that("proxy_password_file" in row["remedy"], row)
    ends.edge.stop()
    file = scene.folder / "proxy-password"
    file.write_text("wrong")
    file.chmod(0o600)
    ends.change(ends.edge, {"tunnel": {"proxy_user": servers.LOGIN[0], "proxy_password_file": str(file)}})
    ends.edge.start()
    ends.wait_reason(ends.edge, "proxy_auth")
    file.write_text(servers.LOGIN[1])
    seconds, row = ends.wait_up()
    hold_that(row["lanes"][0]["transport"] == f"tls via {proxy}", row)
    scene.say(f"up {seconds:.1f} s after the password was put right")


def ipv6(scene):
    """Over IPv6 alone; and past an IPv6 address that leads nowhere to the IPv4 address of the same name."""
    listen = {"tunnel": {"listen": f"[::]:{LINK_PORT}"}}
    ends = scene.ends(url=f"tls://[{IPV6[HUB]}]:{LINK_PORT}", hub=listen).start()
    seconds, row = ends.wait_up()
    hold_that(row["remote"] == f"[{IPV6[HUB]}]:{LINK_PORT}", row)
    scene.say(f"over IPv6 up after {seconds:.1f} s")
    traffic = ends.traffic()
    ends.wait_flowing()
    scene.say(told(traffic.end()))
    ends.edge.stop()
    ends.change(ends.edge, {"tunnel": {"connect": [f"tls://half.example:{LINK_PORT}"]}})
    ends.edge.start()
    seconds, row = ends.wait_up()
    hold_that(row["remote"] == f"{HUB.address}:{LINK_PORT}" and seconds < 3, f"{row}, up after {seconds:.1f} s")
    scene.say(f"past a dead address up after {seconds:.1f} s")
