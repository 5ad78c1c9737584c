//! The way to the agent.
//!
//! Responsible for: connecting, again and again with a growing pause while there is no agent, on a thread
//! of its own, so that no frame waits for it. Both ends may restart alone. Not responsible for: what a
//! decision means ([`crate::follower`]).

use crate::model::{Subnet, Supernet};
use channel::hello::{Hello, PROTOCOL, Report, SubnetHello};
use channel::{Connection, RunnerEnd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Thread;
use std::time::Duration;
use tracing::{info, warn};

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// One agent, as long as it lives.
#[derive(Debug)]
pub struct Attached {
    /// Decisions, feedback, totals.
    pub end: RunnerEnd,
    /// The socket: its end is the agent's.
    pub connection: Connection,
}

/// The thread that looks for the agent.
#[derive(Debug)]
pub struct Link {
    found: Receiver<Attached>,
    again: Sender<()>,
}

impl Link {
    /// Looks for the agent at `path`; wakes `worker` when there is one.
    pub fn new(path: PathBuf, hello: Hello, worker: Thread) -> std::io::Result<Self> {
        let (tell, found) = channel();
        let (again, lost) = channel();
        let seek = move || {
            loop {
                if tell.send(seek(&path, &hello)).is_err() {
                    return; // the worker has ended
                }
                worker.unpark();
                if lost.recv().is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("link".into()).spawn(seek)?;
        Ok(Self { found, again })
    }

    /// The agent, once, if one was found since.
    pub fn found(&self) -> Option<Attached> {
        self.found.try_recv().ok()
    }

    /// The agent is gone; look for the next one.
    pub fn lost(&self) {
        // A thread that has ended has said why; the failsafe runs.
        let _ = self.again.send(());
    }
}

/// Tries until an agent takes the runner in.
fn seek(path: &Path, hello: &Hello) -> Attached {
    let (mut pause, longest) = PAUSE;
    let mut said = String::new();
    loop {
        match channel::connect(path, hello) {
            Ok((end, connection)) => {
                info!(slot = connection.slot(), "agent found");
                return Attached { end, connection };
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    warn!(error = text, "no agent; trying again");
                    said = text;
                }
            }
        }
        std::thread::sleep(pause);
        pause = longest.min(pause * 2);
    }
}

/// What this runner tells the agent of itself.
pub fn hello(
    name: &str,
    net: &Supernet,
    failsafe: usize,
    threads_max: usize,
    batch: usize,
    target: channel::Target,
) -> Hello {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let subnet =
        |s: &Subnet| SubnetHello { name: s.name.clone(), top1: s.top1, macs: s.macs, params: s.params };
    Hello {
        protocol: PROTOCOL,
        name: name.to_owned(),
        manifest_digest: net.digest(),
        weights_digest: net.weights_digest().to_owned(),
        subnets: net.subnets().iter().map(subnet).collect(),
        failsafe: small(failsafe),
        threads_max: u8::try_from(threads_max).unwrap_or(u8::MAX),
        pid: std::process::id(),
        tids: None,
        latency_ns: target.latency_ns,
        top1_floor: target.top1_floor,
        report: Report { network: net.name().to_owned(), batch: small(batch) },
    }
}
