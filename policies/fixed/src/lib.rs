//! Tuner `fixed`: one sub-network and one number of threads, whatever happens. Asks no OPP: the tuner
//! beside a kernel-style allocator, and the rows that a manager is compared with.
//!
//! Parameters: `subnet` = name or index (default: the most accurate), `threads` (default: 1).

use policy_sdk::{App, Board, Choice, Params, Tuner, View};

/// See the crate's text.
#[derive(Debug)]
pub struct Fixed {
    choice: Choice,
}

impl Tuner for Fixed {
    fn start(_: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let given = params.index_of("subnet", app.subnets.iter().map(|s| s.name.as_str()))?;
        let best = app.subnets.iter().enumerate().max_by_key(|(i, s)| (s.top1, std::cmp::Reverse(*i)));
        let (best, _) = best.ok_or("application without a sub-network")?;
        Ok(Self {
            choice: Choice {
                binds: None,
                subnet: given
                    .or(u16::try_from(best).ok())
                    .ok_or("more sub-networks than an index can name")?,
                threads: params.number("threads", 1..=app.threads_max.max(1), 1)?,
                ask: None,
            },
        })
    }

    fn decide(&mut self, _: &View) -> Choice {
        self.choice
    }
}

policy_sdk::export_tuner!(Fixed);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, ViewBuilder, app, params};

    fn choice(given: &[(&str, &str)]) -> Result<Choice, String> {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1_000_000]).build();
        let app = app("cam", &[("quarter", 8000, 100), ("half", 8600, 300), ("full", 8600, 900)]);
        let mut tuner = policy_sdk::start_tuner::<Fixed>(&board, &app, params(given))?;
        Ok(tuner.decide(&ViewBuilder::new(&board, &app).build()))
    }

    #[test]
    fn default_is_the_cheapest_of_the_most_accurate() {
        assert_eq!(choice(&[]), Ok(Choice { subnet: 1, threads: 1, ..Choice::default() }));
    }

    #[test]
    fn sub_network_is_found_by_name_and_by_index() {
        assert_eq!(choice(&[("subnet", "quarter")]).map(|c| c.subnet), Ok(0));
        assert_eq!(choice(&[("subnet", "2"), ("threads", "4")]).map(|c| (c.subnet, c.threads)), Ok((2, 4)));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        assert_eq!(
            choice(&[("subnet", "third")]),
            Err("parameter subnet = \"third\": must be one of quarter, half, full, or its index".into())
        );
        assert_eq!(
            choice(&[("threads", "5")]),
            Err("parameter threads = \"5\": must be a whole number from 1 to 4".into())
        );
    }
}
