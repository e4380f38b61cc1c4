"""Proxies and servers: how each is configured, as the guide has it, and started."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CONNECTIONS",
    "NGINX_BEHIND_CONNECTIONS",
    "PROXIES",
    "SERVERS",
    "Place",
    "Proxy",
    "Server",
]


class Place(NamedTuple):
    """Where somebody listens: a port of a loopback address, or the path of a unix socket."""

    port: int = 0
    path: str = ""
    host: str = "127.0.0.1"

    @property
    def named(self) -> str:
        """Address and port."""
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The address as URLs have it."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Proxy(NamedTuple):
    """A proxy of one name.

    Attributes:
        title: what people call it.
        program: its executable.
        version: what makes it tell its version.
        needed: what of its configuration writes the header, for the guide; "" where nothing is.
        files: return the text of each of its files, by name.
        command: what starts it in the foreground.
        over_unix: whether it connects to unix sockets.
    """

    title: str
    program: str
    version: tuple[str, ...]
    needed: str
    files: Callable[[Path, Place, Place], dict[str, str]]
    command: Callable[[str, Path, Place, Place], list[str]]
    over_unix: bool = True

    def found(self) -> str | None:
        """Return the path of its executable, None where it is not installed."""
        if self.program == "envoy":
            return _packaged_envoy() or shutil.which("envoy")
        if self.program == "http-proxy":
            return _node_with("http-proxy")
        return shutil.which(self.program) or shutil.which(self.program, path="/usr/sbin:/usr/bin")

    def told_version(self) -> str:
        """Return its version."""
        program = str(self.found())
        done = subprocess.run([program, *self.version], check=False, capture_output=True, text=True)
        text = (done.stdout + done.stderr).replace(program, "")
        found = re.search(r"\d+\.\d+(?:\.\d+)?", text)
        return found[0] if found else "?"


@cache
def _node_with(package: str) -> str | None:
    """Return Node's path, if it finds a package of npm's, as by NODE_PATH."""
    node = shutil.which("node")
    if node is None:
        return None
    command = [node, "-e", f"require('{package}')"]
    return (
        node if subprocess.run(command, check=False, capture_output=True).returncode == 0 else None
    )


def _packaged_envoy() -> str | None:
    spec = find_spec("envoy")
    places = [] if spec is None or spec.origin is None else Path(spec.origin).parent.rglob("envoy*")
    return next((str(p) for p in places if p.is_file() and p.parent.name.startswith("_bin")), None)


# --- what each needs ------------------------------------------------------------------------------


def _nginx(
    folder: Path, at: Place, to: Place, *, listens: str = "", extra: str = ""
) -> dict[str, str]:
    upstream = f"http://unix:{to.path}:" if to.path else f"http://{to.named}"
    kept = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return {
        "nginx.conf": f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    {kept}
    server {{
        listen {f"unix:{at.path}" if at.path else at.named}{listens};
        {extra}
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""
    }


def _nginx_behind_proxy_protocol(folder: Path, at: Place, to: Place) -> dict[str, str]:
    extra = "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;"
    return _nginx(folder, at, to, listens=" proxy_protocol", extra=extra)


def _haproxy(_folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "haproxy.cfg": f"""
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend front
    bind {at.named}
    option forwardfor
    default_backend app
backend app
    server one {f"unix@{to.path}" if to.path else to.named}
"""
    }


def _apache(folder: Path, at: Place, to: Place) -> dict[str, str]:
    modules = "/usr/lib/apache2/modules"
    upstream = f"unix:{to.path}|http://localhost/" if to.path else f"http://{to.named}/"
    names = ("mpm_event", "authz_core", "proxy", "proxy_http")
    loads = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names)
    return {
        "apache.conf": f"""
{loads}
ServerRoot {folder}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
ServerName app.example
StartServers 1
Listen {at.named}
ProxyPass / {upstream}
"""
    }


def _caddy(folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "Caddyfile": f"""
{{
    admin off
    auto_https off
    storage file_system {folder}
}}
http://:{at.port} {{
    bind {at.host}
    reverse_proxy {f"unix/{to.path}" if to.path else to.named} {{
        trusted_proxies 127.0.0.1/32 ::1/128
        header_up -X_Forwarded_For
    }}
}}
"""
    }


def _varnish(_folder: Path, _at: Place, to: Place) -> dict[str, str]:
    host = f'.path = "{to.path}";' if to.path else f'.host = "{to.host}"; .port = "{to.port}";'
    return {
        "default.vcl": f"""
