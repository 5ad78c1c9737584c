//! Grid files: a TOML file whose blocks span cells, every combination of their lists. All errors of a file come out at once.
//!
//! The format stands in `docs/policies.md`; `tests/grid.toml` is the one that policies are judged on.

use crate::policy::Objective;
use crate::sim::network::{NAMES, Network};
use crate::toml_errors::{BadToml, Problems, Section};
use crate::units::Nanos;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Spanned;

/// A grid, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// The file's stem.
    pub name: String,
    /// How long each run lasts.
    pub length: Nanos,
    /// As in scenarios.
    pub warm_up: Nanos,
    /// What spans the cells.
    pub blocks: Vec<Block>,
}

/// One block: its cells are all combinations of its lists, and one per published point of the (first) network.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Unique.
    pub name: String,
    /// The first application's network and stream.
    pub networks: Networks,
    /// Its streams.
    pub streams: Vec<Load>,
    /// The second application, if there is one.
    pub second: Option<(Networks, Load)>,
    /// Where two run; one entry for one application.
    pub places: Vec<Place>,
    /// Latency target, thousandths of the period.
    pub deadlines: Vec<u32>,
    /// Who disturbs.
    pub co_runners: Vec<CoRun>,
    /// Cap from outside, thousandths of the top clock; 1000 = none.
    pub caps: Vec<u16>,
    /// What is wanted.
    pub objectives: Vec<Objective>,
}

/// Which network runs on a board whose applications run on CPUs, and which on a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Networks {
    /// On CPUs.
    pub cpu: Network,
    /// On a GPU.
    pub gpu: Network,
}

/// A periodic stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Hz
    pub rate: f64,
    /// What the largest sub-network takes alone at the board's top OPP, thousandths of the period.
    pub permille: u32,
}

impl Load {
    /// 1 / rate
    pub fn period(&self) -> Nanos {
        Nanos::from_secs(1.0 / self.rate)
    }

    /// What the largest sub-network takes.
    pub fn largest(&self) -> Nanos {
        Nanos::from_secs(f64::from(self.permille) / 1000.0 / self.rate)
    }
}

/// Where two applications run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A CPU each, one clock.
    OneDomain,
    /// Both on one CPU.
    OneCpu,
    /// The second begins on another CPU domain.
    TwoDomains,
}

/// A busy thread all the time, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoRun {
    /// Nobody.
    None,
    /// On the first application's CPU.
    SameCpu,
    /// On a CPU of its domain that no application has; on a device: a second job in flight.
    OtherCpu,
}

