"""The faults, by name. Each is done to a running leg and undone again, and says in a few words what it did; whether it
bit is judged by others. Every random choice is the leg's."""

import os
import signal
import time

import rest
from stage import hold_that

PAIR = ("bank-1", "bank-2")


def kill_agent(side):
    def act(leg):
        agent = getattr(leg.pair, side)
        hold_that(agent.kill(), f"the {side} was dead before it was killed: {agent.last_words()}")
        time.sleep(pause := leg.random.uniform(0, 2))
        agent.start()
        return f"started again after {pause:.1f} s"

    return act


def stop_agent(side):
    def act(leg):
        return freeze(leg, getattr(leg.pair, side).process.pid)

    return act


def freeze(leg, pid):
    """SIGSTOP for a while; whatever happens meanwhile, SIGCONT."""
    seconds = leg.lasting(5, 20)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    return f"for {seconds:.1f} s"


def kill_riskfuel(leg):
    return kill_broker(leg, leg.riskfuel, "riskfuel")


def stop_riskfuel(leg):
    return freeze(leg, leg.riskfuel.pid())


def kill_one_of_the_pair(leg):
    name = busy_one(leg)
    return kill_broker(leg, leg.twin.brokers[name], name)


def stop_one_of_the_pair(leg):
    name = busy_one(leg)
    return f"{name} {freeze(leg, leg.twin.brokers[name].pid())}"


def kill_broker(leg, broker, name):
    hold_that(broker.kill(), f"{name}'s broker was dead before it was killed: {broker.last_words()}")
    time.sleep(pause := leg.random.uniform(0, 2))
    broker.start()
    started = time.monotonic()
    broker.wait()
    return f"{name}, started again after {pause:.1f} s, serves {time.monotonic() - started:.1f} s later"


def busy_one(leg):
    """One of the two, with a bundle of ours moved to it if it has none."""
    name = leg.random.choice(PAIR)
    owners = {owner(leg, topic) for topic in leg.partitions}
    if name not in owners:
        leg.twin.move(leg.namespace, leg.random.choice(leg.partitions), name)
        leg.recovered("a bundle was moved in preparation")
    return name


def owner(leg, topic):
    return leg.patiently(lambda: leg.twin.owner(topic))


def unload(leg):
    topic = leg.random.choice(leg.partitions)
    leg.patiently(lambda: leg.twin.unload(leg.namespace, leg.twin.bundle(topic)))
    return f"the bundle of {short(topic)}"


def move(leg):
    topic = leg.random.choice(leg.partitions)
    before = owner(leg, topic)
    after = PAIR[1 - PAIR.index(before)]
    leg.twin.move(leg.namespace, topic, after)
    return f"the bundle of {short(topic)} from {before} to {after}"


def cut(leg):
    return f"and no connection {link_does(leg, 'cut', 0, 3)}"


def vanish(leg):
    return f"new ones too {link_does(leg, 'vanish', 3, 15)}"


def trickle(leg):
    return link_does(leg, "trickle", 5, 15)


def stall(leg):
    return link_does(leg, "stall", 4, 15)


def link_does(leg, order, least, most):
    """For so many seconds, and until they are over."""
    seconds = leg.lasting(least, most)
    leg.link.tell(order, seconds=seconds)
    time.sleep(seconds)
    return f"for {seconds:.1f} s"


def reset(leg):
    way, after = leg.way(), leg.random.randint(1, 60_000)
    before = leg.link.counts()["connections"]
    leg.link.tell("reset", way=way, bytes=after, of="busiest")
    dialled_anew(leg, before)
    return f"{way} after {after} bytes more"


def half_close(leg):
    way, of = leg.way(), leg.random.choice(("all", "busiest"))
    before = leg.link.counts()["connections"]
    leg.link.tell("half-close", way=way, of=of)
    dialled_anew(leg, before)
    return f"{way}, {of}"


def dialled_anew(leg, before, patience=20):
    """These bite when their bytes have come or their end is noticed: until the edge dials again, or in vain."""
    deadline = time.monotonic() + patience
    while leg.link.counts()["connections"] == before and time.monotonic() < deadline:
        time.sleep(0.05)


def seek(leg):
    """Back, never forward: the bridge sends again, the destination has it already. By position, because a time may lie
    ahead of what is acknowledged, and then what lies between is skipped: loss at the source, and no fault of a relay."""
    route = leg.random.choice(leg.routes)
    admin, name = leg.brokers[route["from"]].admin, f"bridge.{route['from']}.{route['to']}"
    back, moved = leg.random.randint(20, 2000), []
    for partition in [topic for topic in leg.partitions if topic.startswith(route["topics"][0])]:
        path = rest.topic_path(partition)
        stats = leg.patiently(lambda path=path: admin.get(f"{path}/internalStats"))
        ledger, entry = (int(part) for part in stats["cursors"][name]["markDeletePosition"].split(":"))
        if entry > 0:
            to = {"ledgerId": ledger, "entryId": max(0, entry - back), "partitionIndex": -1}
            reset = f"{path}/subscription/{name}/resetcursor"
            leg.patiently(lambda reset=reset, to=to: admin.post(reset, to))
            moved.append(min(entry, back))
    return f"{route['name']} by {moved} entries"


def throttle(leg):
    route = leg.random.choice(leg.routes)
    admin, path = leg.brokers[route["to"]].admin, f"/admin/v2/namespaces/{leg.namespace}/publishRate"
    seconds = leg.lasting(5, 15)
    # A batch of a hundred then blocks its topic for ten seconds.
    leg.patiently(lambda: admin.post(path, {"publishThrottlingRateInMsg": 10, "publishThrottlingRateInByte": -1}))
    try:
        time.sleep(seconds)
    finally:
        leg.patiently(lambda: admin.delete(path))
    return f"{route['to']} to 10 messages a second for {seconds:.1f} s"


def disk_full(leg):
    seconds = leg.lasting(6, 20)
    taken = leg.twin.bookie.fill()
    try:
        time.sleep(seconds)
    finally:
        leg.twin.bookie.free()
    if not leg.twin.bookie.pid():
        # Its journal had no room any more, and without a journal it does not live.
        leg.twin.bookie.start()
        leg.twin.bookie.wait()
        return f"{taken >> 20} MiB for {seconds:.1f} s, and it was started again"
    return f"{taken >> 20} MiB for {seconds:.1f} s"


KINDS = {
    "hub-kill": kill_agent("hub"), "edge-kill": kill_agent("edge"),
    "hub-stop": stop_agent("hub"), "edge-stop": stop_agent("edge"),
    "riskfuel-kill": kill_riskfuel, "riskfuel-stop": stop_riskfuel,
    "bank-kill": kill_one_of_the_pair, "bank-stop": stop_one_of_the_pair,
    "unload": unload, "move": move,
    "cut": cut, "vanish": vanish, "trickle": trickle, "stall": stall, "reset": reset, "half-close": half_close,
    "seek": seek, "throttle": throttle, "disk-full": disk_full,
}  # fmt: skip


def short(topic):
    return topic.rpartition("/")[2]
