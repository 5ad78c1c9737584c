//! Tuner `loudva`: the point of least energy per frame that is predicted to be in time, from a table; after LoudVA's scheduler
//! (I. Loudaros, `LoudController/LoudScheduler.py` and `Settings.py` of its repository), for comparison.
//!
//! **The rule.** Of all (OPP, sub-network at or above the floor) whose predicted latency, with a margin and the time a change of
//! clock takes, is within the target, the one with the least `power x time` of a frame. If none is, the highest throughput: the
//! quickest frame. After 4 s without work (`frequency_scaling_idle_limit`) the lowest OPP. The table is not corrected by what is
//! measured (`use_prediction = False`), gaps in it are filled (`fill_missing_profile_data`).
//!
//! **Adapted.** (1) LoudVA chooses a board of several, a clock and a batch; where a frame runs is our allocator's, frames come one by
//! one, and the sub-network takes the batch's place. So its waiting for a batch is left out. (2) Its constraint is what remains to the most
//! urgent of the queue; ours are told only how many wait, so a frame is predicted at (waiting + 1) times its time.
//! (3) Its margin is 0.2 s and its change of clock 0.56 to 0.8 s (a call over the network) of constraints of seconds; ours
//! is `margin-percent` of the target and the driver's transition latency. (4) Its table is measured power of the whole board; ours the OPP's power of
//! the board file, else `power-mw`, and without either the lowest OPP in time. (5) Without a profile for the granted domain and
//! these threads the times are multiply-accumulates over frequency, scaled by what is measured (`table.rs`); until the first frame
//! it runs the highest throughput. (6) Of two points of the same energy the more accurate.
//!
//! Parameters: `threads` (1), `margin-percent` of the target (10), `idle-ms` (4000), `power-mw` (none): busy power by rising OPP,
//! separated by commas, for a domain of so many OPPs of which the board file tells no power (LoudVA's own boards: `Energy / Latency` of its table).

mod table;

use policy_sdk::{App, Board, Choice, Domain, OppRange, Params, Slo, Tuner, View};
use table::Table;

/// See the crate's text.
#[derive(Debug)]
pub struct LoudVa {
    domains: Vec<Domain>,
    limits: Vec<OppRange>,
    app: App,
    threads: u8,
    margin_percent: u64,
    idle_ns: u64,
    /// By OPP, mW, where the board tells none; empty: not given.
    power_mw: Vec<u32>,
    at: u16,
    /// What the choice followed from beside the table: OPPs, target, queue.
    weighed: Option<(OppRange, Slo, u32)>,
    /// Sub-network, OPP.
    chosen: (u16, u16),
    table: Table,
    /// When there last was work.
    worked_ns: Option<u64>,
    asked: u16,
}

impl Tuner for LoudVa {
    fn start(board: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let domain = board.domains.first().ok_or("board without a domain")?;
        if app.subnets.is_empty() {
            return Err("application without a sub-network".into());
        }
        let threads = params.number("threads", 1..=app.threads_max.max(1), 1)?;
        let power_mw = power_table(params.text("power-mw"), board)?;
        Ok(Self {
            power_mw,
            limits: board.domains.iter().map(Domain::range).collect(),
            table: Table::new(app, 0, domain, threads),
            asked: domain.top(),
            domains: board.domains.clone(),
            app: app.clone(),
            threads,
            margin_percent: params.number("margin-percent", 0..=90, 10)?,
            idle_ns: params.number("idle-ms", 1..=3_600_000, 4000)? * 1_000_000,
            at: 0,
            weighed: None,
            chosen: (0, 0),
            worked_ns: None,
        })
    }

    fn limits(&mut self, opps: &[OppRange]) {
        for (kept, now) in self.limits.iter_mut().zip(opps) {
            *kept = *now;
        }
    }

