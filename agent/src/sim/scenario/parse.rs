//! Scenario files: TOML to [`Scenario`], checked. All errors of a file come out at once.

use super::{AppPlan, CoRunner, Frames, Happening, MachineEvent, Scenario};
use crate::config::{objective, power};
use crate::policy::Slo;
use crate::sim::network::{NAMES, Network};
use crate::toml_errors::{BadToml, Problems, Section, read_text};
use crate::units::{CentiPercent, Nanos};
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// A day: no scenario is longer.
const LENGTH_S: f64 = 86_400.0;
/// As a channel has slots; more are not simulated.
const APPS: usize = 16;
/// Frames of one application: what a run keeps.
const FRAMES: f64 = 5_000_000.0;

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn load(path: &Path) -> Result<Self, BadToml> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(&name, &path.display().to_string(), &read_text(path)?)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(name: &str, file: &str, text: &str) -> Result<Self, BadToml> {
        let problems = Problems::new(file, text);
        let mut top = problems.root();
        let about = top.need::<String>("about");
        let length = seconds(&mut top, "length-s", 0.1, LENGTH_S, None);
        let end = length.unwrap_or(Nanos(u64::MAX));
        let warm_up = seconds(&mut top, "warm-up-s", 0.0, end.as_secs() * 0.9, Some(0.0));
        let seed = top.opt::<u64>("seed").map_or(1, Spanned::into_inner);
        let boards = top.opt::<Vec<String>>("boards").map_or_else(Vec::new, Spanned::into_inner);
        let mut apps: Vec<AppPlan> = Vec::new();
        let sections = top.sections("app");
        match sections.len() {
            0 => top.wrong("no `[[app]]`: a scenario has at least one application"),
            n if n > APPS => {
                sections[APPS].wrong(format_args!("{n} applications: at most {APPS} are allowed"))
            }
            _ => {}
        }
        for section in sections {
            apps.extend(read_app(section, end, &apps));
        }
        let mut co_runners: Vec<CoRunner> = Vec::new();
        for section in top.sections("co-runner") {
            co_runners.extend(read_co_runner(section, end, &co_runners));
        }
        let mut events: Vec<MachineEvent> = Vec::new();
        for section in top.sections("event") {
            events.extend(read_event(section, end, &events));
        }
        top.close();
        let scenario = about.zip(length).zip(warm_up).map(|((about, length), warm_up)| Self {
            name: name.into(),
            about: about.into_inner(),
            length,
            warm_up,
            seed,
            boards,
            apps,
            co_runners,
            events,
        });
        problems.finish(scenario)
    }
}

/// A number of seconds between two bounds; `None` if it is wrong, or is missing without a default.
fn seconds(
    section: &mut Section<'_>,
    key: &'static str,
    lo: f64,
    hi: f64,
    default: Option<f64>,
) -> Option<Nanos> {
    let value = match default {
        Some(d) => section.opt::<f64>(key).map_or(Some((d, None)), |v| Some((*v.get_ref(), Some(v.span())))),
        None => section.need::<f64>(key).map(|v| (*v.get_ref(), Some(v.span()))),
    };
    let (value, span) = value?;
    if !(lo..=hi).contains(&value) {
        section.bad(span.unwrap_or(section.span()), key, format_args!("must be {lo} to {hi}"));
        return None;
    }
    Some(Nanos::from_secs(value))
}

fn unique<'a>(
    section: &mut Section<'_>,
    what: &str,
    mut before: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let name = section.need::<String>("name")?;
    section.call(format!("{what} {:?}", name.get_ref()));
    if name.get_ref().trim().is_empty() {
        section.bad(name.span(), "name", "must not be empty");
    }
    if before.any(|n| n == name.get_ref()) {
        section.bad(name.span(), "name", "is there twice; names are unique");
    }
    Some(name.into_inner())
}

