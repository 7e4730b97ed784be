"""Which topics a route carries, by what names, and how far what it brought goes on: patterns, three sites."""

import json
import subprocess

import places
import rest
from agents import Agent, Pair, pulsar_of, read_json
from places import PLACES, TestbedError
from stage import Load, hold_that, verdict

# The second process of a site; the first has agents.ADMIN_PORT.
SECOND_ADMIN_PORT = 9601
SITES = ("riskfuel", "bank", "partner")


def patterns(stage):
    """A pattern with an exclusion and another tenant and namespace: topics partitioned, created later, deleted and
    made anew, or grown are relayed once; what is excluded is not."""
    tenant = f"t-{stage.namespace}"
    make_tenant(stage, "bank", tenant)
    try:
        follow(stage, tenant)
    finally:
        drop_tenant(stage, "bank", tenant)


def follow(stage, tenant):
    route = {
        "name": "feeds", "from": "riskfuel", "to": "bank", "topics": [stage.topic(".*")],
        "exclude": [stage.topic(".*-raw")],
        "rename": {f"persistent://public/{stage.namespace}": f"persistent://{tenant}/in"},
    }  # fmt: skip
    for name, partitions in (("plain", 0), ("plain-raw", 0), ("grows", 2)):
        stage.create_topic("riskfuel", stage.topic(name), partitions)
    pair = stage.pair([route])
    change(pair.folder / "bank/edge.json", lambda edge: edge["policy"].update(receive=[f"persistent://{tenant}/in/.*"]))
    pair.start()
    count = stage.scaled(2000)

    def load(name, topic, partitions):
        expected = stage.load(Load(name, "riskfuel", stage.topic(topic), count))
        settle(stage, pair, topic, partitions)
        return expected

    load("excluded", "plain-raw", None)
    expected = {"plain": load("first", "plain", 0), "grows": load("two", "grows", 2)}
    stage.create_topic("riskfuel", stage.topic("late"))
    expected["late"] = load("late", "late", 0)
    stage.say("a topic that was created later is relayed")
    admin = stage.brokers["riskfuel"].admin
    admin.delete(f"{rest.topic_path(stage.topic('plain'))}?force=true")
    stage.create_topic("riskfuel", stage.topic("plain"))
    expected["plain"] |= load("second", "plain", 0)
    stage.say("a topic that was deleted and made anew is relayed")
    admin.post(f"{rest.topic_path(stage.topic('grows'))}/partitions", 4)
    expected["grows"] |= load("four", "grows", 4)
    # Those that got no message of this load have nothing to acknowledge; a route looks once a minute.
    grown = f"{rest.topic_path(f'persistent://{tenant}/in/grows')}/partitions"
    bank = stage.brokers["bank"].admin
    pair.wait(90, "the destination has grown", lambda _: bank.get(grown)["partitions"] == 4)
    stage.say("a topic that has grown is relayed")
    for name, due in expected.items():
        renamed = f"persistent://{tenant}/in/{name}"
        report = stage.verify("bank", renamed, due)
        hold_that(report["topics"] == (4 if name == "grows" else 1), f"{renamed}: {report['topics']} partitions")
        stage.record(name, messages=report["received"], **verdict(report))
    there = stage.brokers["bank"].admin.get(f"/admin/v2/persistent/{tenant}/in")
    hold_that(not any("plain-raw" in topic for topic in there), f"an excluded topic was relayed: {there}")
    shown = {row.get("destination", row["topic"]) for row in pair.rows() if row["topic"].endswith("/plain")}
    hold_that(shown == {f"persistent://{tenant}/in/plain"}, f"status shows {shown}")
    pair.stop()


def settle(stage, pair, topic, partitions):
    """Until the source broker says that all is acknowledged; partitions by themselves, because a subscription may not
    be on all of them yet."""
    if partitions is None:
        return
    topic = stage.topic(topic)
    names = [f"{topic}-partition-{index}" for index in range(partitions)] or [topic]
    for name in names:
        ours = ("riskfuel", name, "bridge.riskfuel.bank")
        pair.wait(120, f"everything in {name} is acknowledged", lambda _, place=ours: stage.backlog(*place) == 0)


def make_tenant(stage, site, tenant):
    admin = stage.brokers[site].admin
    admin.put(f"/admin/v2/tenants/{tenant}", {"allowedClusters": [site]})
    admin.put(f"/admin/v2/namespaces/{tenant}/in", {"replication_clusters": [site]})
    keep = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
    admin.post(f"/admin/v2/namespaces/{tenant}/in/retention", keep)


def drop_tenant(stage, site, tenant):
    # The agents would make the topics again.
    for pair in stage.pairs:
        pair.kill()
    try:
        stage.brokers[site].admin.delete(f"/admin/v2/namespaces/{tenant}/in?force=true")
        stage.brokers[site].admin.delete(f"/admin/v2/tenants/{tenant}")
    except (rest.Refused, OSError) as error:
        print(f"  (tenant {tenant} stays at {site}: {error})")


def chain(stage):
    """Bank and partner, joined to riskfuel only, with onward: under load at all three each has each message once."""
    group = Group(stage)
    group.hub("riskfuel", ["bank", "partner"])
    group.finish(both_ways("riskfuel", ["bank", "partner"], stage.topic("shared"), onward=True))
    play(stage, group, "in a chain")


