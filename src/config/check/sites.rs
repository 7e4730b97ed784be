//! A file with several sites and a load, checked.

use super::Checker;
use super::text::Found;
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::raw::{RawConfig, RawLoad, RawRequester, RawSites, RawWorker};
use crate::config::url::ServiceUrl;
use crate::config::{Config, Load, Requester, Setup, Worker};
use crate::pulsar::topic::TopicName;

impl Checker<'_> {
    pub(super) fn setup(&mut self, raw: RawSites) -> Option<Setup> {
        let root = Place::default();
        self.unknown::<RawSites>(raw.unknown, &root);
        self.version(raw.version, &root);
        let place = root.key("sites");
        let items = self.optional(raw.sites, &place).unwrap_or_default();
        let is_empty = items.is_empty();
        let sites = self.sites(items, &place);
        let load = self.optional(raw.load, &root.key("load"));
        let load = load.and_then(|raw| self.load(raw, &root.key("load")));
        if is_empty && load.is_none() {
            self.refuse(&place, Refusal::new("neither sites nor a load", "add a site, or a load"));
        }
        Some(Setup { sites, load })
    }

    fn sites(&mut self, items: Vec<Field<RawConfig>>, place: &Place) -> Vec<Config> {
        let mut sites: Vec<Config> = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let place = place.item(index);
            let Some(raw) = self.required(item, &place) else {
                continue;
            };
            if !matches!(raw.version, Field::Missing) {
                let refusal = Refusal::new("stands once, for the whole file", "leave it out here");
                self.refuse(&place.key("version"), refusal);
            }
            let Some(site) = self.config(raw, &place) else {
                continue;
            };
            if sites.iter().any(|other| other.site == site.site) {
                let refusal = Refusal::new(
                    format!("a second site `{}`", site.site),
                    "give each site a name of its own",
                );
                self.refuse(&place.key("site"), refusal);
            }
            sites.push(site);
        }
        sites
    }

    fn load(&mut self, raw: RawLoad, place: &Place) -> Option<Load> {
        self.unknown::<RawLoad>(raw.unknown, place);
        let requests = self.topic_or(raw.requests, &place.key("requests"), "datagen-requests");
        let results = self.topic_or(raw.results, &place.key("results"), "datagen-results");
        let requester_place = place.key("requester");
        let requester = self.optional(raw.requester, &requester_place);
        let requester = requester.map(|raw| self.requester(raw, &requester_place));
        let worker_place = place.key("worker");
        let worker = self.optional(raw.worker, &worker_place);
        let worker = worker.map(|raw| self.worker(raw, &worker_place));
        if requester.is_none() && worker.is_none() {
            let refusal = Refusal::new("neither requester nor worker", "add one of them, or leave load out");
            self.refuse(place, refusal);
        }
        Some(Load {
            requests: requests?,
            results: results?,
            requester: requester.flatten(),
            worker: worker.flatten(),
        })
    }

    fn requester(&mut self, raw: RawRequester, place: &Place) -> Option<Requester> {
        self.unknown::<RawRequester>(raw.unknown, place);
        let service_url = self.plain_url(raw.service_url, &place.key("service_url"));
        let points = self.number(raw.points, &place.key("points"), 1..=32768, 512);
        let unanswered = self.number(raw.unanswered, &place.key("unanswered"), 1..=100_000, 256);
        let paced = !matches!(raw.rate, Field::Missing);
        let rate = self.number(raw.rate, &place.key("rate"), 1..=10_000_000, 1);
        Some(Requester { service_url: service_url?, points, unanswered, rate: paced.then_some(rate) })
    }

    fn worker(&mut self, raw: RawWorker, place: &Place) -> Option<Worker> {
        self.unknown::<RawWorker>(raw.unknown, place);
        let service_url = self.plain_url(raw.service_url, &place.key("service_url"));
        Some(Worker { service_url: service_url? })
    }

    fn plain_url(&mut self, field: Field<Text>, place: &Place) -> Option<ServiceUrl> {
        self.required_text(field, place, |found| found.parse(ServiceUrl::parse_plain))
    }

    fn topic_or(&mut self, field: Field<Text>, place: &Place, default: &str) -> Option<TopicName> {
        if matches!(field, Field::Missing) {
            return TopicName::parse(default).ok();
        }
        self.text(field, place, |found: &Found| {
            TopicName::parse(&found.text)
                .map_err(|error| Refusal::new(error.to_string(), "write a topic, such as datagen-requests"))
        })
    }
}
