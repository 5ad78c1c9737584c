//! `tandem sim SCENARIO --board B --policy P...`: a table, JSON, CSV and a time line per policy.
//!
//! Everything that can refuse does so before anything runs; the same arguments give the same bytes.

use super::compare::{Comparison, compare, runs};
use super::machine::Book;
use super::model::Model;
use super::outcome::Outcome;
use super::policies::Spec;
use super::report;
use super::run::Prepared;
use super::scenario::Scenario;
use crate::policy::wasm::WasmEngine;
use crate::units::Nanos;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// What `tandem sim` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A scenario file (`tests/scenarios` has some).
    #[arg(required_unless_present = "fit")]
    pub scenario: Option<PathBuf>,
    /// The board: a shipped model's name or a model file.
    #[arg(long)]
    pub board: String,
    /// What governs, one or several; the first is what the others are compared with. `kernel:schedutil?subnet=2`,
    /// `tandem`, `ondemand+fixed?tuner.subnet=1`, `a.wasm+b.wasm?weight-max=800`.
    #[arg(long = "policy", num_args = 1.., required_unless_present = "fit")]
    pub policies: Vec<String>,
    /// Where the report goes.
    #[arg(long, default_value = "target/sim")]
    pub out: PathBuf,
    /// Length of a tick, ms.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub period_ms: u64,
    /// Do not try the ends of the assumed constants' ranges.
    #[arg(long)]
    pub quick: bool,
    /// Only show how well the board's curves fit the measured rows.
    #[arg(long)]
    pub fit: bool,
}

/// Runs it.
///
/// # Errors
/// A file has errors, something does not fit the board, or a policy failed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.fit {
        let model = Model::find(&options.board)?;
        println!("{}", report::fits(&model));
        return Ok(());
    }
    let (model, scenario, specs) = read(options)?;
    let period = Nanos::from_ms(options.period_ms);
    let engine =
        if specs.iter().any(Spec::wasm) { Some(WasmEngine::new().context("wasmtime")?) } else { None };
    // All that refuse, at once.
    let (ready, refused): (Vec<_>, Vec<_>) = specs
        .iter()
        .map(|s| Prepared::new(s, &model, &scenario, engine.as_ref(), period))
        .partition(Result::is_ok);
    let refused: Vec<String> = refused.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    let policies: Vec<Prepared> = ready.into_iter().filter_map(Result::ok).collect();

    let again = if options.quick || policies.len() < 2 { 0 } else { runs(policies.len(), &model, &scenario) };
    let bar = ProgressBar::new((policies.len() + again) as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {elapsed}").context("the bar's template")?,
    );
    let mut books: Vec<Book> = Vec::new();
    for policy in &policies {
        books.push(policy.run(&model, &scenario, period, |_| ())?);
        bar.inc(1);
    }
    let outcomes: Vec<Outcome> =
        policies.iter().zip(&books).map(|(p, b)| Outcome::of(&p.text, &model, &scenario, b)).collect();
    let comparisons: Vec<Comparison> =
        if again == 0 { vec![] } else { compare(&policies, &model, &scenario, period, || bar.inc(1))? };
    bar.finish_and_clear();
    let result =
        report::Report { model: &model, scenario: &scenario, outcomes: &outcomes, comparisons: &comparisons };
    println!("{result}");
    for path in result.write(&books, &options.out)? {
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Scenario, board and policies; the errors of all of them at once.
fn read(options: &Options) -> anyhow::Result<(Model, Scenario, Vec<Spec>)> {
    let mut wrong: Vec<String> = Vec::new();
    let mut note = |e: String| wrong.push(e);
    let model = Model::find(&options.board).map_err(|e| note(e.to_string())).ok();
    let file = options.scenario.clone().unwrap_or_default();
    let scenario = Scenario::load(&file).map_err(|e| note(e.to_string())).ok();
    let specs: Vec<Spec> = options
        .policies
        .iter()
        .filter_map(|p| Spec::parse(p).map_err(|e| note(format!("policy {e}"))).ok())
        .collect();
    match (model, scenario) {
        (Some(model), Some(scenario)) if wrong.is_empty() => Ok((model, scenario, specs)),
        _ => anyhow::bail!("{}", wrong.join("\n")),
    }
}
