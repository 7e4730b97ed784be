"""Real servers that stand between an edge and a hub, each with a configuration of its own, in the foreground, killed
and started again at will. They live in the middle network; nothing of the machine's own configuration is read.
"""

import subprocess

from places import LINK_PORT, TestbedError
from scene import EDGE, HUB, MIDDLE

# What certificates and SNI routers know the hub by. Each network has its own idea of where that is.
NAME = "hub.example"
PROXY_PORT = 3128
PLAIN_PORT = 80
LOGIN = ("me", "canary-of-the-proxy")


def authority(scene):
    """An authority of the case's own, and a certificate for the name; the authority's file."""
    folder = scene.folder
    subject = ("-subj", "/CN=Ingress Authority")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *curve, *subject, "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    openssl(
        "req", "-x509", *curve, "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
        "-addext", "basicConstraints=critical,CA:FALSE", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
        "-keyout", folder / "leaf.key", "-out", folder / "leaf.pem",
    )  # fmt: skip
    # As haproxy wants it.
    (folder / "both.pem").write_text((folder / "leaf.pem").read_text() + (folder / "leaf.key").read_text())
    return folder / "ca.pem"


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def nginx(scene):
    """Ends TLS and passes WebSockets under /bridge on."""
    folder = scene.folder
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 40000; }}
http {{
{temporary}
  access_log off;
  server {{
    listen {MIDDLE.address}:443 ssl;
    # For strangers without number, who need no TLS to be a burden to the hub.
    listen {MIDDLE.address}:{PLAIN_PORT};
    ssl_certificate {folder}/leaf.pem;
    ssl_certificate_key {folder}/leaf.key;
    # 1.22's default has no TLS 1.3.
    ssl_protocols TLSv1.2 TLSv1.3;
    location /bridge {{
      proxy_pass http://{HUB.address}:{LINK_PORT};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }}
  }}
}}
"""
    (folder / "nginx.conf").write_text(config)
    return scene.program(MIDDLE, "nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx-error.log"), 443


HAPROXY = """
global
  maxconn 1000
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
"""


def haproxy(scene):
    """Ends TLS and passes everything on, WebSockets too."""
    config = f"""{HAPROXY}
frontend ingress
  mode http
  bind {MIDDLE.address}:443 ssl crt {scene.folder}/both.pem alpn http/1.1
  option forwardfor
  default_backend hub
backend hub
  mode http
  server hub {HUB.address}:{LINK_PORT}
"""
    return run_haproxy(scene, config), 443


def sni_router(scene):
    """Passes TLS on unopened, by the name in its ClientHello, and says who calls."""
    config = f"""{HAPROXY}
frontend shared
  mode tcp
  bind {MIDDLE.address}:443
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend hub if {{ req.ssl_sni -i {NAME} }}
  default_backend nobody
backend hub
  mode tcp
  server hub {HUB.address}:{LINK_PORT} send-proxy-v2
backend nobody
  mode tcp
"""
    return run_haproxy(scene, config), 443


def run_haproxy(scene, config):
    (scene.folder / "haproxy.cfg").write_text(config)
    return scene.program(MIDDLE, "haproxy", "-db", "-f", scene.folder / "haproxy.cfg")


def squid(scene):
    """An HTTP proxy that wants Basic."""
    folder = scene.folder
    user, password = LOGIN
    (folder / "squid.passwd").write_text(f"{user}:{openssl('passwd', '-apr1', password).strip()}\n")
    # Its helper is no longer root when it reads that.
    for above in (folder, folder.parent):
        above.chmod(0o711)
    config = f"""
http_port {MIDDLE.address}:{PROXY_PORT}
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/squid.passwd
auth_param basic realm egress
acl known proxy_auth REQUIRED
acl CONNECT method CONNECT
http_access allow CONNECT known
http_access deny all
cache deny all
access_log none
cache_log stdio:/dev/null
pid_filename none
pinger_enable off
shutdown_lifetime 0 seconds
hosts_file /etc/hosts
coredump_dir none
visible_hostname egress.example
"""
    (folder / "squid.conf").write_text(config)
    return scene.program(MIDDLE, "squid", "-N", "-d", "1", "-f", folder / "squid.conf"), PROXY_PORT


def tinyproxy(scene):
    """A small HTTP proxy that wants Basic."""
    user, password = LOGIN
    config = f"""
Port {PROXY_PORT}
Listen {MIDDLE.address}
Timeout 3600
BasicAuth {user} {password}
ConnectPort {LINK_PORT}
MaxClients 50
LogLevel Warning
"""
    (scene.folder / "tinyproxy.conf").write_text(config)
    return scene.program(MIDDLE, "tinyproxy", "-d", "-c", scene.folder / "tinyproxy.conf"), PROXY_PORT


def dante(scene):
    """A SOCKS5 proxy that lets everybody through."""
    config = f"""
logoutput: stderr
internal: {MIDDLE.address} port = {PROXY_PORT}
external: eth0
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: nobody
client pass {{ from: {EDGE.address}/32 to: 0.0.0.0/0 }}
socks pass {{ from: {EDGE.address}/32 to: 0.0.0.0/0 command: connect }}
"""
    (scene.folder / "danted.conf").write_text(config)
    return scene.program(MIDDLE, "danted", "-N", "1", "-f", scene.folder / "danted.conf"), PROXY_PORT
