#!/usr/bin/env python3
"""The suite on real clusters: the built `bridge`, once in each organisation's network, judged by official clients.

Starts the clusters if they do not run. Ends with a table of figures, the line `N passed, N failed`, and exit code 1
when anything failed. --scale shrinks the loads, never the number of kills or what is asserted.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent)]

import case_auth  # noqa: E402
import case_balanced  # noqa: E402
import case_compare  # noqa: E402
import case_entries  # noqa: E402
import case_faults  # noqa: E402
import case_flow  # noqa: E402
import case_loss  # noqa: E402
import case_quarantine  # noqa: E402
import case_reasons  # noqa: E402
import case_reload  # noqa: E402
import case_remedies  # noqa: E402
import case_replicas  # noqa: E402
import case_rights  # noqa: E402
import case_routes  # noqa: E402
import case_traps  # noqa: E402
import case_upgrade  # noqa: E402
import rest  # noqa: E402
from hold import run_holding  # noqa: E402
from places import TestbedError  # noqa: E402
from stage import Failed, Stage  # noqa: E402

CASES = {
    case.__name__: case
    for case in (
        case_flow.verifier, case_entries.entries, case_faults.bad_start, case_faults.source_missing,
        case_faults.reshaped, case_faults.restart_stays_stopped, case_reasons.reasons, case_remedies.remedies, case_auth.auth,
        case_rights.rights,
        case_routes.patterns, case_routes.chain, case_routes.mesh, case_traps.claims, case_quarantine.quarantine,
        case_quarantine.foreign_schema, case_loss.skipped,
        case_traps.thousands, case_traps.unprepared, case_traps.smaller, case_traps.capped,
        case_traps.rewound,
        case_flow.active_active, case_flow.bulk, case_flow.joined, case_flow.backlog, case_replicas.replicas,
        case_faults.kills,
    )
}  # fmt: skip
# Only when named: they measure, and need more than the bridge itself.
MEASURES = {
    case.__name__: case
    for case in (
        case_compare.against_pulsar_rs, case_replicas.takeover, case_replicas.frozen, case_replicas.vanished,
        case_balanced.balanced,
        case_upgrade.upgrade, case_routes.ring, case_loss.evicted, case_reload.reloaded,
    )
}  # fmt: skip
COLUMNS = (
    "case", "load", "messages", "seconds", "msg/s", "Mbit/s", "hub CPU-s/GB", "edge CPU-s/GB",
    "hub peak MiB", "edge peak MiB", "lost", "repeated", "disordered",
)  # fmt: skip


def main():
    arguments = parse()
    purpose = "suite " + " ".join(arguments.case or ["all"])
    return run_holding("suite", purpose, arguments.wait, lambda: run(arguments))


def run(arguments):
    binary = str(arguments.bridge.resolve())
    wanted = arguments.case or list(CASES)
    if any(case != "verifier" for case in wanted) and not arguments.bridge.is_file():
        raise TestbedError(f"there is no {binary}: cargo build --release, or name another with --bridge")
    clusters_up()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bridge-suite-"))
    print(f"suite: seed {arguments.seed}, scale {arguments.scale}, agents' files in {folder}")
    rows, passed, failed = [], 0, []
    for turn, name in enumerate(wanted):
        started = time.monotonic()
        print(f"{name}: {' '.join((CASES | MEASURES)[name].__doc__.split())}", flush=True)
        complaint = play(name, binary, arguments, folder / f"{turn}-{name}", rows)
        seconds = time.monotonic() - started
        print(f"{'FAILED' if complaint else 'ok'} {name} ({seconds:.0f} s){complaint}", flush=True)
        passed, failed = (passed, [*failed, name]) if complaint else (passed + 1, failed)
    print_table(rows)
    if not failed:
        shutil.rmtree(folder)
    if failed:
        again = f"testbed/suite/run.py --seed {arguments.seed} --scale {arguments.scale} {' '.join(failed)}"
        print(f"failed: {', '.join(failed)}; the same again: {again}")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def play(name, binary, arguments, folder, rows):
    """Runs a case; an empty text when it passed."""
    stage = None
    try:
        clusters_up()
        former = arguments.former and str(arguments.former.resolve())
        stage = Stage(name, binary, arguments.scale, arguments.seed, folder, former)
        (CASES | MEASURES)[name](stage)
        return ""
    except (Failed, TestbedError, rest.Refused) as error:
        return f": {error}"
    except Exception:
        return f": the suite itself failed\n{traceback.format_exc()}"
    finally:
        if stage:
            rows += stage.rows
            stage.close()


def clusters_up():
    """All three; those that serve are left alone."""
    done = subprocess.run([str(HERE.parent / "clusters"), "up", "--partner", "--sweep"], capture_output=True, text=True)
    if done.returncode != 0:
        raise TestbedError(f"the clusters did not come up: {done.stderr.strip()}")


def print_table(rows):
    table = [COLUMNS] + [tuple(cell(row.get(column, "")) for column in COLUMNS) for row in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(COLUMNS))]
    for line in table:
        left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right).rstrip())


def cell(value):
    return f"{value:,}" if isinstance(value, int) else str(value)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = f"all without: {', '.join(CASES)}; only when named: {', '.join(MEASURES)}"
    parser.add_argument("case", nargs="*", help=f"which; {known}")
    parser.add_argument("--bridge", type=pathlib.Path, default=HERE.parent.parent / "target/release/bridge")
    parser.add_argument("--former", type=pathlib.Path, help="another version's binary, for the case `upgrade`")
    parser.add_argument("--scale", type=float, default=1.0, help="of the loads; 1 is a million messages in bulk")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of the random moments")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for another suite to end")
    arguments = parser.parse_args()
    for case in arguments.case:
        if case not in CASES | MEASURES:
            parser.error(f"no case {case}: {known}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
