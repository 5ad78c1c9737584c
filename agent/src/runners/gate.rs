//! Who may come: the runner socket, on a thread of its own, off the tick.
//!
//! A runner says hello; the gate checks the name against the user that the kernel vouches for, finds a free
//! slot, makes the regions, hands them over and tells the loop. The connection stays open while the runner
//! lives: its end is how the loop learns that the runner is gone. A slow or hostile peer costs its own
//! connection, nothing else.

use super::{Change, Runner};
use crate::actuate::{self, Member};
use crate::board::Board;
use crate::config::AppConfig;
use crate::policy::{App, Slo, Subnet};
use crate::profile::Measured;
use crate::units::{AppSlot, CentiPercent, Nanos};
use anyhow::Context as _;
use channel::MAX_RUNNERS;
use channel::hello::FromRunner;
use channel::{AgentRegions, Connection, HandshakeError, Hello, Listener, PeerCred, Target};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a peer may stay silent before its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// Connections that have not said hello yet; more are refused.
const PENDING_MAX: usize = 32;

/// The loop's handle on the gate's thread; dropping it ends the thread and closes all connections.
#[derive(Debug)]
pub struct Gate {
    dropped: Sender<AppSlot>,
    wake: Arc<EventFd>,
    stop: Arc<OnceLock<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gate {
    /// Listens at `path` for the applications of the configuration; `board` is what their profiles name. `groups` moves the runners' processes; `None` observes. Each change goes to
    /// `changes`, and `notify` is written to.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(
        path: &Path,
        (apps, board): (Vec<AppConfig>, Board),
        groups: Option<SharedDoor>,
        changes: Sender<Change>,
        notify: Arc<EventFd>,
    ) -> anyhow::Result<Self> {
        // Any user may knock; who comes in is decided by name and credentials.
        let listener = Listener::bind(path, 0o666)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).context("eventfd")?);
        let stop = Arc::new(OnceLock::new());
        let (dropped, to_drop) = channel();
        let mut door = Door {
            listener,
            apps,
            board,
            groups,
            changes,
            notify,
            pending: Vec::new(),
            seated: (0..MAX_RUNNERS).map(|_| None).collect(),
        };
        let (thread_wake, thread_stop) = (Arc::clone(&wake), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("gate".into())
            .spawn(move || door.serve(&thread_wake, &thread_stop, &to_drop))
            .context("start the gate's thread")?;
        Ok(Self { dropped, wake, stop, thread: Some(thread) })
    }

    /// The loop will not talk to this runner any more: closes its connection.
    pub fn drop_runner(&self, slot: AppSlot) {
        // A gate that has ended has closed it already.
        let _ = self.dropped.send(slot);
        let _ = self.wake.write(1);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.stop.set(());
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The actuators' part that is done off the tick.
pub type SharedDoor = Arc<Mutex<actuate::Door>>;

struct Seat {
    connection: Connection,
    name: String,
}

struct Door {
    listener: Listener,
    apps: Vec<AppConfig>,
    board: Board,
    groups: Option<SharedDoor>,
    changes: Sender<Change>,
    notify: Arc<EventFd>,
    pending: Vec<(Connection, PeerCred, Instant)>,
    seated: Vec<Option<Seat>>,
}

impl Door {
    fn serve(&mut self, wake: &EventFd, stop: &OnceLock<()>, to_drop: &Receiver<AppSlot>) {
        while stop.get().is_none() {
            self.wait(wake);
            while let Ok(slot) = to_drop.try_recv() {
                self.seated[usize::from(slot.0)] = None;
                self.leave(slot);
            }
            self.accept();
            self.greet();
            self.listen_to_seated();
        }
    }

    /// Until anything happens, at most a second.
    fn wait(&self, wake: &EventFd) {
        let fds = [wake.as_fd(), self.listener.as_fd()];
        let pending = self.pending.iter().map(|p| p.0.as_fd());
        let seated = self.seated.iter().flatten().map(|s| s.connection.as_fd());
        let mut fds: Vec<_> = fds
            .into_iter()
            .chain(pending)
            .chain(seated)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // A failed poll (EINTR) is a spurious wake-up.
        let _ = poll(&mut fds, PollTimeout::from(1000u16));
        let _ = wake.read();
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept(Duration::ZERO) {
                Ok(Some((connection, _))) if self.pending.len() >= PENDING_MAX => {
                    let _ = connection.refuse("too many connections that have not said hello; at most 32");
                }
                Ok(Some((connection, peer))) => self.pending.push((connection, peer, Instant::now())),
                Ok(None) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "runner socket");
                    return;
                }
            }
        }
    }

    fn greet(&mut self) {
        for (connection, peer, since) in std::mem::take(&mut self.pending) {
            match connection.try_recv_hello() {
                Ok(None) if since.elapsed() < HELLO_WITHIN => self.pending.push((connection, peer, since)),
                Ok(None) => {
                    let _ = connection.refuse("no hello within 2 s");
                }
                Ok(Some(hello)) => match self.admit(&hello, peer) {
                    Ok((slot, target, bound)) => self.seat(connection, &hello, peer, slot, target, bound),
                    Err(rule) => {
                        tracing::warn!(name = %hello.name, uid = peer.uid, pid = peer.pid, %rule, "runner refused");
                        let _ = connection.refuse(&rule);
                    }
                },
                Err(e) => {
                    tracing::warn!(uid = peer.uid, pid = peer.pid, error = %e, "runner refused");
                    let _ = connection.refuse(&e.to_string());
                }
            }
        }
    }

    /// The rules for coming in.
    fn admit(&self, hello: &Hello, peer: PeerCred) -> Result<(AppSlot, Slo, Option<Nanos>), String> {
        let named = self.apps.iter().find(|a| a.matches(&hello.name));
        let app = named.ok_or_else(|| format!("application {:?} is not in the configuration", hello.name))?;
        if peer.uid != 0 && peer.uid != app.uid.as_raw() {
            return Err(format!(
                "application {:?} belongs to uid {}, not to uid {}",
                hello.name, app.uid, peer.uid
            ));
        }
        if self.seated.iter().flatten().any(|s| s.name == hello.name) {
            return Err(format!("application {:?} is here already; names are unique", hello.name));
        }
        let free = self.seated.iter().position(Option::is_none);
        let slot = free.ok_or_else(|| format!("all {MAX_RUNNERS} slots are taken"))?;
        let own = slo(Target { latency_ns: hello.latency_ns, top1_floor: hello.top1_floor });
        let target = Slo {
            latency: app.target.latency.or(own.latency),
            top1: app.target.top1.or(own.top1),
            ..app.target
        };
        Ok((AppSlot(u16::try_from(slot).expect("at most 64")), target, app.runq_bound))
    }

    fn seat(
        &mut self,
        connection: Connection,
        hello: &Hello,
        peer: PeerCred,
        slot: AppSlot,
        target: Slo,
        runq_bound: Option<Nanos>,
    ) {
        let pid = u32::try_from(peer.pid).unwrap_or(0);
        let regions = match AgentRegions::create() {
            Ok(regions) => regions,
            Err(e) => {
                tracing::warn!(name = %hello.name, error = %e, "no shared memory for a runner");
                let _ = connection.refuse("the agent has no shared memory left");
                return;
            }
        };
        let member = self.join(slot, &hello.name, peer.pid);
        if let Err(e) = connection.welcome(slot.0, &regions) {
            tracing::warn!(name = %hello.name, error = %e, "runner left before its welcome");
            self.leave(slot);
            return;
        }
        tracing::info!(name = %hello.name, slot = slot.0, pid, subnets = hello.subnets.len(), "runner came");
        let (measured, profile) = self.profile(hello);
        let subnet = |(s, measured): (&channel::hello::SubnetHello, _)| Subnet {
            name: s.name.clone(),
            top1: CentiPercent(s.top1),
            macs: s.macs,
            measured,
        };
        let app = App {
            slot,
            name: hello.name.clone(),
            subnets: hello.subnets.iter().zip(measured).map(subnet).collect(),
            threads_max: hello.threads_max,
            target,
        };
        self.seated[usize::from(slot.0)] = Some(Seat { connection, name: hello.name.clone() });
        let runner = Runner::new(app, pid, runq_bound, regions.into_end());
        let runner = Box::new(Runner { profile, ..runner });
        self.tell(Change::Came(runner, member));
    }

    /// What was measured of each sub-network, and what to say of it. A profile that does not fit is refused; the
    /// runner is not: its policies learn from what they see.
    fn profile(&self, hello: &Hello) -> (Vec<Vec<Measured>>, Option<String>) {
        let none = || vec![Vec::new(); hello.subnets.len()];
        let app = self.apps.iter().find(|a| a.matches(&hello.name));
        let Some(profile) = app.and_then(|a| a.profile.as_ref()) else { return (none(), None) };
        match profile.of(hello, &self.board) {
            Ok(measured) => {
                let points = measured.iter().map(Vec::len).sum::<usize>();
                (measured, Some(format!("{points} points")))
            }
            Err(rule) => {
                tracing::warn!(name = %hello.name, %rule, "profile refused");
                (none(), Some(format!("refused: {rule}")))
            }
        }
    }

    fn listen_to_seated(&mut self) {
        for i in 0..self.seated.len() {
            let slot = AppSlot(u16::try_from(i).expect("at most 64"));
            while let Some(seat) = &self.seated[i] {
                match seat.connection.try_recv() {
                    Ok(None) => break,
                    Ok(Some(FromRunner::Target(target))) => self.tell(Change::Target(slot, slo(target))),
                    Ok(Some(FromRunner::Bye {} | FromRunner::Hello(_))) => self.unseat(slot, "said bye"),
                    Err(HandshakeError::Closed) => self.unseat(slot, "closed without a bye"),
                    Err(e) => self.unseat(slot, &e.to_string()),
                }
            }
        }
    }

    fn unseat(&mut self, slot: AppSlot, why: &str) {
        if let Some(seat) = self.seated[usize::from(slot.0)].take() {
            tracing::info!(name = %seat.name, slot = slot.0, why, "runner left");
            self.leave(slot);
            self.tell(Change::Left(slot));
        }
    }

    /// Off the tick: this writes to the disk and to cgroups.
    fn join(&self, slot: AppSlot, name: &str, pid: i32) -> Option<Member> {
        let mut groups = self.groups.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .join(slot, name, pid)
            .inspect_err(|e| tracing::warn!(name, error = %e, "no CPU share for a runner"))
            .ok()
    }

    fn leave(&self, slot: AppSlot) {
        let Some(groups) = &self.groups else { return };
        for e in groups.lock().unwrap_or_else(PoisonError::into_inner).leave(slot) {
            tracing::warn!(error = %e, "a runner's group");
        }
    }

    fn tell(&self, change: Change) {
        // The loop has ended: so will this thread.
        let _ = self.changes.send(change);
        let _ = self.notify.write(1);
    }
}

fn slo(target: Target) -> Slo {
    // A floor of 0 % is none.
    let top1 = target.top1_floor.filter(|t| *t > 0).map(CentiPercent);
    Slo { latency: target.latency_ns.map(Nanos), top1, ..Slo::default() }
}
