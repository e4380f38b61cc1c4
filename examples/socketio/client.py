"""Connect as ada, and ask for an article that is not there."""

import socketio

with socketio.SimpleClient() as client:
    client.connect("http://127.0.0.1:8000", auth={"user": "ada"})
    try:
        print(client.call("price", 7, timeout=2))
    except socketio.exceptions.TimeoutError:
        print("the shop does not answer")
