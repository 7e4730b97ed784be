"""Who may change the testbed: one holder per machine, by a lock that the kernel frees when the holder dies."""

import contextlib
import fcntl
import os
import time

import brokers
from places import TestbedError

# A child of the holder (a test that calls `clusters kill`) finds its parent's pid here and goes ahead.
HOLDER = "BRIDGE_TESTBED_HOLDER"


@contextlib.contextmanager
def hold(purpose):
    path = brokers.home() / "holder"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            said = lock.read().strip()
            if said.split(" ")[0] != os.environ.get(HOLDER):
                raise TestbedError(f"the testbed is held by {said or 'somebody'}: wait for it, or end it") from None
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
