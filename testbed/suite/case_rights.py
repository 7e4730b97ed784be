"""What a bridge can do with the rights of an ordinary role, with and without `pulsar.admin_url`, and how what it cannot
do is told: each row of docs/rights.md, on a broker that asks everybody for rights."""

import subprocess

import rest
from agents import read_json, write_json
from case_auth import APPLICATION, ROLE, guarded_riskfuel, write_secret
from places import GUARDED
from stage import Load, hold_that, verdict

COUNT, LIMIT = 50, 2000
# Where routes lead by another name: into namespaces of their own.
ELSEWHERE = ("in-renamed", "in-made", "in-made-too", "in-parted")
# Of routes whose source is riskfuel's guarded cluster, and of those whose sink is.
OUT = ("out", "out-schema", "out-late", "out-held", "out-aside", "out-feeds")
IN = ("in", "in-schema", "in-late", "in-made", "in-made-too", "in-parted", "in-grown", "in-renamed",
      "in-aside")  # fmt: skip


def rights(stage):
    """A role that may only consume and produce single topics relays, with schemas, by other names, into a quarantine
    and back; what needs more (patterns, partitioned topics that are to be made or to grow, and without an admin URL the
    sight of deduplication and of marks) says what, and runs when it is granted."""
    with guarded_riskfuel(stage) as broker:
        play = Play(stage, broker)
        play.prepare()
        play.without_admin_url()
        play.with_admin_url()
        play.noticed()
        play.granted_single_topics()
        play.granted_the_namespace()
        play.granted_the_tenant()
        play.replayed()
        play.judge()


