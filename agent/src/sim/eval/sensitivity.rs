//! The same contest with one assumption changed: whose wins hang on it.

use super::cells::{Cell, other_domain};
use super::contest::CellResult;
use super::rows::{Row, What};
use crate::sim::model::Model;
use serde::Serialize;

/// One changed assumption.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// What an idle domain draws, share of its busy power at the same OPP.
    IdleShare(f64),
    /// Busy power of the CPU domain beside the applications' own, times this: leakage that its energy model leaves out.
    /// What policies are told of its power stays as it is.
    LittlePower(f64),
}

impl Change {
    /// In tables and files.
    pub fn name(self) -> String {
        match self {
            Self::IdleShare(v) => format!("idle-share = {v}"),
            Self::LittlePower(v) => format!("little domain's power x {v}"),
        }
    }

    /// The models with it.
    pub fn apply(self, models: &[Model]) -> Vec<Model> {
        let one = |m: &Model| match self {
            Self::IdleShare(v) => m.with("idle-share", v),
            Self::LittlePower(v) => {
                let mut changed = m.clone();
                if let Some(little) = other_domain(m) {
                    let power = &mut changed.domains[usize::from(little.0)].power;
                    power.iter_mut().flatten().for_each(|p| *p *= v);
                }
                changed
            }
        };
        models.iter().map(one).collect()
    }
}

/// A row whose win in a cell is another with a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Turned {
    /// What was changed.
    pub change: String,
    /// Board and cell.
    pub cell: String,
    /// Positions of the cell's result and of the row.
    #[serde(skip)]
    pub at: (usize, usize),
    /// Whose.
    pub row: String,
    /// It won as the model stands (and does no more), or the other way round.
    pub won_before: bool,
    /// Energy ratio to the comparator, before and with it.
    pub energy: [f64; 2],
}

/// One change in short: by row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// What was changed.
    pub change: String,
    /// Whose.
    pub row: String,
    /// How many cells were compared.
    pub cells: usize,
    /// Cells won as the model stands, of them still won, and won only with the change.
    pub won: usize,
    /// See above.
    pub held: usize,
    /// See above.
    pub gained: usize,
}

/// Holds the results with a change against those without.
pub fn compare(
    change: Change,
    models: &[Model],
    cells: &[Cell],
    rows: &[Row],
    before: &[CellResult],
    after: &[CellResult],
) -> (Vec<Held>, Vec<Turned>) {
    let (mut held, mut turned) = (Vec::new(), Vec::new());
    for (r, row) in rows.iter().enumerate().filter(|(_, row)| matches!(row.what, What::Policy { .. })) {
        let mut sum =
            Held { change: change.name(), row: row.name.clone(), cells: 0, won: 0, held: 0, gained: 0 };
        for (i, (a, b)) in before.iter().zip(after).enumerate() {
            let (Some(x), Some(y)) = (&a.rows[r], &b.rows[r]) else { continue };
            let cell = &cells[a.cell];
            let (before, after) = (x.standing.won, y.standing.won);
            sum.cells += 1;
            sum.won += usize::from(before);
            sum.held += usize::from(before && after);
            sum.gained += usize::from(!before && after);
            if before != after {
                turned.push(Turned {
                    change: change.name(),
                    cell: format!("{}:{}", models[cell.board].name, cell.name),
                    at: (i, r),
                    row: row.name.clone(),
                    won_before: before,
                    energy: [x.standing.energy, y.standing.energy],
                });
            }
        }
        if sum.cells > 0 {
            held.push(sum);
        }
    }
    (held, turned)
}

/// Every cell that turned.
///
/// # Errors
/// The file cannot be written.
pub fn csv(turned: &[Turned], path: &std::path::Path) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_path(path)?;
    out.write_record(["change", "cell", "row", "won_before", "energy_ratio_before", "energy_ratio_with"])?;
    for t in turned {
        let [before, with] = t.energy.map(|e| format!("{e:.6}"));
        out.write_record([&t.change, &t.cell, &t.row, &t.won_before.to_string(), &before, &with])?;
    }
    Ok(out.flush()?)
}

/// For people; single cells are in the file.
pub fn told(held: &[Held]) -> String {
    let one = |h: &Held| {
        format!(
            "  {}: {}: of {} cells won ({} compared) {} are still won, {} are won anew\n",
            h.change, h.row, h.won, h.cells, h.held, h.gained
        )
    };
    format!(
        "wins with one assumption changed; a cell that turns with any of them is undecided (sensitivity.csv)\n{}",
        held.iter().map(one).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_the_model_and_not_in_what_policies_are_told() {
        let model = Model::find("odroid-xu3").unwrap();
        let [changed] = &Change::LittlePower(1.4).apply(std::slice::from_ref(&model))[..] else { panic!() };
        let little = usize::from(other_domain(&model).unwrap().0);
        assert_eq!(model.board.domains[little].name, "little");
        for (a, b) in model.domains[little].power[0].iter().zip(&changed.domains[little].power[0]) {
            assert!((b / a - 1.4).abs() < 1e-12);
        }
        assert_eq!(model.board, changed.board);
        let big = usize::from(model.apps_on.0);
        assert_eq!(model.domains[big].power, changed.domains[big].power);
        let idle = Change::IdleShare(0.3).apply(std::slice::from_ref(&model));
        assert_eq!(idle[0].constant("idle-share"), 0.3);
    }
}
