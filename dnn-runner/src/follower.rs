//! What to run now: the agent's newest decision while it holds, the failsafe when nobody decides.
//!
//! Responsible for: the rules of obedience. A decision holds until its `valid_until`; past it, or when
//! the agent is gone, the last choice is kept for a grace time; then the failsafe runs. Time comes in as
//! an argument. Not responsible for: where decisions come from ([`crate::link`]).

use channel::msg::DecisionMsg;

/// What the next inference runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Sub-network.
    pub subnet: usize,
    /// Threads.
    pub threads: usize,
    /// The decision it follows; 0 = none of the agent now connected.
    pub seq: u64,
    /// On what grounds.
    pub grounds: Grounds,
}

/// On what grounds a sub-network runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// The command line says so; there is no agent.
    Fixed,
    /// A decision that holds.
    Decision,
    /// A decision that held until a moment ago.
    Grace,
    /// Nobody decides.
    Failsafe,
}

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Known already.
    Same,
    /// In force from now on.
    Taken,
    /// No such sub-network: the choice before stays. Said once for each decision.
    Refused,
}

/// Follows one agent after the other.
#[derive(Clone, Debug)]
pub struct Follower {
    subnets: usize,
    threads_max: usize,
    failsafe: usize,
    grace_ns: u64,
    fixed: bool,
    newest_seq: u64,
    /// The last decision taken: sub-network, threads, seq.
    last: Option<(usize, usize, u64)>,
    valid_until: u64,
}

impl Follower {
    /// For a network of `subnets` sub-networks and inferences of up to `threads_max` threads.
    pub fn new(subnets: usize, failsafe: usize, threads_max: usize, grace_ns: u64) -> Self {
        Self {
            subnets,
            threads_max,
            failsafe,
            grace_ns,
            fixed: false,
            newest_seq: 0,
            last: None,
            valid_until: 0,
        }
    }

    /// Always the same sub-network on `threads` threads; hears nobody.
    pub fn fixed(subnet: usize, threads: usize) -> Self {
        Self { fixed: true, ..Self::new(subnet + 1, subnet, threads, 0) }
    }

    /// The newest decision that can be read.
    pub fn hear(&mut self, decision: &DecisionMsg) -> Heard {
        if self.fixed || decision.seq == self.newest_seq {
            return Heard::Same;
        }
        self.newest_seq = decision.seq;
        let subnet = usize::try_from(decision.subnet).unwrap_or(usize::MAX);
        if subnet >= self.subnets {
            return Heard::Refused;
        }
        let threads = usize::try_from(decision.threads).unwrap_or(usize::MAX).clamp(1, self.threads_max);
        self.last = Some((subnet, threads, decision.seq));
        self.valid_until = decision.valid_until_ns;
        Heard::Taken
    }

    /// The agent is gone: its decision holds no longer, and the next agent counts anew.
    pub fn lost(&mut self, now: u64) {
        self.valid_until = self.valid_until.min(now);
        self.newest_seq = 0;
        if let Some((_, _, seq)) = &mut self.last {
            *seq = 0;
        }
    }