    fn decide(&mut self, seen: &View) -> Choice {
        if seen.grant.domain != self.at {
            self.at = seen.grant.domain;
            if let Some(domain) = self.domains.get(usize::from(self.at)) {
                self.table = Table::new(&self.app, self.at, domain, self.threads);
                self.asked = domain.top();
                self.weighed = None;
            }
        }
        let opp = seen.domain.opp.unwrap_or(self.asked);
        for done in &seen.app.finished {
            self.table.learn(done.subnet, opp, done.service_ns);
            self.weighed = None;
        }
        let works = seen.app.arrived > 0 || seen.app.queue > 0 || seen.app.in_flight_ns.is_some();
        if works || self.worked_ns.is_none() {
            self.worked_ns = Some(seen.at_ns);
        }
        let idle = seen.at_ns.saturating_sub(self.worked_ns.unwrap_or(seen.at_ns)) >= self.idle_ns;
        let range = self.range(seen);
        let weighs = Some((range, seen.grant.target, seen.app.queue));
        if self.weighed != weighs {
            (self.weighed, self.chosen) = (weighs, self.choose(seen, range));
        }
        let (subnet, opp) = self.chosen;
        self.asked = if idle { range.lo } else { opp };
        Choice { subnet, threads: self.threads, ask: Some(self.asked), ..Choice::default() }
    }
}

/// The parameter `power-mw`.
fn power_table(text: Option<&str>, board: &Board) -> Result<Vec<u32>, String> {
    let Some(text) = text else { return Ok(vec![]) };
    let bad = |rule: String| format!("parameter power-mw = {text:?}: must be {rule}");
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    let numbers = numbers.map_err(|_| bad("whole numbers of mW, separated by commas".into()))?;
    if board.domains.iter().any(|d| d.opps.len() == numbers.len()) {
        return Ok(numbers);
    }
    let has: Vec<_> = board.domains.iter().map(|d| format!("{} has {}", d.name, d.opps.len())).collect();
    Err(bad(format!("as many as a domain has OPPs, not {}: {}", numbers.len(), has.join(", "))))
}

/// A point and what it is judged by.
#[derive(Clone, Copy)]
struct Point {
    subnet: u16,
    opp: u16,
    time_ns: u64,
    /// mW ns; `None`: the board does not know.
    energy: Option<u128>,
    top1: u16,
}

impl LoudVa {
    /// OPPs allowed at present, the outside cap included.
    fn range(&self, seen: &View) -> OppRange {
        let at = usize::from(self.at);
        let top = self.domains.get(at).map_or(0, Domain::top);
        let limit = self.limits.get(at).copied().unwrap_or(OppRange { lo: 0, hi: top });
        let hi = limit.hi.min(top).min(seen.domain.cap.unwrap_or(top));
        OppRange { lo: limit.lo.min(hi), hi }
    }

    /// Sub-networks at or above the floor; if there are none, all.
    fn allowed(&self, floor: Option<u16>) -> Vec<u16> {
        let at_least = |floor: u16| {
            let good = (0u16..).zip(&self.app.subnets).filter(move |(_, s)| s.top1 >= floor);
            good.map(|(i, _)| i).collect::<Vec<_>>()
        };
        let some = at_least(floor.unwrap_or(0));
        if some.is_empty() { at_least(0) } else { some }
    }

    fn choose(&self, seen: &View, range: OppRange) -> (u16, u16) {
        let allowed = self.allowed(seen.grant.target.top1);
        let domain = self.domains.get(usize::from(self.at));
        let given = |opp: u16, d: &Domain| {
            self.power_mw.get(usize::from(opp)).copied().filter(|_| self.power_mw.len() == d.opps.len())
        };
        let power = |opp: u16| {
            let d = domain?;
            d.opps.get(usize::from(opp))?.power_mw.or(given(opp, d))
        };
        let known = (range.lo..=range.hi).all(|o| power(o).is_some());
        let points = allowed.iter().flat_map(|s| (range.lo..=range.hi).map(move |o| (*s, o)));
        let points: Vec<Point> = points
            .filter_map(|(subnet, opp)| {
                let time_ns = self.table.time(usize::from(subnet), usize::from(opp))?;
                let energy = power(opp).filter(|_| known).map(|p| u128::from(p) * u128::from(time_ns));
                let top1 = self.app.subnets.get(usize::from(subnet))?.top1;
                Some(Point { subnet, opp, time_ns, energy, top1 })
            })
            .collect();
        let cheapest = || allowed.iter().copied().min_by_key(|s| self.app.subnets[usize::from(*s)].macs);
        let in_time = points.iter().filter(|p| self.in_time(seen, p.time_ns, domain));
        // Without power the lowest OPP, then the quickest there.
        let best = in_time.min_by_key(|p| match p.energy {
            Some(energy) => (energy, std::cmp::Reverse(p.top1), 0),
            None => (u128::from(p.opp), std::cmp::Reverse(0), p.time_ns),
        });
        let quickest = || points.iter().min_by_key(|p| (p.time_ns, std::cmp::Reverse(p.top1)));
        best.or_else(quickest).map_or((cheapest().unwrap_or(0), range.hi), |p| (p.subnet, p.opp))
    }

