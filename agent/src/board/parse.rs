//! Board files: TOML to [`Board`], checked. All errors of a file come out at once.

use super::{Board, BoardLimits, Domain, DomainKind, MAX_DOMAINS, MAX_OPPS, Opp};
use crate::toml_errors::{BadToml, Problems, Section, read_text};
use crate::units::{Freq, FreqUnit, Microvolts, MilliCelsius, Milliwatts, Nanos};
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// The boards that come with the program, by name.
pub const SHIPPED: &[(&str, &str)] = &[
    ("hikey960", include_str!("../../boards/hikey960.toml")),
    ("host-bandwidth", include_str!("../../boards/host-bandwidth.toml")),
    ("jetson-agx-xavier", include_str!("../../boards/jetson-agx-xavier.toml")),
    ("jetson-nano", include_str!("../../boards/jetson-nano.toml")),
    ("jetson-xavier-nx", include_str!("../../boards/jetson-xavier-nx.toml")),
    ("odroid-xu3", include_str!("../../boards/odroid-xu3.toml")),
    ("rk3399", include_str!("../../boards/rk3399.toml")),
    ("vm-default", include_str!("../../boards/vm-default.toml")),
];

/// The highest CPU number a board may name: the kernel's own limit (`NR_CPUS` of x86) is 8192.
const MAX_CPU: u32 = 8191;
/// Ten minutes: no dwell time or transition is longer, and no sum overflows.
const MAX_US: u64 = 600_000_000;

/// Why there is no board.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The file has errors.
    #[error(transparent)]
    Bad(#[from] BadToml),
    /// No such board.
    #[error("board {name:?}: not known; give a file (a path with `/` or ending in .toml) or one of: {known}")]
    Unknown {
        /// Asked.
        name: String,
        /// All there are.
        known: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    Cpufreq,
    Devfreq,
    CpuBandwidth,
}

impl RawKind {
    fn name(self) -> &'static str {
        match self {
            Self::Cpufreq => "cpufreq",
            Self::Devfreq => "devfreq",
            Self::CpuBandwidth => "cpu-bandwidth",
        }
    }
    fn unit(self) -> FreqUnit {
        match self {
            Self::Cpufreq => FreqUnit::Khz,
            Self::Devfreq => FreqUnit::Hz,
            Self::CpuBandwidth => FreqUnit::Permille,
        }
    }
}

