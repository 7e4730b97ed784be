"""Who may change the testbed: one holder per machine, by a lock that the kernel frees when the holder dies."""

import contextlib
import fcntl
import os
import signal
import sys
import time

import brokers
from places import TestbedError

# A child of the holder (a test that calls `clusters kill`) finds its parent's pid here and goes ahead.
HOLDER = "BRIDGE_TESTBED_HOLDER"


@contextlib.contextmanager
def hold(purpose, patience=0.0, holder="holder"):
    """Holds the testbed, or what else has a file of its own; waits `patience` seconds for another holder to end."""
    path = brokers.home() / holder
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        if not take(lock, patience):
            yield
            return
        lock.truncate(0)
        lock.write(f"{os.getpid()} `{purpose}` in {os.getcwd()} since {time.strftime('%H:%M:%S')}\n")
        lock.flush()
        os.environ[HOLDER] = str(os.getpid())
        try:
            yield
        finally:
            del os.environ[HOLDER]
            lock.truncate(0)


def run_holding(program, purpose, patience, run, holder="holder"):
    """A program of the testbed from its start to its exit code: holds the testbed, and says what is wrong with it."""
    # Ends like any other way out, so that what it started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{program}: told to stop"))
    try:
        with hold(purpose, patience, holder):
            return run()
    except TestbedError as error:
        print(f"{program}: {error}", file=sys.stderr)
        print("0 passed, 1 failed")
        return 1


def take(lock, patience):
    """Whether it is ours now; False when it is our parent's."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            lock.seek(0)
            said = lock.read().strip()
        if said.split(" ")[0] == os.environ.get(HOLDER):
            return False
        if time.monotonic() > deadline:
            raise TestbedError(f"the testbed is held by {said or 'somebody'}: wait for it, or end it")
        time.sleep(1)
