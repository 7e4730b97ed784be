"""The client programs, one of each language at each site: started once, given jobs, ended with the stage.

An answer that does not come, or a program that ends, fails the job that waits for it with its reason.
"""

import itertools
import json
import pathlib
import queue
import shutil
import subprocess
import threading

import brokers
import places
from kinds import LARGE, large
from places import TestbedError

HERE = pathlib.Path(__file__).resolve().parent
ANSWER_SECONDS = 120


class Program:
    """One running client."""

    def __init__(self, name, command, log):
        self.name, self.numbers, self.waiting = name, itertools.count(), {}
        self.log, self.lock = log, threading.Lock()
        with open(log, "wb") as complaints:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
            )
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.waiting[answer["id"]].put(answer)
        for waits in list(self.waiting.values()):
            waits.put({"complaint": f"the program ended: {self.log.read_text(errors='replace')[-500:]}"})

    def ask(self, verb, **job):
        """The answer to one job; may be called by several threads."""
        with self.lock:
            number = next(self.numbers)
            answer = self.waiting[number] = queue.Queue(1)
            self.process.stdin.write(json.dumps({"id": number, "verb": verb, **job}) + "\n")
            self.process.stdin.flush()
        try:
            said = answer.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            said = {"complaint": f"no answer in {ANSWER_SECONDS} s"}
        if "complaint" in said:
            raise TestbedError(f"{self.name} cannot {verb} {job['topic']}: {said['complaint']}")
        return said

    def kill(self):
        self.process.kill()

    def wait(self):
        self.process.wait()


def start(stage):
    """{(site, language): program}, each inside its cluster's network."""
    folder = stage.folder / "clients"
    folder.mkdir(parents=True)
    make_keys(folder)
    (folder / LARGE).write_bytes(large())
    java = compiled(folder)
    python = [str(brokers.home() / "venv/bin/python"), "-B", str(HERE / "client.py")]
    found = {}
    for site in ("riskfuel", "bank"):
        place = stage.brokers[site].place
        inside = ["ip", "netns", "exec", place.namespace]
        commands = {
            "java": [*java, place.service_url, str(folder)],
            "python": [*python, "--url", place.service_url, "--folder", str(folder)],
        }
        for language, command in commands.items():
            log = folder / f"{language}-{site}.log"
            found[site, language] = Program(f"{language} at {site}", inside + command, log)
            stage.programs.append(found[site, language])
    return found


def make_keys(folder):
    """For messages that only the two ends can read; as Pulsar's guide to encryption makes them."""
    private, public = str(folder / "private.pem"), str(folder / "public.pem")
    places.run("openssl", "genrsa", "-out", private, "2048")
    places.run("openssl", "rsa", "-in", private, "-pubout", "-outform", "pem", "-out", public)


def compiled(folder):
    """The Java client, as a command."""
    libraries, source = f"{brokers.distribution()}/lib/*", str(HERE / "Client.java")
    if not shutil.which("javac"):
        raise TestbedError("`javac` is missing: run testbed/setup")
    places.run("javac", "-encoding", "UTF-8", "-cp", libraries, "-d", str(folder), source)
    options = ["-Xmx768m", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-Dorg.apache.logging.log4j.level=WARN"]
    return ["java", *options, "-cp", f"{folder}:{libraries}", "Client"]
