//! Two pictures per board: energy against 95th percentile, and accuracy against it (as Fig. 4 of Dynamic-OFA's paper).
//!
//! Each row is a curve over the accuracy floors of one stream: the first of the first block, undisturbed.

use super::contest::Placed;
use super::report::Report;
use super::rows::{PRIMARY, What};
use crate::demo::plot::register_fonts;
use crate::policy::Objective;
use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::{Path, PathBuf};

/// One row's points.
type Curve = (String, Vec<(f64, f64)>);

const COLOURS: [RGBColor; 8] = [
    RGBColor(60, 60, 60),
    RGBColor(204, 51, 102),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(150, 90, 190),
    RGBColor(170, 170, 60),
];
const INK: RGBColor = RGBColor(40, 40, 40);

struct Picture<'a> {
    title: String,
    x: &'static str,
    y: &'static str,
    curves: &'a [Curve],
}

/// Writes them as SVG and PNG; answers the paths.
///
/// # Errors
/// A font or a file cannot be had.
pub fn write(report: &Report<'_>, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    register_fonts()?;
    let mut written = Vec::new();
    for (board, model) in report.models.iter().enumerate() {
        let of = |r: &&super::contest::CellResult| {
            let cell = &report.cells[r.cell];
            cell.board == board && cell.block != "named" && cell.objective == Objective::Energy
        };
        let Some(first) = report.results.iter().find(of).map(|r| &report.cells[r.cell]) else { continue };
        let same = |r: &&super::contest::CellResult| {
            let cell = &report.cells[r.cell];
            of(r) && cell.plain.digest == first.plain.digest
        };
        let cells: Vec<_> = report.results.iter().filter(same).collect();
        let curves = |f: fn(&Placed) -> Option<(f64, f64)>| -> Vec<Curve> {
            let shown = |(i, row): (usize, &super::rows::Row)| {
                let points: Vec<_> = cells.iter().filter_map(|r| f(r.rows[i].as_ref()?)).collect();
                let wanted = row.name == PRIMARY || matches!(row.what, What::Policy { .. });
                (wanted && !points.is_empty()).then(|| (row.name.clone(), points))
            };
            report.rows.iter().enumerate().filter_map(shown).collect()
        };
        let pareto = curves(|p| Some((p95(p)?, p.medians.energy_j)));
        let front = curves(|p| Some((p95(p)?, p.medians.apps[0].top1?)));
        let what = &first.plain.scenario.name;
        for (name, y, curves) in
            [("pareto", "energy of the domains, J", &pareto), ("front", "mean accuracy, %", &front)]
        {
            let title = format!("{}: {what}, by accuracy floor (modelled)", model.name);
            let picture = Picture { title, x: "95th percentile, ms", y, curves };
            written.extend(picture.write(dir, &format!("{name}-{}", model.name))?);
        }
    }
    Ok(written)
}

/// The first application's, ms.
fn p95(p: &Placed) -> Option<f64> {
    p.medians.apps[0].ms.map(|ms| ms[1])
}

impl Picture<'_> {
    fn write(&self, dir: &Path, name: &str) -> anyhow::Result<[PathBuf; 2]> {
        let size = (1000, 700);
        let [svg, png] = ["svg", "png"].map(|end| dir.join(format!("{name}.{end}")));
        self.draw(&SVGBackend::new(&svg, size).into_drawing_area()).context("draw the SVG")?;
        self.draw(&BitMapBackend::new(&png, size).into_drawing_area()).context("draw the PNG")?;
        Ok([svg, png])
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let span = |f: fn(&(f64, f64)) -> f64| {
            let all = || self.curves.iter().flat_map(|c| &c.1).map(f);
            let (lo, hi) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
            let margin = ((hi - lo) * 0.08).max(hi.abs() * 0.01).max(1e-9);
            lo - margin..hi + margin
        };
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 20).into_font().color(&INK))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(span(|p| p.0), span(|p| p.1))?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(230, 230, 230))
            .draw()?;
        for (i, (name, points)) in self.curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let mut line = points.clone();
            line.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            chart
                .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(1)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
            chart.draw_series(line.iter().map(|p| Circle::new(*p, 4, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        area.present()?;
        Ok(())
    }
}
