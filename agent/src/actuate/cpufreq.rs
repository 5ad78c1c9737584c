//! CPU clocks: `/sys/devices/system/cpu/cpufreq/policyN`.
//!
//! With the `userspace` governor an OPP is written to `scaling_setspeed`, which reads back the frequency
//! in force (`policy->cur`). Without it (intel_pstate, say) the limits close on the OPP, min = max, and
//! the limits in force are read back. `scaling_cur_freq` is not compared: on some drivers it is a measured
//! average, which lags; the sensors read it.

use super::attr::{Attr, below, read_error, read_value, write_value};
use super::claim::Claim;
use super::clock::{Clock, How, set_all};
use super::cooling::{Of, unheld_limit};
use super::saved::{Setting, Step};
use super::{ActuateError, Actuator, Half, Options};
use crate::board::{Board, Domain, DomainKind};
use crate::envelope::Admitted;
use crate::units::{DomainId, OppIndex};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";

/// All cpufreq domains of a board.
#[derive(Debug)]
pub struct Cpufreq {
    clocks: Vec<Clock>,
}

impl Cpufreq {
    /// Saves every policy, then makes them settable. `None`: the board has no such domain. The notes
    /// are for the operator.
    pub fn start(
        board: &Board,
        claim: &mut Claim,
        options: &Options,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>, ActuateError> {
        let policies: Vec<(DomainId, &Domain, u32)> = board
            .ids()
            .filter_map(|(id, d)| match d.kind {
                DomainKind::Cpufreq { policy } => Some((id, d, policy)),
                _ => None,
            })
            .collect();
        if policies.is_empty() {
            return Ok(None);
        }
        let root = claim.root().to_path_buf();
        // All are checked and saved before any is written: policies may share one governor's tunables.
        for (_, domain, policy) in &policies {
            check(&root, domain, *policy)?;
        }
        for (_, domain, policy) in &policies {
            let steps = save(&root, domain, *policy, options, notes)?;
            claim.save(&format!("cpufreq/policy{policy}"), steps)?;
        }
        let clocks = policies.iter().map(|(id, domain, policy)| open(&root, *id, domain, *policy, notes));
        Ok(Some(Self { clocks: clocks.collect::<Result<_, _>>()? }))
    }

    pub(super) fn set(
        &mut self,
        opp: impl Fn(DomainId) -> Option<OppIndex>,
        half: Half,
    ) -> Result<(), ActuateError> {
        set_all(&mut self.clocks, opp, half)
    }
}

impl Actuator for Cpufreq {
    fn name(&self) -> &str {
        "cpufreq"
    }
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
        self.set(|d| order.opp(d), half)
    }
    fn standing(&self, domain: DomainId) -> Option<OppIndex> {
        self.clocks.iter().find(|c| c.domain() == domain)?.standing()
    }
    fn own_limit(&self, domain: DomainId) -> Option<u64> {
        self.clocks.iter().find(|c| c.domain() == domain)?.own_limit()
    }
}

fn dir(policy: u32) -> String {
    format!("{CPUFREQ}/policy{policy}")
}

fn number(root: &Path, path: &str) -> Result<u64, ActuateError> {
    let text = read_value(root, path)?;
    text.parse().map_err(|_| read_error(path, std::io::Error::other(format!("{text:?} is no number"))))
}

