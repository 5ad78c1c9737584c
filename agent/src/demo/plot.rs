//! The demo's time line as a picture: latency against target, sub-network, clock or share.

use anyhow::Context as _;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::{Path, PathBuf};

/// One finished frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Finish, s since the demo's start.
    pub t: f64,
    /// Arrival to finish, ms.
    pub latency_ms: f64,
    /// Position of its sub-network.
    pub subnet: usize,
}

/// A stretch of the demo.
#[derive(Clone, Debug)]
pub struct Span {
    /// Start, s.
    pub from: f64,
    /// End, s.
    pub to: f64,
    /// What happens.
    pub label: String,
    /// A co-runner runs.
    pub co_runner: bool,
    /// The target in force, ms.
    pub target_ms: f64,
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Above it.
    pub title: String,
    /// All frames.
    pub frames: Vec<Frame>,
    /// By rising cost: name and accuracy in %.
    pub subnets: Vec<(String, f64)>,
    /// (s, CPU weight) as applied.
    pub weight: Vec<(f64, f64)>,
    /// (s, OPP in thousandths of the top one) as applied.
    pub opp: Vec<(f64, f64)>,
    /// What the clock panel's values are: `clock, % of the top OPP`.
    pub opp_label: String,
    /// The phases.
    pub spans: Vec<Span>,
}

/// Where Debian's `fonts-dejavu-core` puts it.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const MONO: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf";
const COLOURS: [RGBColor; 4] =
    [RGBColor(86, 180, 233), RGBColor(0, 158, 115), RGBColor(230, 159, 0), RGBColor(204, 51, 102)];
/// Width of the labels left of each panel: the same, so that their time axes agree.
const LEFT: u32 = 130;
const INK: RGBColor = RGBColor(40, 40, 40);

/// Makes the fonts of all pictures known; they live as long as the program.
///
/// # Errors
/// A font is missing or is none.
pub fn register_fonts() -> anyhow::Result<()> {
    for (name, path) in [("sans-serif", FONT), ("monospace", MONO)] {
        let font = std::fs::read(path).with_context(|| format!("{path}: install fonts-dejavu-core"))?;
        let font = register_font(name, FontStyle::Normal, Vec::leak(font)).ok();
        font.with_context(|| format!("{path} is not a font"))?;
    }
    Ok(())
}

/// Writes `NAME.svg` and `NAME.png`; returns their paths.
///
/// # Errors
/// The font or a file cannot be had.
pub fn write(timeline: &Timeline, dir: &Path, name: &str) -> anyhow::Result<[PathBuf; 2]> {
    register_fonts()?;
    let size = (1400, 860);
    let (svg, png) = (dir.join(format!("{name}.svg")), dir.join(format!("{name}.png")));
    draw(timeline, &SVGBackend::new(&svg, size).into_drawing_area()).context("draw the SVG")?;
    draw(timeline, &BitMapBackend::new(&png, size).into_drawing_area()).context("draw the PNG")?;
    Ok([svg, png])
}

/// Writes `NAME.png`: what stood in the terminal.
///
/// # Errors
/// The font or the file cannot be had.
pub fn terminal(shown: &str, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    register_fonts()?;
    // At 14 px a character of DejaVu Sans Mono is 14 x 0.602 px wide.
    let (size, line, margin) = (14, 19, 14);
    let columns = shown.lines().map(|l| l.chars().count()).max().unwrap_or(0);
    let width = u32::try_from(columns * 8429 / 1000)? + 2 * margin;
    let height = u32::try_from(shown.lines().count())? * line + 2 * margin;
    let path = dir.join(format!("{name}.png"));
    let area = BitMapBackend::new(&path, (width, height)).into_drawing_area();
    area.fill(&RGBColor(24, 26, 32))?;
    let style = ("monospace", size).into_font().color(&RGBColor(220, 220, 220));
    let mut y = i32::try_from(margin)?;
    for text in shown.lines() {
        area.draw(&Text::new(text, (i32::try_from(margin)?, y), style.clone()))?;
        y += i32::try_from(line)?;
    }
    area.present().context("draw the terminal")?;
    drop(area);
    Ok(path)
}

fn draw<B: DrawingBackend>(t: &Timeline, area: &DrawingArea<B, plotters::coord::Shift>) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let area = area.titled(&t.title, ("sans-serif", 22).into_font().color(&INK))?;
    let (latency, rest) = area.split_vertically(420);
    let (subnet, clock) = rest.split_vertically(190);
    let end = t.spans.last().map_or(1.0, |s| s.to);
    latency_panel(t, &latency, end)?;
    subnet_panel(t, &subnet, end)?;
    clock_panel(t, &clock, end)?;
    area.present()?;
    Ok(())
}

