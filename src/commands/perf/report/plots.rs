//! Results as plots: one line for each batch over the size of messages, both axes logarithmic. Backlogs are in the
//! table only.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;
use pulsar_bridge::load::results::{Flow, Relayed, Spread, TARGET_MBIT_S, TestResult};

/// Mbit/s with the target; bars from the lowest to the highest.
pub fn throughput(results: &[TestResult]) -> Result<String, PlotError> {
    let lines = lines(results, |relayed| Some(relayed.mbit_per_second));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(refused)?;
        draw(&area, "Mbit/s by size of message and batch, live", &lines, Some(TARGET_MBIT_S))?;
        area.present().map_err(refused)?;
    }
    Ok(svg)
}

/// CPU-seconds per GB of the hub and of the edge, side by side.
pub fn cpu(results: &[TestResult]) -> Result<String, PlotError> {
    let hub = lines(results, |relayed| Some(relayed.cpu_seconds_per_gb?.hub));
    let edge = lines(results, |relayed| Some(relayed.cpu_seconds_per_gb?.edge));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(refused)?;
        let halves = area.split_evenly((1, 2));
        for (half, (title, lines)) in halves.iter().zip([("hub", hub), ("edge", edge)]) {
            draw(half, &format!("CPU-s/GB of the {title}"), &lines, None)?;
        }
        area.present().map_err(refused)?;
    }
    Ok(svg)
}

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw: {0}")]
pub struct PlotError(String);

pub(super) fn refused(error: impl std::fmt::Display) -> PlotError {
    PlotError(error.to_string())
}

/// For each batch: size of message, and what was measured.
type Lines = BTreeMap<(u32, bool), Vec<(f64, Spread)>>;

fn lines(results: &[TestResult], of: impl Fn(&Relayed) -> Option<Spread>) -> Lines {
    let mut lines = Lines::new();
    for result in results {
        let Some(relayed) = result.bridge.as_ref().filter(|relayed| relayed.flow == Flow::Live) else {
            continue;
        };
        let Some(spread) = of(relayed) else { continue };
        let line = lines.entry((relayed.batch, relayed.joined)).or_default();
        line.push((result.message_size as f64, spread));
    }
    lines
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    title: &str,
    lines: &Lines,
    target: Option<f64>,
) -> Result<(), PlotError> {
    let (sizes, values) = (sizes(lines), values(lines, target));
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(sizes.clone().log_scale(), values.log_scale())
        .map_err(refused)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("bytes of a message").x_label_formatter(&short).y_label_formatter(&short);
    mesh.label_style((FONT, 13)).draw().map_err(refused)?;
    if let Some(target) = target {
        let line = LineSeries::new([(sizes.start, target), (sizes.end, target)], RED.stroke_width(2));
        let key = |(x, y)| PathElement::new(vec![(x, y), (x + KEY_LEN, y)], RED.stroke_width(2));
        chart.draw_series(line).map_err(refused)?.label(format!("target {target}")).legend(key);
    }
    for (((batch, joined), points), color) in lines.iter().zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        let line = LineSeries::new(points.iter().map(|(size, spread)| (*size, spread.median)), style);
        let label = if *joined { "singles, joined".into() } else { format!("batches of {batch}") };
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + KEY_LEN, y)], style);
        chart.draw_series(line).map_err(refused)?.label(label).legend(key);
        let dot = |(size, spread): &(f64, Spread)| Circle::new((*size, spread.median), 3, color.filled());
        chart.draw_series(points.iter().map(dot)).map_err(refused)?;
        let bar = |(size, spread): &(f64, Spread)| {
            PathElement::new(vec![(*size, spread.min.max(LEAST)), (*size, spread.max)], color.stroke_width(1))
        };
        chart.draw_series(points.iter().map(bar)).map_err(refused)?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(if target.is_some() {
        SeriesLabelPosition::LowerRight
    } else {
        SeriesLabelPosition::UpperRight
    });
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font((FONT, 13));
    labels.draw().map_err(refused)
}

/// From half the smallest to twice the largest.
fn sizes(lines: &Lines) -> Range<f64> {
    around(lines.values().flatten().map(|(size, _)| *size))
}

fn values(lines: &Lines, target: Option<f64>) -> Range<f64> {
    let ends = lines.values().flatten().flat_map(|(_, spread)| [spread.min, spread.max]);
    around(ends.chain(target))
}

pub(super) fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .fold((f64::INFINITY, LEAST), |(low, high), value| (low.min(value.max(LEAST)), high.max(value)));
    low.min(high) / 2.0..high * 2.0
}

/// `100`, `10k`, `1M`.
fn short(value: &f64) -> String {
    match *value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

pub(super) const WIDTH: u32 = 820;
pub(super) const HEIGHT: u32 = 380;
pub(super) const FONT: &str = "sans-serif";
pub(super) const KEY_LEN: i32 = 18;
/// A logarithmic axis has no zero.
pub(super) const LEAST: f64 = 0.01;
/// Okabe and Ito's colours, which everybody can tell apart.
pub(super) const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
];
