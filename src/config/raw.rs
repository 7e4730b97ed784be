//! The configuration as it stands in the file: the one source of its keys, of the JSON Schema and of the
//! descriptions in it. Decides nothing: `check` does.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::field::{Field, Kind, Text};

/// Keys that are not of this version.
pub(super) type Unknown = BTreeMap<String, Value>;

/// What one JSON object may hold.
pub(super) trait Keys: JsonSchema {
    /// How the tables of later keys call it.
    const OBJECT: &'static str;
}

macro_rules! object {
    (
        $(#[doc = $doc:literal])* $name:literal $type:ident as $title:tt $([$($extend:tt)*])? { $($(#[$attribute:meta])* $key:ident: $kind:ty,)* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[schemars(rename = $title, deny_unknown_fields $(, $($extend)*)?)]
        pub(super) struct $type {
            $($(#[$attribute])* pub(super) $key: Field<$kind>,)*
            #[serde(flatten)]
            #[schemars(skip)]
            pub(super) unknown: Unknown,
        }
        impl Kind for $type {
            const EXPECTED: &'static str = "an object";
        }
        impl Keys for $type {
            const OBJECT: &'static str = $name;
        }
    };
}

object! {
    /// The configuration of one site's bridge.
    "" RawConfig as "Config" {
        /// The version of this format: 1.
        #[schemars(range(min = 1, max = 1))]
        version: u32,
        /// This site's name: 1 to 32 of a-z, 0-9 and inner hyphens, unique among all bridges on one cluster.
        site: Text,
        /// This site's own Pulsar cluster; a site that only forwards ports needs none.
        #[serde(default)]
        pulsar: RawPulsar,
        /// The link: a hub has `listen`, an edge has `connect`.
        tunnel: RawTunnel,
        /// On an edge: what the hub may do here. Deny is the default.
        #[serde(default)]
        policy: RawPolicy,
        /// Topics to relay, declared by one of the two sites.
        #[serde(default)]
        routes: Vec<Field<RawRoute>>,
        /// TCP ports carried through the link, declared by one of the two sites.
        #[serde(default)]
        forwards: Vec<Field<RawForward>>,
        /// Health, metrics and status over HTTP, read-only.
        #[serde(default)]
        admin: RawAdmin,
        /// How long a stop waits for what is on its way, in seconds: 0 to 3600, default 30.
        #[serde(default)]
        #[schemars(range(max = 3600))]
        drain_seconds: u32,
    }
}

object! {
    /// Several sites in one process, and a load, to try things out. Where `identity`, `keys` and `token_file` say `temporary`, keys and token are made for the one run.
    "several sites" RawSites as "Sites" {
        /// The version of this format: 1.
        #[schemars(range(min = 1, max = 1))]
        version: u32,
        /// The sites, each as in a file of its own, without `version`.
        #[serde(default)]
        sites: Vec<Field<RawConfig>>,
        /// Data-generation requests and the worker that answers them.
        #[serde(default)]
        load: RawLoad,
    }
}

object! {
    /// Data-generation requests and the worker that answers them; one of the two, or both.
    "load" RawLoad as "Load" {
        /// The topic of requests; default `datagen-requests`.
        #[serde(default)]
        requests: Text,
        /// The topic of results; default `datagen-results`.
        #[serde(default)]
        results: Text,
        /// Sends requests and checks what comes back.
        #[serde(default)]
        requester: RawRequester,
        /// Prices what is asked for.
        #[serde(default)]
        worker: RawWorker,
    }
}

object! {
    /// Sends requests and checks what comes back.
    "load.requester" RawRequester as "Requester" {
        /// Its cluster: `pulsar://host[:6650]`.
        service_url: Text,
        /// Points in each result, of 128 bytes each; default 512.
        #[serde(default)]
        #[schemars(range(min = 1, max = 32768))]
        points: u32,
        /// Requests that may be unanswered at once; default 256.
        #[serde(default)]
        #[schemars(range(min = 1, max = 100000))]
        unanswered: u32,
        /// Requests per second; without it, as fast as they are answered.
        #[serde(default)]
        #[schemars(range(min = 1, max = 10000000))]
        rate: u32,
    }
}

object! {
    /// Prices what is asked for.
    "load.worker" RawWorker as "Worker" {
        /// Its cluster: `pulsar://host[:6650]`.
        service_url: Text,
    }
}

object! {
    /// A Pulsar cluster and how to be let in.
    "pulsar" RawPulsar as "Pulsar" [extend("oneOf" = one_cluster_only())] {
        /// `pulsar://host[:6650]` or `pulsar+ssl://host[:6651]`; several hosts with commas.
        #[serde(default)]
        service_url: Text,
        /// Instead of service_url: the address and port of a broker in memory that this process runs itself, to try things out.
        #[serde(default)]
        embedded: Text,
        /// `http://host:8080` or `https://…`: lets the bridge check and prepare topics.
        #[serde(default)]
        admin_url: Text,
        /// Who the bridge is at the broker.
        #[serde(default)]
        auth: RawAuth,
        /// TLS to the broker.
        #[serde(default)]
        tls: RawTls,
        /// How many bridges of this site share the topics: 1 resumes faster, the default 2 means "perhaps several".
        #[serde(default)]
        #[schemars(range(min = 1, max = 1000))]
        replicas: u32,
        /// `asserted`: deduplication is on, though there is no `admin_url` to check it.
        #[serde(default)]
        deduplication: Text,
    }
}

object! {
    /// Token authentication; the token is read again whenever it is needed.
    "pulsar.auth" RawAuth as "Auth" {
        /// The file that holds the token.
        #[serde(default)]
        token_file: Text,
        /// The token; better `{"env": "NAME"}` or `{"file": "path"}` than the text itself.
        #[serde(default)]
        token: Text,
    }
}

object! {
    /// TLS to the broker, and the client certificate for mutual TLS.
    "pulsar.tls" RawTls as "Tls" {
        /// PEM file of the authorities that sign the broker's certificate; needed for pulsar+ssl and https.
        #[serde(default)]
        ca_file: Text,
        /// PEM file of our client certificate.
        #[serde(default)]
        cert_file: Text,
        /// PEM file of its key.
        #[serde(default)]
        key_file: Text,
    }
}

object! {
    /// The link. A hub has `listen`, `identity` and `edges`; an edge has `connect` and `token_file`. Certificates of an own PKI may take the place of `identity` and `token_file`.
    "tunnel" RawTunnel as "Tunnel" [extend("oneOf" = one_side_only())] {
        /// Hub: the address and port that edges dial.
        #[serde(default)]
        listen: Text,
        /// Hub: the directory with the issuer's key and chain that `bridge init` wrote.
        #[serde(default)]
        identity: Text,
        /// Instead of identity (hub) or token_file (edge): PEM file of this side's own certificate, with what lies between it and its authority.
        #[serde(default)]
        cert_file: Text,
        /// PEM file of that certificate's key.
        #[serde(default)]
        key_file: Text,
        /// Hub: PEM file of the authorities that sign certificates of edges with a `cert_name`.
        #[serde(default)]
        client_ca_file: Text,
        /// Hub: PEM file of their revocation lists, one of each authority.
        #[serde(default)]
        crl_file: Text,
        /// Hub: the edges that may join.
        #[serde(default)]
        edges: Vec<Field<RawEdge>>,
        /// Hub: bounds on connections that have not yet proved who they are.
        #[serde(default)]
        limits: RawLimits,
        /// Hub: addresses or networks of load balancers and ingresses whose PROXY header or X-Forwarded-For tells who calls.
        #[serde(default)]
        trusted_proxies: Vec<Field<Text>>,
        /// Edge: the hub's addresses, `tls://host:port` or `wss://host[:443][/path]`, tried in turn.
        #[serde(default)]
        connect: Vec<Field<Text>>,
        /// Edge: the file with the join token.
        #[serde(default)]
        token_file: Text,
        /// Edge, instead of token_file: PEM file of the authorities that sign the hub's certificate.
        #[serde(default)]
        ca_file: Text,
        /// Edge, with ca_file: the DNS name in the hub's certificate, exactly.
        #[serde(default)]
        hub_name: Text,
        /// Edge, with ca_file: the hub's site name.
        #[serde(default)]
        hub_site: Text,
        /// Edge: what the link may carry each way, in Mbit/s; without it there is no bound. The narrower of both sides' words holds.
        #[serde(default)]
        #[schemars(range(min = 1, max = 1000000))]
        budget_mbit_s: u32,
        /// Edge: how many relay connections it dials, 1 to 16, default 1.
        #[serde(default)]
        #[schemars(range(min = 1, max = 16))]
        lanes: u32,
        /// Edge: a time such as `2026-11-22T20:00:00Z`; what issuers of the hub from before vouch for is refused. Set it when an issuer's key was stolen.
        #[serde(default)]
        trust_after: Text,
        /// Edge: the way out, `http://host:port` (CONNECT) or `socks5://host:port`; `none`: no proxy. Without it, the environment's HTTPS_PROXY, else ALL_PROXY, and NO_PROXY.
        #[serde(default)]
        proxy: Text,
        /// Edge: who asks the proxy.
        #[serde(default)]
        proxy_user: Text,
        /// Edge: the file with that user's password.
        #[serde(default)]
        proxy_password_file: Text,
        /// Edge: PEM file of authorities that may sign an ingress's certificate (`wss://`), besides those of the system. They never vouch for the hub.
        #[serde(default)]
        outer_ca_file: Text,
        /// Edge: minutes until a connection is replaced by a new one, without a break; 1 to 1440, default 1440.
        #[serde(default)]
        #[schemars(range(min = 1, max = 1440))]
        lane_minutes: u32,
    }
}

object! {
    /// An edge that may join.
    "tunnel.edges[]" RawEdge as "Edge" [extend("anyOf" = known_by())] {
        /// Its site name.
        name: Text,
        /// Its keys, `bk1.…`: one, or two while they rotate; an empty list shuts it out.
        #[serde(default)]
        keys: Vec<Field<Text>>,
        /// Instead of keys, or beside them: the DNS name in its certificate by `client_ca_file`, exactly.
        #[serde(default)]
        cert_name: Text,
        /// What it may do here. Deny is the default.
        #[serde(default)]
        policy: RawPolicy,
        /// How many of its processes may be joined at once to one hub process; default 8.
        #[serde(default)]
        #[schemars(range(min = 1, max = 1000))]
        max_instances: u32,
        /// What each of its links may carry each way, in Mbit/s; without it there is no bound. The narrower of both sides' words holds.
        #[serde(default)]
        #[schemars(range(min = 1, max = 1000000))]
        budget_mbit_s: u32,
    }
}

object! {
    /// Bounds on connections that have not yet proved who they are.
    "tunnel.limits" RawLimits as "Limits" {
        /// Connections in their handshake; default 256.
        #[serde(default)]
        #[schemars(range(min = 1, max = 65536))]
        handshakes: u32,
        /// Of one address; default 16.
        #[serde(default)]
        #[schemars(range(min = 1, max = 65536))]
        handshakes_per_address: u32,
        /// Seconds until a handshake is given up; default 10.
        #[serde(default)]
        #[schemars(range(min = 1, max = 60))]
        handshake_seconds: u32,
    }
}

object! {
    /// What the other side may do. Items of `receive` and `send` are topics, or patterns from end to end.
    "policy" RawPolicy as "Policy" {
        /// Topics that may come in.
        #[serde(default)]
        receive: Vec<Field<Text>>,
        /// Topics that may go out.
        #[serde(default)]
        send: Vec<Field<Text>>,
        /// Where a route that the other side declared may start: `grant` (the default: what is written from then on) or `earliest`.
        #[serde(default)]
        from: Text,
        /// Targets that it may reach here, exactly `host:port`; a string, or an object with limits.
        #[serde(default)]
        forward: Vec<Field<RawAllowedTarget>>,
        /// Addresses that it may have opened here, `address:port`.
        #[serde(default)]
        listen: Vec<Field<Text>>,
    }
}

/// A target, or one with limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum RawAllowedTarget {
    /// It alone.
    Plain(Text),
    /// With limits.
    Limited(RawAllowed),
}

impl Kind for RawAllowedTarget {
    const EXPECTED: &'static str = "a string, or an object with `target`";
}

object! {
    /// A target that the other side may reach here, with limits.
    "policy.forward[]" RawAllowed as "Allowed" {
        /// The target, exactly `host:port`.
        target: Text,
        /// Connections that may be open at once; default 128.
        #[serde(default)]
        #[schemars(range(min = 1, max = 10000))]
        max_connections: u32,
        /// New connections a second; without it any number.
        #[serde(default)]
        #[schemars(range(min = 1, max = 100000))]
        rate: u32,
    }
}

object! {
    /// A TCP port carried through the link.
    "forwards[]" RawForward as "Forward" {
        /// Its name: up to 64 of letters, digits, `.`, `_` and `-`.
        name: Text,
        /// The site that listens.
        from: Text,
        /// The address and port there, such as `127.0.0.1:6443`.
        listen: Text,
        /// The site that reaches the target.
        to: Text,
        /// What is reached there, `host:port`.
        target: Text,
        /// Connections that may be open at once; default 128.
        #[serde(default)]
        #[schemars(range(min = 1, max = 10000))]
        max_connections: u32,
        /// New connections a second; without it any number.
        #[serde(default)]
        #[schemars(range(min = 1, max = 100000))]
        rate: u32,
    }
}

object! {
    /// Topics relayed from one site to another.
    "routes[]" RawRoute as "Route" {
        /// Its name: up to 64 of letters, digits, `.`, `_` and `-`.
        name: Text,
        /// The site that has the topics.
        from: Text,
        /// The site that gets them.
        to: Text,
        /// The topics, or patterns from end to end with tenant and namespace spelled out; all partitions of each.
        topics: Vec<Field<Text>>,
        /// Topics, or patterns, that the patterns in `topics` do not take.
        #[serde(default)]
        exclude: Vec<Field<Text>>,
        /// Names at the destination: a whole topic's, or a namespace's, each by its name at the source. The nearer rule wins.
        #[serde(default)]
        rename: BTreeMap<String, Field<Text>>,
        /// `equal` (the default): source and destination have as many partitions; `any`: a source partition goes to the one of its number, modulo the destination's count.
        #[serde(default)]
        partitions: Text,
        /// Also relays what bridges brought from other sites than the target; without it a route relays only what was written here.
        #[serde(default)]
        onward: bool,
        /// The route whose messages this one answers: `--topics` then keeps it too.
        #[serde(default)]
        answers: Text,
        /// Raised, on a drained route, to make the destination forget what it has seen; default 1.
        #[serde(default)]
        #[schemars(range(min = 1))]
        generation: u32,
        /// The subscription at the source; default `bridge.<from>.<to>`.
        #[serde(default)]
        subscription: Text,
        /// Where a new subscription starts: `earliest` (the default) or `latest`.
        #[serde(default)]
        start: Text,
        /// Joins small unbatched messages into batches.
        #[serde(default)]
        batching: RawBatching,
        /// A topic at the destination for what its broker refuses: the route goes on behind it. Without one the route stops there.
        #[serde(default)]
        quarantine: Text,
    }
}

object! {
    /// How small messages are joined.
    "routes[].batching" RawBatching as "Batching" {
        /// Messages in one batch; default 1000.
        #[serde(default)]
        #[schemars(range(min = 2, max = 10000))]
        max_messages: u32,
        /// Bytes in one batch; default 131072.
        #[serde(default)]
        #[schemars(range(min = 1024, max = 4194304))]
        max_bytes: u32,
        /// Milliseconds that a message may wait for company while others are on their way; 0: none waits. Default 1.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1000))]
        max_delay_ms: u32,
        /// `none` (the default), or `zstd`: batches are compressed where that makes them smaller.
        #[serde(default)]
        compression: Text,
        /// `same-key` (the default): only neighbours of one key are joined; `any-key`: all, for topics that nobody reads with Key_Shared.
        #[serde(default)]
        join: Text,
    }
}

object! {
    /// Health, metrics and status over HTTP, read-only.
    "admin" RawAdmin as "Admin" {
        /// The address and port, such as `127.0.0.1:9600`; without it there is none.
        #[serde(default)]
        listen: Text,
        /// Names by which it may be asked, besides `localhost` and addresses.
        #[serde(default)]
        hosts: Vec<Field<Text>>,
    }
}

fn one_cluster_only() -> Value {
    serde_json::json!([{ "required": ["service_url"] }, { "required": ["embedded"] }])
}

fn known_by() -> Value {
    serde_json::json!([{ "required": ["keys"] }, { "required": ["cert_name"] }])
}

fn one_side_only() -> Value {
    serde_json::json!([
        { "title": "hub", "required": ["listen", "identity", "edges"] },
        { "title": "hub of an own PKI", "required": ["listen", "cert_file", "key_file", "edges"] },
        { "title": "edge", "required": ["connect", "token_file"] },
        { "title": "edge of an own PKI", "required": ["connect", "ca_file", "hub_name", "hub_site", "cert_file", "key_file"] }
    ])
}
