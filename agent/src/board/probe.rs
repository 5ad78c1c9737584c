//! Writes a board file from what this machine has, each value with its source.
//!
//! It describes; it changes nothing. Where no clock can be set, it offers the CPU-bandwidth stand-in.

use super::{MAX_DOMAINS, MAX_OPPS};
use crate::actuate::attr::{below, cpu_list, read_value};
use crate::actuate::cgroup::Cgroups;
use std::fmt::Write;
use std::path::Path;

const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";
const DEVFREQ: &str = "/sys/class/devfreq";
const ENERGY_MODEL: &str = "/sys/kernel/debug/energy_model";
/// Into how many OPPs a bare range is cut.
const CUTS: u64 = 10;

/// Why there is no board file.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing that could be set.
    #[error(
        "nothing to govern here: no {CPUFREQ}/policy*, no device in {DEVFREQ}, and no cgroup controller `cpu` \
         for a bandwidth limit"
    )]
    Nothing,
    /// The kernel does not say which CPUs there are.
    #[error("/sys/devices/system/cpu/online ({0:?}): cannot be read as a list of CPUs")]
    NoCpus(String),
}

/// A domain found.
struct Found {
    name: String,
    /// The lines between `name` and `opps`.
    head: String,
    /// Comment on the OPPs.
    source: String,
    freqs: Vec<u64>,
    /// mW by frequency, all CPUs busy, and where from.
    power: Vec<(u64, u64)>,
}

