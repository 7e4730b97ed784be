//! The minutes of a long run as plots: latencies, and memory of both agents. Reads the lines that `testbed/long/hour`
//! leaves; judges nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::plots::{COLORS, FONT, HEIGHT, KEY_LEN, LEAST, PlotError, WIDTH, around, refused};

/// A minute, as its line tells it.
#[derive(Debug, Deserialize)]
pub struct Minute {
    minute: u32,
    latency_ms: Latency,
    /// Samples of each process.
    rss_mib: BTreeMap<String, Vec<f64>>,
    anon_mib: BTreeMap<String, Vec<f64>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

/// The minutes among the lines, of which some are about the run itself.
pub fn minutes(lines: &str) -> Result<Vec<Minute>, serde_json::Error> {
    let mut minutes = Vec::new();
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line)?;
        if value["kind"] == "minute" {
            minutes.push(serde_json::from_value(value)?);
        }
    }
    Ok(minutes)
}

impl Minute {
    /// Whether it can be drawn.
    pub fn is_plausible(&self, value_max: f64) -> bool {
        let Latency { p50, p99, max } = self.latency_ms;
        let memory = self.rss_mib.values().chain(self.anon_mib.values()).flatten();
        [p50, p99, max].iter().chain(memory).all(|value| (0.0..value_max).contains(value))
    }
}

/// Median, 99th percentile and the longest of each minute.
pub fn latency(minutes: &[Minute]) -> Result<String, PlotError> {
    let of = |which: fn(&Latency) -> f64| -> Points {
        minutes
            .iter()
            .map(|minute| (f64::from(minute.minute), which(&minute.latency_ms).max(LEAST)))
            .collect()
    };
    let lines = [("p99", of(|ms| ms.p99)), ("p50", of(|ms| ms.p50)), ("longest", of(|ms| ms.max))];
    let values = around(lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value));
    svg(|area| draw(area, "ms from producer to consumer, minute by minute", &lines, values.log_scale()))
}

/// Means of each minute, of both agents.
pub fn memory(minutes: &[Minute]) -> Result<String, PlotError> {
    let of = |which: fn(&Minute) -> &BTreeMap<String, Vec<f64>>, site: &str| -> Points {
        let samples = |minute| which(minute).get(site).filter(|samples| !samples.is_empty());
        let mean = |samples: &Vec<f64>| samples.iter().sum::<f64>() / samples.len() as f64;
        minutes.iter().filter_map(|one| Some((f64::from(one.minute), mean(samples(one)?)))).collect()
    };
    let lines = [
        ("hub, resident", of(|minute| &minute.rss_mib, "hub")),
        ("edge, resident", of(|minute| &minute.rss_mib, "edge")),
        ("hub, anonymous", of(|minute| &minute.anon_mib, "hub")),
        ("edge, anonymous", of(|minute| &minute.anon_mib, "edge")),
    ];
    let highest =
        lines.iter().flat_map(|(_, points)| points).fold(LEAST, |high, (_, value)| high.max(*value));
    svg(|area| draw(area, "MiB of each agent, minute by minute", &lines, 0.0..highest * HEADROOM))
}

type Points = Vec<(f64, f64)>;

fn svg(
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(refused)?;
        draw(&area)?;
        area.present().map_err(refused)?;
    }
    Ok(svg)
}

fn draw<Values>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    lines: &[(&str, Points)],
    values: Values,
) -> Result<(), PlotError>
where
    Values: AsRangedCoord<Value = f64>,
    Values::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    let minutes = minutes_of(lines);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(minutes, values)
        .map_err(refused)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("minute; the first, with hollow dots, is the warm-up")
        .x_label_formatter(&|minute| format!("{minute:.0}"));
    mesh.label_style((FONT, 13)).draw().map_err(refused)?;
    for ((label, points), color) in lines.iter().zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + KEY_LEN, y)], style);
        let line = LineSeries::new(points.iter().copied(), style);
        chart.draw_series(line).map_err(refused)?.label(*label).legend(key);
        let dot = |point: &(f64, f64)| {
            let style = if point.0 > WARM_UP { color.filled() } else { color.stroke_width(1) };
            Circle::new(*point, 3, style)
        };
        chart.draw_series(points.iter().map(dot)).map_err(refused)?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight);
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font((FONT, 13));
    labels.draw().map_err(refused)
}

fn minutes_of(lines: &[(&str, Points)]) -> Range<f64> {
    let last =
        lines.iter().flat_map(|(_, points)| points).fold(WARM_UP, |last, (minute, _)| last.max(*minute));
    0.0..last + 1.0
}

/// The minute that the run's judgement leaves out, too.
const WARM_UP: f64 = 1.0;
/// Room for the legend above the highest.
const HEADROOM: f64 = 1.4;
