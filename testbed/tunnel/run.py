#!/usr/bin/env python3
"""The tunnel's cases: a hub and an edge in networks of their own, and real servers between or behind them.

Needs no Pulsar: brokers in memory of the bridge's own make the traffic. Ends with the line `N passed, N failed`, and
exit code 1 when anything failed. BRIDGE_TESTBED_NAME names another set of networks, to run beside this one.
"""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "suite"), str(HERE.parent)]
os.environ.setdefault("BRIDGE_TESTBED_NAME", "tunnel")

import case_afar  # noqa: E402
import case_egress  # noqa: E402
import case_fairness  # noqa: E402
import case_ingress  # noqa: E402
import case_hostile  # noqa: E402
import case_jupyter  # noqa: E402
import case_kube  # noqa: E402
import case_link  # noqa: E402
import case_liveness  # noqa: E402
import case_peers  # noqa: E402
import case_rotation  # noqa: E402
import places  # noqa: E402
from hold import run_holding  # noqa: E402
from places import TestbedError  # noqa: E402
from scene import Failed, Scene, networks_down, networks_up  # noqa: E402

CASES = {
    case.__name__: case
    for case in (
        case_link.direct, case_ingress.nginx, case_ingress.haproxy, case_ingress.sni, case_ingress.failover,
        case_egress.squid, case_egress.tinyproxy, case_egress.dante, case_egress.proxy_auth, case_egress.ipv6,
        case_afar.afar,
    )
}  # fmt: skip
# Only when named: they take longer, or need more than a machine of CI has.
LONGER = {
    case.__name__: case
    for case in (
        case_hostile.exhaustion,
        case_hostile.crowd,
        case_hostile.welcomed,
        case_fairness.fairness,
        case_fairness.distance,
        case_liveness.liveness,
        case_liveness.hundred,
        case_kube.kubectl,
        case_jupyter.jupyter,
        case_rotation.rotation,
        case_afar.distances,
        case_afar.losses,
        case_peers.streams,
        case_peers.replication,
    )
}  # fmt: skip


def main():
    arguments = parse()
    # The machine's own way out is no part of any case.
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    purpose = "tunnel " + " ".join(arguments.case or ["all"])
    return run_holding("tunnel", purpose, arguments.wait, lambda: run(arguments), holder=f"holder-{places.NAME}")


def run(arguments):
    binary = arguments.bridge.resolve()
    if not binary.is_file():
        raise TestbedError(f"there is no {binary}: cargo build --release, or name another with --bridge")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bridge-tunnel-"))
    print(f"tunnel: files in {folder}")
    passed, failed = 0, []
    # What an earlier run was killed over.
    networks_down()
    networks_up()
    try:
        for turn, name in enumerate(arguments.case or CASES):
            started = time.monotonic()
            print(f"{name}: {' '.join((CASES | LONGER)[name].__doc__.split())}", flush=True)
            complaint = play(name, binary, folder / f"{turn}-{name}")
            print(f"{'FAILED' if complaint else 'ok'} {name} ({time.monotonic() - started:.0f} s){complaint}", flush=True)
            passed, failed = (passed, [*failed, name]) if complaint else (passed + 1, failed)
    finally:
        networks_down()
    if failed:
        print(f"failed: {', '.join(failed)}; the same again: testbed/tunnel/run.py {' '.join(failed)}")
    else:
        shutil.rmtree(folder)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def play(name, binary, folder):
    """Runs a case; an empty text when it passed."""
    scene = Scene(name, binary, folder)
    try:
        (CASES | LONGER)[name](scene)
        return ""
    except (Failed, TestbedError) as error:
        return f": {error}"
    except Exception:
        return f": {traceback.format_exc()}"
    finally:
        scene.close()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = f"all without: {', '.join(CASES)}; only when named: {', '.join(LONGER) or 'none'}"
    parser.add_argument("case", nargs="*", help=f"which; {known}")
    parser.add_argument("--bridge", type=pathlib.Path, default=HERE.parent.parent / "target/release/bridge")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for another run to end")
    arguments = parser.parse_args()
    for case in arguments.case:
        if case not in CASES | LONGER:
            parser.error(f"no case {case}: {known}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