class Play:
    def __init__(self, stage, broker):
        self.stage, self.broker = stage, broker
        self.bank = stage.brokers["bank"].admin
        self.aside = {site: stage.topic(f"aside-at-{site}") for site in ("riskfuel", "bank")}
        self.expected = {}

    # The stage

    def route(self, name, topic=None, **more):
        source, target = ("riskfuel", "bank") if name.startswith("out") else ("bank", "riskfuel")
        topic = topic or self.stage.topic(name)
        return self.stage.route(name, source, target, topic, start="earliest", **more)

    def prepare(self):
        stage, broker = self.stage, self.broker
        stage.make_namespace("riskfuel")
        for name in ELSEWHERE:
            clusters = {"replication_clusters": ["riskfuel"]}
            broker.admin.put(f"/admin/v2/namespaces/{self.namespace_of(name)}", clusters)
            broker.grant_all(APPLICATION, self.namespace_of(name), "consume", "produce")
        broker.grant_all(APPLICATION, self.namespace_of("in"), "consume", "produce")
        for name in (*OUT, *IN):
            topic = self.topic_of(name)
            stage.create_topic(self.source_of(name), topic, {"in-parted": 2, "in-grown": 4}.get(name, 0))
        for name in ("in", "in-schema", "in-late", "in-aside"):
            stage.create_topic("riskfuel", stage.topic(name))
        stage.create_topic("riskfuel", stage.topic("in-grown"), 2)
        stage.create_topic("riskfuel", self.there("in-renamed"))
        for site, topic in self.aside.items():
            stage.create_topic(site, topic)
        for name in OUT:
            if name not in ("out-late", "out-feeds"):
                broker.grant(ROLE, stage.topic(name), "consume")
        for name in ("in", "in-schema", "in-grown", "in-aside", "in-renamed"):
            broker.grant(ROLE, self.there(name), "produce")
        broker.grant(ROLE, self.aside["riskfuel"], "produce")
        # What does not exist has no rights of its own.
        for name in ("in-made", "in-parted"):
            broker.grant_all(ROLE, self.namespace_of(name), "produce")
        for name in ("out-held", "out-aside"):
            stage.create_topic("bank", stage.topic(name))
        for admin, name in ((self.bank, "out-held"), (self.bank, "out-aside"), (broker.admin, "in-aside")):
            admin.post(f"{rest.topic_path(stage.topic(name))}/maxMessageSize", LIMIT)
        self.begin()
        self.write("first")

    def topic_of(self, name):
        return self.stage.topic("feed-one") if name == "out-feeds" else self.stage.topic(name)

    def source_of(self, name):
        return "riskfuel" if name.startswith("out") else "bank"

    def namespace_of(self, name):
        """At riskfuel."""
        return f"public/{self.stage.namespace}" + (f"-{name}" if name in ELSEWHERE else "")

    def there(self, name):
        """At the destination."""
        if name in ELSEWHERE:
            return f"persistent://{self.namespace_of(name)}/{name}"
        return self.topic_of(name)

    def begin(self):
        feeds = self.route("out-feeds", self.stage.topic("feed-.*"))
        dressed = ("out-aside", "in-aside", "out-feeds", *ELSEWHERE)
        plain = [self.route(name) for name in (*OUT, *IN) if name not in dressed]
        routes = [
            *plain, feeds,
            *(self.route(name, rename={self.topic_of(name): self.there(name)}) for name in ELSEWHERE),
            self.route("out-aside", quarantine=self.aside["bank"]),
            self.route("in-aside", quarantine=self.aside["riskfuel"]),
        ]  # fmt: skip
        next(route for route in routes if route["name"] == "out")["onward"] = True
        self.pair = self.stage.pair(routes)
        self.token = write_secret(self.pair.folder / "token", self.broker.tokens.issue(ROLE))

    def write(self, what):
        for name in (*OUT, *IN):
            site, topic, typed = self.source_of(name), self.topic_of(name), "schema" in name
            load = Load(f"{what}-{name}", site, topic, COUNT, batch=0, typed=typed)
            self.expected.setdefault(name, {}).update(self.stage.load(load))
        for name in ("out-held", "out-aside", "in-aside"):
            big = Load(f"{what}-big-{name}", self.source_of(name), self.topic_of(name), 1, size=LIMIT + 1000, batch=0)
            self.stage.load(big)

    def use(self, **more):
        """The role's token, and what else the hub's configuration says of riskfuel's cluster."""
        self.pair.pulsar["riskfuel"] = {
            "service_url": GUARDED.service_url, "tls": {"ca_file": str(self.broker.authority.cert)},
            "auth": {"token_file": str(self.token)}, **more,
        }  # fmt: skip
        self.pair.configure()
        hub = read_json(self.pair.hub.config)
        hub["tunnel"]["edges"][0]["policy"]["receive"] += map(self.there, ELSEWHERE)
        write_json(self.pair.hub.config, hub)
        edge = read_json(self.pair.edge.config)
        # The hub declares also what comes in, and it was written before.
        edge["policy"]["from"] = "earliest"
        write_json(self.pair.edge.config, edge)

    def restart(self):
        """Both, or the edge would wait half a minute before it tries again what was not permitted."""
        self.pair.stop()
        self.pair.start()

    # What is seen

    def expect(self, what, wanted, patience=60):
        """{route: its state at riskfuel's end: `running`, or a reason}"""

        def shown(_):
            return wanted == {name: state for name, state in self.states().items() if name in wanted}

        try:
            self.pair.wait(patience, what, shown)
        except Exception as error:
            seen = {name: state for name, state in self.states().items() if wanted.get(name) not in (None, state)}
            raise type(error)(f"{what}: not {seen}; {error}") from None
        self.stage.say(f"{what}: {', '.join(f'{name} {state}' for name, state in wanted.items())}")

    def states(self):
        report = self.pair.hub.status() or {"routes": []}
        states = {}
        for row in report["routes"]:
            if row["end"] == ("source" if row["from"] == "riskfuel" else "sink"):
                states.setdefault(row["route"], set()).add(row["reason"] or row["state"])
        return {name: " ".join(sorted(state)) for name, state in states.items()}

    def promises(self):
        rows = (self.pair.hub.status() or {"routes": []})["routes"]
        return {row["route"]: row["promise"] for row in rows if row["end"] == "sink" and row["promise"]}

    def said(self, *words):
        """The hub's log of this run has a line with all of them."""
        lines = self.pair.hub.log_lines()
        latest = lines[max(at for at, line in enumerate(lines) if "bridge runs" in line) :]
        hold_that(any(all(word in line for word in words) for line in latest), f"no line of the hub with {words}")

    # What is tried

    def without_admin_url(self):
        self.use()
        hub = self.pair.hub
        done = subprocess.run([hub.binary, "check", str(hub.config)], capture_output=True, text=True)
        told = done.stdout + done.stderr
        refused = "quarantine: needs the admin API"
        hold_that(done.returncode == 78 and refused in told, f"without admin_url: {done.returncode} {told}")
        aside = next(route for route in self.pair.routes if route["name"] == "out-aside")
        quarantine = aside.pop("quarantine")
        self.use()
        self.pair.start()
        self.expect("single topics, no admin_url", {
            "out": "running", "out-schema": "running", "out-late": "source_not_permitted",
            "out-held": "poison", "out-aside": "poison", "out-feeds": "source_not_permitted",
            "in": "running", "in-schema": "running", "in-late": "destination_not_permitted", "in-made": "running",
            "in-made-too": "destination_not_permitted", "in-parted": "destination_missing",
            "in-grown": "partition_mismatch", "in-renamed": "running", "in-aside": "destination_not_permitted",
        })  # fmt: skip
        self.said("WARN", "at-least-once", "deduplication")
        hold_that(set(self.promises().values()) == {"at-least-once"}, f"promised: {self.promises()}")
        self.said("not authorized", "in-made-too")
        self.said("quarantine topic", "not authorized to subscribe", "in-aside")
        self.said("no admin URL is configured", "in-parted")
        self.said("no admin URL is configured to add the others", "in-grown")
        self.use(deduplication="asserted")
        self.restart()
        aside["quarantine"] = quarantine
        self.expect("and deduplication asserted", {"in": "running", "in-renamed": "running"})
        hold_that(set(self.promises().values()) == {"effectively-once"}, f"promised: {self.promises()}")

    def with_admin_url(self):
        self.broker.grant_all(ROLE, self.namespace_of("in-made-too"), "produce")
        self.use(admin_url=GUARDED.admin_url)
        self.restart()
        self.expect("single topics, with admin_url", {
            "out": "running", "out-schema": "running", "out-late": "source_not_permitted",
            "out-held": "hole_marker", "out-aside": "running", "out-feeds": "source_not_permitted",
            "in": "running", "in-schema": "running", "in-late": "destination_not_permitted", "in-made": "running",
            "in-made-too": "running", "in-parted": "destination_missing", "in-grown": "partition_mismatch",
            "in-renamed": "running", "in-aside": "destination_not_permitted",
        })  # fmt: skip
        hold_that(set(self.promises().values()) == {"effectively-once"}, f"promised: {self.promises()}")
        aside = lambda rows: {row["quarantined"] for row in rows if row["route"] == "out-aside"} == {1}  # noqa: E731
        self.pair.wait(30, "the refused entry is in quarantine", aside)
        self.said("in-parted", "not permitted (403)", "admin of the tenant")
        self.said("in-grown", "not permitted (403)", "admin of the tenant")

    def noticed(self):
        """Losses, by `consume` on the topic, also where subscriptions have to be named like the role."""
        topic, ours = self.topic_of("out"), "bridge.riskfuel.bank"
        waiting = lambda: self.stage.backlog("riskfuel", topic, ours)  # noqa: E731
        self.pair.wait(30, "all is relayed", lambda _: waiting() == 0)
        self.pair.hub.stop()
        # Nobody expects them.
        self.stage.load(Load("lost", "riskfuel", topic, COUNT, batch=0))
        mode = f"/admin/v2/namespaces/{self.namespace_of('out')}/subscriptionAuthMode"
        self.broker.admin.post(mode, "Prefix")
        self.broker.admin.post(f"{rest.topic_path(topic)}/subscription/{ours}/skip_all")
        hold_that(waiting() == 0, "the broker does not clear the backlog")
        self.pair.hub.start()
        here = lambda row: (row["route"], row["end"]) == ("out", "source")  # noqa: E731
        counted = lambda rows: [row["source_skipped"] for row in rows if here(row)] == [COUNT]  # noqa: E731
        self.pair.wait(30, f"{COUNT} lost are counted", counted)
        self.broker.admin.post(mode, "None")

    def granted_single_topics(self):
        """To the letter: `consume` on the source topic, `produce` on the destination's, both on a quarantine."""
        self.broker.grant(ROLE, self.stage.topic("out-late"), "consume")
        self.broker.grant(ROLE, self.stage.topic("in-late"), "produce")
        self.broker.grant(ROLE, self.aside["riskfuel"], "consume", "produce")
        self.expect("granted while it runs", {"out-late": "running", "in-late": "running", "in-aside": "running"})

    def granted_the_namespace(self):
        self.broker.grant_all(ROLE, f"public/{self.stage.namespace}", "produce")
        self.restart()
        some = {"out": "running", "in-parted": "destination_missing", "in-grown": "partition_mismatch"}
        self.expect("produce on the namespace", {**some, "out-feeds": "source_not_permitted"})
        self.broker.grant_all(ROLE, f"public/{self.stage.namespace}", "consume", "produce")
        self.expect("consume as well", {**some, "out-feeds": "running"})

    def admins(self, *roles):
        tenant = self.broker.admin.get("/admin/v2/tenants/public")
        self.broker.admin.post("/admin/v2/tenants/public", tenant | {"adminRoles": roles})

    def granted_the_tenant(self):
        self.admins(ROLE)
        self.expect("admin of the tenant", {"in-parted": "running", "in-grown": "running"})

    def replayed(self):
        """By the same rights, and no admin's: `consume` on the quarantine, `produce` on the topic."""
        self.admins()
        self.broker.grant_all(ROLE, self.namespace_of("in"), "produce")
        self.broker.admin.post(f"{rest.topic_path(self.stage.topic('in-aside'))}/maxMessageSize", 100 * LIMIT)
        code, told = self.replay()
        hold_that(code == 0 and told.count(": replayed to") == 1, f"replay: exit {code}\n{told}")
        self.stage.say("replayed from the quarantine at riskfuel")
        self.expected["in-aside"]["first-big-in-aside"] = 1

    def replay(self):
        hub = self.pair.hub
        inside = ["ip", "netns", "exec", hub.place.namespace, hub.binary]
        command = [*inside, "replay", "--config", str(hub.config), "in-aside", "--from", "bank"]
        command += ["--quarantine", self.aside["riskfuel"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def judge(self):
        for admin, name in ((self.bank, "out-schema"), (self.broker.admin, "in-schema")):
            path = rest.topic_path(self.stage.topic(name)).replace("/v2/persistent/", "/v2/schemas/")
            schema = admin.get(f"{path}/schema")
            hold_that(schema["type"] == "STRING", f"the schema of {name} did not come along: {schema}")
        for name, expected in self.expected.items():
            if name == "out-held":
                continue
            at = "bank" if self.source_of(name) == "riskfuel" else "riskfuel"
            report = self.stage.verify(at, self.there(name), expected)
            self.stage.record(name, messages=report["received"], **verdict(report))
        self.pair.stop()