    /// What to run now.
    pub fn choice(&self, now: u64) -> Choice {
        let nobody = |grounds| Choice { subnet: self.failsafe, threads: self.threads_max, seq: 0, grounds };
        if self.fixed {
            return nobody(Grounds::Fixed);
        }
        let Some((subnet, threads, seq)) = self.last else { return nobody(Grounds::Failsafe) };
        if now <= self.valid_until {
            Choice { subnet, threads, seq, grounds: Grounds::Decision }
        } else if now - self.valid_until <= self.grace_ns {
            Choice { subnet, threads, seq, grounds: Grounds::Grace }
        } else {
            nobody(Grounds::Failsafe)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn follower() -> Follower {
        Follower::new(4, 1, 2, 1000 * MS)
    }
    fn decision(seq: u64, subnet: u32, until_ms: u64) -> DecisionMsg {
        DecisionMsg { seq, subnet, threads: 1, valid_until_ns: until_ms * MS, ..DecisionMsg::default() }
    }
    fn at(f: &Follower, ms: u64) -> (usize, u64, Grounds) {
        let c = f.choice(ms * MS);
        (c.subnet, c.seq, c.grounds)
    }

    #[test]
    fn without_a_decision_the_failsafe_runs() {
        assert_eq!(at(&follower(), 5), (1, 0, Grounds::Failsafe));
    }

    #[test]
    fn a_decision_holds_then_has_its_grace_then_the_failsafe_runs() {
        let mut f = follower();
        assert_eq!(f.hear(&decision(7, 3, 1500)), Heard::Taken);
        assert_eq!(at(&f, 1500), (3, 7, Grounds::Decision));
        assert_eq!(at(&f, 1501), (3, 7, Grounds::Grace));
        assert_eq!(at(&f, 2500), (3, 7, Grounds::Grace));
        assert_eq!(at(&f, 2501), (1, 0, Grounds::Failsafe));
    }

    #[test]
    fn a_newer_decision_ends_grace_and_failsafe() {
        let mut f = follower();
        f.hear(&decision(7, 3, 100));
        assert_eq!(at(&f, 9000), (1, 0, Grounds::Failsafe));
        assert_eq!(f.hear(&decision(7, 3, 100)), Heard::Same);
        assert_eq!(f.hear(&decision(8, 2, 10_000)), Heard::Taken);
        assert_eq!(at(&f, 9000), (2, 8, Grounds::Decision));
    }

    #[test]
    fn a_decision_that_came_too_late_is_taken_but_not_run() {
        let mut f = follower();
        assert_eq!(f.hear(&decision(1, 3, 100)), Heard::Taken);
        assert_eq!(at(&f, 5000), (1, 0, Grounds::Failsafe));
    }

    #[test]
    fn an_agent_that_dies_leaves_a_grace_time() {
        let mut f = follower();
        f.hear(&decision(7, 3, 100_000));
        f.lost(200 * MS);
        assert_eq!(at(&f, 1200), (3, 0, Grounds::Grace));
        assert_eq!(at(&f, 1201), (1, 0, Grounds::Failsafe));
    }

    #[test]
    fn losing_the_agent_never_prolongs_an_expired_decision() {
        let mut f = follower();
        f.hear(&decision(7, 3, 100));
        f.lost(1000 * MS);
        assert_eq!(at(&f, 1101), (1, 0, Grounds::Failsafe));
    }

    #[test]
    fn the_next_agent_counts_from_one_and_is_heard() {
        let mut f = follower();
        f.hear(&decision(1, 3, 100_000));
        f.lost(0);
        assert_eq!(f.hear(&decision(1, 2, 100_000)), Heard::Taken);
        assert_eq!(at(&f, 50), (2, 1, Grounds::Decision));
    }

    #[test]
    fn a_subnetwork_that_does_not_exist_is_refused_once_and_the_choice_stays() {
        let mut f = follower();
        f.hear(&decision(1, 3, 100));
        assert_eq!(f.hear(&decision(2, 4, 900)), Heard::Refused);
        assert_eq!(f.hear(&decision(2, 4, 900)), Heard::Same);
        assert_eq!(at(&f, 50), (3, 1, Grounds::Decision));
        assert_eq!(at(&f, 101), (3, 1, Grounds::Grace));
    }

    #[test]
    fn threads_stay_within_what_the_runner_has() {
        let mut f = follower();
        for (asked, got) in [(0, 1), (1, 1), (2, 2), (u32::MAX, 2)] {
            f.hear(&DecisionMsg { threads: asked, ..decision(u64::from(asked) + 1, 0, 100) });
            assert_eq!(f.choice(0).threads, got);
        }
    }

    #[test]
    fn a_fixed_runner_hears_nobody() {
        let mut f = Follower::fixed(2, 1);
        assert_eq!(f.hear(&decision(1, 0, 100)), Heard::Same);
        assert_eq!(at(&f, 1), (2, 0, Grounds::Fixed));
    }
}
