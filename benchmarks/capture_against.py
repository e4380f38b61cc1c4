"""What a capture costs its caller in instructions, as a ratio to another build of this package.

    python benchmarks/capture_against.py [commit]

In a request, the user set, with the client's address, an exception of ten frames. No thread
delivers meanwhile, so what is counted (by valgrind) is what the request waits for. The commit's
source is taken from this repository's history.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delivery import fail
from delivery_against import BASE, ROOT, build_of
from overhead import SWITCH_SOURCE
from overhead_rows import environ

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 100
CAPTURES = 200
RULES = ["$user.email", ("$extra.**", "@email:mask"), ("$request.headers.*", "mask")]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three scrub rules": {"scrub": RULES},
    "before_send": {"before_send": lambda event: event},
}
#: The greatest ratio: of the plain row to the other build, of the others to the plain row.
TARGETS = {"plain": 0.4, "three scrub rules": 1.5, "before_send": 2.0}


def count_here(row: str) -> None:
    """Capture between the client requests that switch callgrind on and off."""
    import usercontext
    from usercontext.wsgi import UserContextMiddleware

    context = usercontext.init(
        "http://key@127.0.0.1:9/1",
        max_queue=10 * CAPTURES,
        max_queue_bytes=1 << 30,
        request_data=usercontext.RequestData(include_ip=True),
        **OPTIONS[row],
    )
    _stop_delivery(context.client)
    gc.disable()
    switch = ctypes.CDLL(os.environ["OVERHEAD_SWITCH"])

    def app(_environ: Any, _start_response: Any) -> list[bytes]:
        usercontext.set_user({"id": "42", "username": "ada", "email": "ada@shop.example"})
        _captures(usercontext.capture_exception, WARM_UP, lambda: None, lambda: None)
        _captures(
            usercontext.capture_exception, CAPTURES, switch.start_counting, switch.stop_counting
        )
        return []

    UserContextMiddleware(app)(environ(), lambda *_: None)  # type: ignore[arg-type,return-value]
    os._exit(0)


def _stop_delivery(client: Any) -> None:
    """Have a client believe that its thread is running."""
    outgoing = getattr(client, "_outgoing", None)
    worker = client._transport if outgoing is None else outgoing.transport.worker
    worker._thread = object()


def _captures(
    capture: Callable[[], object],
    number: int,
    start: Callable[[], object],
    stop: Callable[[], object],
) -> None:
    """Count what so many captures take, and not what raising takes."""
    errors = []
    for _ in range(number):
        try:
            fail(8)
        except ValueError as error:
            errors.append(error)
    start()
    for error in errors:
        capture(error)
    stop()


def counted(source: str, row: str, folder: str, library: str) -> float:
    """Return the instructions of one capture of one build."""
    out = Path(folder) / "counted.out"
    for left in Path(folder).glob("counted.out*"):
        left.unlink()
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={out}",
            sys.executable,
            __file__,
            "row",
            row,
        ],
        env={
            **os.environ,
            "PYTHONPATH": source,
            "PYTHONHASHSEED": "0",
            "OVERHEAD_SWITCH": library,
        },
        check=True,
        capture_output=True,
    )
    found = re.search(r"^totals: (\d+)", Path(f"{out}.1").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / CAPTURES


def compare(commit: str) -> int:
    """Print a table; return how many targets were missed."""
    missed = 0
    print("| row | instructions | before | ratio | of the plain row |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "switch.c").write_text(SWITCH_SOURCE)
        library = f"{folder}/switch.so"
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", library, f"{folder}/switch.c"]
        subprocess.run(command, check=True)
        before = build_of(commit, folder)
        plain = 0.0
        for row, target in TARGETS.items():
            now, then = (counted(each, row, folder, library) for each in (f"{ROOT}/src", before))
            plain = plain or now
            missed += (now / then if row == "plain" else now / plain) > target
            print(
                f"| {row} | {now:,.0f} | {then:,.0f} | {now / then:.2f} | {now / plain:.2f} |",
                flush=True,
            )
    print(f"\n{missed} of {len(TARGETS)} targets missed")
    return missed


def main(arguments: list[str]) -> int:
    """Compare two builds, or be one of the processes that are counted."""
    if arguments[:1] == ["row"]:
        count_here(arguments[1])
    return int(compare(arguments[0] if arguments else BASE) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