    fn in_time(&self, seen: &View, time_ns: u64, domain: Option<&Domain>) -> bool {
        let Some(target) = seen.grant.target.latency_ns else { return true };
        let margin = u128::from(target) * u128::from(self.margin_percent) / 100;
        let switch = domain.map_or(0, |d| d.transition_latency_ns);
        let wait = u128::from(seen.app.queue) + 1;
        u128::from(time_ns) * wait + margin + u128::from(switch) <= u128::from(target)
    }
}

policy_sdk::export_tuner!(LoudVa);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, MS, ViewBuilder, app, params, slo};
    use policy_sdk::{Grant, Measured};

    /// Power per work is least at 1000 MHz.
    fn board() -> Board {
        let mut board =
            BoardBuilder::new().khz("cpu", &[0], &[500_000, 1_000_000, 1_500_000, 2_000_000]).build();
        for (opp, power) in board.domains[0].opps.iter_mut().zip([300, 400, 900, 1600]) {
            opp.power_mw = Some(power);
        }
        board
    }

    /// 5, 10, 20 ms at the top OPP, by profile.
    fn cam(latency_ms: u64, floor: Option<u16>) -> App {
        let mut cam = app("cam", &[("quarter", 8000, 250), ("half", 8600, 500), ("full", 9000, 1000)]);
        for (subnet, ms) in cam.subnets.iter_mut().zip([5, 10, 20]) {
            let at = |(opp, times): (u16, u64)| Measured {
                domain: 0,
                opp,
                threads: 1,
                p50_ns: ms * MS * 12 / times,
                p90_ns: ms * MS * 13 / times,
            };
            subnet.measured = [(0, 3), (1, 6), (2, 9), (3, 12)].map(at).to_vec();
        }
        cam.target = slo(Some(latency_ms), floor);
        cam
    }

    fn choice(board: &Board, app: &App, queue: u32) -> (u16, Option<u16>) {
        let mut tuner: LoudVa = policy_sdk::start_tuner(board, app, params(&[])).unwrap();
        let c = tuner.decide(&ViewBuilder::new(board, app).waiting(queue, None).build());
        (c.subnet, c.ask)
    }

    #[test]
    fn the_least_energy_per_frame_in_time_is_chosen() {
        // mJ of the cheapest: 300 x 20, 400 x 10, 900 x 6.7, 1600 x 5: the second OPP, though the first is in time too.
        assert_eq!(choice(&board(), &cam(100, None), 0), (0, Some(1)));
        // At the floor of 86 %: 20 ms at the second OPP, with 10 % of margin within 23 ms, not within 22.
        assert_eq!(choice(&board(), &cam(23, Some(8600)), 0), (1, Some(1)));
        assert_eq!(choice(&board(), &cam(22, Some(8600)), 0), (1, Some(2)));
    }

    #[test]
    fn what_waits_and_the_change_of_clock_take_from_the_target() {
        assert_eq!(choice(&board(), &cam(45, Some(8600)), 1), (1, Some(1)));
        assert_eq!(choice(&board(), &cam(45, Some(8600)), 2), (1, Some(2)));
        let mut slow = board();
        slow.domains[0].transition_latency_ns = MS;
        assert_eq!(choice(&slow, &cam(23, Some(8600)), 0), (1, Some(2)));
    }

    #[test]
    fn where_nothing_is_in_time_the_highest_throughput_at_the_floor_is() {
        assert_eq!(choice(&board(), &cam(4, None), 0), (0, Some(3)));
        assert_eq!(choice(&board(), &cam(4, Some(8601)), 0), (2, Some(3)));
        // A floor that nothing reaches is no floor.
        assert_eq!(choice(&board(), &cam(4, Some(9900)), 0), (0, Some(3)));
    }

    #[test]
    fn caps_and_limits_bound_the_choice() {
        let (board, app) = (board(), cam(12, Some(8600)));
        let mut tuner: LoudVa = policy_sdk::start_tuner(&board, &app, params(&[])).unwrap();
        let seen = ViewBuilder::new(&board, &app).build();
        assert_eq!(tuner.decide(&seen).ask, Some(3));
        let mut capped = seen.clone();
        capped.domain.cap = Some(2);
        assert_eq!(tuner.decide(&capped).ask, Some(2));
        tuner.limits(&[OppRange { lo: 0, hi: 1 }]);
        assert_eq!(tuner.decide(&seen).ask, Some(1));
    }

    #[test]
    fn after_four_seconds_without_work_the_clock_falls_and_comes_back_with_it() {
        let (board, app) = (board(), cam(100, None));
        let mut tuner: LoudVa = policy_sdk::start_tuner(&board, &app, params(&[])).unwrap();
        let quiet = |tick| ViewBuilder::new(&board, &app).tick(tick).build();
        assert_eq!(
            tuner.decide(&ViewBuilder::new(&board, &app).tick(1).finished(0, MS, MS).build()).ask,
            Some(1)
        );
        assert_eq!(tuner.decide(&quiet(400)).ask, Some(1));
        assert_eq!(tuner.decide(&quiet(401)).ask, Some(0));
        assert_eq!(
            tuner.decide(&ViewBuilder::new(&board, &app).tick(402).waiting(1, None).build()).ask,
            Some(1)
        );
    }

    #[test]
    fn without_a_profile_it_learns_and_begins_with_the_highest_throughput() {
        let mut app = cam(100, None);
        app.subnets.iter_mut().for_each(|s| s.measured.clear());
        let board = board();
        let mut tuner: LoudVa = policy_sdk::start_tuner(&board, &app, params(&[])).unwrap();
        let mut at = |seen: View| (tuner.decide(&seen).subnet, tuner.asked);
        assert_eq!(at(ViewBuilder::new(&board, &app).build()), (0, 3));
        let top = ViewBuilder::new(&board, &app).domain(3, 500).finished(0, 5 * MS, 5 * MS);
        assert_eq!(at(top.build()), (0, 1));
    }

    #[test]
    fn without_power_the_lowest_opp_in_time_is_chosen() {
        let mut board = board();
        board.domains[0].opps[2].power_mw = None;
        assert_eq!(choice(&board, &cam(100, None), 0), (0, Some(0)));
        assert_eq!(choice(&board, &cam(23, Some(8600)), 0), (1, Some(1)));
    }

    #[test]
    fn power_may_be_told_for_a_board_that_knows_none() {
        let (mut board, app) = (board(), cam(100, None));
        board.domains[0].opps.iter_mut().for_each(|o| o.power_mw = None);
        let start = |given| policy_sdk::start_tuner::<LoudVa>(&board, &app, params(&[("power-mw", given)]));
        let seen = ViewBuilder::new(&board, &app).build();
        assert_eq!(start("300,400,900,1600").unwrap().decide(&seen).ask, Some(1));
        assert_eq!(start("800,850,900,950").unwrap().decide(&seen).ask, Some(3));
        assert_eq!(
            start("300,400").unwrap_err(),
            "parameter power-mw = \"300,400\": must be as many as a domain has OPPs, not 2: cpu has 4"
        );
        assert_eq!(
            start("300,x").unwrap_err(),
            "parameter power-mw = \"300,x\": must be whole numbers of mW, separated by commas"
        );
    }

    #[test]
    fn a_grant_of_another_domain_has_a_table_of_its_own() {
        let board = {
            let mut b = board();
            let mut other = b.domains[0].clone();
            other.name = "other".into();
            other.opps.truncate(2);
            b.domains.push(other);
            b
        };
        let app = cam(100, None);
        let mut tuner: LoudVa = policy_sdk::start_tuner(&board, &app, params(&[])).unwrap();
        let there = ViewBuilder::new(&board, &app).grant(Grant::whole(1, app.target)).build();
        // No profile there: the highest throughput of its two OPPs.
        assert_eq!((tuner.decide(&there).ask, tuner.at), (Some(1), 1));
    }
}
