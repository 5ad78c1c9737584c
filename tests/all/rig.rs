//! The real governor in this process: eBPF, the Wasm policies, the envelope, real cgroups, and runners whose ends are
//! here too. For figures and for the test that a tick allocates nothing.

use anyhow::Context as _;
use channel::{AgentRegions, RunnerEnd};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use tandem::actuate::{self, Claim, Door};
use tandem::board::{Board, probe::probe};
use tandem::envelope::Envelope;
use tandem::governor::Governor;
use tandem::host::Host;
use tandem::policy::slot::{PolicyContext, PolicySlot};
use tandem::policy::wasm::{PolicyFiles, WasmEngine, WasmLimits, WasmSource};
use tandem::policy::{App, Slo, Subnet};
use tandem::run::now;
use tandem::runners::{Change, Runner};
use tandem::sense::{Sense, SenseOptions};
use tandem::units::{AppSlot, CentiPercent, Nanos};

/// The parts; dropping it puts the cgroups back.
#[derive(Debug)]
pub struct Rig {
    /// The loop.
    pub governor: Governor,
    runners: Vec<RunnerEnd>,
    inference: u64,
    // Last: what the governor holds open is in its groups.
    _door: Door,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// With so many applications, `tandem-allocator` and a `tandem-tuner` each, serving.
    ///
    /// # Errors
    /// A part cannot be had.
    pub fn new(apps: u16) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let board = Board::parse("probed board", &probe(Path::new("/"))?)?;
        let (sense, _) = Sense::open(&board, &SenseOptions::default());
        let engine = WasmEngine::new()?;
        let period = Nanos::from_ms(10);
        let context = PolicyContext { board: board.clone(), period, signals: sense.signals().to_vec() };
        let slot = PolicySlot::new(context, Some(engine.clone()))?;
        let (claim, _) = Claim::take(Path::new("/"), dir.path())?;
        let options = actuate::Options { group: "tandem-rig".into(), ..Default::default() };
        let (door, actuators, _) = actuate::start(&board, claim, &options)?;
        let control = slot.control();
        let envelope = Envelope::new(&board, sense.signals());
        let valid = Nanos::from_ms(1000);
        let host = Host::new(sense, Some(actuators), board.domains.len());
        let governor = Governor::new(host, slot, envelope, valid);
        let mut rig = Self { governor, runners: vec![], inference: 0, _door: door, _dir: dir };
        for i in 0..apps {
            let regions = AgentRegions::create()?;
            let [orders, report] = regions.fds();
            rig.runners.push(RunnerEnd::open(orders.as_fd(), report.as_fd())?);
            let subnet = |name: &str, top1, macs| Subnet {
                name: name.into(),
                top1: CentiPercent(top1),
                macs,
                measured: vec![],
            };
            let app = App {
                slot: AppSlot(i),
                name: format!("app-{i}"),
                subnets: vec![
                    subnet("25%", 8868, 227_232),
                    subnet("50%", 9026, 454_464),
                    subnet("100%", 9064, 908_928),
                ],
                threads_max: 2,
                target: Slo { latency: Some(Nanos::from_ms(40)), ..Slo::default() },
            };
            let runner = Runner::new(app, std::process::id(), None, regions.into_end());
            rig.governor.change(Change::Came(Box::new(runner), None));
        }
        let files = PolicyFiles {
            name: "tandem".into(),
            allocator: crate::component("tandem-allocator"),
            tuner: crate::component("tandem-tuner"),
            allocator_params: vec![],
            tuner_params: vec![],
        };
        let pending = control.swap(Arc::new(WasmSource::new(&engine, files, WasmLimits::default())));
        let began = std::time::Instant::now();
        loop {
            rig.tick();
            if let Some(answer) = pending.poll() {
                answer?;
                return Ok(rig);
            }
            anyhow::ensure!(began.elapsed().as_secs() < 30, "the policies do not serve within 30 s");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Every runner finishes an inference and takes the last decision; then one step.
    pub fn tick(&mut self) {
        self.inference += 1;
        let at = now().0;
        for end in &mut self.runners {
            if let Ok(Some(decision)) = end.decisions.latest() {
                end.totals.taken(decision.seq);
            }
            end.totals.arrived(1);
            end.totals.started(at);
            end.totals.done();
            end.feedback.push(&channel::msg::FeedbackMsg {
                inference: self.inference,
                arrived_ns: at - 20_000_000,
                started_ns: at - 19_000_000,
                done_ns: at,
                subnet: 1,
                threads: 1,
                confidence: 900,
                images: 1,
                ..Default::default()
            });
        }
        let wrong = self.governor.step(now(), now);
        assert_eq!(wrong, None, "an honest runner was taken for a hostile one");
    }

    /// What serves.
    ///
    /// # Errors
    /// Not the set it was made with.
    pub fn check(&self) -> anyhow::Result<()> {
        (self.governor.policy().serving() == "tandem").then_some(()).context("the set was set aside")
    }
}
