"""A notebook of the bank's: a real JupyterLab in the edge's network, which nobody gets into, and a client of its kernel's
WebSocket in the hub's.
"""

import os
import pathlib
import shutil
import subprocess

from case_kube import forward_row, wait_listening, wait_until
from places import TestbedError
from scene import EDGE, HUB, hold_that

PACKAGES = ("jupyterlab==4.4.10", "websocket-client==1.9.2")
TOKEN = "of-this-test"
PORT, LISTEN_PORT = 8888, 18888
COUNT = 40


def jupyter(scene):
    """A cell runs over JupyterLab's WebSocket and goes on after the link was cut; nothing that it printed is missing."""
    python = environment(scene)
    work = scene.folder / "notebooks"
    work.mkdir()
    settings = (
        "--no-browser", "--allow-root", f"--port={PORT}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={work}", "--ServerApp.port_retries=0",
    )  # fmt: skip
    home = {name: str(scene.folder / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    lab = scene.program(EDGE, python, "-m", "jupyterlab", *settings, name="jupyterlab", environment=home)
    lab.wait_listening(PORT, "127.0.0.1", patience=90)
    # The machine's own loopback: allowed because it is written down as an address.
    target = f"127.0.0.1:{PORT}"
    forward = {"name": "lab", "from": "hub", "listen": f"127.0.0.1:{LISTEN_PORT}", "to": "edge", "target": target}
    ends = scene.ends(pulsar=False, hub={"forwards": [forward]}, policy={"forward": [target]}).start()
    wait_listening(ends)
    url = f"127.0.0.1:{LISTEN_PORT}"
    log = scene.folder / "cell.log"
    client = pathlib.Path(__file__).parent / "cell.py"
    cell = scene.program(HUB, python, client, url, TOKEN, str(COUNT), name="cell")
    wait_until(lambda: "10" in log.read_text().split(), f"the cell prints: {cell.last_words()}", 60)
    hold_that(forward_row(ends)["open"] > 0, "the cell runs without the forward")
    ends.hub.kill()
    ends.hub.start()
    wait_listening(ends)
    code = cell.process.wait(90)
    said = log.read_text().split("\n")
    hold_that(code == 0, f"the cell: exit {code}: {cell.last_words()}")
    printed = [int(line) for line in said if line.isdigit()]
    hold_that(printed == list(range(COUNT)), f"printed: {printed}")
    breaks = sum(line.startswith("broken") for line in said)
    hold_that(breaks == 1, f"{breaks} breaks were seen")
    scene.say(f"{COUNT} lines of one cell, the link cut after the tenth: all there, in order, none twice")


def environment(scene):
    """JupyterLab in a folder of its own, installed once."""
    home = pathlib.Path(os.environ.get("BRIDGE_TESTBED_HOME", pathlib.Path.home() / ".cache/pulsar-bridge-testbed"))
    folder = home / "jupyter"
    python = folder / "bin/python"
    if python.exists():
        return python
    scene.say("installing JupyterLab, once")
    shutil.rmtree(folder, ignore_errors=True)
    for command in (["python3", "-m", "venv", folder], [python, "-m", "pip", "install", "--quiet", *PACKAGES]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise TestbedError(f"{command}: {done.stderr[-2000:]}")
    return python
