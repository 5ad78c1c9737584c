//! A stand-in for a clock where none can be set: the CPU time of all applications together is limited
//! (CFS bandwidth of our own cgroup).
//!
//! It bounds the average over some periods, not a short burst: within its quota a task runs at full
//! speed. So the period is short, 10 ms. The kernel takes no quota below 1 ms
//! (`min_cfs_quota_period`, kernel/sched/core.c): where the lowest OPP would need one, the period is
//! longer, at most 1 s (`max_cfs_quota_period`). All of the time, 1000 permille, is "no limit": a quota of
//! just as much would still throttle, because the kernel hands it out to the CPUs in slices of 5 ms.

use super::attr::{Attr, Buffer, write_value};
use super::cgroup::{Own, Version};
use super::{ActuateError, Actuator, Half};
use crate::board::{Board, DomainKind};
use crate::envelope::Admitted;
use crate::units::{DomainId, OppIndex};
use std::path::Path;

const PERIOD_US: u64 = 10_000;
const QUOTA_MIN_US: u64 = 1000;

/// The bandwidth domain of a board.
#[derive(Debug)]
pub struct CpuBandwidth {
    domain: DomainId,
    limit: Attr,
    permille: Vec<u64>,
    lines: Vec<String>,
    /// In force, permille.
    now: u64,
}

impl CpuBandwidth {
    /// `None`: the board has no such domain. The group was saved when it was made.
    pub fn start(board: &Board, root: &Path, own: &Own) -> Result<Option<Self>, ActuateError> {
        let Some((id, domain)) = board.ids().find(|(_, d)| d.kind == DomainKind::CpuBandwidth) else {
            return Ok(None);
        };
        let Some(group) = own.with("cpu") else {
            let rule =
                "kind cpu-bandwidth needs the cgroup controller `cpu`, which this machine has nowhere".into();
            return Err(ActuateError::Board { domain: domain.name.clone(), rule });
        };
        let permille: Vec<u64> = domain.opps.iter().map(|o| o.freq.raw).collect();
        let cpus = domain.cpus.len() as u64;
        let period = period_us(permille[0], cpus);
        let version = group.hierarchy.version;
        let lines = permille.iter().map(|p| line(version, *p, period, cpus)).collect();
        let file = match version {
            Version::V1 => {
                write_value(root, &format!("{}/cpu.cfs_period_us", group.dir), &period.to_string())?;
                "cpu.cfs_quota_us"
            }
            Version::V2 => "cpu.max",
        };
        let limit = Attr::open(root, &format!("{}/{file}", group.dir))?;
        limit.write(&line(version, 1000, period, cpus))?;
        Ok(Some(Self { domain: id, limit, permille, lines, now: 1000 }))
    }

    pub(super) fn set(&mut self, want: OppIndex, half: Half) -> Result<(), ActuateError> {
        let Some(&permille) = self.permille.get(usize::from(want.0)) else {
            return Err(ActuateError::NoSuchOpp {
                domain: self.domain,
                opp: want,
                opps: self.permille.len(),
            });
        };
        let ours = match half {
            Half::Raise => permille > self.now,
            Half::Lower => permille < self.now,
        };
        if !ours {
            return Ok(());
        }
        let line = &self.lines[usize::from(want.0)];
        self.limit.write(line)?;
        let mut buffer: Buffer = [0; 96];
        let read = self.limit.read(&mut buffer)?;
        if read != line.trim_end() {
            return Err(ActuateError::NotReached {
                path: self.limit.path().into(),
                wrote: line.trim_end().into(),
                read: read.into(),
            });
        }
        self.now = permille;
        Ok(())
    }
}

impl Actuator for CpuBandwidth {
    fn name(&self) -> &str {
        "cpu-bandwidth"
    }
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
        order.opp(self.domain).map_or(Ok(()), |want| self.set(want, half))
    }
    fn standing(&self, domain: DomainId) -> Option<OppIndex> {
        let at = self.permille.iter().rposition(|p| *p <= self.now).unwrap_or(0);
        (domain == self.domain).then(|| u16::try_from(at).ok().map(OppIndex)).flatten()
    }
}

/// 10 ms, or what gives the lowest OPP the least quota the kernel takes.
fn period_us(lowest_permille: u64, cpus: u64) -> u64 {
    PERIOD_US.max((QUOTA_MIN_US * 1000).div_ceil(lowest_permille * cpus))
}

fn line(version: Version, permille: u64, period: u64, cpus: u64) -> String {
    let quota = permille * period * cpus / 1000;
    match (version, permille) {
        (Version::V1, 1000) => "-1\n".into(),
        (Version::V1, _) => format!("{quota}\n"),
        (Version::V2, 1000) => format!("max {period}\n"),
        (Version::V2, _) => format!("{quota} {period}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_quota_is_below_the_kernels_minimum() {
        assert_eq!(period_us(100, 2), 10_000);
        assert_eq!(line(Version::V1, 100, 10_000, 2), "2000\n");
        for permille in [1, 3, 7, 50, 99, 100, 101] {
            for cpus in [1, 2, 3, 64] {
                let period = period_us(permille, cpus);
                let quota = permille * period * cpus / 1000;
                assert!(
                    quota >= QUOTA_MIN_US && period <= 1_000_000,
                    "{permille} {cpus}: {quota} of {period}"
                );
            }
        }
    }

    #[test]
    fn all_of_the_time_is_no_limit() {
        assert_eq!(line(Version::V1, 1000, 10_000, 2), "-1\n");
        assert_eq!(line(Version::V2, 1000, 10_000, 2), "max 10000\n");
        assert_eq!(line(Version::V2, 500, 10_000, 2), "10000 10000\n");
    }
}
