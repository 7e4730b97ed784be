"""Rules that change under load: SIGHUP after SIGHUP, at either site, while messages flow each way."""

import json
import signal
import time

from agents import read_json, write_json
from case_faults import stage_wait
from stage import Load, hold_that, verdict

ROUNDS = 6
RATE = 1000
# A little less than all loads of one way together: something always waits.
BUDGET_MBIT_S = 14
# LINK: what is no longer allowed stops within this.
STOPPED_MAX = 2.0


def reloaded(stage):
    """Under load either site takes a topic out of what it lets out and in, and out of its routes, and puts it back;
    topics come up right before the route of their pattern is changed: nothing is lost, repeated or disordered, what is
    taken out stops within two seconds, and what nobody touched keeps its sessions."""
    names = ("asks", "kept", "tells", "held")
    loads = [
        Load(name, "riskfuel" if name in ("asks", "kept") else "bank", stage.topic(name), RATE, batch=0, rate=RATE)
        for name in names
    ]
    for load in loads:
        stage.create_topic(load.site, load.topic)
    asks, kept, tells, held = (load.topic for load in loads)
    batching = {"batching": {"max_messages": 50}}
    routes = [
        {"name": "out", "from": "riskfuel", "to": "bank", "topics": [asks, kept], "start": "earliest", **batching},
        {"name": "in", "from": "bank", "to": "riskfuel", "topics": [tells, held]},
        {"name": "found", "from": "bank", "to": "riskfuel", "topics": [stage.topic("new-.*")]},
    ]
    pair = stage.pair(routes)
    narrow(pair)
    pair.start()
    pair.wait(60, "they run at both ends", lambda _: all(flows(pair, load.topic) for load in loads))
    begun = [stage.begin(load, hold=True) for load in loads]
    untouched = sessions(pair, kept, held)
    slowest, fresh = 0.0, {}
    for turn in range(ROUNDS):
        for agent, topic, change in changes(pair, asks, tells):
            before, since = agent.config.read_text(), time.monotonic()
            reload(agent, change)
            stage_wait(lambda it=topic: not runs(pair, it), f"{topic} stops", 10)
            slowest = max(slowest, time.monotonic() - since)
            time.sleep(stage.random.uniform(0.0, 1.5))
            restore(agent, before)
            stage_wait(lambda it=topic: flows(pair, it), f"{topic} goes on", 40)
            time.sleep(stage.random.uniform(0.0, 1.0))
        topic = stage.topic(f"new-{turn}")
        fresh[topic] = stage.load(Load(f"new-{turn}", "bank", topic, 50))
        reload(pair.hub, exclude(stage.topic(f"other-{turn}")))
    at_last = sessions(pair, kept, held)
    written = [stage.finish(load) for load in begun]
    stage.wait_drained(pair, [{**route, "topics": [topic]} for route in routes[:2] for topic in route["topics"]], 120)
    stage.wait_drained(pair, [{**routes[2], "topics": [topic]} for topic in fresh], 60)
    pair.stop()
    stage.say(f"{ROUNDS * 7} reloads, what was taken out stopped within {slowest:.2f} s")
    for load, count in zip(loads, written, strict=True):
        site = "bank" if load.site == "riskfuel" else "riskfuel"
        stage.record(load.name, messages=count[load.name], **verdict(stage.verify(site, load.topic, count)))
    for topic, count in fresh.items():
        report = stage.verify("riskfuel", topic, count)
    stage.record(f"{ROUNDS} new topics", messages=50 * ROUNDS, **verdict(report))
    hold_that(slowest <= STOPPED_MAX, f"what was taken out stopped after {slowest:.2f} s")
    hold_that(at_last == untouched, f"sessions of what was not touched: {untouched} before, {at_last} after")


def narrow(pair):
    """What the hub's routes do not name may not go out there; and the link is narrow."""
    hub, edge = read_json(pair.hub.config), read_json(pair.edge.config)
    hub["tunnel"]["edges"][0]["policy"]["send"] = []
    edge["tunnel"]["budget_mbit_s"] = BUDGET_MBIT_S
    write_json(pair.hub.config, hub)
    write_json(pair.edge.config, edge)


def changes(pair, asks, tells):
    """Who takes what out, and how."""
    return (
        (pair.edge, tells, lambda edge: edge["policy"]["send"].remove(tells)),
        (pair.edge, asks, lambda edge: edge["policy"]["receive"].remove(asks)),
        (pair.hub, asks, lambda hub: hub["routes"][0]["topics"].remove(asks)),
    )


def exclude(topic):
    """What the route of the pattern is to leave out besides: nothing that there is."""
    return lambda hub: hub["routes"][2].setdefault("exclude", []).append(topic)


def ends(pair, topic):
    return {row["end"]: row for row in pair.rows() if row["topic"] == topic and row["state"] == "running"}


def runs(pair, topic):
    return bool(ends(pair, topic))


def flows(pair, topic):
    return len(ends(pair, topic)) == 2


def sessions(pair, *topics):
    return [ends(pair, topic)["source"]["session"] for topic in topics]


def reload(agent, change):
    config = read_json(agent.config)
    change(config)
    restore(agent, json.dumps(config, indent=2))


def restore(agent, text):
    agent.config.write_text(text)
    agent.process.send_signal(signal.SIGHUP)