def mesh(stage):
    """Three sites, each joined to both others, without onward: under load at all three each has each message once."""
    group = Group(stage)
    group.hub("riskfuel", ["bank", "partner"])
    group.hub("partner", ["bank"])
    topic = stage.topic("shared")
    group.finish(both_ways("riskfuel", ["bank", "partner"], topic), both_ways("partner", ["bank"], topic))
    play(stage, group, "in a mesh")


def ring(stage):
    """Three sites in a ring of onward routes: one of the routes is refused before anything comes back to its beginning,
    and each site before the gap has each message once."""
    group, topic = Group(stage), stage.topic("shared")
    group.hub("riskfuel", ["bank", "partner"])
    group.hub("partner", ["bank"])
    ways = [("riskfuel", "bank"), ("partner", "riskfuel"), ("bank", "partner")]
    group.finish(one_way(ways[:2], topic, onward=True), one_way(ways[2:], topic, onward=True))
    make_shared(stage)
    # No waiting: a route may be refused before any entry is there, or at the first that it would pass on.
    group.start()
    expected = stage.load(Load("round", "riskfuel", topic, stage.scaled(10_000), rate=1500))

    def is_refused(rows):
        return [row["route"] for row in rows if row["end"] == "source" and row["reason"] == "onward_ring"]

    refused = group.wait(60, "the ring is refused", is_refused)
    reached = SITES[: SITES.index(refused[0].partition("-")[0]) + 1]
    for site in reached:
        report = stage.verify(site, topic, expected, linger=6)
        stage.record(f"in a ring, at {site}", messages=report["received"], **verdict(report))
    still = is_refused(group.rows())
    hold_that(len(refused) == 1 and still == refused, f"{refused} was refused, then {still}")
    group.stop()


def both_ways(hub, edges, topic, **more):
    return one_way([way for edge in edges for way in ((hub, edge), (edge, hub))], topic, **more)


def one_way(ways, topic, **more):
    return [
        {"name": f"{source}-{target}", "from": source, "to": target, "topics": [topic], **more}
        for source, target in ways
    ]


def make_shared(stage):
    stage.make_namespace("partner")
    for site in SITES:
        stage.create_topic(site, stage.topic("shared"))


def play(stage, group, what):
    make_shared(stage)
    topic = stage.topic("shared")
    group.start()
    group.wait_running()
    count = stage.scaled(10_000)
    loads = [stage.begin(Load(f"from-{site}", site, topic, count, dressed=True, rate=1500)) for site in SITES]
    expected = {who: written for load in loads for who, written in stage.finish(load).items()}
    for route in [*group.routes, *group.routes]:
        # Twice: what arrives while the others are looked at goes on.
        ours = (route["from"], topic, f"bridge.{route['from']}.{route['to']}")
        group.wait(120, f"{route['name']} is drained", lambda _, place=ours: stage.backlog(*place) == 0)
    for site in SITES:
        report = stage.verify(site, topic, expected, linger=4)
        stage.record(f"{what}, at {site}", messages=report["received"], **verdict(report))
    skipped = sum(row["skipped"] for row in group.rows() if row["end"] == "source")
    hold_that(skipped > 0, "no entry was skipped, yet every site has what bridges brought")
    group.stop()


class Group(Pair):
    """Any number of hubs with their edges; a site that is in two of them runs two processes."""

    def __init__(self, stage):
        self.stage, self.folders, self.agents, self.routes = stage, {}, [], []
        stage.pairs.append(self)

    @property
    def both(self):
        return self.agents

    def hub(self, hub, edges):
        folder = self.stage.folder / f"at-{hub}"
        url = f"tls://{PLACES[hub].address}:{places.LINK_PORT}"
        names = ["--hub", hub, "--edge", ",".join(edges)]
        command = [self.stage.binary, "init", *names, "--url", url, "--out", str(folder)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise TestbedError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        self.folders[hub] = (folder, edges)

    def finish(self, *routes):
        """Configures every process; the routes are declared at their hub, one list for each."""
        public = ["persistent://public/.*"]
        everything = {"receive": public, "send": public, "from": "earliest"}
        for (hub, (folder, edges)), declared in zip(self.folders.items(), routes, strict=True):
            self.routes += declared

            def as_hub(config, hub=hub, declared=declared):
                config["tunnel"]["listen"] = f"{PLACES[hub].address}:{places.LINK_PORT}"
                for edge in config["tunnel"]["edges"]:
                    edge["policy"] = everything
                config["routes"] = declared

            self.process(hub, folder / "hub/hub.json", as_hub)
            for edge in edges:
                self.process(edge, folder / edge / "edge.json", lambda config: config.update(policy=everything))

    def process(self, site, path, configure):
        again = any(agent.place.name == site for agent in self.agents)
        agent = Agent(self.stage.binary, PLACES[site], path)
        if again:
            agent.http = rest.Admin(PLACES[site], SECOND_ADMIN_PORT, address="127.0.0.1")

        def whole(config):
            configure(config)
            config["pulsar"] = pulsar_of(PLACES[site])
            config["admin"] = {"listen": f"127.0.0.1:{agent.http.port}"}

        change(path, whole)
        self.agents.append(agent)


def change(path, how):
    config = read_json(path)
    how(config)
    path.write_text(json.dumps(config, indent=2))
