//! What share of the CPUs each application gets, and which CPUs: a cgroup for each, below our own.
//!
//! A weight counts against everything else on the machine, as if the applications' groups stood beside
//! the others': our own group weighs the sum of its members. v2 `cpu.weight` is 1..=10000; v1
//! `cpu.shares` is weight * 1024 / 100, rounded, which is what the kernel itself makes of a v2 weight
//! (`sched_weight_from_cgroup`, kernel/sched/sched.h), so both give the same shares.
//!
//! Which CPUs: those of the granted domain; of `cores` fewer than all, each application is dealt the next
//! ones in turn. By the cpuset controller, else by the affinity of the application's threads (a thread
//! started later inherits it). A process is moved with all its threads; if its threads were in
//! different v1 groups, all go back to that of the first.

use super::attr::{Attr, Buffer, cpu_list, read_error, write_value};
use super::cgroup::{Own, OwnGroup, Version, inherit_cpuset, make};
use super::claim::Claim;
use super::process;
use super::saved::Step;
use super::{ActuateError, Actuator, Half};
use crate::board::Board;
use crate::envelope::Admitted;
use crate::policy::{AppChoice, Grant};
use crate::units::AppSlot;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The kernel's default weight.
const DEFAULT_WEIGHT: u32 = 100;
const MAX_WEIGHT: u32 = 10_000;

/// The applications' shares.
#[derive(Debug)]
pub struct CpuShare {
    root: PathBuf,
    /// Of our own group.
    weight: Option<Weight>,
    /// Of each domain; empty for a device, which restricts nothing.
    domain_cpus: Vec<Vec<u32>>,
    members: Vec<Member>,
    /// Members by position in the order.
    order: Vec<Option<usize>>,
    /// The next CPU to deal, by domain.
    next: Vec<usize>,
    /// Reused on every tick.
    wish: Vec<u32>,
    line: String,
}

/// An application whose process has been moved into its own group.
#[derive(Debug)]
pub struct Member {
    slot: AppSlot,
    tgid: i32,
    weight: Option<Weight>,
    cpuset: Option<Attr>,
    /// In force; `None` until the first order.
    cpus: Option<Vec<u32>>,
}

/// A weight that can be set.
#[derive(Debug)]
struct Weight {
    attr: Attr,
    version: Version,
    now: u32,
}

impl CpuShare {
    /// Over the groups made before; says what this machine lacks.
    pub fn start(
        board: &Board,
        claim: &Claim,
        own: &Own,
        notes: &mut Vec<String>,
    ) -> Result<Self, ActuateError> {
        if own.with("cpu").is_none() {
            notes.push("no cgroup controller `cpu`: weights are not set".into());
        }
        if own.with("cpuset").is_none() {
            notes.push("no cgroup controller `cpuset`: CPUs are set by each thread's affinity".into());
        }
        let weight = own.with("cpu").map(|g| Weight::open(claim.root(), g, &g.dir)).transpose()?;
        let domain_cpus: Vec<Vec<u32>> = board.domains.iter().map(|d| d.cpus.clone()).collect();
        Ok(Self {
            root: claim.root().into(),
            weight,
            next: vec![0; domain_cpus.len()],
            wish: Vec::with_capacity(domain_cpus.iter().map(Vec::len).max().unwrap_or(0)),
            line: String::with_capacity(256),
            domain_cpus,
            members: vec![],
            order: vec![],
        })
    }

    /// Takes a member in; it is last in the order.
    pub fn admit(&mut self, member: Member) {
        self.members.push(member);
        self.order.push(Some(self.members.len() - 1));
    }

    /// Lets a member go; what is to be put back is [`leave`]'s.
    pub fn remove(&mut self, slot: AppSlot) {
        self.members.retain(|m| m.slot != slot);
        self.order = (0..self.members.len()).map(Some).collect();
    }

    /// The order of applications in the decisions to come; until told, the order they were added in.
    /// A slot without a member (its process could not be moved) is skipped.
    pub fn set_order(&mut self, slots: &[AppSlot]) {
        self.order.clear();
        self.order.extend(slots.iter().map(|s| self.members.iter().position(|m| m.slot == *s)));
    }

