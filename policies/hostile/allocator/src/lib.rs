//! Fixture: an allocator that breaks the contract in the way its parameter `do` says. The host's tests
//! run it; nobody else should.
//!
//! | `do` | what happens |
//! |---|---|
//! | `nothing` | well-behaved: no asks, plain grants |
//! | `trap`, `spin`, `hoard` | in `decide`: a trap; an endless loop; memory without end |
//! | `trap-in-start`, `spin-in-start`, `refuse` | in `start`: a trap; an endless loop; an error in words |
//! | `trap-in-apps`, `trap-in-limits` | a trap there |
//! | `short`, `long`, `empty` | lists one too short; one too long; empty |
//! | `no-such-opp`, `no-such-cap`, `no-such-domain` | an index that does not exist |
//! | `no-weight`, `huge-weight`, `huge-cores` | outside the contract's ranges |
//! | `chatter` | 1000 lines of log of 1000 bytes in each `decide` |
//! | `leak` | keeps 64 KiB more after each `decide` |
//!
//! Parameter `needs` = a signal it cannot do without; `after` = how many calls of `decide` go well first (default 0).

use policy_sdk::{
    Allocation, Allocator, App, Board, DomainOrder, Grant, OppRange, Params, Slo, Snapshot, log,
};

/// See the crate's text.
#[derive(Debug)]
pub struct Hostile {
    act: String,
    after: u32,
    targets: Vec<Slo>,
    kept: Vec<Vec<u8>>,
}

const ACTS: [&str; 20] = [
    "nothing",
    "trap",
    "spin",
    "hoard",
    "trap-in-start",
    "spin-in-start",
    "refuse",
    "trap-in-apps",
    "trap-in-limits",
    "short",
    "long",
    "empty",
    "no-such-opp",
    "no-such-cap",
    "no-such-domain",
    "no-weight",
    "huge-weight",
    "huge-cores",
    "chatter",
    "leak",
];

fn spin() {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn hoard() -> Vec<Vec<u8>> {
    let mut all = vec![];
    loop {
        // Written to, so that no optimiser leaves it out.
        all.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

impl Allocator for Hostile {
    fn start(board: &Board, apps: &[App], params: &mut Params) -> Result<Self, String> {
        let act = params.text("do").unwrap_or("nothing").to_owned();
        let after = params.number("after", 0..=u32::MAX, 0)?;
        if !ACTS.contains(&act.as_str()) {
            return Err(format!("parameter do = {act:?}: must be one of {}", ACTS.join(", ")));
        }
        params.text("needs").map(|name| board.signal(name)).transpose()?;
        match act.as_str() {
            "trap-in-start" => panic!("as asked"),
            "spin-in-start" => spin(),
            "refuse" => return Err("refused, as asked".into()),
            _ => {}
        }
        Ok(Self { act, after, targets: apps.iter().map(|a| a.target).collect(), kept: vec![] })
    }

    fn apps(&mut self, apps: &[App]) {
        assert!(self.act != "trap-in-apps", "as asked");
        self.targets = apps.iter().map(|a| a.target).collect();
    }

    fn limits(&mut self, _: &[OppRange]) {
        assert!(self.act != "trap-in-limits", "as asked");
    }

    fn decide(&mut self, seen: &Snapshot) -> Allocation {
        let mut out = Allocation {
            domains: vec![DomainOrder::default(); seen.domains.len()],
            grants: self.targets.iter().map(|t| Some(Grant::whole(0, *t))).collect(),
        };
        if self.after > 0 {
            self.after -= 1;
            return out;
        }
        let orders = out.domains.iter_mut();
        let grants = out.grants.iter_mut().flatten();
        match self.act.as_str() {
            "trap" => panic!("as asked"),
            "spin" => spin(),
            "hoard" => self.kept = hoard(),
            "leak" => self.kept.push(std::hint::black_box(vec![1u8; 64 << 10])),
            "short" => {
                out.domains.pop();
                out.grants.pop();
            }
            "long" => {
                out.domains.push(DomainOrder::default());
                out.grants.push(None);
            }
            "empty" => out = Allocation::default(),
            "no-such-opp" => orders.for_each(|o| o.ask = Some(u16::MAX)),
            "no-such-cap" => orders.for_each(|o| o.cap = Some(u16::MAX)),
            "no-such-domain" => grants.for_each(|g| g.domain = u16::MAX),
            "no-weight" => grants.for_each(|g| g.weight = 0),
            "huge-weight" => grants.for_each(|g| g.weight = u16::MAX),
            "huge-cores" => grants.for_each(|g| g.cores = u8::MAX),
            "chatter" => (0..1000).for_each(|_| log::warn(&"x".repeat(1000))),
            _ => {}
        }
        out
    }
}

policy_sdk::export_allocator!(Hostile);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder, app, params};

    #[test]
    fn it_misbehaves_only_after_the_calls_that_shall_go_well() {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1]).build();
        let given = params(&[("do", "no-such-opp"), ("after", "1")]);
        let apps = [app("cam", &[("only", 1, 1)])];
        let mut p: Hostile = policy_sdk::start_allocator(&board, &apps, given).unwrap();
        let seen = SnapshotBuilder::new(&board, 1).build();
        assert_eq!(p.decide(&seen).domains[0].ask, None);
        assert_eq!(p.decide(&seen).domains[0].ask, Some(u16::MAX));
    }

    #[test]
    fn an_act_it_does_not_know_is_refused() {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1]).build();
        let refused = policy_sdk::start_allocator::<Hostile>(&board, &[], params(&[("do", "tarp")]));
        assert!(refused.unwrap_err().starts_with("parameter do = \"tarp\": must be one of nothing, trap"));
    }
}
