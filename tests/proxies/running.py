"""Starts proxies and servers, waits until they listen, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from tests.proxies.programs import SERVERS, Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.proxies.programs import Proxy

__all__ = ["CLIENT", "FORGED", "REQUESTS", "Stack", "StartError", "ask"]

ROOT = Path(__file__).parents[2]
#: What the client writes wherever a client can.
FORGED = "1.2.3.4"
REQUESTS: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "X-Forwarded-For": [("X-Forwarded-For", FORGED)],
    "two lines": [("X-Forwarded-For", FORGED), ("X-Forwarded-For", "5.6.7.8")],
    "a list": [("X-Forwarded-For", f"{FORGED}, 5.6.7.8")],
    "a trailing comma": [("X-Forwarded-For", f"{FORGED},")],
    "a port": [("X-Forwarded-For", f"{FORGED}:5678")],
    "empty": [("X-Forwarded-For", "")],
    "unknown": [("X-Forwarded-For", "unknown")],
    "a quote": [("X-Forwarded-For", f'{FORGED}, "x')],
    "a trusted address": [("X-Forwarded-For", f"{FORGED}, 127.0.0.1")],
    "X_Forwarded_For": [("X_Forwarded_For", FORGED)],
    "Forwarded": [("Forwarded", f"for={FORGED}")],
    "X-Real-IP": [("X-Real-IP", FORGED)],
}


class StartError(Exception):
    """Raised where a program ends, or does not listen in time; the text is its log's end."""


def own_address() -> str:
    """Return an address of this machine that is not a loopback one, or 127.0.0.9 without any.

    Envoy writes another address in the place of a loopback peer's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])
    return "127.0.0.9"


#: Where requests come from: none of the addresses that proxies connect from.
CLIENT = own_address()


class Stack(ExitStack):
    """What runs, until the stack is closed.

    Attributes:
        folder: short, as the path of a unix socket may have 107 characters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path = Path(mkdtemp(prefix="uc"))
        self.folder.chmod(0o777)  # some programs give up root
        self._number = 0
        self._servers: dict[tuple[str, str, bool, str], Place] = {}
        self._proxies: dict[tuple[Proxy, Place, str], Place] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.callback(stop, self._running)

    def server(
        self, name: str, options: dict[str, Any], *, unix: bool = False, host: str = "127.0.0.1"
    ) -> Place:
        """Start a server with options of RequestData, unless it runs already."""
        shown = json.dumps(options)
        place = self._servers.get((name, shown, unix, host))
        if place is None:
            place = self._server(name, shown, unix=unix, host=host)
            self._servers[name, shown, unix, host] = place
        return place

    def _server(self, name: str, options: str, *, unix: bool, host: str) -> Place:
        folder = self._new_folder()
        place = Place(path=f"{folder}/app") if unix else Place(free_port(host), host=host)
        command = SERVERS[name].started_by(place)
        environment = {**os.environ, "OPTIONS": options, "PYTHONPATH": python_path()}
        self._start(command, folder, place, cwd=ROOT, env=environment)
        if unix:
            Path(place.path).chmod(0o777)
        return place

    def proxy(self, proxy: Proxy, to: Place, *, host: str = "127.0.0.1") -> Place:
        """Start a proxy before a place, unless it runs already."""
        place = self._proxies.get((proxy, to, host))
        if place is None:
            place = self._proxies[proxy, to, host] = self._proxy(proxy, to, host)
        return place

    def proxy_on_socket(self, proxy: Proxy, to: Place) -> Place:
        """Start a proxy that listens on a unix socket."""
        place = self._proxy(proxy, to, "")
        Path(place.path).chmod(0o777)
        return place

    def _proxy(self, proxy: Proxy, to: Place, host: str) -> Place:
        folder = self._new_folder()
        place = Place(free_port(host), host=host) if host else Place(path=f"{folder}/front")
        for path, text in proxy.files(folder, place, to).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for file in folder.rglob("*"):
            file.chmod(0o777)
        command = proxy.command(str(proxy.found()), folder, place, to)
        env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        self._start(command, folder, place, cwd=folder, env=env)
        return place

    def _new_folder(self) -> Path:
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    def _start(
        self, command: list[str], folder: Path, place: Place, *, cwd: Path, env: dict[str, str]
    ) -> None:
        log = folder / "out.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        self._running.append(process)
        wait_for(place, process, log)


def python_path() -> str:
    """Return where the app and what it imports are found."""
    return os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((host, 0), family=family_of(host)) as probe:
        return int(probe.getsockname()[1])


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def wait_for(place: Place, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens, at most 20 seconds."""
    family, address = (
        (socket.AF_UNIX, place.path)
        if place.path
        else (family_of(place.host), (place.host, place.port))
    )
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        with socket.socket(family) as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.05)
    raise StartError(f"{process.args!r}: {log.read_text(errors='replace')[-1500:]}")


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End programs, all at once, by force if they will not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(
    place: Place, headers: Iterable[tuple[str, str]] = (), *, tls: bool = False
) -> dict[str, Any]:
    """Send a request from CLIENT, and return what the app says of it."""
    client = CLIENT if place.host == "127.0.0.1" else place.host
    connection = HTTPConnection(place.host, place.port, 10, source_address=(client, 0))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(
            place.host, place.port, timeout=10, source_address=(client, 0), context=context
        )
    try:
        connection.putrequest("GET", "/", skip_host=True)
        connection.putheader("Host", "app.example")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise StartError(f"status {answer.status}: {body[:300]!r}")
    found: dict[str, Any] = json.loads(body)
    return found
