//! From event to event.

use super::book::{Frame, index};
use super::{Happening, Plan, SimMachine, cap_at, thermal};
use crate::units::{Nanos, OppIndex};

impl SimMachine {
    /// Time passes until then, with all that happens on the way.
    pub fn advance(&mut self, to: Nanos) {
        while self.now < to {
            let next = self.next_event().min(to).max(self.now);
            self.pass(next.since(self.now));
            self.now = next;
            self.happen();
        }
    }

    fn next_event(&self) -> Nanos {
        let mut next = self.next_poll;
        for app in &self.apps {
            if let Some(at) = app.stream.next() {
                next = next.min(at);
            }
            if let Some(flight) = &app.flight {
                next = next.min(flight.finish);
            }
        }
        for domain in &self.domains {
            next = next.min(domain.next_event());
        }
        self.plan.get(self.planned).map_or(next, |(at, _)| next.min(*at))
    }

    /// Everything stays as it is for that long.
    fn pass(&mut self, time: Nanos) {
        if time.0 == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
        let ns = time.0 as f64;
        let mut power = 0.0;
        for domain in &mut self.domains {
            domain.pass(time);
            power += domain.power_mw;
        }
        self.heat.advance(power, time);
        self.book.hottest = self.book.hottest.max(self.heat.celsius);
        for app in &mut self.apps {
            app.pass(ns);
        }
        for other in self.others.iter_mut().filter(|o| o.on) {
            let domain = &self.domains[other.domain];
            let share = other.place.share.min(1.0);
            other.run_ns += share * ns;
            other.wait_ns += (1.0 - share) * ns;
            self.book.work[other.name] += share * domain.work[domain.opp] * time.as_secs();
        }
        if self.kernel {
            self.count_load(time);
        }
    }