vcl 4.1;
backend default {{ {host} }}
sub vcl_recv {{ return (pass); }}
"""
    }


def _squid(folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "squid.conf": f"""
http_port {at.named} accel defaultsite=app.example
cache_peer {to.bracketed} parent {to.port} 0 no-query no-digest originserver name=app
cache_peer_access app allow all
http_access allow all
cache deny all
access_log none
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
pinger_enable off
netdb_filename none
shutdown_lifetime 0 seconds
"""
    }


def _h2o(folder: Path, at: Place, to: Place) -> dict[str, str]:
    upstream = f"http://[unix:{to.path}]/" if to.path else f"http://{to.named}/"
    return {
        "h2o.conf": f"""
num-threads: 1
pid-file: {folder}/h2o.pid
error-log: {folder}/h2o-error.log
listen:
  host: "{at.host}"
  port: {at.port}
hosts:
  default:
    paths:
      "/":
        proxy.reverse.url: "{upstream}"
"""
    }


def _lighttpd(folder: Path, at: Place, to: Place) -> dict[str, str]:
    host = f'"host" => "{to.path}"' if to.path else f'"host" => "{to.host}", "port" => {to.port}'
    return {
        "lighttpd.conf": f"""
server.modules = ("mod_proxy")
server.bind = "{at.bracketed}"
server.port = {at.port}
server.document-root = "{folder}"
server.errorlog = "{folder}/lighttpd-error.log"
proxy.server = ("" => (({host})))
"""
    }


def _envoy(_folder: Path, at: Place, to: Place) -> dict[str, str]:
    address = (
        f'pipe: {{path: "{to.path}"}}'
        if to.path
        else f'socket_address: {{address: "{to.host}", port_value: {to.port}}}'
    )
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return {
        "envoy.yaml": f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: "{at.host}", port_value: {at.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: app}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": {router}}}
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{{address}}}}}}}]}}]
"""
    }


def _traffic_server(folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "etc/trafficserver/records.config": f"""
CONFIG proxy.config.http.server_ports STRING {at.port}:ip-in={at.bracketed}
CONFIG proxy.config.http.insert_squid_x_forwarded_for INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.diags.debug.enabled INT 0
CONFIG proxy.config.exec_thread.autoconfig.enabled INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.net.connections_throttle INT 500
""",
        "etc/trafficserver/remap.config": f"map / http://{to.named}/\n",
        "etc/trafficserver/storage.config": "",
        "etc/trafficserver/ip_allow.yaml": """
ip_allow:
  - apply: in
    ip_addrs: [0/0, "::/0"]
    action: allow
    methods: ALL
""",
        "runroot.yaml": f"""
prefix: {folder}
exec_prefix: {folder}
bindir: /usr/bin
sbindir: /usr/bin
sysconfdir: {folder}/etc/trafficserver
datadir: {folder}/share
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {folder}/var
runtimedir: {folder}/run
logdir: {folder}/log
cachedir: {folder}/cache
""",
        **{f"{name}/.keep": "" for name in ("share", "var", "run", "log", "cache")},
    }


def _node(_folder: Path, at: Place, to: Place) -> dict[str, str]:
    target = {"socketPath": to.path} if to.path else {"host": to.host, "port": to.port}
    return {
        "proxy.js": f"""
const proxy = require('http-proxy').createProxyServer({{target: {json.dumps(target)}, xfwd: true}});
proxy.on('proxyReq', (request) => request.removeHeader('x_forwarded_for'));
proxy.on('error', (error, request, response) => response.writeHead(502).end(String(error)));
proxy.listen({at.port}, '{at.host}');
"""
    }