impl Board {
    /// A shipped board by its name, or the file of that path (with a `/`, or ending in `.toml`).
    pub fn find(name: &str) -> Result<Self, BoardError> {
        if name.contains('/') || name.ends_with(".toml") {
            return Ok(Self::parse(name, &read_text(Path::new(name))?)?);
        }
        match SHIPPED.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Ok(Self::parse(&format!("{name}.toml"), text)?),
            None => Err(BoardError::Unknown {
                name: name.into(),
                known: SHIPPED.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Reads a board file's text; `file` is for the messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, BadToml> {
        let problems = Problems::new(file, text);
        let mut top = problems.root();
        let name = top.need::<String>("name");
        let source = top.need::<String>("source");
        for (key, value) in [("name", &name), ("source", &source)] {
            if let Some(v) = value
                && v.get_ref().trim().is_empty()
            {
                top.bad(v.span(), key, "must not be empty");
            }
        }
        let limits = top.section("limits").map_or_else(none, read_limits);
        let sections = top.sections("domain");
        let domains = read_domains(&top, sections);
        top.close();
        problems.finish(name.map(|n| Self { name: n.into_inner(), domains, limits }))
    }
}

const fn none() -> BoardLimits {
    BoardLimits { temp_max: None, min_dwell: Nanos(0) }
}

fn read_limits(mut section: Section<'_>) -> BoardLimits {
    let temp = section.opt::<i32>("temp-max-mc");
    if let Some(t) = temp.as_ref().filter(|t| !(20_000..=150_000).contains(t.get_ref())) {
        section.bad(t.span(), "temp-max-mc", "must be 20000 to 150000 (thousandths of a degree Celsius)");
    }
    let dwell = section.opt::<u64>("min-dwell-ms");
    if let Some(d) = dwell.as_ref().filter(|d| *d.get_ref() > MAX_US / 1000) {
        section.bad(d.span(), "min-dwell-ms", format_args!("must be at most {} ms", MAX_US / 1000));
    }
    section.close();
    BoardLimits {
        temp_max: temp.map(|t| MilliCelsius(t.into_inner())),
        min_dwell: Nanos::from_ms(dwell.map_or(0, |d| d.into_inner().min(MAX_US / 1000))),
    }
}

/// What must be unique in a board.
#[derive(Default)]
struct Seen {
    names: Vec<String>,
    policies: Vec<u32>,
    devices: Vec<String>,
    clocked_cpus: Vec<u32>,
    bandwidth: bool,
}

fn read_domains(top: &Section<'_>, sections: Vec<Section<'_>>) -> Vec<Domain> {
    match sections.len() {
        0 => top.wrong("no `[[domain]]`: a board has at least one"),
        n if n > MAX_DOMAINS => {
            sections[MAX_DOMAINS].wrong(format_args!("{n} domains: at most {MAX_DOMAINS} are allowed"));
        }
        _ => {}
    }
    let mut seen = Seen::default();
    sections.into_iter().filter_map(|s| read_domain(s, &mut seen)).collect()
}

fn read_domain(mut section: Section<'_>, seen: &mut Seen) -> Option<Domain> {
    let name = section.need::<String>("name");
    if let Some(n) = &name {
        section.call(format!("domain {:?}", n.get_ref()));
        if n.get_ref().trim().is_empty() {
            section.bad(n.span(), "name", "must not be empty");
        }
        if seen.names.contains(n.get_ref()) {
            section.bad(n.span(), "name", "another domain has this name; names are unique");
        }
        seen.names.push(n.get_ref().clone());
    }
    let raw_kind = section.need::<RawKind>("kind").map(Spanned::into_inner);
    let kind = read_kind(&mut section, raw_kind, seen);
    let cpus = read_cpus(&mut section, raw_kind, seen);
    let latency = section.opt::<u64>("transition-latency-us");
    if let Some(l) = latency.as_ref().filter(|l| *l.get_ref() > MAX_US) {
        section.bad(l.span(), "transition-latency-us", format_args!("must be at most {MAX_US} us"));
    }
    let opps = read_opps(&mut section, raw_kind);
    section.close();
    Some(Domain {
        name: name?.into_inner(),
        kind: kind?,
        cpus,
        opps,
        transition_latency: Nanos(latency.map_or(0, |l| l.into_inner().min(MAX_US)) * 1000),
    })
}

fn read_kind(section: &mut Section<'_>, kind: Option<RawKind>, seen: &mut Seen) -> Option<DomainKind> {
    let policy = section.opt::<u32>("policy");
    let device = section.opt::<String>("device");
    let kind = kind?;
    if let Some(p) = policy.as_ref().filter(|_| kind != RawKind::Cpufreq) {
        section.bad(p.span(), "policy", format_args!("belongs to kind cpufreq, this is {}", kind.name()));
    }
    if let Some(d) = device.as_ref().filter(|_| kind != RawKind::Devfreq) {
        section.bad(d.span(), "device", format_args!("belongs to kind devfreq, this is {}", kind.name()));
    }
    match kind {
        RawKind::Cpufreq => {
            let Some(p) = policy else {
                section
                    .wrong("kind cpufreq needs `policy`, the N of /sys/devices/system/cpu/cpufreq/policyN");
                return None;
            };
            if seen.policies.contains(p.get_ref()) {
                section.bad(p.span(), "policy", "another domain has this policy");
            }
            seen.policies.push(*p.get_ref());
            Some(DomainKind::Cpufreq { policy: p.into_inner() })
        }
        RawKind::Devfreq => {
            let Some(d) = device else {
                section.wrong("kind devfreq needs `device`, a folder name of /sys/class/devfreq");
                return None;
            };
            // It becomes part of a path that a privileged process writes to.
            if d.get_ref().is_empty() || d.get_ref().starts_with('.') || d.get_ref().contains(['/', '\0']) {
                section.bad(
                    d.span(),
                    "device",
                    "must be a folder name of /sys/class/devfreq: no `/`, no leading `.`",
                );
            }
            if seen.devices.contains(d.get_ref()) {
                section.bad(d.span(), "device", "another domain has this device");
            }
            seen.devices.push(d.get_ref().clone());
            Some(DomainKind::Devfreq { device: d.into_inner() })
        }
        RawKind::CpuBandwidth => {
            if seen.bandwidth {
                section
                    .wrong("a second domain of kind cpu-bandwidth; there is one limit for all applications");
            }
            seen.bandwidth = true;
            Some(DomainKind::CpuBandwidth)
        }
    }
}

fn read_cpus(section: &mut Section<'_>, kind: Option<RawKind>, seen: &mut Seen) -> Vec<u32> {
    let cpus = section.opt::<Vec<u32>>("cpus");
    let Some(kind) = kind else { return vec![] };
    let Some(cpus) = cpus else {
        if kind != RawKind::Devfreq {
            section.wrong(format_args!("kind {} needs `cpus`, a list of CPU numbers", kind.name()));
        }
        return vec![];
    };
    let span = cpus.span();
    let mut cpus = cpus.into_inner();
    let count = cpus.len();
    cpus.sort_unstable();
    cpus.dedup();
    if count == 0 && kind != RawKind::Devfreq {
        section.bad(span, "cpus", "must not be empty");
    } else if cpus.len() < count {
        section.bad(span, "cpus", "names a CPU twice");
    } else if let Some(big) = cpus.last().filter(|c| **c > MAX_CPU) {
        section.bad(span, "cpus", format_args!("{big} is above {MAX_CPU}, the highest CPU number"));
    } else if kind == RawKind::Cpufreq {
        if let Some(twice) = cpus.iter().find(|c| seen.clocked_cpus.contains(c)) {
            section.bad(
                span,
                "cpus",
                format_args!("CPU {twice} is in another cpufreq domain; it has one clock"),
            );
        }
        seen.clocked_cpus.extend(&cpus);
    }
    cpus
}

fn read_opps(section: &mut Section<'_>, kind: Option<RawKind>) -> Vec<Opp> {
    // The list first: whether it is there at all, and where it is.
    let sections = section.sections("opps");
    match sections.len() {
        0 => section.wrong("`opps` is missing or empty; list 1 to 64, e.g. opps = [{ freq = 400000 }]"),
        n if n > MAX_OPPS => {
            section.bad(
                sections[MAX_OPPS].span(),
                "opps",
                format_args!("{n} OPPs: at most {MAX_OPPS} are allowed"),
            );
        }
        _ => {}
    }
    let unit = kind.map_or(FreqUnit::Khz, RawKind::unit);
    let unit_name = match unit {
        FreqUnit::Khz => "kHz",
        FreqUnit::Hz => "Hz",
        FreqUnit::Permille => "permille",
    };
    let mut opps: Vec<Opp> = Vec::with_capacity(sections.len());
    for (i, mut one) in sections.into_iter().enumerate() {
        one.call(format!("{}: opp {i}", section.name()));
        let freq = one.need::<u64>("freq");
        let volt = one.opt::<u32>("volt-uv").map(Spanned::into_inner);
        let power = one.opt::<u32>("power-mw").map(Spanned::into_inner);
        if let Some(freq) = freq {
            let (span, raw) = (freq.span(), freq.into_inner());
            if raw == 0 {
                one.bad(span, "freq", "must be above 0");
            } else if unit == FreqUnit::Permille && raw > 1000 {
                one.bad(span, "freq", "must be at most 1000 permille of the CPUs' time");
            } else if let Some(last) = opps.last().filter(|l| l.freq.raw >= raw) {
                let rule = if last.freq.raw == raw { "is the same as" } else { "is below" };
                let last = last.freq.raw;
                one.bad(
                    span,
                    "freq",
                    format_args!("{rule} the one before ({last} {unit_name}); list OPPs by rising frequency"),
                );
            }
            let (volt, power) = (volt.map(Microvolts), power.map(Milliwatts));
            opps.push(Opp { freq: Freq { raw, unit }, volt, power });
        }
        one.close();
    }
    opps
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "b"
source = "measured here"
[limits]
temp-max-mc = 85000
min-dwell-ms = 20
[[domain]]
name = "big"
kind = "cpufreq"
policy = 4
cpus = [5, 4]
transition-latency-us = 140
opps = [{ freq = 200000, volt-uv = 900000, power-mw = 201 }, { freq = 905250 }]
[[domain]]
name = "gpu"
kind = "devfreq"
device = "ff9a0000.gpu"
opps = [{ freq = 297000001 }]
"#;

    /// The messages for `GOOD` with `from` replaced by `to`.
    fn refused(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Board::parse("b.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn a_good_board_is_read_as_it_stands() {
        let board = Board::parse("b.toml", GOOD).unwrap();
        let khz = |raw| Freq { raw, unit: FreqUnit::Khz };
        assert_eq!(board.domains[0].kind, DomainKind::Cpufreq { policy: 4 });
        assert_eq!(board.domains[0].cpus, [4, 5]);
        assert_eq!(board.domains[0].transition_latency, Nanos(140_000));
        let first = Opp { freq: khz(200_000), volt: Some(Microvolts(900_000)), power: Some(Milliwatts(201)) };
        assert_eq!(board.domains[0].opps, [first, Opp { freq: khz(905_250), volt: None, power: None }]);
        assert_eq!(board.domains[1].opps[0].freq, Freq { raw: 297_000_001, unit: FreqUnit::Hz });
        assert_eq!(
            board.limits,
            BoardLimits { temp_max: Some(MilliCelsius(85_000)), min_dwell: Nanos(20_000_000) }
        );
    }

    #[test]
    fn each_rule_is_told_with_file_line_and_value() {
        for (from, to, message) in [
            (
                "freq = 905250",
                "freq = 100000",
                "b.toml:13: domain \"big\": opp 1: freq (100000): is below the one before (200000 kHz); list OPPs by rising frequency",
            ),
            (
                "freq = 905250",
                "freq = 200000",
                "b.toml:13: domain \"big\": opp 1: freq (200000): is the same as the one before (200000 kHz); list OPPs by rising frequency",
            ),
            (
                "freq = 905250",
                "freq = -1",
                "b.toml:13: domain \"big\": opp 1: freq (-1): invalid value: integer `-1`, expected u64",
            ),
            (
                "freq = 905250",
                "frequency = 905250",
                "b.toml:13: domain \"big\": opp 1: `freq` is missing\nb.toml:13: domain \"big\": opp 1: unknown key `frequency`; known here: freq, power-mw, volt-uv",
            ),
            (
                "name = \"gpu\"",
                "name = \"big\"",
                "b.toml:15: domain \"big\": name (\"big\"): another domain has this name; names are unique",
            ),
            (
                "policy = 4",
                "polcy = 4",
                "b.toml:7: domain \"big\": kind cpufreq needs `policy`, the N of /sys/devices/system/cpu/cpufreq/policyN\nb.toml:10: domain \"big\": unknown key `polcy`; known here: cpus, device, kind, name, opps, policy, transition-latency-us",
            ),
            (
                "kind = \"cpufreq\"",
                "kind = \"cpu\"",
                "b.toml:9: domain \"big\": kind (\"cpu\"): unknown variant `cpu`, expected one of `cpufreq`, `devfreq`, `cpu-bandwidth`",
            ),
            (
                "device = \"ff9a0000.gpu\"",
                "device = \"../gpu\"",
                "b.toml:17: domain \"gpu\": device (\"../gpu\"): must be a folder name of /sys/class/devfreq: no `/`, no leading `.`",
            ),
            (
                "device = \"ff9a0000.gpu\"",
                "policy = 0",
                "b.toml:17: domain \"gpu\": policy (0): belongs to kind cpufreq, this is devfreq\nb.toml:14: domain",
            ),
            ("cpus = [5, 4]", "cpus = [5, 5]", "b.toml:11: domain \"big\": cpus ([5, 5]): names a CPU twice"),
            ("cpus = [5, 4]", "cpus = []", "b.toml:11: domain \"big\": cpus ([]): must not be empty"),
            (
                "cpus = [5, 4]",
                "",
                "b.toml:7: domain \"big\": kind cpufreq needs `cpus`, a list of CPU numbers",
            ),
            (
                "cpus = [5, 4]",
                "cpus = [99999]",
                "b.toml:11: domain \"big\": cpus ([99999]): 99999 is above 8191, the highest CPU number",
            ),
            (
                "opps = [{ freq = 297000001 }]",
                "opps = []",
                "b.toml:14: domain \"gpu\": `opps` is missing or empty; list 1 to 64",
            ),
            (
                "temp-max-mc = 85000",
                "temp-max-mc = 85",
                "b.toml:5: limits: temp-max-mc (85): must be 20000 to 150000 (thousandths of a degree Celsius)",
            ),
            (
                "min-dwell-ms = 20",
                "min-dwell-ms = 9999999999",
                "b.toml:6: limits: min-dwell-ms (9999999999): must be at most 600000 ms",
            ),
            (
                "transition-latency-us = 140",
                "transition-latency-us = 18446744073709551615",
                "b.toml:12: domain \"big\": transition-latency-us (18446744073709551615): must be at most",
            ),
            ("source = \"measured here\"", "", "b.toml:1: `source` is missing"),
        ] {
            let got = refused(from, to);
            for line in message.lines() {
                assert!(got.contains(line), "{from} -> {to}: wanted {line:?}, got:\n{got}");
            }
        }
    }

    #[test]
    fn all_errors_of_a_file_come_at_once_by_line() {
        let text = GOOD.replace("905250", "1").replace("85000", "1").replace("kind = \"devfreq\"", "kid = 1");
        let message = Board::parse("b.toml", &text).unwrap_err().to_string();
        let lines: Vec<u32> =
            message.lines().map(|l| l.split(':').nth(1).unwrap().parse().unwrap()).collect();
        assert_eq!(lines, [5, 13, 14, 16], "{message}");
    }

    #[test]
    fn an_empty_and_a_huge_board_are_refused() {
        let empty = Board::parse("e.toml", "").unwrap_err().to_string();
        assert!(empty.contains("`name` is missing") && empty.contains("no `[[domain]]`"), "{empty}");
        let opps: Vec<String> = (1..=65).map(|f| format!("{{ freq = {f} }}")).collect();
        let many = refused("opps = [{ freq = 297000001 }]", &format!("opps = [{}]", opps.join(", ")));
        assert!(many.contains("65 OPPs: at most 64 are allowed"), "{many}");
        let domain = |i| {
            format!(
                "[[domain]]\nname = \"d{i}\"\nkind = \"devfreq\"\ndevice = \"d{i}\"\nopps = [{{ freq = 1 }}]\n"
            )
        };
        let domains: String = (0..15).map(domain).collect();
        let many = Board::parse("b.toml", &format!("{GOOD}{domains}")).unwrap_err().to_string();
        assert!(many.contains("17 domains: at most 16 are allowed"), "{many}");
        assert!(
            Board::parse("b.toml", &format!("{GOOD}{}", (0..14).map(domain).collect::<String>())).is_ok()
        );
    }

    #[test]
    fn one_thing_belongs_to_one_domain() {
        let two = |second: &str| Board::parse("b.toml", &format!("{GOOD}{second}")).unwrap_err().to_string();
        let cpu = two(
            "[[domain]]\nname = \"x\"\nkind = \"cpufreq\"\npolicy = 4\ncpus = [5]\nopps = [{ freq = 1 }]",
        );
        assert!(
            cpu.contains("policy (4): another domain has this policy") && cpu.contains("CPU 5 is in another"),
            "{cpu}"
        );
        let gpu = two(
            "[[domain]]\nname = \"x\"\nkind = \"devfreq\"\ndevice = \"ff9a0000.gpu\"\nopps = [{ freq = 1 }]",
        );
        assert!(gpu.contains("another domain has this device"), "{gpu}");
        let share = |n| {
            format!(
                "[[domain]]\nname = \"{n}\"\nkind = \"cpu-bandwidth\"\ncpus = [5]\nopps = [{{ freq = 1001 }}]\n"
            )
        };
        let both = two(&(share("x") + &share("y")));
        assert!(
            both.contains("a second domain of kind cpu-bandwidth") && both.contains("at most 1000 permille"),
            "{both}"
        );
    }

    #[test]
    fn every_shipped_board_is_read_and_an_unknown_one_lists_them() {
        for (name, _) in SHIPPED {
            let board = Board::find(name).unwrap();
            assert_eq!(board.name, *name);
        }
        let error = Board::find("raspberry").unwrap_err().to_string();
        assert!(
            error.contains("\"raspberry\"") && error.contains("hikey960, host-bandwidth, jetson-agx-xavier"),
            "{error}"
        );
        assert!(
            Board::find("none/such.toml").unwrap_err().to_string().contains("none/such.toml: No such file")
        );
    }

    #[test]
    fn shipped_numbers_are_their_sources() {
        // exynos5422: dynamic-power-coefficient 310, 2000 MHz at 1.3125 V, 4 CPUs: 4 * 310 * 2000 * 1.3125^2 uW
        let xu3 = Board::find("odroid-xu3").unwrap();
        let top = xu3.domains[1].opps.last().unwrap();
        assert_eq!(
            (top.freq.raw, top.volt, top.power),
            (2_000_000, Some(Microvolts(1_312_500)), Some(Milliwatts(4272)))
        );
        // The VM's command line: 2:500@160,...,2400@3300
        let vm = Board::find("vm-default").unwrap();
        assert_eq!(vm.domains[1].opps.last().unwrap().power, Some(Milliwatts(3300)));
        assert_eq!(vm.domains[1].cpus, [2, 3]);
    }
}
