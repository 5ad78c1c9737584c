//! Device clocks (GPU, memory bus): `/sys/class/devfreq/DEVICE`.
//!
//! With the `userspace` governor an OPP goes to `userspace/set_freq`, else the limits close on it. What
//! is in force is `target_freq` (`cur_freq` may be measured). A devfreq governor keeps its settings
//! with the device, not with itself: unlike cpufreq's they survive a switch.

use super::attr::{Attr, below, read_error, read_value, write_value};
use super::claim::Claim;
use super::clock::{Clock, How, set_all};
use super::cooling::{Of, unheld_limit};
use super::saved::{Setting, Step};
use super::{ActuateError, Actuator, Half, Options};
use crate::board::{Board, Domain, DomainKind};
use crate::envelope::Admitted;
use crate::units::{DomainId, OppIndex};
use std::path::Path;

/// The kernel keeps limits in kHz: what it shows may differ by less than one.
const SLACK_HZ: u64 = 999;

/// All devfreq domains of a board.
#[derive(Debug)]
pub struct Devfreq {
    clocks: Vec<Clock>,
}

impl Devfreq {
    /// Saves every device, then makes it settable. `None`: the board has no such domain.
    pub fn start(
        board: &Board,
        claim: &mut Claim,
        options: &Options,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>, ActuateError> {
        let root = claim.root().to_path_buf();
        let mut clocks = vec![];
        for (id, domain) in board.ids() {
            let DomainKind::Devfreq { device } = &domain.kind else { continue };
            check(&root, domain, device)?;
            let steps = save(&root, domain, device, options, notes)?;
            claim.save(&format!("devfreq/{device}"), steps)?;
            clocks.push(open(&root, id, domain, device, notes)?);
        }
        Ok((!clocks.is_empty()).then_some(Self { clocks }))
    }

    pub(super) fn set(
        &mut self,
        opp: impl Fn(DomainId) -> Option<OppIndex>,
        half: Half,
    ) -> Result<(), ActuateError> {
        set_all(&mut self.clocks, opp, half)
    }
}

impl Actuator for Devfreq {
    fn name(&self) -> &str {
        "devfreq"
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

fn dir(device: &str) -> String {
    format!("/sys/class/devfreq/{device}")
}

fn number(root: &Path, path: &str) -> Result<u64, ActuateError> {
    let text = read_value(root, path)?;
    text.parse().map_err(|_| read_error(path, std::io::Error::other(format!("{text:?} is no number"))))
}

fn known(root: &Path, dir: &str) -> Vec<u64> {
    let text = read_value(root, &format!("{dir}/available_frequencies")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
}

fn check(root: &Path, domain: &Domain, device: &str) -> Result<(), ActuateError> {
    let dir = dir(device);
    let wrong = |rule: String| Err(ActuateError::Board { domain: domain.name.clone(), rule });
    if !below(root, &dir).is_dir() {
        return wrong(format!("{dir} does not exist on this machine"));
    }
    let known = known(root, &dir);
    let strange = domain.opps.iter().position(|o| !known.is_empty() && !known.contains(&o.freq.raw));
    match strange {
        Some(i) => {
            let raw = domain.opps[i].freq.raw;
            wrong(format!("opp {i} ({raw} Hz) is not among {dir}/available_frequencies {known:?}"))
        }
        None => Ok(()),
    }
}

fn save(
    root: &Path,
    domain: &Domain,
    device: &str,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Vec<Step>, ActuateError> {
    let dir = dir(device);
    let file = |name: &str| format!("{dir}/{name}");
    let top = known(root, &dir).into_iter().max().unwrap_or(domain.opps.last().map_or(0, |o| o.freq.raw));
    let path = file("max_freq");
    let (max, note) =
        unheld_limit(root, Of::Device(device), &path, top, options.cooling_patience, || number(root, &path))?;
    notes.extend(note);
    let min = number(root, &file("min_freq"))?;
    let governor = read_value(root, &file("governor"))?;
    let one = |path: String, value: String| Step::Write { settings: vec![Setting { path, value }] };
    let mut steps = vec![one(file("governor"), governor.clone())];
    let limits = [(path, max.to_string()), (file("min_freq"), min.to_string())];
    steps.push(Step::Write { settings: limits.map(|(path, value)| Setting { path, value }).into() });
    if governor == "userspace" {
        // "undefined" until someone has set one.
        if let Ok(speed) = number(root, &file("userspace/set_freq")) {
            steps.push(one(file("userspace/set_freq"), speed.to_string()));
        }
    }
    Ok(steps)
}

fn open(
    root: &Path,
    id: DomainId,
    domain: &Domain,
    device: &str,
    notes: &mut Vec<String>,
) -> Result<Clock, ActuateError> {
    let dir = dir(device);
    let file = |name: &str| format!("{dir}/{name}");
    let listed = read_value(root, &file("available_governors")).unwrap_or_default();
    if listed.split_ascii_whitespace().any(|g| g == "userspace") {
        write_value(root, &file("governor"), "userspace")?;
        let speed = Attr::open(root, &file("userspace/set_freq"))?;
        let seen = Attr::open_read(root, &file("target_freq"))?;
        return Ok(Clock::new(id, domain, How::Setspeed(speed), seen, SLACK_HZ));
    }
    notes.push(format!(
        "domain {:?}: no devfreq `userspace` governor here; the clock is set by closing the limits (min = max)",
        domain.name
    ));
    let (min, max) = (Attr::open(root, &file("min_freq"))?, Attr::open(root, &file("max_freq"))?);
    let seen = Attr::open_read(root, &file("max_freq"))?;
    Ok(Clock::new(id, domain, How::Range { min, max }, seen, SLACK_HZ))
}
