//! The two ends of a channel, put together from the words of its two regions.

use crate::msg::{DecisionMsg, FeedbackMsg};
use crate::region::{self, Kind, Mapping, RegionError, Window};
use crate::ring::{Consumer, Producer};
use crate::seqlock::{Publisher, Subscriber};
use crate::totals::{Totals, TotalsReader, TotalsWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What the agent makes for one runner: the two regions, fresh, and its end of them. Regions are never
/// used for a second runner, nor by an agent that was restarted.
#[derive(Debug)]
pub struct AgentRegions {
    orders: OwnedFd,
    report: OwnedFd,
    end: AgentEnd,
}

impl AgentRegions {
    /// Two sealed memfds. What fails here is the agent's machine (descriptors, memory), not the runner.
    pub fn create() -> Result<Self, RegionError> {
        let (orders, orders_map) = region::create::<true>(Kind::Orders)?;
        let (report, report_map) = region::create::<false>(Kind::Report)?;
        Ok(Self { orders, report, end: AgentEnd::new(&orders_map, &report_map) })
    }

    /// What to hand to the runner: orders, report.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.orders.as_fd(), self.report.as_fd()]
    }

    /// Closes the agent's copies of the descriptors; the mappings stay.
    pub fn into_end(self) -> AgentEnd {
        self.end
    }
}

/// The agent's end.
#[derive(Debug)]
pub struct AgentEnd {
    /// The newest decision.
    pub decisions: Publisher<DecisionMsg>,
    /// What the runner finished.
    pub feedback: Consumer<FeedbackMsg>,
    totals: TotalsReader,
}

impl AgentEnd {
    pub(crate) fn new(orders: &Arc<Mapping<true>>, report: &Arc<Mapping<false>>) -> Self {
        let head = Window::new(report, region::HEAD);
        Self {
            decisions: Publisher::new(Window::new(orders, region::DECISION)),
            feedback: Consumer::new(
                Window::new(report, region::SLOTS),
                head.clone(),
                Window::new(orders, region::TAIL),
                region::RING_CAPACITY,
            ),
            totals: TotalsReader::new(Window::new(report, region::TOTALS), head),
        }
    }

    /// What the runner counts, now.
    pub fn totals(&self) -> Totals {
        self.totals.read()
    }
}

/// The runner's end.
#[derive(Debug)]
pub struct RunnerEnd {
    /// The newest decision.
    pub decisions: Subscriber<DecisionMsg>,
    /// What was finished.
    pub feedback: Producer<FeedbackMsg>,
    /// The counts.
    pub totals: TotalsWriter,
}

impl RunnerEnd {
    /// Checks seals, size and header of both regions, then maps them.
    pub fn open(orders: BorrowedFd<'_>, report: BorrowedFd<'_>) -> Result<Self, RegionError> {
        let orders = region::open::<false>(Kind::Orders, orders)?;
        let report = region::open::<true>(Kind::Report, report)?;
        Ok(Self {
            decisions: Subscriber::new(Window::new(&orders, region::DECISION)),
            feedback: Producer::new(
                Window::new(&report, region::SLOTS),
                Window::new(&report, region::HEAD),
                Window::new(&orders, region::TAIL),
                region::RING_CAPACITY,
            ),
            totals: TotalsWriter::new(Window::new(&report, region::TOTALS)),
        })
    }
}
