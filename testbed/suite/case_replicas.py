"""Cases with two hubs and two edges of the same two sites: they share the partitions, and take over from each other."""

import json
import signal
import statistics
import threading
import time

import hosts
from case_faults import stage_wait
from stage import HERE, Load, hold_that, verdict

PARTITIONS = 4
TAKEOVERS = 20
VANISHED = 6
# Everything that was lost with a process has to flow again within this.
TAKEOVER_MAX = 5.0


def replicas(stage):
    """Two hubs and two edges share the partitions of a topic in each direction; each of the four is killed and
    started again under load, one joins and one leaves: nothing is lost, repeated or disordered, and a join or a leave
    moves a partition at most once."""
    with Quartet(stage) as quartet:
        for turn in range(4):
            quartet.kill(quartet.busiest(turn % 2))
        moves = [quartet.leave(agent) + quartet.join(agent) for agent in quartet.agents[2:]]
        stage.say(f"moves of one partition when a replica left and joined: at most {max(moves)}")
        quartet.end("4 kills, 2 leaves, 2 joins")


def takeover(stage):
    """How long a partition is silent when one of four replicas is killed, twenty times."""
    with Quartet(stage) as quartet:
        outages = [quartet.kill(quartet.busiest(turn % 2)) for turn in range(TAKEOVERS)]
        p50 = statistics.median(outages)
        stage.say(f"{TAKEOVERS} kills: silent p50 {p50:.2f} s, max {max(outages):.2f} s: {rounded(outages)}")
        quartet.end(f"{TAKEOVERS} kills, p50 {p50:.2f} s, max {max(outages):.2f} s")
        hold_that(max(outages) <= TAKEOVER_MAX, f"a take-over lasted {max(outages):.2f} s, {TAKEOVER_MAX} are promised")


def frozen(stage):
    """How long a partition is silent when one of four replicas stops answering and stays so: SIGSTOP. The brokers
    wait for their own keepalive (30 to 60 s) before another one gets the place."""
    with Quartet(stage) as quartet:
        outages = [quartet.freeze(quartet.busiest(turn % 2)) for turn in range(4)]
        stage.say(f"frozen one after the other: silent {rounded(outages)} s")
        quartet.end(f"4 frozen, silent {rounded(outages)} s")


def vanished(stage):
    """How long a partition is silent when the machine of one of four replicas vanishes: its packets are dropped both
    ways, so that neither its brokers nor the other end of its link see a connection end. It comes back when the others
    have taken over, and still believes that what it had is its own."""
    with hosts.two_each() as machines, Quartet(stage, machines) as quartet:
        outages = {"hub": [], "edge": []}
        for turn in range(VANISHED):
            agent = quartet.busiest(turn % 2)
            outages["edge" if turn % 2 else "hub"].append(quartet.vanish(agent))
        told = "; ".join(f"{what}s {rounded(silent)} s" for what, silent in outages.items())
        stage.say(f"vanished one after the other, silent: {told}")
        quartet.end(f"{VANISHED} vanished, silent: {told}")