PROXIES: dict[str, Proxy] = {
    "nginx": Proxy(
        "nginx",
        "nginx",
        ("-v",),
        "`proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for`",
        _nginx,
        lambda run, folder, _at, _to: [
            *(run, "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", f"{folder}/error.log")
        ],
    ),
    "haproxy": Proxy(
        "HAProxy",
        "haproxy",
        ("-v",),
        "`option forwardfor`, without `if-none` and `except`",
        _haproxy,
        lambda run, folder, _at, _to: [run, "-db", "-f", f"{folder}/haproxy.cfg"],
    ),
    "apache": Proxy(
        "Apache httpd",
        "apache2",
        ("-v",),
        "",
        _apache,
        lambda run, folder, _at, _to: [run, "-DFOREGROUND", "-f", f"{folder}/apache.conf"],
    ),
    "caddy": Proxy(
        "Caddy",
        "caddy",
        ("version",),
        "`header_up -X_Forwarded_For`; behind another proxy `trusted_proxies` in `reverse_proxy`",
        _caddy,
        lambda run, folder, _at, _to: [
            *(run, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile")
        ],
    ),
    "varnish": Proxy(
        "Varnish",
        "varnishd",
        ("-V",),
        "",
        _varnish,
        lambda run, folder, at, _to: [
            *(run, "-F", "-a", f"{at.named}", "-f", f"{folder}/default.vcl"),
            *("-n", f"{folder}/v", "-s", "malloc,8m", "-T", "none"),
        ],
    ),
    "squid": Proxy(
        "Squid",
        "squid",
        ("-v",),
        "`forwarded_for on` (the default) or `truncate`",
        _squid,
        lambda run, folder, _at, _to: [run, "-N", "-f", f"{folder}/squid.conf"],
        over_unix=False,
    ),
    "h2o": Proxy(
        "H2O",
        "h2o",
        ("-v",),
        "",
        _h2o,
        lambda run, folder, _at, _to: [run, "-c", f"{folder}/h2o.conf"],
    ),
    "lighttpd": Proxy(
        "lighttpd",
        "lighttpd",
        ("-v",),
        "",
        _lighttpd,
        lambda run, folder, _at, _to: [run, "-D", "-f", f"{folder}/lighttpd.conf"],
    ),
    "trafficserver": Proxy(
        "Traffic Server",
        "traffic_server",
        ("--version",),
        "",
        _traffic_server,
        lambda run, folder, _at, _to: [run, f"--run-root={folder}/runroot.yaml"],
        over_unix=False,
    ),
    "envoy": Proxy(
        "Envoy",
        "envoy",
        ("--version",),
        "`use_remote_address: true`",
        _envoy,
        lambda run, folder, _at, _to: [
            *(run, "-c", f"{folder}/envoy.yaml", "--disable-hot-restart", "--concurrency", "1"),
            *("--log-level", "error"),
        ],
    ),
    "http-proxy": Proxy(
        "http-proxy (Node)",
        "http-proxy",
        ("-p", "require('http-proxy/package.json').version"),
        "`xfwd: true`; before servers that fold underscores `removeHeader('x_forwarded_for')`",
        _node,
        lambda run, folder, _at, _to: [run, f"{folder}/proxy.js"],
    ),
}


# --- those that hand on the connection ------------------------------------------------------------


def _haproxy_tcp(_folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "haproxy.cfg": f"""
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend front
    bind {at.named}
    default_backend app
backend app
    server one {f"unix@{to.path}" if to.path else to.named} send-proxy-v2
"""
    }


def _hitch(folder: Path, at: Place, to: Place) -> dict[str, str]:
    import trustme

    certificate = trustme.CA().issue_cert("app.example")
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    return {
        "app.pem": (certificate.private_key_pem.bytes() + chain).decode(),
        "hitch.conf": f"""
frontend = "[{at.host}]:{at.port}"
backend = "[{to.host}]:{to.port}"
pem-file = "{folder}/app.pem"
write-proxy-v1 = on
workers = 1
daemon = off
backlog = 10
{'user = "nobody"' if os.geteuid() == 0 else ""}
""",
    }


def _stunnel(folder: Path, at: Place, to: Place) -> dict[str, str]:
    return {
        "app.pem": _hitch(folder, at, to)["app.pem"],
        "stunnel.conf": f"""
foreground = yes
pid =
syslog = no
[front]
accept = {at.host}:{at.port}
connect = {to.host}:{to.port}
cert = {folder}/app.pem
protocol = proxy
""",
    }


#: PROXY protocol: the server learns itself whose connection it is.
CONNECTIONS: dict[str, Proxy] = {
    "haproxy": Proxy(
        "HAProxy",
        "haproxy",
        ("-v",),
        "`mode tcp`, `send-proxy-v2`",
        _haproxy_tcp,
        lambda run, folder, _at, _to: [run, "-db", "-f", f"{folder}/haproxy.cfg"],
    ),
    "hitch": Proxy(
        "hitch",
        "hitch",
        ("--version",),
        "`write-proxy-v1 = on`",
        _hitch,
        lambda run, folder, _at, _to: [run, f"--config={folder}/hitch.conf"],
        over_unix=False,
    ),
    "stunnel": Proxy(
        "stunnel",
        "stunnel",
        ("-version",),
        "`protocol = proxy`",
        _stunnel,
        lambda run, folder, _at, _to: [run, f"{folder}/stunnel.conf"],
        over_unix=False,
    ),
}


#: Behind one of those: it appends the client's address, and not that of the connection.
NGINX_BEHIND_CONNECTIONS = PROXIES["nginx"]._replace(files=_nginx_behind_proxy_protocol)


# --- servers --------------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server of Python's.

    Attributes:
        module: the package.
        app: which of the apps it serves.
        command: what starts it at a place; after `python -m` unless it is a program.
    """

    module: str
    app: str
    command: Callable[[Place, str], list[str]]

    def started_by(self, place: Place) -> list[str]:
        """Return the whole command."""
        command = self.command(place, f"tests.proxies.apps:{self.app}")
        if self.module == "pyuwsgi":
            return [
                sys.executable,
                "-c",
                "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])",
                *command,
            ]
        return [sys.executable, "-m", *command]


def _bind(place: Place) -> str:
    return f"unix:{place.path}" if place.path else place.named


SERVERS: dict[str, Server] = {
    "uvicorn": Server(
        "uvicorn",
        "asgi_app",
        lambda at, app: [
            *("uvicorn", app, "--no-proxy-headers", "--log-level", "error", "--lifespan", "off"),
            *(("--uds", at.path) if at.path else ("--host", at.host, "--port", str(at.port))),
        ],
    ),
    "uvicorn, as it is": Server(
        "uvicorn",
        "asgi_app",
        lambda at, app: [
            *("uvicorn", app, "--log-level", "error", "--lifespan", "off"),
            *(("--uds", at.path) if at.path else ("--port", str(at.port))),
        ],
    ),
    "hypercorn": Server(
        "hypercorn", "asgi_app", lambda at, app: ["hypercorn", app, "--bind", _bind(at)]
    ),
    "hypercorn, WSGI": Server(
        "hypercorn", "wsgi_app", lambda at, app: ["hypercorn", f"wsgi:{app}", "--bind", _bind(at)]
    ),
    "granian": Server(
        "granian",
        "asgi_app",
        lambda at, app: [
            *("granian", "--interface", "asginl", app, "--log-level", "error"),
            *(("--uds", at.path) if at.path else ("--port", str(at.port))),
        ],
    ),
    "granian, WSGI": Server(
        "granian",
        "wsgi_app",
        lambda at, app: [
            *("granian", "--interface", "wsgi", app, "--log-level", "error"),
            *(("--uds", at.path) if at.path else ("--port", str(at.port))),
        ],
    ),
    "gunicorn": Server(
        "gunicorn",
        "wsgi_app",
        lambda at, app: ["gunicorn", app, "--no-control-socket", "-b", _bind(at)],
    ),
    "gunicorn, PROXY": Server(
        "gunicorn",
        "wsgi_app",
        lambda at, app: [
            *("gunicorn", app, "--no-control-socket", "--proxy-protocol", "-b", _bind(at))
        ],
    ),
    "daphne, PROXY": Server(
        "daphne",
        "asgi_app",
        lambda at, app: [
            *("daphne", app, "-v", "0"),
            *("-e", f"haproxy:tcp:port={at.port}:interface={at.host}"),
        ],
    ),
    "daphne": Server(
        "daphne",
        "asgi_app",
        lambda at, app: [
            *("daphne", app, "-v", "0"),
            *(("-u", at.path) if at.path else ("-p", str(at.port))),
        ],
    ),
    "waitress": Server(
        "waitress",
        "wsgi_app",
        lambda at, app: [
            *("waitress", "--no-clear-untrusted-proxy-headers"),
            f"--unix-socket={at.path}" if at.path else f"--listen={at.named}",
            app,
        ],
    ),
    "uWSGI, PROXY": Server(
        "pyuwsgi",
        "wsgi_app",
        lambda at, app: [
            *("--http-socket", at.named, "--module", app, "--master", "--die-on-term"),
            *("--need-app", "--disable-logging", "--enable-threads", "--enable-proxy-protocol"),
        ],
    ),
    "uWSGI": Server(
        "pyuwsgi",
        "wsgi_app",
        lambda at, app: [
            *("--http-socket", at.path or at.named, "--module", app, "--master", "--die-on-term"),
            *("--need-app", "--disable-logging", "--enable-threads"),
        ],
    ),
}