/// The text of a board file for the machine below `root` (`/`, or a fake tree).
pub fn probe(root: &Path) -> Result<String, ProbeError> {
    let mut skipped: Vec<String> = vec![];
    let mut found = cpufreq(root, &mut skipped);
    found.extend(devfreq(root, &mut skipped));
    let cgroups = Cgroups::detect(root).unwrap_or_default();
    if found.is_empty() {
        if cgroups.cpu.is_none() {
            return Err(ProbeError::Nothing);
        }
        found.push(bandwidth(root)?);
    }
    for extra in found.drain(MAX_DOMAINS.min(found.len())..) {
        skipped.push(format!("domain {:?}: left out, a board has at most {MAX_DOMAINS} domains", extra.name));
    }
    let host = read_value(root, "/proc/sys/kernel/hostname").unwrap_or_else(|_| "this machine".into());
    let kernel = read_value(root, "/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into());
    let mut out = String::new();
    line(&mut out, format_args!("# Written by `tandem board probe`. cgroups: {}.", cgroups.describe()));
    for s in &skipped {
        line(&mut out, format_args!("# {s}"));
    }
    line(&mut out, format_args!("name = {}", quoted(&host)));
    line(&mut out, format_args!("source = {}", quoted(&format!("probed on kernel {kernel}"))));
    line(&mut out, format_args!("\n[limits]"));
    line(&mut out, format_args!("# temp-max-mc: none of ours; the kernel's own trip points stay in force."));
    line(&mut out, format_args!("# Assumed: two ticks of 10 ms.\nmin-dwell-ms = 20"));
    for f in &found {
        write_domain(&mut out, f);
    }
    Ok(out)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes any text");
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn write_domain(out: &mut String, found: &Found) {
    line(out, format_args!("\n[[domain]]\nname = {}", quoted(&found.name)));
    out.push_str(&found.head);
    let (freqs, thinned) = thin(&found.freqs);
    line(out, format_args!("# {}", found.source));
    if thinned {
        line(
            out,
            format_args!(
                "# {} in all, {MAX_OPPS} of them taken: the most a domain may have.",
                found.freqs.len()
            ),
        );
    }
    if !found.power.is_empty() {
        line(out, format_args!("# power-mw is MODELLED: {ENERGY_MODEL}, all CPUs of the domain busy."));
    }
    line(out, format_args!("opps = ["));
    for f in freqs {
        match found.power.iter().find(|(at, _)| *at == f) {
            Some((_, mw)) => line(out, format_args!("  {{ freq = {f}, power-mw = {mw} }},")),
            None => line(out, format_args!("  {{ freq = {f} }},")),
        }
    }
    line(out, format_args!("]"));
}

/// At most [`MAX_OPPS`], evenly over the list, both ends kept.
fn thin(freqs: &[u64]) -> (Vec<u64>, bool) {
    if freqs.len() <= MAX_OPPS {
        return (freqs.to_vec(), false);
    }
    let last = freqs.len() - 1;
    ((0..MAX_OPPS).map(|i| freqs[i * last / (MAX_OPPS - 1)]).collect(), true)
}

fn numbers(root: &Path, path: &str) -> Vec<u64> {
    let text = read_value(root, path).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
}

fn number(root: &Path, path: &str) -> Option<u64> {
    read_value(root, path).ok()?.parse().ok()
}

fn sorted(mut freqs: Vec<u64>) -> Vec<u64> {
    freqs.sort_unstable();
    freqs.dedup();
    freqs.retain(|f| *f > 0);
    freqs
}

/// A list file, else the range cut in steps; says which. Empty: neither is there.
fn freqs_of(root: &Path, list: &str, range: [&str; 2], unit: &str) -> (Vec<u64>, String) {
    let listed = sorted(numbers(root, list));
    if !listed.is_empty() {
        return (listed, format!("{list}, {unit}."));
    }
    let [low, high] = range.map(|path| number(root, path).unwrap_or(0));
    if low == 0 || high < low {
        return (vec![], String::new());
    }
    let cut = (0..CUTS).map(|i| low + (high - low) * i / (CUTS - 1));
    let source = format!(
        "ASSUMED: the driver lists no steps; {low} to {high} {unit} ({}, {}) cut in {CUTS}.",
        range[0], range[1]
    );
    (sorted(cut.collect()), source)
}

fn names_in(root: &Path, dir: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(below(root, dir)) else { return vec![] };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn cpufreq(root: &Path, skipped: &mut Vec<String>) -> Vec<Found> {
    let mut policies: Vec<u32> =
        names_in(root, CPUFREQ).iter().filter_map(|n| n.strip_prefix("policy")?.parse().ok()).collect();
    policies.sort_unstable();
    policies.into_iter().filter_map(|n| policy(root, n, skipped)).collect()
}

fn policy(root: &Path, n: u32, skipped: &mut Vec<String>) -> Option<Found> {
    let dir = format!("{CPUFREQ}/policy{n}");
    let file = |name: &str| format!("{dir}/{name}");
    let cpus = sorted_cpus(numbers(root, &file("related_cpus")));
    let range = [&*file("cpuinfo_min_freq"), &*file("cpuinfo_max_freq")];
    let (freqs, source) = freqs_of(root, &file("scaling_available_frequencies"), range, "kHz");
    if cpus.is_empty() || freqs.is_empty() {
        skipped.push(format!("{dir}: skipped, it tells no CPUs or no frequencies"));
        return None;
    }
    let mut head = format!("kind = \"cpufreq\"\npolicy = {n}\n# {}\ncpus = {cpus:?}\n", file("related_cpus"));
    let governors = read_value(root, &file("scaling_available_governors")).unwrap_or_default();
    let driver = read_value(root, &file("scaling_driver")).unwrap_or_else(|_| "unknown".into());
    line(&mut head, format_args!("# driver {driver}; governors: {governors}"));
    // 4294967295 is the kernel's CPUFREQ_ETERNAL: the driver does not know.
    match number(root, &file("cpuinfo_transition_latency")).filter(|ns| *ns < u64::from(u32::MAX)) {
        Some(ns) => line(
            &mut head,
            format_args!(
                "# {}\ntransition-latency-us = {}",
                file("cpuinfo_transition_latency"),
                ns.div_ceil(1000)
            ),
        ),
        None => line(&mut head, format_args!("# transition latency: the driver does not know")),
    }
    let power = energy_model(root, &format!("cpu{}", cpus[0]), cpus.len() as u64, 1);
    Some(Found { name: format!("cpu{}", cpus[0]), head, source, freqs, power })
}

fn sorted_cpus(mut cpus: Vec<u64>) -> Vec<u64> {
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

fn devfreq(root: &Path, skipped: &mut Vec<String>) -> Vec<Found> {
    let mut found = vec![];
    for device in names_in(root, DEVFREQ) {
        let dir = format!("{DEVFREQ}/{device}");
        let range = [&*format!("{dir}/min_freq"), &*format!("{dir}/max_freq")];
        let (freqs, source) = freqs_of(root, &format!("{dir}/available_frequencies"), range, "Hz");
        if freqs.is_empty() {
            skipped.push(format!("{dir}: skipped, it tells no frequencies"));
            continue;
        }
        let governor = read_value(root, &format!("{dir}/available_governors")).unwrap_or_default();
        let head = format!(
            "kind = \"devfreq\"\ndevice = {}\n# governors: {governor}\n# transition latency: devfreq does not tell\n",
            quoted(&device)
        );
        // The energy model counts kHz.
        let power = energy_model(root, &device, 1, 1000);
        found.push(Found { name: device, head, source, freqs, power });
    }
    found
}

/// `performance domain/ps:N/{frequency,power}`. The power is that of one CPU; uW if flag 0 is set
/// (`EM_PERF_DOMAIN_MICROWATTS`), else on an abstract scale, which is no power.
fn energy_model(root: &Path, domain: &str, cpus: u64, freq_scale: u64) -> Vec<(u64, u64)> {
    let dir = format!("{ENERGY_MODEL}/{domain}");
    let flags = read_value(root, &format!("{dir}/flags")).unwrap_or_default();
    let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    if flags & 1 == 0 {
        return vec![];
    }
    let states = names_in(root, &dir).into_iter().filter(|n| n.starts_with("ps:"));
    let one = |state: String| {
        let freq = number(root, &format!("{dir}/{state}/frequency"))?.checked_mul(freq_scale)?;
        let micro = number(root, &format!("{dir}/{state}/power"))?.checked_mul(cpus)?;
        u32::try_from(micro / 1000).ok().map(|mw| (freq, u64::from(mw)))
    };
    states.filter_map(one).collect()
}

fn bandwidth(root: &Path) -> Result<Found, ProbeError> {
    let online = read_value(root, "/sys/devices/system/cpu/online").unwrap_or_default();
    let cpus: Vec<u32> = cpu_list(&online).take(8192).collect();
    if cpus.is_empty() {
        return Err(ProbeError::NoCpus(online));
    }
    let head = format!(
        "# No clock can be set here. A limit on CPU time stands in: it bounds the average over some periods of\n\
         # 10 ms, not a short burst.\n\
         kind = \"cpu-bandwidth\"\n# /sys/devices/system/cpu/online\ncpus = {cpus:?}\n\
         # A quota is in force from the next period on.\ntransition-latency-us = 10000\n"
    );
    let source = "ASSUMED: equal steps, thousandths of the time of all these CPUs.".into();
    Ok(Found { name: "cpu".into(), head, source, freqs: (1..=10).map(|i| i * 100).collect(), power: vec![] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::fake::FakeSysfs;
    use crate::board::{Board, DomainKind, Opp};
    use crate::units::{Freq, FreqUnit, Milliwatts, Nanos};

    fn parsed(fake: &FakeSysfs) -> (String, Board) {
        let text = probe(fake.root()).unwrap();
        let board = Board::parse("probed", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        (text, board)
    }

    #[test]
    fn clocks_are_found_with_their_sources() {
        let fake = FakeSysfs::new();
        fake.policy(0, "0 1", &[400_000, 1_800_000], "schedutil", "userspace schedutil");
        fake.policy(10, "3 2", &[500_000], "schedutil", "userspace schedutil");
        fake.devfreq("f.gpu", &[200_000_000, 297_000_000], "simple_ondemand", "simple_ondemand");
        let em = "/sys/kernel/debug/energy_model/cpu0";
        fake.file(&format!("{em}/flags"), "0x3");
        fake.file(&format!("{em}/ps:400000/frequency"), "400000")
            .file(&format!("{em}/ps:400000/power"), "30500");
        // An abstract scale is no power.
        let em = "/sys/kernel/debug/energy_model/cpu2";
        fake.file(&format!("{em}/flags"), "0x0");
        fake.file(&format!("{em}/ps:500000/frequency"), "500000")
            .file(&format!("{em}/ps:500000/power"), "77");
        let (text, board) = parsed(&fake);
        assert_eq!(board.domains.len(), 3, "{text}");
        let opp = |raw, unit, power| Opp { freq: Freq { raw, unit }, volt: None, power };
        assert_eq!(board.domains[0].opps[0], opp(400_000, FreqUnit::Khz, Some(Milliwatts(61))));
        assert_eq!(board.domains[0].opps[1], opp(1_800_000, FreqUnit::Khz, None));
        assert_eq!(board.domains[0].transition_latency, Nanos(100_000));
        assert_eq!(board.domains[1].kind, DomainKind::Cpufreq { policy: 10 });
        assert_eq!((&*board.domains[1].name, &*board.domains[1].cpus), ("cpu2", &[2, 3][..]));
        assert_eq!(board.domains[1].opps, [opp(500_000, FreqUnit::Khz, None)]);
        assert_eq!(board.domains[2].opps[1], opp(297_000_000, FreqUnit::Hz, None));
        assert!(
            text.contains("# /sys/devices/system/cpu/cpufreq/policy0/scaling_available_frequencies, kHz.")
        );
        assert!(text.contains("MODELLED"));
    }

    #[test]
    fn a_bare_range_is_cut_and_said_so() {
        let fake = FakeSysfs::new();
        fake.policy(0, "0", &[400_000, 1_300_000], "powersave", "performance powersave");
        fake.file("/sys/devices/system/cpu/cpufreq/policy0/scaling_available_frequencies", "");
        fake.file("/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_transition_latency", "4294967295");
        let (text, board) = parsed(&fake);
        let freqs: Vec<u64> = board.domains[0].opps.iter().map(|o| o.freq.raw).collect();
        assert_eq!(freqs, (4..=13).map(|i| i * 100_000).collect::<Vec<_>>());
        assert!(text.contains("ASSUMED: the driver lists no steps; 400000 to 1300000 kHz"), "{text}");
        assert_eq!(board.domains[0].transition_latency, Nanos(0));
    }

    #[test]
    fn where_no_clock_can_be_set_cpu_time_stands_in() {
        let fake = FakeSysfs::new();
        assert!(probe(fake.root()).unwrap_err().to_string().starts_with("nothing to govern here"));
        fake.cgroup_v1();
        let (text, board) = parsed(&fake);
        assert_eq!(board.domains[0].kind, DomainKind::CpuBandwidth);
        assert_eq!(board.domains[0].cpus, [0, 1, 2, 3]);
        assert_eq!(board.domains[0].opps.len(), 10);
        assert!(text.contains("not a short burst"), "{text}");
        assert!(text.contains("cpu controller v1 at /sys/fs/cgroup/cpu,cpuacct"), "{text}");
        fake.file("/sys/devices/system/cpu/online", "none");
        assert!(matches!(probe(fake.root()), Err(ProbeError::NoCpus(_))));
    }

    #[test]
    fn more_than_a_board_holds_is_thinned_and_said_so() {
        let fake = FakeSysfs::new();
        let freqs: Vec<u64> = (1..=130).map(|i| i * 10_000).collect();
        for n in 0..20 {
            fake.policy(n, &n.to_string(), &freqs, "schedutil", "userspace");
        }
        let (text, board) = parsed(&fake);
        assert_eq!((board.domains.len(), board.domains[0].opps.len()), (16, 64));
        assert_eq!(board.domains[0].opps.last().unwrap().freq.raw, 1_300_000);
        assert!(
            text.contains("domain \"cpu19\": left out") && text.contains("130 in all, 64 of them taken"),
            "{text}"
        );
    }

    #[test]
    fn this_machine_is_probed() {
        let text = probe(Path::new("/")).unwrap();
        let board = Board::parse("probed", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(!board.domains.is_empty());
    }
}