class Quartet:
    """Two hubs, two edges, a partitioned topic each way under load, and who watches what arrives."""

    def __init__(self, stage, machines=None):
        self.stage = stage
        rate = 1000
        # Longer than any case: the load goes on until it is told to end.
        self.loads = [
            Load("asks", "riskfuel", stage.topic("requests"), rate, dressed=True, rate=rate),
            Load("answers", "bank", stage.topic("results"), rate, dressed=True, rate=rate),
        ]
        for load in self.loads:
            for site in ("riskfuel", "bank"):
                stage.create_topic(site, load.topic, PARTITIONS)
        self.routes = [
            stage.route("requests", "riskfuel", "bank", self.loads[0].topic, start="earliest"),
            stage.route("results", "bank", "riskfuel", self.loads[1].topic, start="earliest"),
        ]
        self.pair = stage.pair(self.routes)
        self.pair.replicate(machines)
        self.agents = self.pair.both

    def __enter__(self):
        hubs, edges = self.agents[::2], self.agents[1::2]
        for agent in hubs:
            agent.start()
        # Else an edge that found nobody at its first URL is at its second.
        stage_wait(lambda: all(hub.status() for hub in hubs), "both hubs serve")
        for agent in edges:
            agent.start()
        self.wait_shared()
        self.begun = [self.stage.begin(load, hold=True) for load in self.loads]
        self.watchers = [Watcher(self.stage, route["to"], route["topics"][0]) for route in self.routes]
        self.wait_flowing(time.monotonic())
        return self

    def __exit__(self, *_):
        for watcher in self.watchers:
            watcher.end()

    def end(self, what):
        written = [self.stage.finish(begun) for begun in self.begun]
        self.stage.wait_drained(self.pair, self.routes, 120)
        self.pair.stop()
        for route, load, count in zip(self.routes, self.loads, written, strict=True):
            report = self.stage.verify(route["to"], load.topic, count)
            self.stage.record(f"{load.name}: {what}", messages=count[load.name], **verdict(report))

    def owners(self):
        """Which agent relays each partition from its source, as all of them say now."""
        owners = {}
        for number, agent in enumerate(self.agents):
            report = agent.status() if agent.is_alive() else None
            for row in report["routes"] if report else ():
                if row["end"] == "source" and row["state"] == "running":
                    owners[row["topic"]] = number
        return owners

    def busiest(self, side):
        """The hub (0) or the edge (1) that relays most partitions from its site."""
        owners = list(self.owners().values())
        return self.agents[max((owners.count(number), number) for number in (side, side + 2))[1]]

    def wait_shared(self):
        """Every partition has an agent that relays it, and every edge has a link. A hub may have none: edges stay
        where they are."""

        def all_run(_):
            reports = [agent.status() for agent in self.agents]
            linked = all(r and any(link["state"] == "up" for link in r["links"]) for r in reports[1::2])
            return all(reports) and linked and len(self.owners()) == PARTITIONS * len(self.routes)

        self.pair.wait(60, "every edge is linked and every partition is relayed", all_run)

    def wait_flowing(self, since):
        """Until every partition got a message after `since`; the longest silence that ended after it."""
        self.pair.wait(150, "messages arrive in every partition", lambda _: all(w.flows(since) for w in self.watchers))
        return max(watcher.longest(since) for watcher in self.watchers)

    def kill(self, agent):
        """kill -9; how long a partition was silent. The agent is started again, and the four are whole at the end."""
        killed_at = time.monotonic()
        hold_that(agent.kill(), f"it was dead before: {agent.last_words()}")
        silent = self.wait_others(agent, killed_at)
        agent.start()
        self.wait_shared()
        self.stage.say(f"killed {agent.config.stem}: silent for {silent:.2f} s")
        return silent

    def wait_others(self, absent, since):
        """As `wait_flowing`, while one is away on purpose."""
        rest, self.pair.both = self.pair.both, tuple(agent for agent in self.agents if agent is not absent)
        try:
            return self.wait_flowing(since)
        finally:
            self.pair.both = rest

    def freeze(self, agent):
        """SIGSTOP until the others have taken over, then SIGCONT: what it still believes is its own comes back."""
        frozen_at = time.monotonic()
        agent.process.send_signal(signal.SIGSTOP)
        try:
            silent = self.wait_others(agent, frozen_at)
        finally:
            agent.process.send_signal(signal.SIGCONT)
        self.wait_shared()
        self.stage.say(f"froze {agent.config.stem}: silent for {silent:.2f} s")
        return silent

    def vanish(self, agent):
        """Nothing comes from its machine or gets there until the others have taken over."""
        vanished_at = time.monotonic()
        hosts.vanish(agent.place)
        try:
            silent = self.wait_others(agent, vanished_at)
        finally:
            hosts.come_back(agent.place)
        self.wait_shared()
        self.stage.say(f"{agent.config.stem} vanished: silent for {silent:.2f} s")
        return silent

    def leave(self, agent):
        """The most moves of one partition when an agent ends in order."""
        moves = Moves(self)
        code = agent.stop()
        hold_that(code == 0, f"it ended with {code}: {agent.last_words()}")
        self.wait_others(agent, time.monotonic())
        return moves.end()

    def join(self, agent):
        moves = Moves(self)
        agent.start()
        self.wait_shared()
        self.wait_flowing(time.monotonic())
        return moves.end()


class Moves:
    """Counts how often each partition goes from one agent to another."""

    SETTLED = 8.0

    def __init__(self, quartet):
        self.quartet, self.ended = quartet, threading.Event()
        self.before, self.moves = quartet.owners(), {}
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.ended.wait(0.1):
            for topic, owner in self.quartet.owners().items():
                if self.before.get(topic, owner) != owner:
                    self.moves[topic] = self.moves.get(topic, 0) + 1
                self.before[topic] = owner

    def end(self):
        # Longer than a failover delay and a fruitless attachment: what moves late has moved by then.
        time.sleep(self.SETTLED)
        self.ended.set()
        self.thread.join()
        most = max(self.moves.values(), default=0)
        hold_that(most <= 1, f"a partition moved {most} times: {self.moves}")
        return most


class Watcher:
    """What `gaps.py` tells of one topic."""

    def __init__(self, stage, site, topic):
        command = [str(HERE / "gaps.py"), *stage.access[site], "--topic", topic]
        self.process = stage.program(site, command, stdin=-1)
        self.last, self.pauses = [None], []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            self.pauses += told["pauses"]
            self.last = told["last"]

    def flows(self, since):
        hold_that(self.process.poll() is None, "gaps.py ended by itself")
        return all(at is not None and at > since + SURELY for at in self.last)

    def longest(self, since):
        return max((end - begin for begin, end in self.pauses if end > since), default=0.0)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def rounded(seconds):
    return [round(value, 2) for value in seconds]


# What was on its way when a process died still arrives.
SURELY = 1.5
