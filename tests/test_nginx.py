"""End to end behind nginx: the reported address is the client's, whatever the client sends."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "127.0.0.9"
ROOT = Path(__file__).parents[1]

for module in ("uvicorn", "gunicorn"):
    pytest.importorskip(module, reason=f"{module} is not installed: nothing runs behind nginx")
if shutil.which("nginx") is None:
    pytest.skip("nginx is not installed", allow_module_level=True)

UPSTREAMS = ["uvicorn over TCP", "uvicorn over unix", "gunicorn over TCP", "gunicorn over unix"]

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream}:;
            {bind}
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Forwarded "$http_forwarded, for=$remote_addr";
            proxy_set_header X-Real-IP $remote_addr;
        }}
    }}
"""
CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(place: int | Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens on a port or a unix socket, at most 20 seconds."""
    family = socket.AF_INET if isinstance(place, int) else socket.AF_UNIX
    address = ("127.0.0.1", place) if isinstance(place, int) else str(place)
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        with socket.socket(family) as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} did not start: {log.read_text()[-2000:]}")


class Stack:
    """Two servers behind one nginx that plays one proxy or two."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.ports: dict[tuple[str, int], int] = {}

    def start(self) -> None:
        """Start all of it."""
        tcp = free_ports(2)
        places = {
            "uvicorn over TCP": f"127.0.0.1:{tcp[0]}",
            "uvicorn over unix": f"unix:{self.folder}/uvicorn.sock",
            "gunicorn over TCP": f"127.0.0.1:{tcp[1]}",
            "gunicorn over unix": f"unix:{self.folder}/gunicorn.sock",
        }
        uvicorn = "uvicorn tests.nginx_apps:asgi_app --no-proxy-headers --log-level error"
        sockets = f"-b {places['gunicorn over TCP']} -b {places['gunicorn over unix']}"
        gunicorn = f"gunicorn tests.nginx_apps:wsgi_app --no-control-socket {sockets}"
        third = self.run("uvicorn over unix", f"{uvicorn} --uds {self.folder}/uvicorn.sock")
        first = self.run("uvicorn over TCP", f"{uvicorn} --port {tcp[0]}")
        second = self.run("gunicorn", gunicorn)
        self.start_nginx(places)
        wait_for(self.folder / "uvicorn.sock", third, self.folder / "uvicorn over unix.log")
        wait_for(tcp[0], first, self.folder / "uvicorn over TCP.log")
        wait_for(tcp[1], second, self.folder / "gunicorn.log")

    def run(self, name: str, command: str) -> subprocess.Popen[bytes]:
        """Start a server of Python's."""
        return self.spawn(name, [sys.executable, "-m", *command.split()])

    def spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a program that is stopped at the end."""
        log = self.stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.stack.callback(stop, process)
        return process

    def start_nginx(self, places: dict[str, str]) -> None:
        """Start nginx with a chain of one and a chain of two servers before each upstream."""
        ports = iter(free_ports(3 * len(places)))
        servers = []
        for name, place in places.items():
            alone, outer, inner = next(ports), next(ports), next(ports)
            self.ports[name, 1], self.ports[name, 2] = alone, outer
            near = "" if place.startswith("unix") else "proxy_bind 127.0.0.4;"
            servers += [
                SERVER.format(port=alone, upstream=place, bind=near),
                SERVER.format(port=inner, upstream=place, bind=near),
                SERVER.format(
                    port=outer, upstream=f"127.0.0.1:{inner}", bind="proxy_bind 127.0.0.3;"
                ),
            ]
        text = CONFIG.format(folder=self.folder, servers="".join(servers))
        # Only a unix socket's path is followed by a colon.
        text = "\n".join(
            line.replace(":;", ";") if "unix:" not in line else line for line in text.splitlines()
        )
        (self.folder / "nginx.conf").write_text(text)
        log = self.folder / "error.log"
        command = ["nginx", "-c", f"{self.folder}/nginx.conf", "-p", str(self.folder)]
        process = self.spawn("nginx", [*command, "-e", str(log)])
        wait_for(self.ports[UPSTREAMS[0], 1], process, log)

    def ask(self, upstream: str, proxies: int, path: str, headers: dict[str, str]) -> str | None:
        """Return the address that was reported of a request from CLIENT."""
        port = self.ports[upstream, proxies]
        connection = HTTPConnection("127.0.0.1", port, 10, source_address=(CLIENT, 0))
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, body
        user = json.loads(body)
        return None if user is None else user["ip_address"]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force if it will not."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def proxied() -> Iterator[Stack]:
    """Two servers behind nginx."""
    with socket.socket() as probe:
        try:
            probe.bind((CLIENT, 0))
        except OSError:
            pytest.skip(f"this machine has no address {CLIENT} to be a client from")
    # A short path: that of a unix socket may have 107 characters.
    with TemporaryDirectory(prefix="uc") as folder, ExitStack() as stack:
        running = Stack(Path(folder), stack)
        running.start()
        yield running


HEADERS = ["x-forwarded-for", "forwarded"]
SPOOFS = {
    "none": {},
    "an address": {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"},
    "a proxy's address": {"X-Forwarded-For": "6.6.6.6, 127.0.0.3", "Forwarded": "for=127.0.0.3"},
    "an open quote": {"X-Forwarded-For": '6.6.6.6, "x', "Forwarded": 'for=6.6.6.6;x="y'},
    "a quote to close": {"X-Forwarded-For": '"', "Forwarded": 'for="'},
    "other headers": {"X-Real-IP": "6.6.6.6", "True-Client-IP": "6.6.6.6", "Client-IP": "6.6.6.6"},
    "underscores": {"X_Forwarded_For": "6.6.6.6", "X_Real_IP": "6.6.6.6"},
    "junk": {"X-Forwarded-For": "unknown, <script>", "Forwarded": "for=unknown, junk"},
    "a long header": {"X-Forwarded-For": "6.6.6.6," * 700, "Forwarded": "for=6.6.6.6," * 400},
}


@pytest.mark.parametrize("spoof", SPOOFS.values(), ids=list(SPOOFS))
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("proxies", [1, 2], ids=["one proxy", "two proxies"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_reported_address_is_the_clients(
    proxied: Stack, upstream: str, proxies: int, header: str, spoof: dict[str, str]
) -> None:
    """Through one proxy or two, TCP or a socket, a spoofing client is reported as itself."""
    assert proxied.ask(upstream, proxies, f"/{header}", spoof) == CLIENT


@pytest.mark.parametrize("spoof", SPOOFS.values(), ids=list(SPOOFS))
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_single_value_header(proxied: Stack, upstream: str, spoof: dict[str, str]) -> None:
    """The one header that nginx sets itself is the client's too."""
    assert proxied.ask(upstream, 1, "/x-real-ip", spoof) == CLIENT


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_single_value_header_of_the_nearest_proxy(proxied: Stack, upstream: str) -> None:
    """A header that each proxy overwrites names the proxy before: it suits one proxy only."""
    assert proxied.ask(upstream, 2, "/x-real-ip", {}) == "127.0.0.3"
