"""Two hubs behind a load balancer that knows nothing of links, and two edges that know only the balancer."""

import pathlib
import subprocess

import places
from agents import Agent, read_json, write_json
from case_replicas import Quartet
from places import PLACES
from stage import hold_that

BALANCER_PORT = 8010
THIRD_ADMIN_PORT = 9604
LANES = 4
INSTANCES = 2
TOO_MANY = "too_many_instances"


def balanced(stage):
    """Two hubs behind a real haproxy that deals connections out in turn, two edges with one token and four lanes each:
    a third edge with that token is refused, and both hubs say so; each of the four is killed and started again under
    load, and nothing is lost, repeated or disordered."""
    with Balanced(stage) as quartet:
        quartet.hold_all_linked()
        quartet.refuse_a_third()
        for agent in quartet.agents:
            quartet.kill(agent)
        quartet.end("4 kills behind a balancer")


class Balanced(Quartet):
    """A quartet whose edges dial a balancer."""

    def __init__(self, stage):
        super().__init__(stage)
        hubs, self.edges = self.agents[::2], self.agents[1::2]
        place = PLACES["riskfuel"]
        listens = [read_json(hub.config)["tunnel"]["listen"] for hub in hubs]
        for hub in hubs:
            config = read_json(hub.config)
            config["tunnel"]["trusted_proxies"] = [place.address]
            config["tunnel"]["edges"][0]["max_instances"] = INSTANCES
            write_json(hub.config, config)
        for edge in self.edges:
            config = read_json(edge.config)
            config["tunnel"] |= {"connect": [f"tls://{place.address}:{BALANCER_PORT}"], "lanes": LANES}
            write_json(edge.config, config)
        self.hubs = hubs
        self.folder = pathlib.Path(self.pair.folder)
        command = ["haproxy", "-db", "-f", str(self.write_balancer(place, listens))]
        with open(self.folder / "haproxy.log", "ab") as log:
            inside = ["ip", "netns", "exec", place.namespace, *command]
            stage.programs.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def write_balancer(self, place, listens):
        servers = "\n".join(
            f"  server hub{turn} {listen} send-proxy-v2"
            for turn, listen in enumerate(listens)
        )
        file = self.folder / "haproxy.cfg"
        file.write_text(f"""
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
listen hubs
  bind {place.address}:{BALANCER_PORT}
  balance roundrobin
  option redispatch
{servers}
""")
        return file

    def hold_all_linked(self):
        """Each edge has a link with all its lanes to each hub, because its first lanes were dealt to both."""

        def all_linked(_):
            return all(self.linked(agent) == INSTANCES for agent in self.agents)

        self.pair.wait(30, "each edge has a link with all lanes to each hub", all_linked)

    def linked(self, agent):
        report = agent.status() or {"links": []}
        return sum(link["state"] == "up" and len(link["lanes"]) == 1 + LANES for link in report["links"])

    def refuse_a_third(self):
        """One edge more, by a copy of the first's configuration."""
        config = read_json(self.edges[0].config)
        config["admin"]["listen"] = f"127.0.0.1:{THIRD_ADMIN_PORT}"
        file = self.edges[0].config.with_stem("edge-3")
        write_json(file, config)
        before = [refusals(hub) for hub in self.hubs]
        third = Agent(self.edges[0].binary, places.PLACES["bank"], file, THIRD_ADMIN_PORT)
        third.start()
        try:

            def both_say(_):
                hold_that(third.is_alive(), third.last_words())
                now = [refusals(hub) for hub in self.hubs]
                return all(more > less for more, less in zip(now, before, strict=True))

            self.pair.wait(40, "both hubs refused a third edge and said so", both_say)
            report = third.status()
            hold_that(report is not None, third.last_words())
            reasons = [(link["state"], link["reason"]) for link in report["links"]]
            hold_that(reasons == [("refused", TOO_MANY)], f"the third edge tells {reasons}")
            hold_that(not any(row["state"] == "running" for row in report["routes"]), f"it relays: {report['routes']}")
        finally:
            third.kill()
        self.stage.say("a third edge was refused, both hubs say so")


def refusals(hub):
    """How often its log says that there were too many."""
    return sum(TOO_MANY in line and "connection refused" in line for line in hub.log_lines())