    pub(super) fn set(
        &mut self,
        apps: &[Option<(Grant, AppChoice)>],
        half: Half,
    ) -> Result<(), ActuateError> {
        let mut last = Ok(());
        let mut keep = |result: Result<(), ActuateError>| {
            if result.is_err() {
                last = result;
            }
        };
        self.next.fill(0);
        for (i, app) in apps.iter().enumerate() {
            let Some((grant, _)) = app else { continue };
            let domain = usize::from(grant.domain.0);
            let Some(cpus) = self.domain_cpus.get(domain) else { continue };
            // Dealt also for a member we do not have, so that the others' CPUs do not depend on it.
            deal(cpus, grant.cores, &mut self.next[domain], &mut self.wish);
            let Some(member) = self.order.get(i).copied().flatten() else { continue };
            let Some(member) = self.members.get_mut(member) else { continue };
            if let Some(weight) = &mut member.weight {
                keep(weight.set(u32::from(grant.weight), half, &mut self.line));
            }
            if !self.wish.is_empty() {
                keep(member.set_cpus(&self.root, &self.wish, half, &mut self.line));
            }
        }
        if let Some(own) = &mut self.weight {
            let sum = self.members.iter().filter_map(|m| m.weight.as_ref()).map(|w| w.now).sum();
            keep(own.set(if self.members.is_empty() { DEFAULT_WEIGHT } else { sum }, half, &mut self.line));
        }
        last
    }
}

/// Saves where an application's process is, then moves it into a group of its own. `name` is for people.
/// Not for the tick: it writes to the disk.
pub fn join(
    claim: &mut Claim,
    own: &Own,
    slot: AppSlot,
    name: &str,
    tgid: i32,
) -> Result<Member, ActuateError> {
    let root = claim.root().to_path_buf();
    let gone = || read_error(&format!("/proc/{tgid}/stat"), std::io::ErrorKind::NotFound.into());
    let started = process::start_time(&root, tgid).ok_or_else(gone)?;
    let clean: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
    let dir = |g: &OwnGroup| format!("{}/{}-{clean}", g.dir, slot.0);
    let mut steps = vec![];
    for g in &own.groups {
        let to = g.hierarchy.group_of(&root, tgid, g.controllers[0])?;
        steps.push(Step::Move { tgid, started, to });
    }
    steps.extend(own.groups.iter().map(|g| Step::RemoveCgroup { dir: dir(g) }));
    // Last: kernels before 6.2 forget a thread's own affinity when its cpuset changes.
    steps.push(Step::Affinity { tgid, started, threads: process::affinities(&root, tgid) });
    // A tenant's own: what could not be put back of the one before (its last threads may still be ending) is
    // kept beside it.
    let key = format!("{}{clean}/{tgid}", prefix(slot));
    claim.save(&key, steps)?;
    move_in(&root, own, slot, tgid, dir).inspect_err(|_| {
        drop(claim.release(&key)); // what fails is kept for the end and told there
    })
}

fn move_in(
    root: &Path,
    own: &Own,
    slot: AppSlot,
    tgid: i32,
    dir: impl Fn(&OwnGroup) -> String,
) -> Result<Member, ActuateError> {
    let mut member = Member { slot, tgid, weight: None, cpuset: None, cpus: None };
    for g in &own.groups {
        let dir = dir(g);
        make(root, &dir)?;
        if g.controllers.contains(&"cpuset") {
            if g.hierarchy.version == Version::V1 {
                inherit_cpuset(root, &g.dir, &dir)?;
            }
            member.cpuset = Some(Attr::open(root, &format!("{dir}/cpuset.cpus"))?);
        }
        if g.controllers.contains(&"cpu") {
            member.weight = Some(Weight::open(root, g, &dir)?);
        }
        write_value(root, &format!("{dir}/cgroup.procs"), &tgid.to_string())?;
    }
    Ok(member)
}

/// An application is gone: its process, if it lives, goes back where it was, and what an earlier one of this slot
/// left is tried again. Returns what failed.
pub fn leave(claim: &mut Claim, slot: AppSlot) -> Vec<super::saved::RestoreError> {
    claim.release_under(&prefix(slot))
}

fn prefix(slot: AppSlot) -> String {
    format!("app/{}/", slot.0)
}

/// The CPUs of one application: all for 0 (or more than there are), else the next `cores` in turn.
fn deal(cpus: &[u32], cores: u8, next: &mut usize, into: &mut Vec<u32>) {
    into.clear();
    let cores = usize::from(cores);
    if cores == 0 || cores >= cpus.len() {
        into.extend(cpus);
        return;
    }
    into.extend((0..cores).map(|i| cpus[(*next + i) % cpus.len()]));
    into.sort_unstable();
    *next = (*next + cores) % cpus.len();
}

