//! What the agent sees of the simulated machine.

use super::SimMachine;
use crate::actuate::ActuateError;
use crate::envelope::Admitted;
use crate::governor::Machine;
use crate::policy::App;
use crate::sim::stream::noisy;
use crate::snapshot::{AppSample, CpuSample, DomainSample, OtherSample, Signal, Snapshot};
use crate::transaction::Transaction;
use crate::units::{AppSlot, Milliwatts, Nanos, OppIndex, Source, Util};

/// The signal of the board's thermal zone.
pub const ZONE: &str = "thermal/soc-thermal";

impl SimMachine {
    /// The slow sensors, as policies are told.
    pub fn signals(&self) -> Vec<Signal> {
        let zone = || Signal { name: ZONE.into(), unit: "mC".into(), source: Source::Modelled };
        if self.thermal_zone { vec![zone()] } else { vec![] }
    }

    fn sense_domains(&mut self, window: Nanos, seen: &mut Snapshot) {
        for (domain, sample) in self.domains.iter_mut().zip(&mut seen.domains) {
            let busiest = domain.busy_ns.iter().copied().max().unwrap_or(0);
            let mean_mw = (domain.energy_mj - domain.sensed_mj) / window.as_secs();
            domain.sensed_mj = domain.energy_mj;
            let power = (domain.rail && window.0 > 0)
                .then(|| Milliwatts(whole(mean_mw * noisy(&mut self.rng, self.power_noise))));
            *sample = DomainSample {
                opp: Some(OppIndex(u16::try_from(domain.opp).unwrap_or(0))),
                util: Util::from_busy(Nanos(busiest), window),
                cap: Some(domain.cap),
                power,
                modelled: None,
                transitions: Some(std::mem::take(&mut domain.moves)),
            };
            for (cpu, busy) in domain.cpus.iter().zip(&domain.busy_ns) {
                let Some(sample) = seen.cpus.get_mut(*cpu as usize) else { continue };
                *sample = CpuSample {
                    busy: Util::from_busy(Nanos(*busy), window),
                    idle: Some(window.since(Nanos(*busy))),
                    ..CpuSample::default()
                };
            }
            domain.busy_ns.fill(0);
        }
    }

    fn sense_apps(&mut self, now: Nanos, seen: &mut Snapshot) {
        while seen.apps.len() < self.apps.len() {
            seen.apps.push(AppSample::new(AppSlot(0)));
        }
        for (app, sample) in self.apps.iter_mut().zip(&mut seen.apps) {
            sample.slot = app.app.slot;
            sample.subnet = app.newest;
            sample.run = Some(span(&mut app.run_ns));
            sample.runq_delay = Some(span(&mut app.wait_ns));
            sample.queue = u32::try_from(app.waiting.len()).unwrap_or(u32::MAX);
            sample.in_flight = app.flight.map(|f| now.since(f.started));
            sample.arrived = std::mem::take(&mut app.arrived);
            sample.dropped = std::mem::take(&mut app.dropped);
            sample.done.clear();
            std::mem::swap(&mut sample.done, &mut app.done);
            sample.done_more = std::mem::take(&mut app.done_more);
        }
        let (mut run, mut wait) = (0.0, 0.0);
        for other in &mut self.others {
            run += std::mem::take(&mut other.run_ns);
            wait += std::mem::take(&mut other.wait_ns);
        }
        seen.other = OtherSample { run: Some(span(&mut run)), runq_delay: Some(span(&mut wait)) };
    }
}

impl Machine for SimMachine {
    fn room(&self) -> Snapshot {
        Snapshot::new(self.cpus, self.domains.len(), usize::from(self.thermal_zone))
    }

    fn apps(&self) -> Vec<App> {
        self.apps.iter().map(|a| App { target: a.target, ..a.app.clone() }).collect()
    }

    fn sense(&mut self, now: Nanos, seen: &mut Snapshot) -> Option<(AppSlot, String)> {
        self.advance(now);
        let window = now.since(self.sensed);
        self.sensed = now;
        seen.window = window;
        self.sense_domains(window, seen);
        self.sense_apps(now, seen);
        if let Some(signal) = seen.signals.first_mut() {
            let celsius = self.heat.celsius + self.temp_noise * (noisy(&mut self.rng, 1.0) - 1.0);
            #[expect(clippy::cast_possible_truncation, reason = "a temperature")]
            let milli = (celsius * 1000.0).round() as i64;
            (signal.value, signal.age) = (Some(milli), Nanos(0));
        }
        None
    }

    fn act(
        &mut self,
        now: Nanos,
        order: &mut Admitted,
        transaction: &mut Transaction,
        clock: impl FnMut() -> Nanos,
    ) -> Option<ActuateError> {
        self.carry_order(now, order, transaction, clock)
    }
}

/// Takes a sum of ns.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn span(ns: &mut f64) -> Nanos {
    Nanos(std::mem::take(ns).round() as u64)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(mw: f64) -> u32 {
    mw.round() as u32
}
