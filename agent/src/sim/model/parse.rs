//! Model files: TOML to [`Model`], checked.

use super::{DomainModel, Model, mhz};
use crate::board::parse::BoardError;
use crate::board::{Board, Domain, DomainKind};
use crate::sim::constant::{Constant, Constants, Kind};
use crate::sim::network;
use crate::sim::table::Table;
use crate::toml_errors::{BadToml, Problems, Section, read_text};
use crate::units::DomainId;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The models that come with the program: name, model, table.
pub const SHIPPED: &[(&str, &str)] = &[
    ("hikey960", include_str!("../data/hikey960.toml")),
    ("jetson-agx-xavier", include_str!("../data/jetson-agx-xavier.toml")),
    ("jetson-nano", include_str!("../data/jetson-nano.toml")),
    ("jetson-xavier-nx", include_str!("../data/jetson-xavier-nx.toml")),
    ("odroid-xu3", include_str!("../data/odroid-xu3.toml")),
    ("rk3399", include_str!("../data/rk3399.toml")),
    ("vm-baseline", include_str!("../data/vm-baseline.toml")),
];

/// Tables and boards that shipped models name.
const FILES: &[(&str, &str)] = &[
    ("jetson-agx-xavier.csv", include_str!("../data/jetson-agx-xavier.csv")),
    ("jetson-nano.csv", include_str!("../data/jetson-nano.csv")),
    ("jetson-xavier-nx.csv", include_str!("../data/jetson-xavier-nx.csv")),
    ("odroid-xu3-big.csv", include_str!("../data/odroid-xu3-big.csv")),
    ("vm-baseline-board.toml", include_str!("../data/vm-baseline-board.toml")),
];

/// Constants that every model has: name, unit, lowest and highest value that makes sense.
const GENERAL: [(&str, &str, f64, f64); 10] = [
    ("ambient-c", "C", -40.0, 80.0),
    ("board-mw", "mW", 0.0, 100_000.0),
    ("contention", "share", 0.0, 5.0),
    ("idle-share", "share", 0.0, 1.0),
    ("power-noise", "share", 0.0, 1.0),
    ("service-noise", "share", 0.0, 1.0),
    ("temp-noise-c", "C", 0.0, 20.0),
    ("thermal-c-per-w", "C/W", 0.0, 200.0),
    ("thermal-tau-s", "s", 0.1, 10_000.0),
    ("trip-c", "C", 20.0, 150.0),
];
/// If it has CPUs.
const OF_CPUS: (&str, &str, f64, f64) = ("memory-share", "share", 0.0, 0.95);
/// Of each CPU domain, and of each device.
const OF_CPU_DOMAIN: (&str, &str, f64, f64) = ("work-per-mhz", "relative", 0.001, 100.0);
const OF_DEVICE: (&str, &str, f64, f64) = ("poll-ms", "ms", 1.0, 1000.0);
/// Of a network: what its largest sub-network takes.
const OF_NETWORK: (&str, &str, f64, f64) = ("largest-ms", "ms", 0.01, 100_000.0);

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The model file or a table has errors.
    #[error(transparent)]
    Bad(#[from] BadToml),
    /// The board it is over has.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// No such model.
    #[error(
        "board {name:?}: no model of it; give a model file (a path with `/` or ending in .toml) or one of: {known}"
    )]
    Unknown {
        /// Asked.
        name: String,
        /// All there are.
        known: String,
    },
}

