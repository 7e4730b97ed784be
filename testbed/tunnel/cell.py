"""Runs one cell by a Jupyter server's WebSocket and prints what it prints: cell.py HOST:PORT TOKEN COUNT. Where the
connection breaks it says `broken` and comes back under the same session, to which the server gives what it kept.
"""

import json
import sys
import time
import urllib.request
import uuid

import websocket

CODE = """
import time
for n in range({count}):
    print(n, flush=True)
    time.sleep(0.15)
"""
PATIENCE_SECONDS = 60


def main(server, token, count):
    request = urllib.request.Request(f"http://{server}/api/kernels?token={token}", b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        kernel = json.load(answer)["id"]
    session = uuid.uuid4().hex
    url = f"ws://{server}/api/kernels/{kernel}/channels?session_id={session}&token={token}"
    stream = websocket.create_connection(url, timeout=PATIENCE_SECONDS)
    message = uuid.uuid4().hex
    header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": session, "version": "5.3"}
    content = {"code": CODE.format(count=count), "silent": False, "store_history": False, "allow_stdin": False}
    words = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
    stream.send(json.dumps(words))
    while True:
        try:
            said = json.loads(stream.recv())
        except (OSError, websocket.WebSocketException) as error:
            print(f"broken: {error}", flush=True)
            stream = again(url)
            continue
        if said.get("parent_header", {}).get("msg_id") != message:
            continue
        if said["msg_type"] == "stream":
            print(said["content"]["text"], end="", flush=True)
        if said["msg_type"] == "execute_reply":
            return 0 if said["content"]["status"] == "ok" else 1


def again(url):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return websocket.create_connection(url, timeout=PATIENCE_SECONDS)
        except (OSError, websocket.WebSocketException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3], int(sys.argv[3])))