/// Numbers of a list file; empty if the file is absent.
fn numbers(root: &Path, path: &str) -> Vec<u64> {
    let text = read_value(root, path).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// The board must describe this machine.
fn check(root: &Path, domain: &Domain, policy: u32) -> Result<(), ActuateError> {
    let dir = dir(policy);
    let wrong = |rule: String| Err(ActuateError::Board { domain: domain.name.clone(), rule });
    if !below(root, &dir).is_dir() {
        return wrong(format!("{dir} does not exist on this machine"));
    }
    let mut cpus = numbers(root, &format!("{dir}/related_cpus"));
    cpus.sort_unstable();
    if !cpus.iter().copied().eq(domain.cpus.iter().map(|c| u64::from(*c))) {
        return wrong(format!("the board gives it CPUs {:?}, {dir}/related_cpus {cpus:?}", domain.cpus));
    }
    let mut known = numbers(root, &format!("{dir}/scaling_available_frequencies"));
    let (low, high) = (
        number(root, &format!("{dir}/cpuinfo_min_freq"))?,
        number(root, &format!("{dir}/cpuinfo_max_freq"))?,
    );
    let boost = numbers(root, &format!("{dir}/scaling_boost_frequencies"));
    let top = boost.iter().copied().fold(high, u64::max);
    if !known.is_empty() {
        known.extend(boost);
    }
    for (i, opp) in domain.opps.iter().enumerate() {
        let raw = opp.freq.raw;
        if raw < low || raw > top {
            return wrong(format!("opp {i} ({raw} kHz) is outside the hardware's range, {low} to {top} kHz"));
        }
        if !known.is_empty() && !known.contains(&raw) {
            return wrong(format!(
                "opp {i} ({raw} kHz) is not among {dir}/scaling_available_frequencies {known:?}"
            ));
        }
    }
    Ok(())
}

/// The governor first, then its tunables (a switch away and back loses them), then the limits, then the
/// speed if the governor was `userspace`.
fn save(
    root: &Path,
    domain: &Domain,
    policy: u32,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Vec<Step>, ActuateError> {
    let dir = dir(policy);
    let file = |name: &str| format!("{dir}/{name}");
    let top = number(root, &file("cpuinfo_max_freq"))?;
    let path = file("scaling_max_freq");
    let (max, note) =
        unheld_limit(root, Of::Cpus(&domain.cpus), &path, top, options.cooling_patience, || {
            number(root, &path)
        })?;
    notes.extend(note);
    let governor = read_value(root, &file("scaling_governor"))?;
    let min = number(root, &file("scaling_min_freq"))?;
    let one = |path: String, value: String| Step::Write { settings: vec![Setting { path, value }] };
    let mut steps = vec![one(file("scaling_governor"), governor.clone())];
    // Per policy (drivers with CPUFREQ_HAVE_GOVERNOR_PER_POLICY) or for all policies together.
    for tunables in [format!("{dir}/{governor}"), format!("{CPUFREQ}/{governor}")] {
        let settings = tunables_of(root, &tunables, notes);
        if !settings.is_empty() {
            steps.push(Step::Write { settings });
        }
    }
    let limits = [(path, max.to_string()), (file("scaling_min_freq"), min.to_string())];
    steps.push(Step::Write { settings: limits.map(|(path, value)| Setting { path, value }).into() });
    if governor == "userspace" {
        let speed = read_value(root, &file("scaling_setspeed"))?;
        steps.push(one(file("scaling_setspeed"), speed));
    }
    Ok(steps)
}

/// The writable files of a governor's folder, which need not exist.
fn tunables_of(root: &Path, dir: &str, notes: &mut Vec<String>) -> Vec<Setting> {
    let Ok(files) = std::fs::read_dir(below(root, dir)) else { return vec![] };
    let mut settings: Vec<Setting> = files
        .filter_map(|f| {
            let f = f.ok()?;
            let meta = f.metadata().ok().filter(std::fs::Metadata::is_file)?;
            if meta.permissions().mode() & 0o200 == 0 {
                return None;
            }
            let path = format!("{dir}/{}", f.file_name().to_str()?);
            match read_value(root, &path) {
                Ok(value) => Some(Setting { path, value }),
                Err(e) => {
                    notes.push(format!("{e}: this tunable cannot be put back"));
                    None
                }
            }
        })
        .collect();
    settings.sort_by(|a, b| a.path.cmp(&b.path));
    settings
}

fn open(
    root: &Path,
    id: DomainId,
    domain: &Domain,
    policy: u32,
    notes: &mut Vec<String>,
) -> Result<Clock, ActuateError> {
    let dir = dir(policy);
    let file = |name: &str| format!("{dir}/{name}");
    let governor = file("scaling_governor");
    let before = read_value(root, &governor)?;
    // Asking for it loads the module where it is one; only then is it listed.
    let asked = if before == "userspace" { Ok(()) } else { write_value(root, &governor, "userspace") };
    let listed = read_value(root, &file("scaling_available_governors")).unwrap_or_default();
    let listed = listed.split_ascii_whitespace().any(|g| g == "userspace");
    if asked.is_ok() && listed && read_value(root, &governor)? == "userspace" {
        let speed = Attr::open(root, &file("scaling_setspeed"))?;
        let seen = Attr::open_read(root, &file("scaling_setspeed"))?;
        return Ok(Clock::new(id, domain, How::Setspeed(speed), seen, 0));
    }
    if read_value(root, &governor)? != before {
        write_value(root, &governor, &before)?;
    }
    notes.push(format!(
        "domain {:?}: no `userspace` governor here; the clock is set by closing the limits (min = max) under `{before}`",
        domain.name
    ));
    range(root, id, domain, policy)
}

/// A clock set by its limits.
pub(super) fn range(root: &Path, id: DomainId, domain: &Domain, policy: u32) -> Result<Clock, ActuateError> {
    let dir = dir(policy);
    let [min, max] = ["min", "max"].map(|limit| Attr::open(root, &format!("{dir}/scaling_{limit}_freq")));
    let seen = Attr::open_read(root, &format!("{dir}/scaling_max_freq"))?;
    Ok(Clock::new(id, domain, How::Range { min: min?, max: max? }, seen, 0))
}