fn read_app(mut section: Section<'_>, end: Nanos, before: &[AppPlan]) -> Option<AppPlan> {
    let name = unique(&mut section, "app", before.iter().map(|a| a.name.as_str()));
    let network = section.need::<String>("network");
    let found = network.as_ref().and_then(|n| Network::find(n.get_ref()));
    if let (Some(n), None) = (&network, &found) {
        section.bad(n.span(), "network", format_args!("not known; known: {}", NAMES.join(", ")));
    }
    let largest = section.opt::<f64>("largest-ms");
    if let Some(l) = largest.as_ref().filter(|l| !(0.01..=100_000.0).contains(l.get_ref())) {
        section.bad(l.span(), "largest-ms", "must be 0.01 to 100000");
    }
    let queue = section.opt::<usize>("queue");
    if let Some(q) = queue.as_ref().filter(|q| !(1..=4096).contains(q.get_ref())) {
        section.bad(q.span(), "queue", "must be 1 to 4096");
    }
    let domain = section.opt::<String>("domain").map(Spanned::into_inner);
    let cpus = positions(&mut section);
    let frames = match section.section("frames") {
        Some(inner) => read_frames(inner, end),
        None => {
            section.wrong("`frames` is missing, e.g. frames = { kind = \"periodic\", rate-hz = 30 }");
            None
        }
    };
    let targets = read_targets(&mut section, end, found.as_ref());
    section.close();
    Some(AppPlan {
        name: name?,
        network: found?,
        largest: largest.map(|l| Nanos::from_secs(l.into_inner() / 1000.0)),
        queue: queue.map_or(8, Spanned::into_inner),
        domain,
        cpus,
        frames: frames?,
        targets,
    })
}

