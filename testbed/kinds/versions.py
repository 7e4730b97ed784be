#!/usr/bin/env python3
"""Some kinds of messages with a broker of another version, or another make, at one site: first as the destination, then
as the source; the other site has the testbed's own.

Prints kind by version and role, ends with `N passed, N failed`, and with exit code 1 when anything failed. --docs
writes its section of docs/kinds.md. What it needs is fetched by testbed/long/versions.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "suite"), str(HERE.parent)]

import brokers  # noqa: E402
import guest  # noqa: E402
import places  # noqa: E402
import programs  # noqa: E402
import run  # noqa: E402
import table  # noqa: E402
from hold import run_holding  # noqa: E402
from kinds import BOTH, KINDS  # noqa: E402
from places import TestbedError  # noqa: E402
from stage import Stage  # noqa: E402
from trial import Trial  # noqa: E402

LITE = "pulsar-lite"
VERSIONS = ("3.0.7", "3.3.6", "4.2.4", LITE)
ROLES = {"bank": "destination", "riskfuel": "source"}
SMOKE = (
    "uncompressed, single", "lz4, batched", "zstd, batched", "keys and ordering keys, batched", "batches by key",
    "properties and event time, single", "null values, single", "delayed delivery", "chunks of 50 MB",
    "encrypted, single", "schema string", "schema Avro, two versions",
)  # fmt: skip


class Version(guest.Guest):
    """A standalone of another version."""

    def __init__(self, site, version):
        super().__init__(site)
        self.version = version

    def distribution(self):
        path = brokers.home() / f"apache-pulsar-{self.version}"
        if not (path / "bin/pulsar").exists():
            raise TestbedError(f"Pulsar {self.version} is not in {brokers.home()}: run testbed/long/versions")
        return path


class Lite(guest.Guest):
    """A broker without Java, metadata store and admin REST."""

    def __init__(self, site, _version):
        super().__init__(site)
        self.admin = None

    def program(self):
        found = list(brokers.home().glob("pulsar-lite/lib/python3*/site-packages/pulsar_lite/bin/pulsar-lite"))
        if not found:
            raise TestbedError(f"pulsar-lite is not in {brokers.home()}: run testbed/long/versions")
        found[0].chmod(0o755)
        return str(found[0])

    def command(self):
        return ["--addr", f"{self.place.address}:6650", "--db-path", str(self.dir / "db")]

    def unready(self):
        try:
            return None if places.reaches(self.place.namespace, self.place) else "no answer"
        except OSError as error:
            return str(error)


def main():
    arguments = parse()
    return run_holding("versions", "versions", arguments.wait, lambda: play_all(arguments))


def play_all(arguments):
    binary = str(arguments.bridge.resolve())
    run.clusters_up()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bridge-versions-"))
    columns = {}
    for version in arguments.version or VERSIONS:
        for site, role in ROLES.items():
            print(f"{version} as {role}", flush=True)
            columns[version, role] = play(binary, version, site, folder / f"{version}-{role}", arguments.kind)
    named = {f"{version} as {role}": found for (version, role), found in columns.items()}
    failures = [f"{name}, {line}" for name, found in named.items() for line in found.failures()]
    print(text(columns))
    for line in failures:
        print(f"FAILED {line}")
    if arguments.docs:
        write(binary, columns, failures)
    if not failures:
        shutil.rmtree(folder)
    print(f"{sum(found.passed() for found in columns.values())} passed, {len(failures)} failed")
    return 1 if failures else 0


def play(binary, version, site, folder, wanted):
    stage = Stage("versions", binary, 1, 0, folder)
    try:
        broker = (Lite if version == LITE else Version)(site, version)
        with guest.instead(stage, site, broker):
            clients = programs.start(stage)
            kinds = [kind for kind in KINDS if kind.name in (wanted or SMOKE)]
            if version == LITE:
                # It never answers GET_OR_CREATE_SCHEMA, delays nothing, and refuses a chunk as large as it allows, because
                # it counts the chunk's metadata.
                lacks = {"schema", "chunking"}
                kinds = [kind for kind in kinds if not lacks & kind.producer.keys() and not kind.read.get("shared")]
            trials = [Trial(stage, clients, kind, writer) for kind in kinds for writer in BOTH]
            verdicts = run.play(stage, trials, lambda pair: guest.use(pair, site, broker))
            for program in stage.programs:
                program.kill()
            return table.Table(verdicts)
    finally:
        stage.close()


def text(columns):
    return "\n".join("  ".join(f"{cell:34}" for cell in row).rstrip() for row in rows(columns, "FAILED"))


def rows(columns, fail):
    found = [["kind", *(f"{version}, {role}" for version, role in columns)]]
    for kind in dict.fromkeys(kind for column in columns.values() for kind in column.verdicts):
        cells = []
        for column in columns.values():
            looks = [reason for name, _, _, reason in column.cells() if name == kind]
            passed = sum(reason is None for reason in looks)
            if not looks:
                cells.append("–")
                continue
            cells.append("pass" if passed == len(looks) else f"{fail} ({passed} of {len(looks)})")
        found.append([kind, *cells])
    return found


def write(binary, columns, failures):
    lines = [f"| {' | '.join(row)} |" for row in rows(columns, "**failed**")]
    lines.insert(1, "|---|" + ":-:|" * len(columns))
    said = run.said_of(binary, "testbed/long/versions --docs")
    notes = "\n".join(f"- {line}" for line in failures)
    table.write_section(run.ROOT / "docs/kinds.md", "versions", "\n".join([said, "", *lines, "", notes]).rstrip())


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="*", help=f"only these of {', '.join(VERSIONS)}")
    parser.add_argument("--kind", action="append", help="only these, by their whole names")
    parser.add_argument("--bridge", type=pathlib.Path, default=run.ROOT / "target/release/bridge")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for another user of the testbed")
    parser.add_argument("--docs", action="store_true", help="write docs/kinds.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