    /// The kernel's averages, where its governor needs them.
    fn count_load(&mut self, time: Nanos) {
        for d in 0..self.domains.len() {
            let Some(scale) = self.domains[d].pelt_scale() else {
                self.domains[d].queues().iter_mut().for_each(|q| q.rest(time.0));
                continue;
            };
            let mut counted = [0_u64; super::super::sched::CPUS];
            for (c, queue) in self.domains[d].queues().iter_mut().enumerate() {
                counted[c] = queue.advance(time.0, scale);
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1024")]
            let level = |share: f64| (share.min(1.0) * 1024.0) as u64;
            for app in self.apps.iter_mut().filter(|a| a.domain == d) {
                let cpu = app.place.cpu % counted.len();
                app.task.advance(counted[cpu], level(app.place.share), app.flight.is_some());
            }
            for other in self.others.iter_mut().filter(|o| o.domain == d) {
                let cpu = other.place.cpu % counted.len();
                other.task.advance(counted[cpu], level(other.place.share), other.on);
            }
        }
    }

    /// All that is due now.
    pub(super) fn happen(&mut self) {
        // A bit per domain: at most 16.
        let mut dirty: u32 = 0;
        while let Some((_, plan)) = self.plan.get(self.planned).filter(|(at, _)| *at <= self.now) {
            let plan = *plan;
            self.planned += 1;
            self.carry_out(plan, &mut dirty);
        }
        for (d, domain) in self.domains.iter_mut().enumerate() {
            if let Some((_, opp)) = domain.pending.filter(|(at, _)| *at <= self.now) {
                domain.arrive(opp);
                self.book.note(self.now, d, domain);
                dirty |= 1 << d;
            }
        }
        self.frames(&mut dirty);
        if self.now >= self.next_poll {
            self.next_poll = self.now + thermal::POLL;
            if self.thermal_zone {
                self.book.heat.push((self.now, self.heat.celsius));
            }
            let most = self.domains.iter().map(|d| d.top().0).max().unwrap_or(0);
            if self.heat.poll(most) {
                self.set_caps();
            }
        }
        // Who runs faster or slower now also changes how much the others are in the way.
        if dirty != 0 && self.contention > 0.0 {
            dirty = u32::MAX;
        }
        for d in 0..self.domains.len() {
            if dirty >> d & 1 == 1 {
                self.rearrange(d);
            }
        }
        if self.kernel {
            self.let_kernel_look();
        }
    }

    fn let_kernel_look(&mut self) {
        for d in 0..self.domains.len() {
            let domain = &mut self.domains[d];
            let ticked = domain.ticks(self.now);
            if ticked {
                self.apps.iter_mut().filter(|a| a.domain == d && a.queued).for_each(|a| a.task.tick());
                self.others.iter_mut().filter(|o| o.domain == d && o.on).for_each(|o| o.task.tick());
            }
            domain.look(self.now, ticked);
            // A clock without a latency has arrived at once.
            if let Some((_, opp)) = domain.pending.filter(|(at, _)| *at <= self.now) {
                domain.arrive(opp);
                self.book.note(self.now, d, &self.domains[d]);
                self.rearrange(d);
            }
        }
    }

    fn carry_out(&mut self, plan: Plan, dirty: &mut u32) {
        match plan {
            Plan::Settled => self.book.settle(self.now, &self.domains),
            Plan::On(i) => {
                let other = &mut self.others[i];
                other.on = true;
                let domain = &mut self.domains[other.domain];
                other.place.cpu %= domain.cpus.len().max(1);
                domain.migrate(other.place.cpu, other.place.cpu, &mut other.task, false);
                *dirty |= 1 << other.domain;
            }
            Plan::Off(i) => {
                let other = &mut self.others[i];
                other.on = false;
                self.domains[other.domain].sleep(other.place.cpu, &mut other.task);
                *dirty |= 1 << other.domain;
            }
            Plan::Event(i) => match self.happenings[i].clone() {
                Happening::Ambient { celsius } => self.heat.ambient = celsius,
                Happening::Cap { domain, permille } => {
                    for d in self.domains.iter_mut().filter(|d| domain.as_ref().is_none_or(|n| *n == d.name))
                    {
                        d.outside = cap_at(&d.mhz, permille);
                    }
                    self.set_caps();
                }
            },
        }
    }

    /// Outside limits and heat together; a clock above its cap sets out at once.
    pub(super) fn set_caps(&mut self) {
        for (d, domain) in self.domains.iter_mut().enumerate() {
            let by_heat = OppIndex(domain.top().0.saturating_sub(self.heat.state));
            let cap = domain.outside.min(by_heat);
            if cap == domain.cap {
                continue;
            }
            domain.cap = cap;
            domain.recap();
            let wanted = self.clocks.recap(d, cap);
            if self.kernel {
                let going = domain.pending.map_or(domain.opp, |p| p.1);
                domain.go(self.now, going);
            } else {
                domain.go(self.now, usize::from(wanted.0));
            }
            self.book.note(self.now, d, domain);
        }
    }

    fn frames(&mut self, dirty: &mut u32) {
        for i in 0..self.apps.len() {
            let app = &mut self.apps[i];
            if app.flight.is_some_and(|f| f.finish <= self.now) {
                self.domains[app.domain].sleep(app.place.cpu, &mut app.task);
                *dirty |= 1 << app.domain;
                if let Some(flight) = app.finish(self.now) {
                    let late = app.target.latency.is_some_and(|t| self.now.since(flight.arrived) > t);
                    self.book.frames.push(Frame {
                        app: index(i),
                        arrived: flight.arrived,
                        finished: self.now,
                        subnet: index(flight.subnet),
                        late,
                    });
                }
            }
            while let Some(at) = app.stream.next().filter(|at| *at <= self.now) {
                app.stream.pop();
                self.book.arrived[i] += 1;
                self.book.dropped[i] += u64::from(app.arrive(at));
            }
            if app.start(self.now, |d| self.domains[d].cpus.is_empty()) {
                app.place.cpu %= self.domains[app.domain].cpus.len().max(1);
                *dirty |= 1 << app.domain;
            } else if app.flight.is_none() {
                // An idle runner picks up what it is told.
                app.taken = app.order.seq;
            }
        }
    }
}