fn positions(section: &mut Section<'_>) -> Vec<usize> {
    let Some(cpus) = section.opt::<Vec<usize>>("cpus") else { return vec![] };
    let mut sorted = cpus.get_ref().clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < cpus.get_ref().len() {
        section.bad(cpus.span(), "cpus", "names a position twice");
    } else if sorted.is_empty() {
        section.bad(cpus.span(), "cpus", "must not be empty; leave it out for all");
    } else if sorted.last().is_some_and(|c| *c > 63) {
        section.bad(cpus.span(), "cpus", "positions in the domain, from 0 to 63");
    }
    sorted
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawFrames {
    Periodic,
    Poisson,
    Bursty,
    Recorded,
}

fn read_frames(mut section: Section<'_>, end: Nanos) -> Option<Frames> {
    let kind = section.need::<RawFrames>("kind").map(Spanned::into_inner);
    let read = match kind {
        None => None,
        Some(RawFrames::Recorded) => recorded(&mut section, end),
        Some(RawFrames::Poisson) => period(&mut section, end, 1).map(|mean| Frames::Poisson { mean }),
        Some(RawFrames::Periodic) => {
            let period = period(&mut section, end, 1);
            let phase = section.opt::<f64>("phase-ms");
            if let Some(p) = phase.as_ref().filter(|p| !(0.0..=60_000.0).contains(p.get_ref())) {
                section.bad(p.span(), "phase-ms", "must be 0 to 60000");
            }
            let phase = Nanos::from_secs(phase.map_or(0.0, Spanned::into_inner) / 1000.0);
            period.map(|period| Frames::Periodic { period, phase })
        }
        Some(RawFrames::Bursty) => {
            let count = section.need::<u32>("count");
            if let Some(c) = count.as_ref().filter(|c| !(1..=10_000).contains(c.get_ref())) {
                section.bad(c.span(), "count", "must be 1 to 10000");
            }
            let count = count.map_or(1, Spanned::into_inner);
            period(&mut section, end, count).map(|period| Frames::Bursty { period, count })
        }
    };
    section.close();
    read
}

/// From `rate-hz`; `each`: frames at a time.
fn period(section: &mut Section<'_>, end: Nanos, each: u32) -> Option<Nanos> {
    let rate = section.need::<f64>("rate-hz")?;
    let hz = *rate.get_ref();
    if !(0.001..=10_000.0).contains(&hz) {
        section.bad(rate.span(), "rate-hz", "must be 0.001 to 10000");
        return None;
    }
    if hz * f64::from(each) * end.as_secs() > FRAMES {
        section.bad(rate.span(), "rate-hz", format_args!("makes more than {FRAMES} frames"));
        return None;
    }
    Some(Nanos::from_secs(1.0 / hz))
}

fn recorded(section: &mut Section<'_>, end: Nanos) -> Option<Frames> {
    let times = section.need::<Vec<f64>>("times-s")?;
    let list = times.get_ref();
    if list.is_empty() {
        section.bad(times.span(), "times-s", "must not be empty");
    } else if list.iter().any(|t| !(0.0..=end.as_secs()).contains(t)) {
        section.bad(
            times.span(),
            "times-s",
            format_args!("must lie within the scenario's {} s", end.as_secs()),
        );
    } else if list.windows(2).any(|w| w[1] < w[0]) {
        section.bad(times.span(), "times-s", "must rise");
    }
    Some(Frames::Recorded { times: list.iter().map(|t| Nanos::from_secs(*t)).collect() })
}

fn read_targets(section: &mut Section<'_>, end: Nanos, network: Option<&Network>) -> Vec<(Nanos, Slo)> {
    let mut targets: Vec<(Nanos, Slo)> = Vec::new();
    for mut one in section.sections("targets") {
        one.call(format!("{}: target", section.name()));
        let at = one.opt::<f64>("at-s");
        let latency = one.opt::<f64>("latency-ms");
        let top1 = one.opt::<f64>("top1");
        let power = power(&mut one);
        let objective = objective(&mut one);
        let span = at.as_ref().map_or(one.span(), Spanned::span);
        let from = Nanos::from_secs(at.map_or(0.0, Spanned::into_inner));
        if from > end {
            one.bad(span, "at-s", format_args!("the scenario ends at {} s", end.as_secs()));
        } else if targets.is_empty() && from != Nanos(0) {
            one.bad(span, "at-s", "the first target is from 0 on");
        } else if targets.last().is_some_and(|(t, _)| *t >= from) {
            one.bad(span, "at-s", "contradicts the target before: one at a time, list them by rising time");
        }
        if latency.is_none() && top1.is_none() {
            one.wrong("says nothing: give latency-ms, top1 or both");
        }
        if let Some(l) = latency.as_ref().filter(|l| !(0.1..=600_000.0).contains(l.get_ref())) {
            one.bad(l.span(), "latency-ms", "must be 0.1 to 600000");
        }
        let floor = top1.as_ref().map(|t| centi(*t.get_ref()));
        if let (Some(t), Some(floor), Some(network)) = (&top1, floor, network)
            && floor > network.best()
        {
            let best = f64::from(network.best().0) / 100.0;
            one.bad(
                t.span(),
                "top1",
                format_args!("contradicts the network: {} reaches {best} %", network.name),
            );
        }
        one.close();
        let latency = latency.map(|l| Nanos::from_secs(l.into_inner() / 1000.0));
        targets.push((from, Slo { latency, top1: floor, power, objective: objective.unwrap_or_default() }));
    }
    if targets.is_empty() {
        section.wrong("no `targets`, e.g. targets = [{ latency-ms = 33.3 }]");
    }
    targets
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn centi(percent: f64) -> CentiPercent {
    CentiPercent((percent * 100.0).round() as u16)
}

fn read_co_runner(mut section: Section<'_>, end: Nanos, before: &[CoRunner]) -> Option<CoRunner> {
    let name = unique(&mut section, "co-runner", before.iter().map(|c| c.name.as_str()));
    let last = end.as_secs();
    let from = seconds(&mut section, "from-s", 0.0, last, Some(0.0));
    let to = seconds(&mut section, "to-s", 0.0, last, Some(last));
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        section.wrong(format_args!("to-s ({}) is not after from-s ({})", to.as_secs(), from.as_secs()));
    }
    let threads = section.opt::<u8>("threads");
    if let Some(t) = threads.as_ref().filter(|t| !(1..=64).contains(t.get_ref())) {
        section.bad(t.span(), "threads", "must be 1 to 64");
    }
    let nice = section.opt::<i8>("nice");
    if let Some(n) = nice.as_ref().filter(|n| !(-20..=19).contains(n.get_ref())) {
        section.bad(n.span(), "nice", "must be -20 to 19");
    }
    let cpus = positions(&mut section);
    let domain = section.opt::<String>("domain").map(Spanned::into_inner);
    section.close();
    Some(CoRunner {
        name: name?,
        from: from?,
        to: to?,
        threads: threads.map_or(1, Spanned::into_inner),
        cpus,
        nice: nice.map_or(0, Spanned::into_inner),
        domain,
    })
}

fn read_event(mut section: Section<'_>, end: Nanos, before: &[MachineEvent]) -> Option<MachineEvent> {
    let at = seconds(&mut section, "at-s", 0.0, end.as_secs(), None);
    if let (Some(at), Some(last)) = (at, before.last())
        && at < last.at
    {
        section.wrong(format_args!(
            "at-s ({}): is before the event above; list events by rising time",
            at.as_secs()
        ));
    }
    let cap = section.opt::<u16>("cap-permille");
    let ambient = section.opt::<f64>("ambient-c");
    let domain = section.opt::<String>("domain");
    if let Some(c) = cap.as_ref().filter(|c| !(1..=1000).contains(c.get_ref())) {
        section.bad(
            c.span(),
            "cap-permille",
            "must be 1 to 1000 (of the domain's top frequency; 1000 = free)",
        );
    }
    if let Some(a) = ambient.as_ref().filter(|a| !(-40.0..=80.0).contains(a.get_ref())) {
        section.bad(a.span(), "ambient-c", "must be -40 to 80");
    }
    let what = match (cap, ambient) {
        (Some(cap), None) => {
            Some(Happening::Cap { domain: domain.map(Spanned::into_inner), permille: cap.into_inner() })
        }
        (None, Some(ambient)) => {
            if let Some(d) = domain {
                section.bad(d.span(), "domain", "belongs to cap-permille");
            }
            Some(Happening::Ambient { celsius: ambient.into_inner() })
        }
        _ => {
            section.wrong("is either `cap-permille` or `ambient-c`");
            None
        }
    };
    section.close();
    Some(MachineEvent { at: at?, what: what? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
about = "for tests"
length-s = 20.0
warm-up-s = 1.0
seed = 7
boards = ["odroid-xu3"]
[[app]]
name = "camera"
network = "mlcad-fmnist"
largest-ms = 16.7
frames = { kind = "periodic", rate-hz = 30.0, phase-ms = 5.0 }
targets = [{ latency-ms = 33.3, top1 = 88.0 }, { at-s = 10.0, latency-ms = 20.0 }]
[[app]]
name = "mic"
network = "dynamic-ofa-6"
queue = 2
domain = "little"
cpus = [1]
frames = { kind = "bursty", rate-hz = 1.0, count = 5 }
targets = [{ latency-ms = 200.0 }]
[[co-runner]]
name = "hungry"
from-s = 5.0
to-s = 10.0
threads = 2
nice = 5
[[event]]
at-s = 3.0
cap-permille = 600
domain = "big"
[[event]]
at-s = 4.0
ambient-c = 50.0
"#;

    #[test]
    fn a_good_scenario_is_read_as_it_stands() {
        let s = Scenario::parse("s", "s.toml", GOOD).unwrap();
        assert_eq!((s.length, s.warm_up, s.seed), (Nanos::from_ms(20_000), Nanos::from_ms(1000), 7));
        let (cam, mic) = (&s.apps[0], &s.apps[1]);
        assert_eq!((&cam.domain, mic.domain.as_deref()), (&None, Some("little")));
        assert_eq!(s.boards, ["odroid-xu3"]);
        assert_eq!(cam.largest, Some(Nanos(16_700_000)));
        assert_eq!(cam.frames, Frames::Periodic { period: Nanos(33_333_333), phase: Nanos::from_ms(5) });
        assert_eq!(cam.target_at(Nanos::from_ms(9999)).top1, Some(CentiPercent(8800)));
        let later = Slo { latency: Some(Nanos::from_ms(20)), ..Slo::default() };
        assert_eq!(cam.target_at(Nanos::from_ms(10_000)), later);
        assert_eq!(mic.frames, Frames::Bursty { period: Nanos::from_ms(1000), count: 5 });
        assert_eq!((mic.queue, &mic.cpus[..], s.co_runners[0].nice, s.events.len()), (2, &[1][..], 5, 2));
    }

    #[test]
    fn each_rule_is_told_with_file_line_and_value() {
        for (from, to, message) in [
            ("length-s = 20.0", "", "s.toml:1: `length-s` is missing"),
            ("warm-up-s = 1.0", "warm-up-s = 19.0", "s.toml:4: warm-up-s (19.0): must be 0 to 18"),
            (
                "mlcad-fmnist",
                "resnet",
                "s.toml:9: app \"camera\": network (\"resnet\"): not known; known: dynamic-ofa-6",
            ),
            (
                "name = \"mic\"",
                "name = \"camera\"",
                "s.toml:14: app \"camera\": name (\"camera\"): is there twice",
            ),
            (
                "top1 = 88.0",
                "top1 = 95.0",
                "s.toml:12: app \"camera\": target: top1 (95.0): contradicts the network: mlcad-fmnist reaches 90.24 %",
            ),
            (
                "at-s = 10.0, latency",
                "at-s = 0.0, latency",
                "s.toml:12: app \"camera\": target: at-s (0.0): contradicts the target before",
            ),
            ("at-s = 10.0, latency", "at-s = 30.0, latency", "at-s (30.0): the scenario ends at 20 s"),
            ("{ latency-ms = 200.0 }", "{ }", "app \"mic\": target: says nothing"),
            ("targets = [{ latency-ms = 200.0 }]", "", "s.toml:13: app \"mic\": no `targets`"),
            (
                "frames = { kind = \"bursty\", rate-hz = 1.0, count = 5 }",
                "",
                "app \"mic\": `frames` is missing",
            ),
            ("count = 5", "count = 0", "frames: count (0): must be 1 to 10000"),
            ("rate-hz = 30.0", "rate-hz = 0.0", "frames: rate-hz (0.0): must be 0.001 to 10000"),
            (
                "kind = \"bursty\"",
                "kind = \"bursts\"",
                "unknown variant `bursts`, expected one of `periodic`, `poisson`, `bursty`, `recorded`",
            ),
            (
                "to-s = 10.0",
                "to-s = 5.0",
                "s.toml:21: co-runner \"hungry\": to-s (5) is not after from-s (5)",
            ),
            ("nice = 5", "nice = 20", "nice (20): must be -20 to 19"),
            ("at-s = 4.0", "at-s = 2.0", "at-s (2): is before the event above"),
            ("ambient-c = 50.0", "", "event: is either `cap-permille` or `ambient-c`"),
            ("cap-permille = 600", "cap-permille = 0", "cap-permille (0): must be 1 to 1000"),
            ("cpus = [1]", "cpus = [1, 1]", "cpus ([1, 1]): names a position twice"),
            ("queue = 2", "qeue = 2", "app \"mic\": unknown key `qeue`"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let got = Scenario::parse("s", "s.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(got.contains(message), "{from} -> {to}: wanted {message:?}, got:\n{got}");
        }
    }

    #[test]
    fn all_errors_of_a_file_come_at_once_by_line() {
        let text = GOOD
            .replace("mlcad-fmnist", "x")
            .replace("count = 5", "count = 0")
            .replace("nice = 5", "nice = 99");
        let got = Scenario::parse("s", "s.toml", &text).unwrap_err().to_string();
        let lines: Vec<_> = got.lines().map(|l| l.split(':').nth(1).unwrap()).collect();
        assert_eq!(lines, ["9", "19", "26"], "{got}");
    }

    #[test]
    fn recorded_frames_rise_within_the_scenario() {
        let with = |list: &str| {
            let frames = format!("frames = {{ kind = \"recorded\", times-s = {list} }}");
            let text = GOOD.replace("frames = { kind = \"bursty\", rate-hz = 1.0, count = 5 }", &frames);
            Scenario::parse("s", "s.toml", &text).map(|s| s.apps[1].frames.clone()).map_err(|e| e.to_string())
        };
        let times = vec![Nanos::from_ms(500), Nanos::from_ms(750)];
        assert_eq!(with("[0.5, 0.75]"), Ok(Frames::Recorded { times }));
        assert!(with("[0.75, 0.5]").unwrap_err().contains("must rise"));
        assert!(with("[25.0]").unwrap_err().contains("must lie within the scenario's 20 s"));
    }
}
