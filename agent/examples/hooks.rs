//! Which kernel hooks fire on this machine: counts for a while, prints JSON.
//!
//! `hooks [SECONDS]`, as root; says `counting` on stderr once it does. Every cpufreq policy found becomes a domain, so that time in each OPP and
//! limits show as well. The host without cpufreq fires the idle hook, the VM the frequency hooks.

use std::path::Path;
use std::time::Duration;
use tandem::board::{Board, BoardLimits, Domain, DomainKind, Opp};
use tandem::sense::{Event, Sense, SenseOptions, now};
use tandem::snapshot::Snapshot;
use tandem::units::{Freq, FreqUnit, Nanos};

fn main() -> anyhow::Result<()> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(2.0), |s| s.parse())?;
    let board = Board {
        name: "probe".to_owned(),
        domains: policies(Path::new("/sys/devices/system/cpu/cpufreq"))?,
        limits: BoardLimits { temp_max: None, min_dwell: Nanos(0) },
    };
    let (mut sense, lost) = Sense::open(&board, &SenseOptions::default());
    let mut seen = Snapshot::new(sense.cpus(), board.domains.len(), sense.signals().len());
    eprintln!("counting");
    std::thread::sleep(Duration::from_secs_f64(seconds));
    sense.sample(now(), &mut seen);
    let mut limits = 0;
    sense.drain_events(&mut |e| limits += u64::from(matches!(e, Event::LimitImposed { .. })));
    let out = serde_json::json!({
        "bpf": sense.by_bpf(),
        "lost": lost,
        "limit_events": limits,
        "signals": sense.signals(),
        "snapshot": seen,
        "totals": sense.totals(),
    });
    println!("{}", serde_json::to_string_pretty(&out)?);
    Ok(())
}

fn policies(root: &Path) -> anyhow::Result<Vec<Domain>> {
    let mut domains = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else { return Ok(domains) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(policy) = name.strip_prefix("policy").and_then(|n| n.parse().ok()) else { continue };
        let numbers = |file: &str| -> anyhow::Result<Vec<u64>> {
            let text = std::fs::read_to_string(entry.path().join(file))?;
            Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
        };
        let mut khz = match numbers("scaling_available_frequencies") {
            Ok(list) => list,
            Err(_) => [numbers("cpuinfo_min_freq")?, numbers("cpuinfo_max_freq")?].concat(),
        };
        khz.sort_unstable();
        khz.dedup();
        let opp = |raw| Opp { freq: Freq { raw, unit: FreqUnit::Khz }, volt: None, power: None };
        domains.push(Domain {
            name,
            kind: DomainKind::Cpufreq { policy },
            cpus: numbers("related_cpus")?.into_iter().map(u32::try_from).collect::<Result<_, _>>()?,
            opps: khz.into_iter().map(opp).collect(),
            transition_latency: Nanos(0),
        });
    }
    domains.sort_by(|a, b| a.cpus.cmp(&b.cpus));
    Ok(domains)
}
