//! The arguments of `bridge init`, one set for all of its forms. Which form is meant is not decided here.

use std::path::PathBuf;

use clap::Args;
use pulsar_bridge::config::LinkUrl;

/// Arguments of `bridge init`.
#[derive(Debug, Args)]
#[command(after_help = INIT_FORMS)]
pub struct InitArgs {
    /// The hub's site name
    #[arg(long, value_name = "NAME")]
    pub hub: Option<String>,
    /// The edges' site names
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', required_unless_present_any = ["rotate", "renew_issuer", "rotate_root", "repin"])]
    pub edge: Vec<String>,
    /// Where edges reach the hub: tls://host:port
    #[arg(long, value_parser = LinkUrl::parse)]
    pub url: Option<LinkUrl>,
    /// Where to write; for a new edge or key, where the hub was made
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Give this edge a second key
    #[arg(long, value_name = "NAME", conflicts_with_all = ["hub", "edge", "url"])]
    pub rotate: Option<String>,
    /// Make a new issuer for a hub, signed by the root in this folder; two folders while roots rotate
    #[arg(long, value_name = "OFFLINE[,OFFLINE]", value_delimiter = ',', conflicts_with_all = ["hub", "edge", "url", "rotate"])]
    pub renew_issuer: Vec<PathBuf>,
    /// Make a new root beside the one in this folder, and an issuer that both vouch for
    #[arg(long, value_name = "OFFLINE", conflicts_with_all = ["hub", "edge", "url", "rotate", "renew_issuer"])]
    pub rotate_root: Option<PathBuf>,
    /// At the edge: make its token anew with other pins and the same key
    #[arg(long, value_name = "TOKEN", requires = "pin", conflicts_with_all = ["hub", "edge", "url", "rotate", "renew_issuer", "rotate_root"])]
    pub repin: Option<PathBuf>,
    /// At the edge: make a key that nobody else ever sees, and print its public half
    #[arg(long, conflicts_with_all = ["rotate", "url", "renew_issuer", "rotate_root", "repin"])]
    pub own_key: bool,
    /// With --own-key and --hub, or --repin: the pin of the hub's root, as its operator told it; two while roots rotate
    #[arg(long, value_name = "PIN[,PIN]", value_delimiter = ',', conflicts_with_all = ["url", "rotate", "renew_issuer", "rotate_root"])]
    pub pin: Vec<String>,
    /// Sites without a Pulsar cluster: forwards of TCP ports only
    #[arg(long, conflicts_with_all = ["rotate", "renew_issuer", "rotate_root", "repin", "own_key"])]
    pub forwards_only: bool,
}

const INIT_FORMS: &str = "\
A hub and its edges:   bridge init --hub NAME --edge NAME[,NAME] --url tls://HOST:PORT --out DIR
One more edge:         bridge init --edge NAME --out DIR
Without Pulsar:        either of these with --forwards-only
A second key:          bridge init --rotate NAME --out DIR
A hub's new issuer:    bridge init --renew-issuer OFFLINE[,OFFLINE] --out DIR
A hub's new root:      bridge init --rotate-root OFFLINE --out DIR
A token's other pins:  bridge init --repin TOKEN --pin PIN[,PIN] --out DIR
An edge's own key:     bridge init --own-key --edge NAME --out DIR [--hub NAME --pin PIN[,PIN]]";