impl Weight {
    fn open(root: &Path, group: &OwnGroup, dir: &str) -> Result<Self, ActuateError> {
        let version = group.hierarchy.version;
        let file = if version == Version::V1 { "cpu.shares" } else { "cpu.weight" };
        Ok(Self { attr: Attr::open(root, &format!("{dir}/{file}"))?, version, now: DEFAULT_WEIGHT })
    }

    fn set(&mut self, want: u32, half: Half, line: &mut String) -> Result<(), ActuateError> {
        let want = want.clamp(1, MAX_WEIGHT);
        let ours = if half == Half::Raise { want > self.now } else { want < self.now };
        if !ours {
            return Ok(());
        }
        let raw = raw_weight(self.version, want);
        line.clear();
        writeln!(line, "{raw}").expect("a String takes any text");
        self.attr.write(line)?;
        let read = self.attr.read_number()?;
        if read != u64::from(raw) {
            let (path, wrote) = (self.attr.path().into(), raw.to_string());
            return Err(ActuateError::NotReached { path, wrote, read: read.to_string() });
        }
        self.now = want;
        Ok(())
    }
}

fn raw_weight(version: Version, weight: u32) -> u32 {
    match version {
        Version::V1 => (weight * 1024 + 50) / 100,
        Version::V2 => weight,
    }
}

impl Member {
    /// More or other CPUs belong to the raising half, fewer of the same to the lowering one.
    fn set_cpus(
        &mut self,
        root: &Path,
        want: &[u32],
        half: Half,
        line: &mut String,
    ) -> Result<(), ActuateError> {
        let fewer = self.cpus.as_ref().is_some_and(|now| want.iter().all(|c| now.contains(c)));
        if self.cpus.as_deref() == Some(want) || fewer != (half == Half::Lower) {
            return Ok(());
        }
        match &self.cpuset {
            Some(attr) => {
                line.clear();
                for cpu in want {
                    let comma = if line.is_empty() { "" } else { "," };
                    write!(line, "{comma}{cpu}").expect("a String takes any text");
                }
                line.push('\n');
                attr.write(line)?;
                let mut buffer: Buffer = [0; 96];
                let read = attr.read(&mut buffer)?;
                // A list too long for the buffer is compared as far as it goes.
                if read.len() < buffer_len() && !cpu_list(read).eq(want.iter().copied()) {
                    let (path, wrote) = (attr.path().into(), line.trim_end().into());
                    return Err(ActuateError::NotReached { path, wrote, read: read.into() });
                }
            }
            None => {
                if let Some(what) = process::set_affinity(root, self.tgid, want).pop() {
                    let error = std::io::Error::other(what);
                    return Err(super::attr::write_error(
                        &format!("/proc/{}/task", self.tgid),
                        "CPUs",
                        error,
                    ));
                }
            }
        }
        let now = self.cpus.get_or_insert_with(|| Vec::with_capacity(64));
        now.clear();
        now.extend(want);
        Ok(())
    }
}

const fn buffer_len() -> usize {
    size_of::<Buffer>()
}

impl Actuator for CpuShare {
    fn name(&self) -> &str {
        "cpu-share"
    }
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
        self.set(order.apps(), half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_shares_are_the_kernels_own_conversion() {
        // cpu_weight_write_u64 and sched_weight_from_cgroup: DIV_ROUND_CLOSEST(weight * 1024, 100)
        for (weight, shares) in [(1, 10), (100, 1024), (50, 512), (150, 1536), (10_000, 102_400), (33, 338)] {
            assert_eq!(raw_weight(Version::V1, weight), shares, "weight {weight}");
        }
    }

    #[test]
    fn cpus_are_dealt_in_turn() {
        let (cpus, mut next, mut out) = ([4, 5, 6, 7], 0, vec![]);
        let mut one = |cores| {
            deal(&cpus, cores, &mut next, &mut out);
            out.clone()
        };
        assert_eq!(one(1), [4]);
        assert_eq!(one(2), [5, 6]);
        assert_eq!(one(0), [4, 5, 6, 7]);
        assert_eq!(one(2), [4, 7]);
        assert_eq!(one(9), [4, 5, 6, 7]);
    }
}
