#!/bin/sh
# Quart's `stream_with_context` hands a generator the request, but an empty `g`.
#
# One would guess that it does what Flask's function of the same name does, after which it is
# modelled: the generator sees `request`, `session` and `g` as the view left them. Flask's does. In
# Quart the generator gets a copy of the request's context and, with it, a new context of the app:
# `request` is there, and what the view has put on `g` (a tenant, an account, a database session) is
# not. Nothing raises: `g.get("tenant")` is None.
#
# It matters to whoever moves a streaming view from Flask to Quart and keeps on `g` who is served: a
# stream then runs for nobody, or with a default. Take what is needed before the generator begins,
# or keep it on the request.
#
# Seen with Quart 0.22.0 and Flask 3.1.3 on CPython 3.11: "Flask: '/' 'acme'", "Quart: '/' None".
# Needs python3 with venv, and PyPI. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet quart==0.22.0 flask==3.1.3

cat >"$folder/streams.py" <<'PROGRAM'
import asyncio

import flask
import quart

in_flask = flask.Flask("shop")
in_quart = quart.Quart("shop")


@in_flask.get("/")
def flask_view():
    flask.g.tenant = "acme"

    def chunks():
        yield f"{flask.request.path!r} {flask.g.get('tenant')!r}"

    return flask.Response(flask.stream_with_context(chunks()))


@in_quart.get("/")
async def quart_view():
    quart.g.tenant = "acme"

    @quart.stream_with_context
    async def chunks():
        yield f"{quart.request.path!r} {quart.g.get('tenant')!r}".encode()

    return chunks()


async def main():
    print("Flask:", in_flask.test_client().get("/").text)
    response = await in_quart.test_client().get("/")
    print("Quart:", await response.get_data(as_text=True))


asyncio.run(main())
PROGRAM

seen=$("$folder/venv/bin/python" "$folder/streams.py")
expected="Flask: '/' 'acme'
Quart: '/' None"
printf '%s\n' "$seen"
[ "$seen" = "$expected" ] || {
    echo "this has changed" >&2
    exit 1
}
