//! Fixture: a tuner that breaks the contract in the way its parameter `do` says. The host's tests run
//! it; nobody else should.
//!
//! | `do` | what happens |
//! |---|---|
//! | `nothing` | well-behaved: sub-network 0, one thread |
//! | `trap`, `spin`, `hoard` | in `decide`: a trap; an endless loop; memory without end |
//! | `trap-in-start`, `refuse` | in `start`: a trap; an error in words |
//! | `trap-in-app`, `trap-in-limits` | a trap there |
//! | `no-such-subnet`, `no-such-opp` | an index that does not exist |
//! | `no-threads`, `huge-threads` | outside the contract's range |
//!
//! Parameter `after` = how many calls of `decide` go well first (default 0).

use policy_sdk::{App, Board, Choice, OppRange, Params, Tuner, View};

/// See the crate's text.
#[derive(Debug)]
pub struct Hostile {
    act: String,
    after: u32,
    kept: Vec<Vec<u8>>,
}

const ACTS: [&str; 12] = [
    "nothing",
    "trap",
    "spin",
    "hoard",
    "trap-in-start",
    "refuse",
    "trap-in-app",
    "trap-in-limits",
    "no-such-subnet",
    "no-such-opp",
    "no-threads",
    "huge-threads",
];

impl Tuner for Hostile {
    fn start(_: &Board, _: &App, params: &mut Params) -> Result<Self, String> {
        let act = params.text("do").unwrap_or("nothing").to_owned();
        let after = params.number("after", 0..=u32::MAX, 0)?;
        if !ACTS.contains(&act.as_str()) {
            return Err(format!("parameter do = {act:?}: must be one of {}", ACTS.join(", ")));
        }
        assert!(act != "trap-in-start", "as asked");
        if act == "refuse" {
            return Err("refused, as asked".into());
        }
        Ok(Self { act, after, kept: vec![] })
    }

    fn app(&mut self, _: &App) {
        assert!(self.act != "trap-in-app", "as asked");
    }

    fn limits(&mut self, _: &[OppRange]) {
        assert!(self.act != "trap-in-limits", "as asked");
    }

    fn decide(&mut self, _: &View) -> Choice {
        let mut out = Choice { subnet: 0, threads: 1, ask: None, binds: None };
        if self.after > 0 {
            self.after -= 1;
            return out;
        }
        match self.act.as_str() {
            "trap" => panic!("as asked"),
            "spin" => {
                let mut n = 0u64;
                loop {
                    n = std::hint::black_box(n.wrapping_add(1));
                }
            }
            // Written to, so that no optimiser leaves it out.
            "hoard" => loop {
                self.kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
            },
            "no-such-subnet" => out.subnet = u16::MAX,
            "no-such-opp" => out.ask = Some(u16::MAX),
            "no-threads" => out.threads = 0,
            "huge-threads" => out.threads = u8::MAX,
            _ => {}
        }
        out
    }
}

policy_sdk::export_tuner!(Hostile);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, ViewBuilder, app, params};

    #[test]
    fn it_misbehaves_only_after_the_calls_that_shall_go_well() {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1]).build();
        let app = app("cam", &[("only", 1, 1)]);
        let given = params(&[("do", "no-threads"), ("after", "1")]);
        let mut p: Hostile = policy_sdk::start_tuner(&board, &app, given).unwrap();
        let seen = ViewBuilder::new(&board, &app).build();
        assert_eq!((p.decide(&seen).threads, p.decide(&seen).threads), (1, 0));
    }
}
