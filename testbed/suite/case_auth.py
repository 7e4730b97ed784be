"""A broker that asks who comes: TLS, tokens that expire, client certificates, and rights no larger than needed."""

import contextlib
import pathlib
import threading
import time

import rest
from credentials import Authority
from guarded import Guarded
from places import GUARDED
from stage import Load, hold_that, verdict

# The bridge's: with rights on topics, and on their namespace.
ROLE, WIDE_ROLE = "bridge", "wide-bridge"
# The last two may do just what is of no use to a bridge, and nothing at all.
APPLICATION, CROSSED, NOBODY = "application", "crossed", "nobody"
TOKEN_SECONDS, RENEW_SECONDS = 5, 1
REFRESHES = 3
RATE = 300
# Of the hub's source and of its sink.
NOT_PERMITTED = ("source_not_permitted", "destination_not_permitted")
UNREACHABLE = ("source_unreachable", "destination_unreachable")


def auth(stage):
    """A guarded cluster at riskfuel serves a bridge that may only consume the one topic and produce to the other, over
    TLS with tokens and with client certificates; tokens that expire are renewed without a reconnect and without loss or
    repeat; what the broker refuses has its reason, and no token is in any log."""
    with guarded_riskfuel(stage) as broker:
        routes = make_routes(stage, broker)
        pair = stage.pair(routes)
        for agent in pair.both:
            agent.verbosity = "trace,yamux=info"
        token_file = pair.folder / "token"
        use(pair, tls={"ca_file": str(broker.authority.cert)}, auth={"token_file": str(token_file)})
        with Keeper(broker.tokens, token_file):
            pair.start()
            wait_running(pair)
            expected = [flow_through_refreshes(stage, broker, pair)]
        expect(pair, "the token expired", NOT_PERMITTED, "(Authentication)")
        begun = [stage.begin(load) for load in loads(routes, "later", 200)]
        faults(stage, broker, pair)
        expected.append(mutual_tls(stage, broker, pair, begun))
        pair.stop()
        judge(stage, broker, routes, expected)
        search_logs(stage, pair, broker)


@contextlib.contextmanager
def guarded_riskfuel(stage):
    """Riskfuel's cluster is a guarded one until the block ends."""
    plain = stage.brokers["riskfuel"], stage.access["riskfuel"]
    with Guarded("riskfuel", stage.folder / "authority") as broker:
        token = write_secret(stage.folder / "application.token", broker.tokens.issue(APPLICATION))
        stage.brokers["riskfuel"], stage.access["riskfuel"] = broker, access(broker, "--token-file", token)
        try:
            yield broker
        finally:
            stage.brokers["riskfuel"], stage.access["riskfuel"] = plain


def access(broker, *credentials):
    """How the official client comes in."""
    return [str(word) for word in ("--url", GUARDED.service_url, "--ca", broker.authority.cert, *credentials)]


def write_secret(file, text):
    part = file.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text)
    return part.rename(file)


def make_routes(stage, broker):
    """A topic for each way, of two partitions; the bridge's roles get what bridge-config/README.md asks for."""
    stage.make_namespace("riskfuel")
    outward, inward = stage.topic("outward"), stage.topic("inward")
    for topic in (outward, inward):
        for site in ("riskfuel", "bank"):
            stage.create_topic(site, topic, partitions=2)
    for role in (APPLICATION, WIDE_ROLE):
        broker.grant_all(role, f"public/{stage.namespace}", "consume", "produce")
    broker.grant(ROLE, outward, "consume")
    broker.grant(ROLE, inward, "produce")
    broker.grant(CROSSED, outward, "produce")
    broker.grant(CROSSED, inward, "consume")
    return [
        stage.route("outward", "riskfuel", "bank", outward, start="earliest"),
        stage.route("inward", "bank", "riskfuel", inward, start="earliest"),
    ]


