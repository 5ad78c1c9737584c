//! `tandem eval FILE...`: policies x boards x scenarios, against the strongest fair opponent of each cell.
//!
//! A file is a grid ([`grid`]) or a scenario. [`cells`] makes the places of comparison, [`rows`] says who runs, [`contest`]
//! runs them ([`runs`], kept in [`store`]) and finds each cell's comparator, [`judge`] says who won, [`report`] and
//! [`plots`] tell it, [`bounds`] how much less energy it could have been, [`sensitivity`] repeats it with an assumption changed, [`cost`] measures the policies themselves.
//!
//! Everything that can refuse does so before anything runs. Same arguments, same bytes, also after an interruption.

pub mod bounds;
pub mod cells;
pub mod contest;
pub mod cost;
pub mod figures;
pub mod grid;
pub mod judge;
pub mod plots;
pub mod report;
pub mod rows;
pub mod runs;
pub mod sensitivity;
pub mod store;

use super::model::{Model, SHIPPED};
use super::policies::Spec;
use super::run::Prepared;
use super::scenario::Scenario;
use crate::policy::wasm::WasmEngine;
use crate::toml_errors::read_text;
use crate::units::Nanos;
use anyhow::Context as _;
use cells::{Cell, Drops};
use contest::{CellResult, Contest, Ready};
use grid::Grid;
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use rows::{Row, What};
use runs::Ground;
use sensitivity::Change;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use store::Store;

/// What `tandem eval` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Grids and scenarios (`tests/grid.toml`, `tests/scenarios` has some).
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Only these boards: shipped models' names or model files. Default: all shipped ones.
    #[arg(long = "board", num_args = 1..)]
    pub boards: Vec<String>,
    /// Only these blocks of grids.
    #[arg(long = "block", num_args = 1..)]
    pub blocks: Vec<String>,
    /// These managers in place of the built-in rows (`tandem sim --help` has the notation); kernel governors stay.
    #[arg(long = "policy", num_args = 1..)]
    pub policies: Vec<String>,
    /// Runs of each; a cell's figure is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Repeat it with these shares of idle power.
    #[arg(long, value_delimiter = ',')]
    pub idle_share: Vec<f64>,
    /// Repeat it with the second CPU domain's power times this.
    #[arg(long, value_delimiter = ',')]
    pub little_power: Vec<f64>,
    /// Where results go; runs that are there are not run again.
    #[arg(long, default_value = "target/eval")]
    pub out: PathBuf,
    /// A quick look: one seed, our own manager only (unless `--policy`), no lower bound.
    #[arg(long)]
    pub quick: bool,
    /// Length of a tick, ms.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub period_ms: u64,
    /// Runs at once. Default: one per CPU.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
}

/// All that is known before the first run.
struct Plan {
    models: Vec<Model>,
    cells: Vec<Cell>,
    drops: Drops,
    rows: Vec<Row>,
    ready: Ready,
    left_out: Vec<String>,
    changes: Vec<Change>,
    seeds: u64,
    period: Nanos,
}