impl Model {
    /// A shipped model by its board's name, or the file of that path.
    ///
    /// # Errors
    /// Every error of the file.
    pub fn find(name: &str) -> Result<Self, ModelError> {
        if name.contains('/') || name.ends_with(".toml") {
            let path = Path::new(name);
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            return Self::parse(&stem, name, &read_text(path)?, path.parent());
        }
        match SHIPPED.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Self::parse(name, &format!("{name}.toml"), text, None),
            None => Err(ModelError::Unknown {
                name: name.into(),
                known: SHIPPED.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Reads a model's text; files it names lie in `beside`, or are shipped.
    ///
    /// # Errors
    /// Every error of the file.
    pub fn parse(name: &str, file: &str, text: &str, beside: Option<&Path>) -> Result<Self, ModelError> {
        let problems = Problems::new(file, text);
        let mut top = problems.root();
        let board = top.need::<String>("board");
        let board = board.map(|b| find_board(b.get_ref(), beside)).transpose()?;
        let apps_on = top.need::<String>("apps-on");
        let thermal_zone = top.opt::<bool>("thermal-zone").is_some_and(Spanned::into_inner);
        let sections = top.sections("domain");
        let mut domains: Vec<(Domain, DomainModel)> = Vec::new();
        for section in sections {
            let Some(board) = &board else { break };
            if let Some(read) = read_domain(section, board, &domains, beside)? {
                domains.push(read);
            }
        }
        if domains.is_empty() {
            top.wrong("no `[[domain]]` of the board is modelled");
        }
        let home = apps_on.as_ref().and_then(|a| domains.iter().position(|(d, _)| d.name == *a.get_ref()));
        if let (Some(a), None) = (&apps_on, home) {
            top.bad(a.span(), "apps-on", "is none of the domains modelled here");
        }
        let constants = read_constants(&mut top, &domains);
        top.close();
        let model = board.zip(home).map(|(board, home)| {
            let left_out = board
                .domains
                .iter()
                .filter(|d| !domains.iter().any(|(m, _)| m.name == d.name))
                .map(|d| d.name.clone());
            let left_out = left_out.collect();
            let (of_board, models) = domains.into_iter().unzip();
            Self {
                name: name.into(),
                board: Board { domains: of_board, ..board },
                apps_on: DomainId(u16::try_from(home).expect("at most 16 domains")),
                domains: models,
                constants,
                thermal_zone,
                left_out,
            }
        });
        Ok(problems.finish(model)?)
    }
}

/// A file named in a model: shipped, or beside it.
fn named(file: &str, beside: Option<&Path>) -> Result<String, BadToml> {
    match (beside, FILES.iter().find(|(n, _)| *n == file)) {
        (None, Some((_, text))) => Ok((*text).to_owned()),
        (beside, _) => read_text(&beside.map_or_else(|| PathBuf::from(file), |b| b.join(file))),
    }
}

fn find_board(name: &str, beside: Option<&Path>) -> Result<Board, ModelError> {
    if name.ends_with(".toml") {
        return Ok(Board::parse(name, &named(name, beside)?)?);
    }
    Ok(Board::find(name)?)
}

fn read_domain(
    mut section: Section<'_>,
    board: &Board,
    before: &[(Domain, DomainModel)],
    beside: Option<&Path>,
) -> Result<Option<(Domain, DomainModel)>, ModelError> {
    let name = section.need::<String>("name");
    if let Some(n) = &name {
        section.call(format!("domain {:?}", n.get_ref()));
        if before.iter().any(|(d, _)| d.name == *n.get_ref()) {
            section.bad(n.span(), "name", "is there twice");
        }
    }
    let domain = name.as_ref().and_then(|n| board.domains.iter().find(|d| d.name == *n.get_ref()));
    if let (Some(n), None) = (&name, domain) {
        let known: Vec<_> = board.domains.iter().map(|d| d.name.as_str()).collect();
        section.bad(n.span(), "name", format_args!("not in the board; it has {}", known.join(", ")));
    }
    let table = section.opt::<String>("table");
    let fit_to = section.opt::<f64>("fit-to-mhz").map_or(f64::INFINITY, Spanned::into_inner);
    let network = section.opt::<String>("network").map(Spanned::into_inner);
    let whole_board = section.opt::<bool>("whole-board").is_some_and(Spanned::into_inner);
    let rail = section.opt::<bool>("rail").is_some_and(Spanned::into_inner);
    let share = section.opt::<f64>("cpus-of-table").map_or(1.0, Spanned::into_inner);
    let Some(domain) = domain.cloned() else { return Ok(None) };
    if domain.kind == DomainKind::CpuBandwidth {
        section.wrong("a share of CPU time is no clock: it cannot be simulated");
    }
    let read = match &table {
        Some(t) => Some(Table::parse(t.get_ref(), &named(t.get_ref(), beside)?)?),
        None => None,
    };
    if let (Some(t), Some(read)) = (&table, &read) {
        covers(&section, t.span(), &domain, read);
    }
    if read.is_none() && domain.cpus.is_empty() {
        section.wrong("a device without a `table`: nothing says what it takes or draws");
    }
    let power = power(&section, &domain, read.as_ref(), share);
    section.close();
    let fit = read.as_ref().and_then(|t| t.fit(fit_to));
    let clients = if domain.cpus.is_empty() { read.as_ref().map_or(1, Table::clients_max) } else { 1 };
    let (power_kind, power_source) = match &table {
        Some(t) => (Kind::Measured, t.get_ref().clone()),
        None => (Kind::Derived, "the board file's energy model".to_owned()),
    };
    let speed_up = (1..=clients).map(|c| read.as_ref().map_or(1.0, |t| t.speed_up(c))).collect();
    let model = DomainModel {
        power,
        power_kind,
        power_source,
        whole_board,
        rail,
        fit,
        fit_to_mhz: fit_to,
        speed_up,
        network,
        table: read,
    };
    Ok(Some((domain, model)))
}

/// Each OPP lies within the table's clocks: nothing is extrapolated.
fn covers(section: &Section<'_>, span: std::ops::Range<usize>, domain: &Domain, table: &Table) {
    let (lo, hi) = table.span();
    for opp in &domain.opps {
        let f = mhz(opp);
        // Boards round their clocks.
        if f < lo - 1.0 || f > hi + 1.0 {
            section.bad(
                span.clone(),
                "table",
                format_args!("a gap: no rows around {f} MHz; it has {lo} to {hi} MHz"),
            );
        }
    }
}

fn power(section: &Section<'_>, domain: &Domain, table: Option<&Table>, share: f64) -> Vec<Vec<f64>> {
    match table {
        Some(t) => {
            let clients = if domain.cpus.is_empty() { t.clients_max() } else { 1 };
            let row = |c| domain.opps.iter().map(|o| t.power_at(c, mhz(o)) * share).collect();
            (1..=clients).map(row).collect()
        }
        None => {
            let mut row = Vec::new();
            for (i, opp) in domain.opps.iter().enumerate() {
                if opp.power.is_none() && !domain.cpus.is_empty() {
                    section.wrong(format_args!(
                        "opp {i} of the board has no `power-mw`, and there is no `table`"
                    ));
                }
                row.push(opp.power.map_or(0.0, |p| f64::from(p.0)));
            }
            vec![row]
        }
    }
}

fn read_constants(top: &mut Section<'_>, domains: &[(Domain, DomainModel)]) -> Constants {
    let mut wanted: Vec<(String, &str, f64, f64)> =
        GENERAL.iter().map(|&(n, unit, lo, hi)| (n.to_owned(), unit, lo, hi)).collect();
    if domains.iter().any(|(d, _)| !d.cpus.is_empty()) {
        wanted.push((OF_CPUS.0.into(), OF_CPUS.1, OF_CPUS.2, OF_CPUS.3));
    }
    for (d, _) in domains {
        let (n, unit, lo, hi) = if d.cpus.is_empty() { OF_DEVICE } else { OF_CPU_DOMAIN };
        wanted.push((format!("{}.{n}", d.name), unit, lo, hi));
    }
    let required = wanted.len();
    for name in network::NAMES {
        let (n, unit, lo, hi) = OF_NETWORK;
        wanted.push((format!("{name}.{n}"), unit, lo, hi));
    }
    let mut found: Vec<Constant> = Vec::new();
    for section in top.sections("constant") {
        found.extend(read_constant(section, &wanted, &found));
    }
    for (name, unit, ..) in &wanted[..required] {
        if !found.iter().any(|c| c.name == *name) {
            top.wrong(format_args!("a gap: no [[constant]] {name:?} ({unit})"));
        }
    }
    Constants(found)
}

fn read_constant(
    mut section: Section<'_>,
    wanted: &[(String, &str, f64, f64)],
    before: &[Constant],
) -> Option<Constant> {
    let name = section.need::<String>("name");
    if let Some(n) = &name {
        section.call(format!("constant {:?}", n.get_ref()));
    }
    let value = section.need::<f64>("value");
    let kind = section.need::<Kind>("kind");
    let range = section.opt::<[f64; 2]>("range");
    let source = section.need::<String>("source");
    let rule = name.as_ref().and_then(|n| wanted.iter().find(|w| w.0 == *n.get_ref()));
    if let Some(n) = &name {
        if rule.is_none() {
            let known: Vec<_> = wanted.iter().map(|w| w.0.as_str()).collect();
            section.bad(n.span(), "name", format_args!("unknown; known: {}", known.join(", ")));
        }
        if before.iter().any(|c| c.name == *n.get_ref()) {
            section.bad(n.span(), "name", "is there twice");
        }
    }
    if let (Some(v), Some((_, unit, lo, hi))) = (&value, rule)
        && !(*lo..=*hi).contains(v.get_ref())
    {
        section.bad(v.span(), "value", format_args!("must be {lo} to {hi} {unit}"));
    }
    match (kind.as_ref().map(|k| *k.get_ref()), &range) {
        (Some(Kind::Assumed), None) => section.wrong("is assumed: give the `range` that can be defended"),
        (Some(Kind::Measured | Kind::Derived), Some(r)) => {
            section.bad(r.span(), "range", "belongs to an assumed constant");
        }
        _ => {}
    }
    if let (Some(r), Some(v)) = (&range, &value) {
        let [lo, hi] = *r.get_ref();
        if !(lo <= *v.get_ref() && *v.get_ref() <= hi && lo < hi) {
            section.bad(r.span(), "range", format_args!("must rise and hold the value {}", v.get_ref()));
        }
    }
    if let Some(s) = source.as_ref().filter(|s| s.get_ref().trim().is_empty()) {
        section.bad(s.span(), "source", "must not be empty");
    }
    section.close();
    Some(Constant {
        name: name?.into_inner(),
        value: value?.into_inner(),
        unit: rule?.1.to_owned(),
        kind: kind?.into_inner(),
        range: range.map(Spanned::into_inner),
        source: source?.into_inner(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../data/odroid-xu3.toml");

    fn refused(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Model::parse("m", "m.toml", &GOOD.replacen(from, to, 1), None).unwrap_err().to_string()
    }

    #[test]
    fn every_shipped_model_is_read_and_every_assumed_constant_has_a_range() {
        for (name, _) in SHIPPED {
            let model = Model::find(name).unwrap_or_else(|e| panic!("{name}:\n{e}"));
            assert_eq!(model.name, *name);
            assert!(model.constants.assumed().count() > 0);
            for c in &model.constants.0 {
                assert_eq!(c.kind == Kind::Assumed, c.range.is_some(), "{name}: {c}");
            }
        }
        let error = Model::find("raspberry").unwrap_err().to_string();
        assert!(error.contains("\"raspberry\"") && error.contains("odroid-xu3"), "{error}");
    }

    #[test]
    fn each_rule_is_told_with_file_line_and_value() {
        for (from, to, message) in [
            (
                "apps-on = \"big\"",
                "apps-on = \"huge\"",
                "apps-on (\"huge\"): is none of the domains modelled here",
            ),
            (
                "name = \"little\"",
                "name = \"tiny\"",
                "domain \"tiny\": name (\"tiny\"): not in the board; it has little, big, gpu",
            ),
            (
                "name = \"idle-share\"",
                "name = \"idle-shard\"",
                "a gap: no [[constant]] \"idle-share\" (share)",
            ),
            (
                "name = \"idle-share\"",
                "name = \"idle-shard\"",
                "constant \"idle-shard\": name (\"idle-shard\"): unknown; known: ambient-c",
            ),
            ("range = [0.0, 0.2]", "", "constant \"idle-share\": is assumed: give the `range`"),
            (
                "range = [0.0, 0.2]",
                "range = [0.1, 0.2]",
                "range ([0.1, 0.2]): must rise and hold the value 0.08",
            ),
            ("value = 0.08", "value = 8.0", "value (8.0): must be 0 to 1 share"),
            (
                "table = \"odroid-xu3-big.csv\"",
                "table = \"jetson-nano.csv\"",
                "table (\"jetson-nano.csv\"): a gap: no rows around 1000 MHz",
            ),
            ("table = \"odroid-xu3-big.csv\"", "table = \"none.csv\"", "none.csv: No such file"),
            ("board = \"odroid-xu3\"", "board = \"odroid\"", "board \"odroid\": not known"),
        ] {
            let got = refused(from, to);
            assert!(got.contains(message), "{from} -> {to}: wanted {message:?}, got:\n{got}");
        }
    }

    #[test]
    fn all_errors_of_a_file_come_at_once() {
        let text =
            GOOD.replace("value = 0.08", "value = 8.0").replace("apps-on = \"big\"", "apps-on = \"huge\"");
        let got = Model::parse("m", "m.toml", &text, None).unwrap_err().to_string();
        assert_eq!(got.lines().count(), 2 + 1, "{got}");
    }

    #[test]
    fn numbers_are_their_sources() {
        // LoudVA, Xavier NX, 1 client: 7.48 + 32.85 / f, worst row 2.3 % off (notes on the data set).
        let nx = Model::find("jetson-xavier-nx").unwrap();
        let fit = nx.domains[0].fit.unwrap();
        assert!((fit.a_ms - 7.48).abs() < 0.01 && (fit.b_ms_ghz - 32.85).abs() < 0.01, "{fit:?}");
        assert!((fit.error.worst - 0.0225).abs() < 0.0005, "{fit:?}");
        // PRiME, A15 at 1600 MHz: 3.689 W.
        let xu3 = Model::find("odroid-xu3").unwrap();
        let big = xu3.board.domain("big").unwrap();
        let at_1600 =
            xu3.board.domains[usize::from(big.0)].opps.iter().position(|o| o.freq.raw == 1_600_000).unwrap();
        assert!((xu3.busy_power(big)[0][at_1600] - 3689.0).abs() < 1.0);
        // Device tree: A7 539, A15 1024 per MHz.
        let little = xu3.board.domain("little").unwrap();
        assert!((xu3.domain_constant(little, "work-per-mhz") - 539.0 / 1024.0).abs() < 1e-3);
    }

    #[test]
    fn half_the_clock_is_twice_the_time_but_for_memory() {
        let xu3 = Model::find("odroid-xu3").unwrap();
        let big = xu3.board.domain("big").unwrap();
        let slow = xu3.with("memory-share", 0.0).slowness(big);
        assert_eq!((slow[8], slow[18]), (2.0, 1.0)); // 1000 and 2000 MHz
        let slow = xu3.with("memory-share", 0.2).slowness(big);
        assert!((slow[8] - 1.8).abs() < 1e-12);
    }
}