def loads(routes, name, count, rate=0):
    return [
        Load(f"{name}-{route['name']}", route["from"], route["topics"][0], count, dressed=True, rate=rate)
        for route in routes
    ]


def use(pair, **credentials):
    """What the hub shows to riskfuel's cluster from its next start on."""
    pair.pulsar["riskfuel"] = {"service_url": GUARDED.service_url, "admin_url": GUARDED.admin_url, **credentials}
    pair.configure()


class Keeper(threading.Thread):
    """Keeps a token file fresh until the block ends."""

    def __init__(self, tokens, file):
        super().__init__(name="keeper", daemon=True)
        self.tokens, self.file, self.ended = tokens, file, threading.Event()

    def renew(self):
        write_secret(self.file, self.tokens.issue(ROLE, TOKEN_SECONDS))

    def run(self):
        while not self.ended.wait(RENEW_SECONDS):
            self.renew()

    def __enter__(self):
        self.renew()
        self.start()

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def flow_through_refreshes(stage, broker, pair):
    """Loads both ways until each connection of the bridge was asked three times; none of them ends meanwhile."""
    before, sessions = connections(pair, broker), sessions_of(pair)
    begun = [stage.begin(load, hold=True) for load in loads(pair.routes, "refreshed", 200, RATE)]
    used = {address for address, _ in before}

    def asked(_):
        counts = broker.refreshes()
        return all(counts.get((address, ROLE), 0) >= REFRESHES for address in used)

    pair.wait(40, f"each of {sorted(used)} was refreshed {REFRESHES} times", asked)
    expected = {who: count for load in begun for who, count in stage.finish(load).items()}
    stage.wait_drained(pair, pair.routes, 30)
    after = connections(pair, broker)
    hold_that(after == before, f"the bridge reconnected: {before} became {after}")
    hold_that(sessions_of(pair) == sessions, f"sessions {sessions} became {sessions_of(pair)}")
    stage.say(f"{sum(expected.values())} messages through refreshes of {len(used)} connections")
    return expected


def wait_running(pair):
    """Also the admin API let the bridge in: else it would promise less."""
    pair.wait_running()
    promises = {row["promise"] for row in pair.rows()}
    hold_that(promises == {"effectively-once"}, f"the promise is {promises}")


def connections(pair, broker):
    """Who is attached as the bridge, and since when, as the broker's own statistics have it."""
    found = set()
    for route in pair.routes:
        ours = f"bridge.{route['from']}.{route['to']}"
        stats = broker.admin.get(f"{rest.topic_path(route['topics'][0])}/partitioned-stats?perPartition=true")
        for partition in stats["partitions"].values():
            consumers = partition["subscriptions"].get(ours, {}).get("consumers", [])
            publishers = [one for one in partition["publishers"] if one["producerName"].startswith("bridge/")]
            found |= {(one["address"], one["connectedSince"]) for one in consumers + publishers}
    hold_that(len(found) == 4, f"two consumers and two producers are expected: {found}")
    return found


def sessions_of(pair):
    return {(row["topic"], row["end"]): row["session"] for row in pair.rows()}


def expect(pair, why, reasons, words):
    """The hub gives these reasons for its source and its sink, and what its log says of them holds the words."""
    want = set(zip(("outward", "inward"), ("source", "sink"), reasons, strict=True))
    started = time.monotonic()

    def shown(_):
        report = pair.hub.status() or {"routes": []}
        return want <= {(row["route"], row["end"], row["reason"]) for row in report["routes"]}

    pair.wait(30, f"{why}: {want}", shown)
    lines = pair.hub.log_lines()
    latest_run = lines[max(at for at, line in enumerate(lines) if "bridge runs" in line) :]
    for reason in reasons:
        told = [line for line in latest_run if f'reason="{reason}"' in line]
        hold_that(any(words in line for line in told), f"{why}: no `{words}` in {told}")
    return time.monotonic() - started


