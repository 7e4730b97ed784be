"""The case with two versions of the bridge: each as hub of the other, and an upgrade under load."""

import time

from stage import Load, hold_that, verdict

RATE = 2000
SECONDS = 8


def upgrade(stage):
    """Another version's hub serves this one's edge, and the other way round, under load both ways; then the older side
    is stopped and started again as this version: nothing is lost, repeated or disordered."""
    hold_that(stage.former, "name the other version's binary: --former FILE (testbed/long/upgrade builds one)")
    for which in ("hub", "edge"):
        mixed(stage, which)


def mixed(stage, which):
    loads = [
        Load(f"asks-of-former-{which}", "riskfuel", stage.topic(f"requests-{which}"), RATE, dressed=True, rate=RATE),
        Load(f"answers-of-former-{which}", "bank", stage.topic(f"results-{which}"), RATE, compression="LZ4", rate=RATE),
    ]
    routes = [
        stage.route("requests", "riskfuel", "bank", loads[0].topic, start="earliest"),
        stage.route("results", "bank", "riskfuel", loads[1].topic, start="earliest", answers="requests"),
    ]
    for load in loads:
        for site in ("riskfuel", "bank"):
            stage.create_topic(site, load.topic)
    pair = stage.pair(routes)
    older = getattr(pair, which)
    older.binary = stage.former
    pair.start()
    pair.wait_running()
    begun = [stage.begin(load, hold=True) for load in loads]
    relays_more(pair, loads)
    time.sleep(SECONDS)
    code = older.stop()
    hold_that(code == 0, f"the former {which} ended with {code}: {older.last_words()}")
    older.binary = stage.binary
    older.start()
    pair.wait_running()
    relays_more(pair, loads)
    written = [stage.finish(load) for load in begun]
    stage.wait_drained(pair, routes, 60)
    pair.stop()
    for route, load, count in zip(routes, loads, written, strict=True):
        report = stage.verify(route["to"], load.topic, count)
        stage.record(f"former {which}, then upgraded: {route['name']}", messages=count[load.name], **verdict(report))


def relays_more(pair, loads):
    """Every topic is relayed on, from now."""
    before = confirmed(pair.rows())
    pair.wait(30, "every topic is relayed on", lambda rows: all(
        confirmed(rows).get(load.topic, 0) > before.get(load.topic, 0) for load in loads
    ))  # fmt: skip


def confirmed(rows):
    return {row["topic"]: row["confirmed"] for row in rows if row["end"] == "source"}
