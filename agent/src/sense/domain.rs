//! One domain's samples: from the counters where they tell, else from the slow sensors, else absent.

use super::sched::{self, DomainTotals};
use super::slow::{Gauge, Slow};
use super::{Fast, Found, Loss, counted, cpufreq, devfreq};
use crate::board::{Domain, DomainKind};
use crate::snapshot::{CpuSample, DomainSample};
use crate::units::{DomainId, Milliwatts, Nanos, OppIndex, Source, Util};
use std::path::Path;

/// What a domain's samples are made of; numbers are positions among the slow gauges.
#[derive(Debug, Default)]
pub(super) struct DomainReader {
    /// Raw frequencies by rising OPP.
    freqs: Vec<u64>,
    /// Power of each OPP with all CPUs busy.
    power: Vec<Option<Milliwatts>>,
    cpus: Vec<usize>,
    /// CPU bandwidth: the OPP is the actuator's to know.
    stand_in: bool,
    cpufreq: bool,
    freq: Option<usize>,
    max: Option<usize>,
    load: Option<usize>,
    transitions: Option<usize>,
    rail: Option<usize>,
    /// The ceiling we set ourselves.
    pub own_max: Option<u64>,
    /// Total transitions at the sample before.
    before: Option<u64>,
}

impl DomainReader {
    pub(super) fn new(domain: &Domain, sys: &Path, found: &mut Found, lost: &mut Vec<Loss>) -> Self {
        let mut reader = Self {
            freqs: domain.opps.iter().map(|o| o.freq.raw).collect(),
            power: domain.opps.iter().map(|o| o.power).collect(),
            cpus: domain.cpus.iter().filter_map(|&c| usize::try_from(c).ok()).collect(),
            rail: found
                .signals
                .iter()
                .position(|s| s.name.strip_prefix("rail/") == Some(domain.name.as_str())),
            ..Self::default()
        };
        let name = &domain.name;
        let mut signal = |what: &str, unit: &str, gauge: Option<Box<dyn Gauge>>| {
            let gauge = gauge?;
            found.add(format!("{name}/{what}"), unit, gauge);
            Some(found.len() - 1)
        };
        let folder = match &domain.kind {
            DomainKind::Cpufreq { policy } => {
                let folder = cpufreq::folder(sys, *policy);
                reader.cpufreq = true;
                reader.freq = signal("freq", "kHz", cpufreq::frequency(&folder));
                reader.max = signal("max-freq", "kHz", cpufreq::ceiling(&folder));
                folder
            }
            DomainKind::Devfreq { device } => {
                let folder = devfreq::folder(sys, device);
                let device = devfreq::open(&folder);
                reader.freq = signal("freq", "Hz", device.freq);
                reader.max = signal("max-freq", "Hz", device.max);
                reader.load = signal("load", "permille", device.load);
                reader.transitions = signal("transitions", "count", device.transitions);
                folder
            }
            DomainKind::CpuBandwidth => {
                reader.stand_in = true;
                return reader;
            }
        };
        if reader.freq.is_none() {
            lost.push(Loss::new(
                format!("frequency of domain {name:?}"),
                format!("{}: nothing to read it from", folder.display()),
            ));
        }
        reader
    }

    pub(super) fn sample(
        &mut self,
        id: DomainId,
        fast: &Fast,
        slow: &Slow,
        cpus: &[CpuSample],
    ) -> DomainSample {
        let counts = self.counts(id, fast);
        let read = |i| read(slow, i);
        let before = self.start(id, fast, slow);
        // Until a hook has fired, it may be one that never does.
        let freq = counts.filter(|c| c.transitions > 0).map(|c| c.khz).or_else(|| read(self.freq));
        let max = counts.filter(|c| c.limit_changes > 0).map(|c| c.limit_max).or_else(|| read(self.max));
        let opp = freq.map(|f| sched::nearest(&self.freqs, f));
        let busy = || self.cpus.iter().map(|&c| cpus.get(c).and_then(|s| s.busy));
        let util = match self.load {
            Some(_) => read(self.load).and_then(|l| Util::from_busy(Nanos(l), Nanos(1000))),
            None => busy().flatten().max(),
        };
        DomainSample {
            opp: opp.map(index),
            util,
            cap: max.map(|m| self.cap(m)),
            power: read(self.rail).and_then(|uw| u32::try_from(uw / 1000).ok()).map(Milliwatts),
            modelled: opp.filter(|_| self.rail.is_none()).and_then(|o| self.modelled(o, busy(), util)),
            transitions: counted(before, self.before),
        }
    }