fn latency_panel<B: DrawingBackend>(
    t: &Timeline,
    area: &DrawingArea<B, plotters::coord::Shift>,
    end: f64,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let target = t.spans.iter().map(|s| s.target_ms).fold(0.0, f64::max);
    let mut sorted: Vec<f64> = t.frames.iter().map(|f| f.latency_ms).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    // Room for nearly all frames; what is higher is drawn at the edge.
    let p98 = sorted.get(sorted.len() * 98 / 100).copied().unwrap_or(target);
    let edge = (p98 * 1.15).clamp(target * 1.6, target * 5.0);
    // The labels' three lines stand above the data.
    let top = edge * 1.22;
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .x_label_area_size(24)
        .margin_left(12)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    for s in t.spans.iter().filter(|s| s.co_runner) {
        chart
            .draw_series([Rectangle::new([(s.from, 0.0), (s.to, top)], RGBColor(245, 236, 224).filled())])?;
    }
    chart
        .configure_mesh()
        .y_desc("latency of a frame, ms")
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(225, 225, 225))
        .x_labels(20)
        .draw()?;
    let point = |f: &Frame| {
        let colour = COLOURS[f.subnet.min(3)];
        Circle::new((f.t, f.latency_ms.min(edge)), 2, colour.filled())
    };
    chart.draw_series(t.frames.iter().map(point))?;
    for (i, s) in t.spans.iter().enumerate() {
        chart.draw_series([PathElement::new(
            [(s.from, s.target_ms), (s.to, s.target_ms)],
            RED.stroke_width(2),
        )])?;
        let style = ("sans-serif", 14).into_font().color(&INK);
        // Labels alternate in height, so that neighbours do not overlap.
        let y = top * (0.97 - 0.055 * f64::from(u8::try_from(i % 3).unwrap_or(0)));
        chart.draw_series([Text::new(s.label.clone(), (s.from + end * 0.003, y), style)])?;
        chart.draw_series([PathElement::new([(s.from, 0.0), (s.from, top)], RGBColor(190, 190, 190))])?;
    }
    Ok(())
}

fn subnet_panel<B: DrawingBackend>(
    t: &Timeline,
    area: &DrawingArea<B, plotters::coord::Shift>,
    end: f64,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let n = i32::try_from(t.subnets.len()).unwrap_or(4);
    let name = |v: &f64| {
        #[expect(clippy::cast_possible_truncation, reason = "an axis label")]
        let i = usize::try_from(v.round() as i64).ok().filter(|_| (v - v.round()).abs() < 0.01);
        i.and_then(|i| t.subnets.get(i))
            .map_or_else(String::new, |(name, top1)| format!("{name} ({top1:.1} %)"))
    };
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .x_label_area_size(24)
        .margin_left(12)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..end, -0.5..f64::from(n) - 0.5)?;
    chart
        .configure_mesh()
        .y_labels(usize::try_from(n).unwrap_or(4) + 1)
        .y_label_formatter(&name)
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(230, 230, 230))
        .x_labels(20)
        .draw()?;
    let dot = |f: &Frame| {
        let y = f64::from(u8::try_from(f.subnet).unwrap_or(0));
        Rectangle::new([(f.t, y - 0.28), (f.t + end * 0.0015, y + 0.28)], COLOURS[f.subnet.min(3)].filled())
    };
    chart.draw_series(t.frames.iter().map(dot))?;
    Ok(())
}

fn clock_panel<B: DrawingBackend>(
    t: &Timeline,
    area: &DrawingArea<B, plotters::coord::Shift>,
    end: f64,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let top = t.weight.iter().map(|w| w.1).fold(100.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .x_label_area_size(40)
        .margin_left(12)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds (shaded: a CPU-hungry co-runner)")
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(230, 230, 230))
        .x_labels(20)
        .draw()?;
    let steps = |points: &[(f64, f64)]| {
        let mut line = Vec::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            let until = points.get(i + 1).map_or(end, |p| p.0);
            line.extend([(x, y), (until, y)]);
        }
        line
    };
    let legend =
        |colour: RGBColor| move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3));
    chart
        .draw_series(LineSeries::new(
            steps(&t.opp).into_iter().map(|(x, y)| (x, y / 10.0)),
            COLOURS[0].stroke_width(2),
        ))?
        .label(t.opp_label.clone())
        .legend(legend(COLOURS[0]));
    chart
        .draw_series(LineSeries::new(steps(&t.weight), COLOURS[3].stroke_width(2)))?
        .label("CPU weight (100 = default)")
        .legend(legend(COLOURS[3]));
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15).into_font().color(&INK))
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    Ok(())
}
