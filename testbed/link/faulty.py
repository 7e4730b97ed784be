"""A test's hand on the faulty link: starts it in a network, tells it what to do, ends it. Decides nothing."""

import json
import pathlib
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_SECONDS = 10


class FaultyLink:
    """A running link; `address` is what an edge dials."""

    def __init__(self, to, control, listen="127.0.0.1:0", namespace=None):
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        command = [*inside, sys.executable, "-B", str(HERE / "run.py")]
        command += ["--listen", listen, "--to", to, "--control", str(control)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        # It listens on both by then.
        self.address = json.loads(self.process.stdout.readline() or '{"listening": ""}')["listening"]
        if not self.address:
            raise RuntimeError(f"the link did not start: exit code {self.process.wait()} of {' '.join(command)}")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(str(control))
        self.lines = self.socket.makefile("r")

    def tell(self, do, **how):
        """Gives one order and returns the counts."""
        self.socket.sendall(json.dumps({"do": do, **how}).encode() + b"\n")
        answer = json.loads(self.lines.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def counts(self):
        return self.tell("counts")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.lines.close()
        self.socket.close()