    /// Takes the present total of transitions as the start of a period; returns the one before.
    pub(super) fn start(&mut self, id: DomainId, fast: &Fast, slow: &Slow) -> Option<u64> {
        let counts = self.counts(id, fast);
        let total = counts.map(|c| c.transitions).or_else(|| read(slow, self.transitions));
        std::mem::replace(&mut self.before, total)
    }

    fn counts(&self, id: DomainId, fast: &Fast) -> Option<DomainTotals> {
        match fast {
            Fast::Bpf(sched) if self.cpufreq => sched.domain(id),
            _ => None,
        }
    }

    /// Where the power comes from; `None`: there is none.
    pub(super) fn power_source(&self) -> Option<Source> {
        match self.rail {
            Some(_) => Some(Source::Measured),
            None => (!self.stand_in && self.power.iter().all(Option::is_some)).then_some(Source::Modelled),
        }
    }

    /// The highest OPP at or below `max`, the lowest if there is none; all if the ceiling is our own.
    fn cap(&self, max: u64) -> OppIndex {
        let top = self.freqs.len().saturating_sub(1);
        if self.own_max == Some(max) {
            return index(top);
        }
        index(self.freqs.iter().rposition(|&f| f <= max).unwrap_or(0))
    }

    /// The board's power of the OPP with all CPUs busy, by the share of them that was (of the device,
    /// by its load). What it takes when idle is not in the model.
    fn modelled(
        &self,
        opp: usize,
        busy: impl Iterator<Item = Option<Util>>,
        load: Option<Util>,
    ) -> Option<Milliwatts> {
        let full = self.power.get(opp).copied().flatten()?;
        let share = if self.cpus.is_empty() {
            u64::from(load?.0)
        } else {
            let sum = busy.map(|b| b.map(|u| u64::from(u.0))).sum::<Option<u64>>()?;
            sum / u64::try_from(self.cpus.len()).ok()?
        };
        u32::try_from(u64::from(full.0) * share / 1024).ok().map(Milliwatts)
    }
}

fn read(slow: &Slow, gauge: Option<usize>) -> Option<u64> {
    slow.read(gauge?).and_then(|(v, _)| u64::try_from(v).ok())
}

