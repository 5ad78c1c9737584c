//! Answers requests on a Unix socket: a line of JSON each way.
//!
//! ```text
//! {"image": "<base64 of the pixels, row by row>"}      or      {"image": [0, 255, ...]}
//! {"class":9,"label":"ankle boot","confidence":0.98,"subnet":"75%","seq":12,"latency_us":512}
//! {"error":"..."}                                      and the connection is served on
//! ```
//! Responsible for: reading and answering lines, one thread per connection, all of it bounded. Not
//! responsible for: running them ([`crate::worker`] does, in turn with the stream's frames).

use crate::clock;
use crate::model::{Answer, Supernet};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Thread;
use tracing::warn;

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;
/// Requests on their way to the worker.
const ON_THE_WAY_MAX: usize = 64;

/// One image to be run.
#[derive(Debug)]
pub struct Request {
    /// As many as the network takes.
    pub pixels: Vec<u8>,
    /// When its line had been read.
    pub arrived: u64,
    reply: SyncSender<Reply>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reply {
    /// It was run.
    Answer {
        /// What the network said.
        answer: Answer,
        /// Which sub-network.
        subnet: usize,
        /// The decision in force.
        seq: u64,
        /// When.
        done: u64,
    },
    /// The queue was full.
    Dropped,
}

impl Request {
    /// Hands the reply over; a client that has gone gets none.
    pub fn answer(&self, reply: Reply) {
        let _ = self.reply.try_send(reply);
    }
}

/// The line of an answer.
#[derive(Debug, Serialize)]
struct AnswerLine<'a> {
    class: u16,
    label: &'a str,
    confidence: f32,
    subnet: &'a str,
    seq: u64,
    latency_us: u64,
}

#[derive(Debug, Serialize)]
struct ErrorLine {
    error: String,
}

/// The door: shared by all connections.
#[derive(Debug)]
pub struct Door {
    net: Arc<Supernet>,
    to_worker: SyncSender<Request>,
    worker: Thread,
    open: AtomicUsize,
}

/// Binds the socket, in the place of one that nobody listens at any more.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    // A file that is no socket refuses connections too: it is not ours to remove.
    let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
    if socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Serves on `listener` for ever; requests come out of the receiver, and wake `worker`.
pub fn start(
    listener: UnixListener,
    net: Arc<Supernet>,
    worker: Thread,
) -> std::io::Result<Receiver<Request>> {
    let (to_worker, requests) = sync_channel(ON_THE_WAY_MAX);
    let door = Arc::new(Door { net, to_worker, worker, open: AtomicUsize::new(0) });
    std::thread::Builder::new().name("serve".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => door.let_in(stream),
                Err(error) => {
                    // Out of descriptors, most likely: it passes.
                    warn!(%error, "cannot accept a connection");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    })?;
    Ok(requests)
}

impl Door {
    fn let_in(self: &Arc<Self>, mut stream: UnixStream) {
        if self.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            let _ = write_line(
                &mut stream,
                &refusal(format!("{CONNECTIONS_MAX} connections are open; try later")),
            );
            return;
        }
        let door = Arc::clone(self);
        let serve = move || {
            // A connection that breaks ends; nothing else is lost.
            let _ = door.serve(stream);
            door.open.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("client".into()).spawn(serve).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn serve(&self, stream: UnixStream) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream);
        // A list of numbers takes up to four bytes and a space each.
        let longest = self.net.pixels() * 5 + 256;
        let mut line = Vec::new();
        while let Some(whole) = read_line(&mut lines, &mut line, longest)? {
            let reply = if whole {
                self.ask(&line, clock::now())
            } else {
                Err(format!(
                    "a line of more than {longest} bytes; the image has {} pixels",
                    self.net.pixels()
                ))
            };
            match reply {
                Ok(text) => write_line(&mut out, &text)?,
                Err(rule) => write_line(&mut out, &refusal(rule))?,
            }
        }
        Ok(())
    }

    /// Runs one request; the answer's line, or the rule it broke.
    fn ask(&self, line: &[u8], arrived: u64) -> Result<String, String> {
        let pixels = parse(line, self.net.pixels())?;
        let (reply, answer) = sync_channel(1);
        match self.to_worker.try_send(Request { pixels, arrived, reply }) {
            Ok(()) => self.worker.unpark(),
            Err(TrySendError::Full(_)) => return Err(format!("{ON_THE_WAY_MAX} requests wait; try later")),
            Err(TrySendError::Disconnected(_)) => return Err("the runner is ending".into()),
        }
        match answer.recv() {
            Ok(Reply::Answer { answer, subnet, seq, done }) => {
                let line = AnswerLine {
                    class: answer.class,
                    label: &self.net.classes()[usize::from(answer.class)],
                    confidence: answer.confidence,
                    subnet: &self.net.subnets()[subnet].name,
                    seq,
                    latency_us: done.saturating_sub(arrived) / 1000,
                };
                serde_json::to_string(&line).map_err(|e| e.to_string())
            }
            Ok(Reply::Dropped) => Err("dropped: the queue is full; try later".into()),
            Err(_) => Err("the runner is ending".into()),
        }
    }
}

/// The pixels of a request, or the rule it breaks.
fn parse(line: &[u8], pixels: usize) -> Result<Vec<u8>, String> {
    let form = r#"{"image": base64 or a list of bytes}"#;
    let value: Value =
        serde_json::from_slice(line).map_err(|e| format!("no JSON ({e}); a request is {form}"))?;
    let Value::Object(fields) = value else { return Err(format!("no object; a request is {form}")) };
    if let Some(key) = fields.keys().find(|k| *k != "image") {
        return Err(format!("unknown key {key:.40?}; a request is {form}"));
    }
    let image = match fields.get("image") {
        Some(Value::String(text)) => STANDARD.decode(text).map_err(|e| format!("image: no base64: {e}"))?,
        Some(Value::Array(list)) => {
            let byte = |v: &Value| v.as_u64().and_then(|n| u8::try_from(n).ok());
            let bad = || list.iter().position(|v| byte(v).is_none()).unwrap_or_default();
            let bytes: Option<Vec<u8>> = list.iter().map(byte).collect();
            bytes.ok_or_else(|| {
                format!("image[{}]: {:.40}; a pixel is 0 to 255", bad(), list[bad()].to_string())
            })?
        }
        Some(_) => return Err(format!("image: neither text nor list; a request is {form}")),
        None => return Err(format!("no image; a request is {form}")),
    };
    if image.len() != pixels {
        return Err(format!("image: {} pixels; the network takes {pixels}", image.len()));
    }
    Ok(image)
}

/// The next line without its end; `Some(false)`: it was longer than `longest` and has been skipped.
fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>, longest: usize) -> std::io::Result<Option<bool>> {
    line.clear();
    let limit = longest as u64 + 1;
    if from.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(true));
    }
    if line.len() as u64 != limit {
        return Ok(Some(true)); // the last line has no end
    }
    loop {
        line.clear();
        if from.by_ref().take(limit).read_until(b'\n', line)? == 0 || line.last() == Some(&b'\n') {
            line.clear();
            return Ok(Some(false));
        }
    }
}

fn refusal(rule: String) -> String {
    serde_json::to_string(&ErrorLine { error: rule }).expect("a string is JSON")
}

fn write_line(out: &mut UnixStream, text: &str) -> std::io::Result<()> {
    out.write_all(format!("{text}\n").as_bytes())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
