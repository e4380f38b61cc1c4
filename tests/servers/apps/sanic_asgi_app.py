"""Every scene on Sanic, with our extension, run by an ASGI server."""

from __future__ import annotations

from . import scenes
from .outside import OutsideASGI
from .sanic_app import build

application = scenes.publish(OutsideASGI(build("MatrixOverASGI")))