/// Runs it.
///
/// # Errors
/// A file has errors, something does not fit a board, or a policy failed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let began = Instant::now();
    let plan = plan(options)?;
    println!(
        "{} boards, {} cells, {} rows, {} seeds",
        plan.models.len(),
        plan.cells.len(),
        plan.rows.len(),
        plan.seeds
    );
    for (reason, count) in &plan.drops {
        println!("left out: {count} cells: {reason}");
    }
    for line in &plan.left_out {
        println!("left out: {line}");
    }
    let program = runs::program_key().context("this program's own file")?;
    let mut store = Store::open(&options.out, "runs.jsonl", &program)?;
    let mut least = Store::open(&options.out, "bounds.jsonl", &program)?;
    for note in store.notes.iter().chain(&least.notes) {
        println!("{note}");
    }
    let style = "{bar:40} {pos}/{len} runs, {elapsed}";
    let bar =
        ProgressBar::new(0).with_style(ProgressStyle::with_template(style).context("the bar's template")?);
    let threads = match options.jobs {
        Some(jobs) => usize::from(jobs),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let stands = Ground::new(&plan.models, plan.period, threads, &bar);
    let seeds = plan.seeds;
    let bounds = match options.quick {
        true => vec![None; plan.cells.len()],
        false => bounds::all(&stands, &plan.cells, seeds, &mut least)?,
    };
    let mut hold = |models: &[Model], takes_part: &BTreeSet<usize>, bounds: &[Option<f64>]| {
        let (cells, rows, ready) = (&plan.cells[..], &plan.rows[..], &plan.ready);
        let ground = Ground::new(models, plan.period, threads, &bar);
        let contest = Contest { ground, cells, rows, ready, takes_part, bounds, seeds };
        contest.hold(&mut store)
    };
    let everyone: BTreeSet<usize> = (0..plan.rows.len()).collect();
    let (mut results, mut done) = hold(&plan.models, &everyone, &bounds)?;
    let mut turned = Vec::new();
    let mut held = Vec::new();
    // What could turn is what is claimed: our own rows (or the asked ones) against the primary comparator.
    let claimed: BTreeSet<usize> = rows::claimed(&plan.rows);
    let none = vec![None; plan.cells.len()];
    for change in &plan.changes {
        let (after, more) = hold(&change.apply(&plan.models), &claimed, &none)?;
        done += more;
        let (h, t) = sensitivity::compare(*change, &plan.models, &plan.cells, &plan.rows, &results, &after);
        held.extend(h);
        turned.extend(t);
    }
    for (cell, row) in turned.iter().map(|t: &sensitivity::Turned| t.at) {
        results[cell].undecided.insert(row);
    }
    bar.finish_and_clear();
    println!("{done} runs in {:.1} s, what was there already is not counted", began.elapsed().as_secs_f64());
    tell(&plan, options, &results, &held, &turned)
}

fn tell(
    plan: &Plan,
    options: &Options,
    results: &[CellResult],
    held: &[sensitivity::Held],
    turned: &[sensitivity::Turned],
) -> anyhow::Result<()> {
    let report = Report {
        models: &plan.models,
        cells: &plan.cells,
        rows: &plan.rows,
        results,
        seeds: plan.seeds,
        drops: &plan.drops,
        left_out: &plan.left_out,
    };
    let summaries = report.summaries();
    let tables = report.tables(&summaries);
    println!("{tables}");
    std::fs::write(options.out.join("eval.txt"), &tables)?;
    report.write(&summaries, &options.out)?;
    if !held.is_empty() {
        println!("{}", sensitivity::told(held));
        std::fs::write(options.out.join("sensitivity.json"), serde_json::to_string_pretty(held)? + "\n")?;
        sensitivity::csv(turned, &options.out.join("sensitivity.csv"))?;
    }
    for path in plots::write(&report, &options.out)? {
        println!("written: {}", path.display());
    }
    let costs = cost::measure(&plan.models, &plan.cells, &plan.rows, &plan.ready, plan.period)?;
    println!("{}", cost::told(&costs));
    std::fs::write(options.out.join("costs.json"), serde_json::to_string_pretty(&costs)? + "\n")?;
    println!(
        "written: {}: cells.csv, eval.json, eval.txt, costs.json, runs.jsonl, bounds.jsonl",
        options.out.display()
    );
    Ok(())
}