fn index(i: usize) -> OppIndex {
    OppIndex(u16::try_from(i).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use crate::board::{Board, BoardLimits, Domain, DomainKind, Opp};
    use crate::sense::fake::Fake;
    use crate::sense::{Event, Sense, SenseOptions, UseBpf, now};
    use crate::snapshot::{DomainSample, Snapshot};
    use crate::units::{DomainId, Freq, FreqUnit, Milliwatts, Nanos, OppIndex, Source, Util};
    use std::time::Duration;

    fn domain(name: &str, kind: DomainKind, cpus: &[u32], opps: &[(u64, Option<u32>)]) -> Domain {
        let opp = |&(raw, mw): &(u64, Option<u32>)| Opp {
            freq: Freq { raw, unit: FreqUnit::Khz },
            volt: None,
            power: mw.map(Milliwatts),
        };
        let opps = opps.iter().map(opp).collect();
        Domain { name: name.into(), kind, cpus: cpus.to_vec(), opps, transition_latency: Nanos(0) }
    }

    /// 400 ms of four CPUs in /proc/stat: all of the time busy on 0, half on 1, none on 2 and 3.
    const BEFORE: &str =
        "cpu  0\ncpu0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0\ncpu3 0 0 0 0 0 0 0\n";
    const AFTER: &str =
        "cpu  0\ncpu0 40 0 0 0 0 0 0\ncpu1 20 0 0 20 0 0 0\ncpu2 0 0 0 40 0 0 0\ncpu3 0 0 0 40 0 0 0\n";

    #[test]
    fn samples_come_from_sysfs_where_no_hook_tells() {
        let sys = Fake::new()
            .file("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1007999\n")
            .file("devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1199999\n")
            .file("class/hwmon/hwmon0/name", "ina3221\n")
            .file("class/hwmon/hwmon0/in1_label", "big\n")
            .file("class/hwmon/hwmon0/in1_input", "5000\n")
            .file("class/hwmon/hwmon0/curr1_input", "700\n")
            .file("class/devfreq/gpu/cur_freq", "850000000\n")
            .file("class/devfreq/gpu/max_freq", "850000000\n")
            .file("class/devfreq/gpu/load", "50@850000000Hz\n")
            .file("class/devfreq/gpu/trans_stat", "Total transition : 6\n");
        let proc = Fake::new().file("stat", BEFORE);
        let cpufreq = |policy| DomainKind::Cpufreq { policy };
        let devfreq = DomainKind::Devfreq { device: "gpu".into() };
        let table = [(408_000, Some(300)), (1_008_000, Some(1200)), (1_200_000, Some(1600))];
        let board = Board {
            name: "fake".into(),
            domains: vec![
                domain("little", cpufreq(0), &[0, 1], &table),
                domain("big", cpufreq(4), &[2, 3], &table),
                domain("gpu", devfreq, &[], &[(200_000_000, None), (850_000_000, Some(2000))]),
                domain("share", DomainKind::CpuBandwidth, &[1, 2], &[(500, None), (1000, None)]),
            ],
            limits: BoardLimits { temp_max: None, min_dwell: Nanos(0) },
        };
        let options = SenseOptions {
            proc_root: proc.root().into(),
            sys_root: sys.root().into(),
            use_bpf: UseBpf::Never,
            slow_period: Duration::from_millis(2),
        };
        let (mut sense, lost) = Sense::open(&board, &options);
        assert_eq!(sense.cpus(), 4);
        assert!(lost.iter().any(|l| l.what.contains("\"big\"") && l.why.contains("policy4")), "{lost:?}");
        let mut seen = Snapshot::new(4, 4, sense.signals().len());
        let start = now();
        sense.sample(start, &mut seen);
        proc.write("stat", AFTER);
        sys.write("class/devfreq/gpu/trans_stat", "Total transition : 9\n");
        while signal(&sense, &seen, "gpu/transitions").is_none_or(|v| v != 9) {
            std::thread::sleep(Duration::from_millis(1));
            sense.slow_into(&mut seen, now());
        }
        sense.sample(start + Nanos::from_ms(400), &mut seen);

        // 1,007,999 kHz is nearest to 1,008,000; a ceiling of 1,199,999 does not allow 1,200,000.
        let want = DomainSample {
            opp: Some(OppIndex(1)),
            util: Some(Util(1024)),
            cap: Some(OppIndex(1)),
            // 1200 mW with both CPUs busy; they were for 1 and 0.5 of the time.
            power: None,
            modelled: Some(Milliwatts(900)),
            transitions: None,
        };
        assert_eq!(seen.domains[0], want);
        // No policy4: only what the rail and /proc tell.
        let want =
            DomainSample { util: Some(Util(0)), power: Some(Milliwatts(3500)), ..DomainSample::default() };
        assert_eq!(seen.domains[1], want);
        let want = DomainSample {
            opp: Some(OppIndex(1)),
            util: Some(Util(512)),
            cap: Some(OppIndex(1)),
            power: None,
            modelled: Some(Milliwatts(1000)),
            transitions: Some(3),
        };
        assert_eq!(seen.domains[2], want);
        assert_eq!(seen.domains[3], DomainSample { util: Some(Util(512)), ..DomainSample::default() });
        let sources = [0, 1, 2, 3].map(|i| sense.power_source(DomainId(i)));
        assert_eq!(sources, [Some(Source::Modelled), Some(Source::Measured), None, None]);
        assert_eq!(signal(&sense, &seen, "rail/big"), Some(3_500_000));

        // A ceiling of our own making is nobody's cap.
        sense.set_own_max(DomainId(0), Some(1_199_999));
        sense.sample(start + Nanos::from_ms(500), &mut seen);
        assert_eq!(seen.domains[0].cap, Some(OppIndex(2)));
        sense.drain_events(&mut |e: Event| panic!("no events without BPF: {e:?}"));
    }

    fn signal(sense: &Sense, seen: &Snapshot, name: &str) -> Option<i64> {
        let i = sense.signals().iter().position(|s| s.name == name).unwrap();
        seen.signals[i].value
    }
}
