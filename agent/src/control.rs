//! The control socket: how `tandem status`, `policy swap` and `app set` reach a running agent.
//!
//! One JSON object a line, one answer a line, over a Unix socket of mode 0660 owned by root; the peer's
//! credentials are checked as well. The thread here reads and answers; what needs the loop's state goes to
//! the loop as a [`Request`] and is answered between two ticks.

use crate::policy::Objective;
use crate::status::Status;
use anyhow::Context as _;
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Longest request, bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// How long a client may take to send its request and to read its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the loop or the loader may take: a policy is compiled in it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// The agent's state.
    Status {},
    /// Serve another policy set of the configuration.
    Swap {
        /// Its name.
        set: String,
    },
    /// Change an application's target; absent = leave, 0 = no constraint.
    #[serde(rename_all = "kebab-case")]
    AppSet {
        /// Its name.
        name: String,
        /// Latency, ms.
        latency_ms: Option<f64>,
        /// Accuracy floor, %.
        top1: Option<f64>,
        /// Power budget, mW.
        power_mw: Option<u32>,
        /// What to make of the rest.
        objective: Option<Objective>,
    },
    /// Panic in the loop, to show that everything is restored. Refused unless the agent was started with
    /// `--allow-panic`.
    Panic {},
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done(String),
    /// The state.
    Status(Box<Status>),
    /// Refused or failed, and why.
    Error(String),
}

/// A command on its way to the loop, with where the answer goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes; whoever has it may answer later, from another thread.
    pub reply: Sender<Answer>,
}

/// The socket of a run directory.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Listens; requests arrive at the receiver, and `notify` is written to for each.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(run_dir: &Path, notify: Arc<EventFd>) -> anyhow::Result<Receiver<Request>> {
    let path = socket_path(run_dir);
    // The run directory's lock is ours, so a socket that lies there is a dead agent's.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("{}: cannot listen", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("{}: cannot set mode 0660", path.display()))?;
    let (to_loop, requests) = channel();
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let (to_loop, notify) = (to_loop.clone(), Arc::clone(&notify));
            // A thread each, bounded by their patience: a silent client delays nobody.
            let client = move || answer(stream, &to_loop, &notify);
            let _ = std::thread::Builder::new().name("control-client".into()).spawn(client);
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(accept).context("start the control thread")?;
    Ok(requests)
}

fn answer(mut stream: UnixStream, to_loop: &Sender<Request>, notify: &EventFd) {
    let reply = request(&stream, to_loop, notify).unwrap_or_else(|e| Answer::Error(format!("{e:#}")));
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    // A client that does not read its answer loses it.
    let _ = stream.write_all(&line);
}

fn request(stream: &UnixStream, to_loop: &Sender<Request>, notify: &EventFd) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = getsockopt(stream, sockopt::PeerCredentials).context("peer credentials")?;
    anyhow::ensure!(peer.uid() == 0, "uid {} may not control the agent; only root may", peer.uid());
    let mut line = Vec::new();
    BufReader::new(stream.take(REQUEST_MAX)).read_until(b'\n', &mut line).context("read the request")?;
    anyhow::ensure!(line.ends_with(b"\n"), "the request has no end within {REQUEST_MAX} bytes");
    let command: Command = serde_json::from_slice(&line).context("the request is not a command")?;
    let (reply, answered) = channel();
    to_loop.send(Request { command, reply }).ok().context("the agent is ending")?;
    let _ = notify.write(1);
    answered.recv_timeout(ANSWER_WITHIN).context("the agent did not answer")
}

/// Asks the agent of a run directory.
///
/// # Errors
/// No agent, or its answer is an error.
pub fn ask(run_dir: &Path, command: &Command) -> anyhow::Result<Answer> {
    let path = socket_path(run_dir);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!("{}: cannot connect (is the agent running, and are you root?)", path.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_WITHIN + PATIENCE))?;
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).context("send the request")?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).context("read the answer")?;
    match serde_json::from_str(&text).context("the answer is not one")? {
        Answer::Error(why) => anyhow::bail!("{why}"),
        answer => Ok(answer),
    }
}
