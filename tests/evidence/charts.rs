//! What the plots over time have in common.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;

/// Where a chart is drawn.
pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
/// Something over seconds.
pub type Chart<'a> = ChartContext<'a, BitMapBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// An empty one, from 0 s to `end` s.
pub fn panel<'a>(
    area: &Area<'a>,
    title: &str,
    range: Range<f64>,
    end: f64,
    x: &str,
) -> anyhow::Result<Chart<'a>> {
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .caption(title, ("sans-serif", 18))
        .build_cartesian_2d(0.0..end, range)?;
    chart.configure_mesh().x_desc(x).draw()?;
    Ok(chart)
}

/// The key, once all is drawn.
pub fn labels(chart: &mut Chart<'_>) -> anyhow::Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
