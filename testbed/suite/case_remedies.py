"""Reasons that are another site's, another process's or a cluster's: what `bridge status` says, what the remedy has
done about it, and the routes running again, with everything once."""

import os
import signal
import subprocess

from agents import pulsar_of, read_json, write_json
from case_faults import stage_wait
from places import PLACES
from stage import Load, hold_that, verdict

# Nothing listens there.
WRONG_ADMIN = f"http://{PLACES['riskfuel'].address}:8099"


def remedies(stage):
    """A link that is not there, an admin API at a wrong address, a cluster that does not answer, a second process where
    one was declared, one that is killed: each has its reason at the site where it is to be mended, and when that is
    done the routes run: nothing lost, repeated or disordered."""
    play = Play(stage)
    play.without_edge()
    play.wrong_admin_url()
    play.silent_cluster()
    play.two_of_one()
    play.end()


class Play:
    """One topic each way; the second hub and the second edge come late."""

    def __init__(self, stage):
        self.stage = stage
        out, back = stage.topic("out"), stage.topic("back")
        for topic in (out, back):
            for site in ("riskfuel", "bank"):
                stage.create_topic(site, topic)
        self.routes = [
            stage.route("out", "riskfuel", "bank", out, start="earliest"),
            stage.route("back", "bank", "riskfuel", back, start="earliest"),
        ]
        self.pair = stage.pair(self.routes)
        self.pair.pulsar["riskfuel"] = pulsar_of(PLACES["riskfuel"]) | {"admin_url": WRONG_ADMIN, "replicas": 1}
        self.pair.configure()
        self.pair.replicate()
        self.agents = self.pair.both
        # The hub declares also what comes in, and it is written before.
        self.change(self.agents[1::2], lambda config: config["policy"].update({"from": "earliest"}))
        self.hub, self.edge = self.agents[:2]
        self.written = {route["name"]: {} for route in self.routes}

    def write(self, what):
        for route in self.routes:
            load = Load(f"{what}-{route['name']}", route["from"], route["topics"][0], COUNT, dressed=True)
            self.written[route["name"]] |= self.stage.load(load)

    def run(self, *agents):
        """These are the ones that run; the wait below looks at them alone."""
        self.pair.both = agents
        for agent in agents:
            if not agent.is_alive():
                agent.start()

    def expect(self, agent, route, end, reason):
        """`bridge status` there gives the reason, and its remedy."""

        def told(_):
            return next((row for row in rows_of(agent, route, end) if row["reason"] == reason), None)

        row = self.pair.wait(60, f"{agent.config.stem}: {route} {end} says {reason}", told)
        hold_that(row["remedy"], f"{reason} has no remedy: {row}")
        hold_that(reason in self.printed(agent), f"`bridge status` does not say {reason}")
        self.stage.say(f"{agent.config.stem}: {route} {end}: {reason} -> {row['remedy']}")
        return row

    def printed(self, agent):
        inside = ["ip", "netns", "exec", agent.place.namespace, agent.binary]
        done = subprocess.run(
            [*inside, "status", "--admin", f"http://127.0.0.1:{agent.admin_port}"], capture_output=True, text=True,
            timeout=30,
        )  # fmt: skip
        hold_that(done.returncode == 0, f"`bridge status` exits {done.returncode}: {done.stderr}")
        return done.stdout

    def change(self, agents, how):
        for agent in agents:
            config = read_json(agent.config)
            how(config)
            write_json(agent.config, config)

    def restart(self, *agents):
        for agent in agents:
            code = agent.stop()
            hold_that(code == 0, f"it ended with {code}: {agent.last_words()}")
            agent.start()

    def without_edge(self):
        """"see the link's own reason", "see the link, and the route's reason at the source site"."""
        self.run(self.hub)
        self.write("early")
        self.expect(self.hub, "out", "source", "link_down")
        self.expect(self.hub, "back", "sink", "not_opened")
        hold_that("not_dialled" in self.printed(self.hub), "the link's own reason is not shown")
        # Nobody dials: the edge does not run.
        self.run(self.hub, self.edge)

    def wrong_admin_url(self):
        self.expect(self.hub, "out", "source", "source_admin_unreachable")
        self.expect(self.hub, "back", "sink", "destination_unreachable")
        log = "\n".join(self.hub.log_lines())
        hold_that(":8099" in log, f"the log does not name the cause: {self.hub.last_words()}")

        def mend(config):
            config["pulsar"]["admin_url"] = PLACES["riskfuel"].admin_url

        # All that read the same file one day.
        self.change(self.agents[::2], mend)
        self.restart(self.hub)
        self.pair.wait_running()
        self.drained()

    def silent_cluster(self):
        """The bank's broker stands still while a session is opened: the source gives up first, and the reason is where
        it belongs."""
        broker = self.stage.brokers["bank"]
        self.pair.both = (self.hub,)
        hold_that(self.edge.stop() == 0, f"the edge does not drain: {self.edge.last_words()}")
        os.kill(broker.pid(), signal.SIGSTOP)
        try:
            self.run(self.hub, self.edge)
            self.expect(self.hub, "out", "source", "not_ready")
            self.expect(self.edge, "out", "sink", "destination_unreachable")
        finally:
            os.kill(broker.pid(), signal.SIGCONT)
        self.pair.wait_running()
        self.write("silent")
        self.drained()

    def two_of_one(self):
        """"another replica runs (then drop "replicas": 1)"; then one stands by, and takes over."""
        hubs, late = self.agents[::2], ("waiting", "subscription_in_use")
        self.pair.stop()
        self.start_all()
        refused = lambda _: next((hub for hub in hubs if self.state(hub) == late), None)  # noqa: E731
        self.expect(self.pair.wait(60, "one of the hubs is kept out", refused), "out", "source", late[1])
        self.change(hubs, lambda config: config["pulsar"].pop("replicas"))
        self.pair.stop()
        self.start_all()
        standing = self.pair.wait(60, "one hub relays and the other stands by", lambda _: self.standby(hubs))
        self.expect(standing, "out", "source", "standby")
        active = hubs[1 - hubs.index(standing)]
        # Both directions need a link, and either edge may have either hub.
        self.pair.both = tuple(agent for agent in self.agents if agent is not active)
        hold_that(active.kill(), f"it was dead before: {active.last_words()}")
        self.write("replicated")
        self.drained()
        hold_that(self.state(standing) == ("running", None), f"the other did not take over: {self.state(standing)}")
        self.run(*self.agents)

    def start_all(self):
        """An edge that finds nobody at its first URL is at its second, and a hub without a link takes no part."""
        hubs = self.agents[::2]
        self.run(*hubs)
        stage_wait(lambda: all(hub.status() for hub in hubs), "both hubs serve")
        self.run(*self.agents)

    def state(self, hub):
        return next(((row["state"], row["reason"]) for row in rows_of(hub, "out", "source")), None)

    def standby(self, hubs):
        states = [self.state(hub) for hub in hubs]
        if sorted(map(str, states)) != sorted(map(str, [("running", None), ("waiting", "standby")])):
            return None
        return hubs[states.index(("waiting", "standby"))]

    def drained(self):
        self.stage.wait_drained(self.pair, self.routes, 90)

    def end(self):
        for route in self.routes:
            written = self.written[route["name"]]
            report = self.stage.verify(route["to"], route["topics"][0], written)
            self.stage.record(route["name"], messages=sum(written.values()), **verdict(report))
        self.pair.stop()


def rows_of(agent, route, end):
    report = agent.status()
    return [row for row in report["routes"] if (row["route"], row["end"]) == (route, end)] if report else []


COUNT = 300
