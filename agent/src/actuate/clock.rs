//! One clock that is set by writing a frequency to the kernel and reading back what it became.

use super::attr::Attr;
use super::{ActuateError, Half};
use crate::board::Domain;
use crate::units::{DomainId, OppIndex};
use std::time::Duration;

/// How a clock is set.
#[derive(Debug)]
pub(super) enum How {
    /// The `userspace` governor takes a frequency.
    Setspeed(Attr),
    /// The limits close on one frequency, whatever the governor.
    Range {
        /// Lower limit.
        min: Attr,
        /// Upper limit.
        max: Attr,
    },
}

/// A clock and what is known of it.
#[derive(Debug)]
pub(super) struct Clock {
    domain: DomainId,
    raws: Vec<u64>,
    lines: Vec<String>,
    how: How,
    /// What tells the frequency in force.
    seen: Attr,
    /// The kernel may round by as much: it keeps devfreq limits in kHz.
    slack: u64,
    now: Option<u64>,
    asked: Option<OppIndex>,
    /// That `asked` was not reached has been told: an error is an edge, `standing` is the state.
    told: bool,
    /// The last write was refused: tried again every tick, told once.
    refused: bool,
}

impl Clock {
    pub fn new(id: DomainId, domain: &Domain, how: How, seen: Attr, slack: u64) -> Self {
        let raws: Vec<u64> = domain.opps.iter().map(|o| o.freq.raw).collect();
        let lines = raws.iter().map(|r| format!("{r}\n")).collect();
        let now = seen.read_number().ok();
        Self { domain: id, raws, lines, how, seen, slack, now, asked: None, told: false, refused: false }
    }

    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The OPP last read back: the highest that is not above it.
    pub fn standing(&self) -> Option<OppIndex> {
        let now = self.now? + self.slack;
        let i = self.raws.iter().rposition(|r| *r <= now).unwrap_or(0);
        u16::try_from(i).ok().map(OppIndex)
    }

    /// The upper limit we set ourselves, if limits are how this clock is set.
    pub fn own_limit(&self) -> Option<u64> {
        let How::Range { .. } = &self.how else { return None };
        self.asked.and_then(|o| self.raws.get(usize::from(o.0)).copied())
    }

    /// Carries out one half of an order. The raising half looks at what is so, so that a change made by
    /// someone else is noticed once a tick; the lowering half goes by that.
    pub fn set(&mut self, want: OppIndex, half: Half) -> Result<(), ActuateError> {
        let Some(&raw) = self.raws.get(usize::from(want.0)) else {
            // The envelope admits only OPPs of the board this was built from.
            return Err(ActuateError::NoSuchOpp { domain: self.domain, opp: want, opps: self.raws.len() });
        };
        if half == Half::Raise {
            // No number: someone took the `userspace` governor away. The write below says so.
            self.now = self.seen.read_number().ok();
        }
        let same = self.asked == Some(want);
        let below = self.now.is_none_or(|n| n < raw && raw - n > self.slack);
        let above = self.now.is_some_and(|n| n > raw && n - raw > self.slack);
        if !below && !above && same {
            self.told = false;
            return Ok(());
        }
        // Equal, but not yet by our order: with a range only one end may stand there.
        let ours = if half == Half::Raise { below || (!above && !same) } else { above };
        if !ours || (same && self.told && !self.refused) {
            return Ok(());
        }
        self.asked = Some(want);
        let again = std::mem::replace(&mut self.refused, false);
        if let Err(e) = self.write(usize::from(want.0), half) {
            self.refused = true;
            return if same && again { Ok(()) } else { Err(e) };
        }
        self.told = false;
        let read = self.read_back(raw)?;
        self.now = Some(read);
        let missed =
            if read.abs_diff(raw) > self.slack { Some((&self.seen, read)) } else { self.other_end(raw)? };
        let Some((attr, read)) = missed else { return Ok(()) };
        let (path, wrote, read) = (attr.path().into(), raw.to_string(), read.to_string());
        self.told = true;
        Err(ActuateError::NotReached { path, wrote, read })
    }

    /// What is in force after a write. A set speed is in force when the write returns; limits take force in
    /// a work item of the kernel's, which needs the CPU: they are given up to a millisecond.
    fn read_back(&self, raw: u64) -> Result<u64, ActuateError> {
        let mut read = self.seen.read_number()?;
        if let How::Range { min, .. } = &self.how {
            for _ in 0..10 {
                let there = |read: u64| read.abs_diff(raw) <= self.slack;
                if there(read) && there(min.read_number()?) {
                    break;
                }
                std::thread::sleep(Duration::from_micros(100));
                read = self.seen.read_number()?;
            }
        }
        Ok(read)
    }

    /// The limits must never cross: the one that makes room goes first.
    fn write(&self, opp: usize, half: Half) -> Result<(), ActuateError> {
        let line = &self.lines[opp];
        match (&self.how, half) {
            (How::Setspeed(speed), _) => speed.write(line),
            (How::Range { min, max }, Half::Raise) => max.write(line).and_then(|()| min.write(line)),
            (How::Range { min, max }, Half::Lower) => min.write(line).and_then(|()| max.write(line)),
        }
    }

    /// With a range, whether the lower limit is also there.
    fn other_end(&self, raw: u64) -> Result<Option<(&Attr, u64)>, ActuateError> {
        let How::Range { min, .. } = &self.how else { return Ok(None) };
        let read = min.read_number()?;
        Ok((read.abs_diff(raw) > self.slack).then_some((min, read)))
    }
}

/// Carries out one half of an order on many clocks: tries all, returns the last error.
pub(super) fn set_all(
    clocks: &mut [Clock],
    opp: impl Fn(DomainId) -> Option<OppIndex>,
    half: Half,
) -> Result<(), ActuateError> {
    let mut last = Ok(());
    for clock in clocks {
        if let Some(want) = opp(clock.domain())
            && let Err(e) = clock.set(want, half)
        {
            last = Err(e);
        }
    }
    last
}