def faults(stage, broker, pair):
    """The bridge starts again with each of these, and the hub says why nothing runs."""
    wrong = Authority(stage.folder / "wrong", GUARDED.address)
    right, other_ca = {"ca_file": str(broker.authority.cert)}, {"ca_file": str(wrong.cert)}
    fine = write_secret(stage.folder / "fine.token", broker.tokens.issue(ROLE))
    crossed = write_secret(stage.folder / "crossed.token", broker.tokens.issue(CROSSED))
    shared = write_secret(stage.folder / "shared.token", broker.tokens.issue(ROLE))
    shared.chmod(0o644)
    nobody, unknown = broker.authority.client(NOBODY), wrong.client(WIDE_ROLE)
    for why, credentials, reasons, words in (
        ("another authority is pinned", with_token(other_ca, fine), UNREACHABLE, "UnknownIssuer"),
        ("the token's role has other rights", with_token(right, crossed), NOT_PERMITTED, "(Authorization)"),
        ("another authority signed the client's certificate", with_cert(right, *unknown), UNREACHABLE, "connection lost"),
        ("the certificate's role has no rights", with_cert(right, *nobody), NOT_PERMITTED, "(Authorization)"),
    ):
        restart(pair, credentials)
        seconds = expect(pair, why, reasons, words)
        stage.say(f"{why}: {', '.join(reasons)} after {seconds:.1f} s")
    refused_at_start(stage, pair, with_token(right, shared))


def refused_at_start(stage, pair, credentials):
    """A token that others may read is never used: the hub does not start with it."""
    pair.stop()
    use(pair, **credentials)
    pair.hub.start()
    code = pair.hub.process.wait(20)
    told = pair.hub.last_words()
    hold_that(code == 78 and "pulsar.auth.token_file" in told and "run `chmod" in told, f"exit {code}: {told}")
    stage.say("others may read the token: refused at the start")
    # For whoever restarts both next.
    pathlib.Path(credentials["auth"]["token_file"]).chmod(0o600)
    pair.start()
    pair.wait(30, "both run again", lambda _: all(agent.status() for agent in pair.both))


def with_token(tls, file):
    return {"tls": tls, "auth": {"token_file": str(file)}}


def with_cert(tls, cert, key):
    return {"tls": tls | {"cert_file": str(cert), "key_file": str(key)}}


def restart(pair, credentials):
    """Both, or the edge would wait half a minute before it tries again what was not permitted."""
    pair.stop()
    use(pair, **credentials)
    pair.start()


def mutual_tls(stage, broker, pair, begun):
    """What waited while nothing was permitted crosses with a client certificate alone."""
    restart(pair, with_cert({"ca_file": str(broker.authority.cert)}, *broker.authority.client(WIDE_ROLE)))
    wait_running(pair)
    expected = {who: count for load in begun for who, count in stage.finish(load).items()}
    stage.wait_drained(pair, pair.routes, 30)
    return expected


def judge(stage, broker, routes, expected):
    """The official client, which wrote with a token and reads with a certificate, finds everything once, in order."""
    cert, key = broker.authority.client(APPLICATION)
    stage.access["riskfuel"] = access(broker, "--cert", cert, "--key", key)
    for route in routes:
        here = {who: count for part in expected for who, count in part.items() if who.endswith(route["name"])}
        report = stage.verify(route["to"], route["topics"][0], here)
        stage.record(f"{route['name']} {route['from']}→{route['to']}", messages=report["received"], **verdict(report))


def search_logs(stage, pair, broker):
    """No part of a token that tells anything is in what the agents wrote, at the most talkative level."""
    secrets = {part for token in broker.tokens.issued for part in token.split(".")[1:]}
    for agent in pair.both:
        written = agent.log.read_text(errors="replace")
        found = sum(part in written for part in secrets)
        hold_that(not found, f"{agent.log} holds {found} parts of tokens")
        stage.say(f"{agent.place.name}'s log: {len(written) >> 10} KiB, none of {len(secrets)} parts of tokens")