impl Grid {
    /// Whether a text is a grid's rather than a scenario's: it has blocks.
    pub fn is_one(text: &str) -> bool {
        text.parse::<toml::Table>().is_ok_and(|t| t.contains_key("block"))
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BadToml> {
        let file = path.display().to_string();
        let problems = Problems::new(&file, text);
        let mut top = problems.root();
        top.need::<String>("about");
        let length = seconds(&mut top, "length-s", 0.1, 86_400.0);
        let warm_up = seconds(&mut top, "warm-up-s", 0.0, length.map_or(86_400.0, |l| l.as_secs() * 0.9));
        let mut blocks: Vec<Block> = Vec::new();
        let sections = top.sections("block");
        if sections.is_empty() {
            top.wrong("no `[[block]]`: a grid has at least one");
        }
        for section in sections {
            blocks.extend(block(section, &blocks));
        }
        top.close();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let grid = length.zip(warm_up).map(|(length, warm_up)| Self { name, length, warm_up, blocks });
        problems.finish(grid)
    }
}

fn seconds(section: &mut Section<'_>, key: &'static str, lo: f64, hi: f64) -> Option<Nanos> {
    let value = section.need::<f64>(key)?;
    if !(lo..=hi).contains(value.get_ref()) {
        section.bad(value.span(), key, format_args!("must be {lo} to {hi}"));
        return None;
    }
    Some(Nanos::from_secs(value.into_inner()))
}

fn block(mut section: Section<'_>, before: &[Block]) -> Option<Block> {
    let name = section.need::<String>("name");
    if let Some(n) = &name {
        section.call(format!("block {:?}", n.get_ref()));
        if before.iter().any(|b| b.name == *n.get_ref()) {
            section.bad(n.span(), "name", "is there twice; names are unique");
        }
    }
    let networks = networks(&mut section);
    let streams: Vec<Load> = section.sections("streams").into_iter().filter_map(load).collect();
    if streams.is_empty() {
        section.wrong("no `streams`, e.g. streams = [{ rate-hz = 30.0, load-permille = 500 }]");
    }
    if let Some(f) = section.need::<String>("floors").filter(|f| f.get_ref() != "every") {
        section.bad(f.span(), "floors", "must be \"every\": one cell per published point of the network");
    }
    let second = section.section("second").map(|mut inner| {
        let networks = self::networks(&mut inner);
        Some((networks?, load(inner)?))
    });
    let places = match second {
        Some(_) => list(&mut section, "places", |_| true, ""),
        None => Some(vec![Place::OneDomain]),
    };
    let deadlines = list(&mut section, "deadline-permille", |d| (1..=100_000).contains(d), "1 to 100000");
    let co_runners = list(&mut section, "co-runners", |_| true, "");
    let caps = list(&mut section, "caps-permille", |c| (1..=1000).contains(c), "1 to 1000");
    let objectives = list(&mut section, "objectives", |_| true, "");
    section.close();
    Some(Block {
        name: name?.into_inner(),
        networks: networks?,
        streams,
        second: match second {
            None => None,
            Some(read) => Some(read?),
        },
        places: places?,
        deadlines: deadlines?,
        co_runners: co_runners?,
        caps: caps?,
        objectives: objectives?,
    })
}

/// A list: not empty, nothing twice, every value allowed.
fn list<T: DeserializeOwned + PartialEq>(
    section: &mut Section<'_>,
    key: &'static str,
    allowed: impl Fn(&T) -> bool,
    rule: &str,
) -> Option<Vec<T>> {
    let values = section.need::<Vec<T>>(key)?;
    let all = values.get_ref();
    if all.is_empty() {
        section.bad(values.span(), key, "must not be empty");
    } else if !all.iter().all(allowed) {
        section.bad(values.span(), key, format_args!("each must be {rule}"));
    } else if (1..all.len()).any(|i| all[..i].contains(&all[i])) {
        section.bad(values.span(), key, "names a value twice");
    }
    Some(values.into_inner())
}

fn networks(section: &mut Section<'_>) -> Option<Networks> {
    let Some(mut inner) = section.section("network") else {
        section.wrong(
            "`network` is missing, e.g. network = { cpu = \"us-mobilenet-v1\", gpu = \"dynamic-ofa-6\" }",
        );
        return None;
    };
    let cpu = network(&mut inner, "cpu");
    let gpu = network(&mut inner, "gpu");
    inner.close();
    Some(Networks { cpu: cpu?, gpu: gpu? })
}

fn network(section: &mut Section<'_>, key: &'static str) -> Option<Network> {
    let name = section.need::<String>(key)?;
    let found = Network::find(name.get_ref());
    if found.is_none() {
        section.bad(name.span(), key, format_args!("not known; known: {}", NAMES.join(", ")));
    }
    found
}

/// The rest of a section is a stream.
fn load(mut section: Section<'_>) -> Option<Load> {
    let rate = section.need::<f64>("rate-hz");
    if let Some(r) = rate.as_ref().filter(|r| !(0.01..=1000.0).contains(r.get_ref())) {
        section.bad(r.span(), "rate-hz", "must be 0.01 to 1000");
    }
    let permille = section.need::<u32>("load-permille");
    if let Some(p) = permille.as_ref().filter(|p| !(1..=10_000).contains(p.get_ref())) {
        section.bad(p.span(), "load-permille", "must be 1 to 10000");
    }
    section.close();
    Some(Load { rate: rate.map(Spanned::into_inner)?, permille: permille.map(Spanned::into_inner)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: &str = include_str!("../../../../tests/grid.toml");

    fn read(text: &str) -> Result<Grid, String> {
        Grid::parse(Path::new("tests/g.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_committed_grid_is_read_as_it_stands() {
        assert!(Grid::is_one(GRID));
        let grid = read(GRID).unwrap();
        assert_eq!((grid.length, grid.warm_up), (Nanos::from_ms(12_000), Nanos::from_ms(4000)));
        let [one, deadline, two] = &grid.blocks[..] else { panic!("{} blocks", grid.blocks.len()) };
        assert_eq!((one.streams.len(), one.co_runners.len(), one.caps.len()), (3, 3, 2));
        assert_eq!(one.streams[2].largest(), Nanos::from_ms(50));
        assert_eq!(deadline.deadlines, [600, 2000]);
        let (networks, load) = two.second.as_ref().unwrap();
        assert_eq!(
            (networks.cpu.name, load.period(), load.largest()),
            ("dynamic-ofa-6", Nanos::from_ms(200), Nanos::from_ms(80))
        );
        assert_eq!(two.places, [Place::OneDomain, Place::OneCpu, Place::TwoDomains]);
        assert_eq!((one.objectives.len(), &two.objectives[..]), (3, &[Objective::Energy][..]));
    }

    #[test]
    fn each_rule_is_told_with_file_line_and_value() {
        for (from, to, message) in [
            ("length-s = 12.0", "length-s = 0.0", "tests/g.toml:7: length-s (0.0): must be 0.1 to 86400"),
            ("warm-up-s = 4.0", "warm-up-s = 11.0", "tests/g.toml:8: warm-up-s (11.0): must be 0 to 10.8"),
            ("name = \"deadline\"", "name = \"one\"", "block \"one\": name (\"one\"): is there twice"),
            (
                "cpu = \"us-mobilenet-v1\"",
                "cpu = \"resnet\"",
                "block \"one\": network: cpu (\"resnet\"): not known; known: dynamic-ofa-6",
            ),
            (
                "rate-hz = 30.0, load-permille = 500",
                "rate-hz = 0.0, load-permille = 500",
                "streams: rate-hz (0.0): must be 0.01 to 1000",
            ),
            (
                "floors = \"every\"",
                "floors = \"some\"",
                "block \"one\": floors (\"some\"): must be \"every\"",
            ),
            (
                "deadline-permille = [1000]",
                "deadline-permille = [0]",
                "deadline-permille ([0]): each must be 1 to 100000",
            ),
            (
                "co-runners = [\"none\", \"same-cpu\", \"other-cpu\"]",
                "co-runners = [\"nobody\"]",
                "co-runners (\"nobody\"): unknown variant `nobody`",
            ),
            (
                "caps-permille = [1000, 700]",
                "caps-permille = [700, 700]",
                "caps-permille ([700, 700]): names a value twice",
            ),
            (
                "objectives = [\"energy\", \"latency\", \"accuracy\"]",
                "objectives = []",
                "objectives ([]): must not be empty",
            ),
            ("places = ", "palces = ", "block \"two\": `places` is missing"),
            ("streams = [", "strems = [", "block \"one\": unknown key `strems`"),
        ] {
            assert!(GRID.contains(from), "{from}");
            let got = read(&GRID.replacen(from, to, 1)).unwrap_err();
            assert!(got.contains(message), "{from} -> {to}: wanted {message:?}, got:\n{got}");
        }
        // A block with one application has no places.
        let text = GRID.replacen("floors = \"every\"", "floors = \"every\"\nplaces = [\"one-cpu\"]", 1);
        assert!(read(&text).unwrap_err().contains("unknown key `places`"));
    }
}