/// Reads everything and lets every manager start once wherever it will run; the errors of all files at once.
fn plan(options: &Options) -> anyhow::Result<Plan> {
    let mut wrong: Vec<String> = Vec::new();
    let all = SHIPPED.iter().map(|s| s.0.to_owned()).collect();
    let names: Vec<String> = if options.boards.is_empty() { all } else { options.boards.clone() };
    let mut models = Vec::new();
    for name in &names {
        match Model::find(name) {
            Ok(model) => models.push(model),
            Err(e) => wrong.push(e.to_string()),
        }
    }
    let mut read = Vec::new();
    for file in &options.files {
        match Input::read(file) {
            Ok(input) => read.push(input),
            Err(e) => wrong.push(e),
        }
    }
    let blocks: BTreeSet<&str> = read.iter().flat_map(Input::blocks).collect();
    for block in options.blocks.iter().filter(|b| !blocks.contains(b.as_str())) {
        let known: Vec<&str> = blocks.iter().copied().collect();
        wrong.push(format!("--block {block:?}: no grid has it; known: {}", known.join(", ")));
    }
    let shares = options.idle_share.iter().filter(|v| !(0.0..=1.0).contains(*v));
    wrong.extend(shares.map(|v| format!("--idle-share {v}: must be 0 to 1")));
    let powers = options.little_power.iter().filter(|v| !(0.1..=10.0).contains(*v));
    wrong.extend(powers.map(|v| format!("--little-power {v}: must be 0.1 to 10")));
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (mut cells, mut drops) = (Vec::new(), Drops::new());
    for (board, model) in models.iter().enumerate() {
        for input in &read {
            match input {
                Input::Grid(grid) => cells.extend(cells::of_grid(grid, board, model, &mut drops)),
                Input::Scenario(s) => cells.extend(cells::of_scenario(s, board, model, &mut drops)?),
            }
        }
    }
    if !options.blocks.is_empty() {
        cells.retain(|c| c.block == "named" || options.blocks.contains(&c.block));
    }
    anyhow::ensure!(!cells.is_empty(), "no cell is left on {}", names.join(", "));
    let period = Nanos::from_ms(options.period_ms);
    let rows = rows::all(&options.policies, options.quick);
    let (ready, left_out) = prepare(&rows, &models, &cells, period)?;
    let idle = options.idle_share.iter().map(|v| Change::IdleShare(*v));
    let changes = idle.chain(options.little_power.iter().map(|v| Change::LittlePower(*v))).collect();
    Ok(Plan {
        models,
        cells,
        drops,
        rows,
        ready,
        left_out,
        changes,
        seeds: if options.quick { 1 } else { options.seeds },
        period,
    })
}

/// A file that was given.
enum Input {
    Grid(Grid),
    Scenario(Scenario),
}

impl Input {
    fn read(file: &Path) -> Result<Self, String> {
        let text = read_text(file).map_err(|e| e.to_string())?;
        if Grid::is_one(&text) {
            return Grid::parse(file, &text).map(Self::Grid).map_err(|e| e.to_string());
        }
        Scenario::load(file).map(Self::Scenario).map_err(|e| e.to_string())
    }

    fn blocks(&self) -> Vec<&str> {
        match self {
            Self::Grid(grid) => grid.blocks.iter().map(|b| b.name.as_str()).collect(),
            Self::Scenario(_) => vec![],
        }
    }
}

/// Starts every manager in every kind of cell. One of our own list that cannot run is left out, with a line.
fn prepare(
    rows: &[Row],
    models: &[Model],
    cells: &[Cell],
    period: Nanos,
) -> anyhow::Result<(Ready, Vec<String>)> {
    let (mut ready, mut left_out, mut refused) = (Ready::new(), BTreeSet::new(), BTreeSet::new());
    let mut engine = None;
    for (r, row) in rows.iter().enumerate() {
        let What::Policy { spec, asked } = &row.what else { continue };
        let mut note = |e: String| {
            if *asked {
                refused.insert(e)
            } else {
                left_out.insert(format!("row {:?}: {e}", row.name))
            };
        };
        let spec = match Spec::parse(spec) {
            Ok(spec) => spec,
            Err(e) => {
                note(e);
                continue;
            }
        };
        if spec.wasm() && engine.is_none() {
            engine = Some(WasmEngine::new().context("wasmtime")?);
        }
        // Cells of a block differ in numbers; whether a scenario fits its board is known by now.
        let mut tried = BTreeSet::new();
        for cell in cells {
            if !tried.insert((cell.board, &cell.block)) {
                continue;
            }
            let key = (r, cell.board, cell.block.clone());
            match Prepared::new(&spec, &models[cell.board], &cell.scenario.scenario, engine.as_ref(), period)
            {
                Ok(prepared) => drop(ready.insert(key, Arc::new(prepared))),
                Err(e) => note(e.to_string()),
            }
        }
    }
    let refused: Vec<String> = refused.into_iter().collect();
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    Ok((ready, left_out.into_iter().collect()))
}
