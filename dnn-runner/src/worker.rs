//! The loop: take the latest decision between two inferences, run, report.
//!
//! Responsible for: the order of things, and for telling the agent the totals, also while idle and during
//! a long frame. Not responsible for: the rules of obedience ([`crate::follower`]), the arithmetic
//! ([`crate::batch`]), finding the agent ([`crate::link`]).
//!
//! Everything the agent reads is written by this one thread.

use crate::batch::Batcher;
use crate::clock;
use crate::data::Images;
use crate::follower::{Choice, Follower, Grounds, Heard};
use crate::link::{Attached, Link};
use crate::report::{Record, Tally};
use crate::serve::{Reply, Request};
use crate::stream::{Queue, Schedule, Victim};
use channel::TotalsWriter;
use channel::msg::FeedbackMsg;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tracing::{info, warn};

/// How often the totals are told during a frame.
const POLL_NS: u64 = 2_000_000;
/// How often, at least, it looks up while idle: a decision is taken at the next frame's start in any case, so this only tells
/// the agent that it was heard and that the runner lives. Each time wakes a CPU: at 2 ms it was a tenth of a little core.
const IDLE_NS: u64 = 10_000_000;
/// The same without an agent: only signals wait.
const IDLE_ALONE_NS: u64 = 20_000_000;

/// What waits to be run.
#[derive(Debug)]
enum Item {
    Frame { number: u64, arrived: u64 },
    Request(Request),
}

/// Where frames come from and when they end.
#[derive(Debug)]
pub struct Stream {
    /// What the frames show, in order, round and round.
    pub images: Images,
    /// When they arrive.
    pub schedule: Schedule,
    /// Images of a frame.
    pub batch: usize,
    /// No frame arrives after so many.
    pub frames: u64,
}

/// Everything that comes in.
#[derive(Debug)]
struct Inbox {
    waiting: Queue<Item>,
    schedule: Option<Schedule>,
    /// When the next frame arrives; `None`: none does any more.
    next: Option<u64>,
    began: u64,
    duration_ns: u64,
    frames_left: u64,
    number: u64,
    requests: Option<Receiver<Request>>,
    serve_until: u64,
    arrived: u64,
    asked: u64,
    dropped: u64,
    totals: Option<TotalsWriter>,
    told: u64,
}

/// The worker and all it owns.
#[derive(Debug)]
pub struct Worker {
    batcher: Batcher,
    follower: Follower,
    inbox: Inbox,
    stream: Option<(Images, usize)>,
    link: Option<Link>,
    attached: Option<Attached>,
    looked: u64,
    running: usize,
    inference: u64,
    lost_feedback: u64,
    tally: Tally,
    stop: Arc<AtomicBool>,
}

/// How a run is put together.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Parts {
    pub batcher: Batcher,
    pub follower: Follower,
    pub stream: Option<Stream>,
    pub requests: Option<Receiver<Request>>,
    pub queue: usize,
    pub drop: Victim,
    pub link: Option<Link>,
    pub tally: Tally,
    pub stop: Arc<AtomicBool>,
    /// Frames arrive from this time on.
    pub began: u64,
    /// And none (without a stream: no request) after so many ns.
    pub duration_ns: u64,
}

impl Inbox {
    /// Takes in what has arrived by `now`, and tells the agent.
    fn intake(&mut self, now: u64) {
        while let Some(arrived) = self.next.filter(|at| *at <= now) {
            let number = self.number;
            self.number += 1;
            self.schedule_next();
            self.admit(Item::Frame { number, arrived });
        }
        while let Some(request) = self.requests.as_ref().and_then(|r| r.try_recv().ok()) {
            self.asked += 1;
            self.admit(Item::Request(request));
        }
        self.tell(now);
    }

    fn schedule_next(&mut self) {
        self.next = None;
        if self.frames_left == 0 {
            return;
        }
        self.frames_left -= 1;
        let offset = self.schedule.as_mut().and_then(Iterator::next);
        self.next = offset.filter(|o| *o < self.duration_ns).map(|o| self.began + o);
    }

    fn admit(&mut self, item: Item) {
        self.arrived += 1;
        if let Some(totals) = &self.totals {
            totals.arrived(1);
        }
        let Some(gone) = self.waiting.push(item) else { return };
        self.dropped += 1;
        if let Some(totals) = &self.totals {
            totals.dropped(1);
        }
        if let Item::Request(request) = gone {
            request.answer(Reply::Dropped);
        }
    }

    fn tell(&mut self, now: u64) {
        self.told = now;
        if let Some(totals) = &self.totals {
            totals.queue(self.waiting.len() as u64);
            totals.heartbeat(now);
        }
    }

    /// Whether the run is over: the stream's last frame is served, or the time to serve is up.
    fn ended(&self, now: u64) -> bool {
        self.next.is_none() && self.waiting.is_empty() && now >= self.serve_until
    }
}

impl Worker {
    /// Ready to run.
    pub fn new(parts: Parts) -> Self {
        let end = parts.began.saturating_add(parts.duration_ns);
        let (schedule, frames_left, stream, serve_until) = match parts.stream {
            Some(s) => (Some(s.schedule), s.frames, Some((s.images, s.batch)), 0),
            None => (None, 0, None, if parts.requests.is_some() { end } else { 0 }),
        };
        let mut inbox = Inbox {
            waiting: Queue::new(parts.queue, parts.drop),
            schedule,
            next: None,
            began: parts.began,
            duration_ns: parts.duration_ns,
            frames_left,
            number: 0,
            requests: parts.requests,
            serve_until,
            arrived: 0,
            asked: 0,
            dropped: 0,
            totals: None,
            told: 0,
        };
        inbox.schedule_next();
        let running = parts.follower.choice(parts.began).subnet;
        Self {
            batcher: parts.batcher,
            follower: parts.follower,
            inbox,
            stream,
            link: parts.link,
            attached: None,
            looked: 0,
            running,
            inference: 0,
            lost_feedback: 0,
            tally: parts.tally,
            stop: parts.stop,
        }
    }

    /// Runs until the stream has ended or `stop` is set; says `bye`; returns the report.
    pub fn run(mut self) -> std::io::Result<String> {
        loop {
            let now = clock::now();
            self.inbox.intake(now);
            self.look_after_agent(now);
            let choice = self.follow();
            if self.stop.load(Ordering::Relaxed) || self.inbox.ended(now) {
                break;
            }
            match self.inbox.waiting.pop() {
                Some(item) => self.infer(item, choice)?,
                None => self.rest(now),
            }
        }
        self.finish()
    }

    /// Takes in a found agent, lets a dead one go.
    fn look_after_agent(&mut self, now: u64) {
        let Some(link) = &self.link else { return };
        if now < self.looked + POLL_NS {
            return;
        }
        self.looked = now;
        match &self.attached {
            Some(attached) if attached.connection.closed() => {
                warn!("agent lost; keeping the last choice for a grace time");
                self.let_go(now);
            }
            Some(_) => {}
            None => {
                let Some(attached) = link.found() else { return };
                // Counts begin anew with each agent; what waits has arrived, for it too.
                attached.end.totals.arrived(self.inbox.waiting.len() as u64);
                self.inbox.totals = Some(attached.end.totals.clone());
                self.inbox.tell(now);
                self.tally.counts.agents += 1;
                self.attached = Some(attached);
            }
        }
    }

    fn let_go(&mut self, now: u64) {
        if let Some(attached) = self.attached.take() {
            self.lost_feedback += attached.end.feedback.lost();
        }
        self.inbox.totals = None;
        self.follower.lost(now);
        if let Some(link) = &self.link {
            link.lost();
        }
    }

    /// Takes the latest decision; from here on it is in force.
    fn follow(&mut self) -> Choice {
        let before = clock::now();
        if let Some(attached) = &mut self.attached {
            // Unreadable for the moment: the agent is writing, or died in it. The choice stays.
            if let Ok(Some(decision)) = attached.end.decisions.latest() {
                match self.follower.hear(&decision) {
                    Heard::Same => {}
                    Heard::Taken => attached.end.totals.taken(decision.seq),
                    Heard::Refused => {
                        self.tally.counts.refused_decisions += 1;
                        let (seq, subnet) = (decision.seq, decision.subnet);
                        warn!(seq, subnet, "decision refused: there is no such sub-network");
                    }
                }
            }
        }
        let choice = self.follower.choice(before);
        if choice.subnet != self.running {
            self.running = choice.subnet;
            if let Some(totals) = &self.inbox.totals {
                totals.switched();
            }
            self.tally.switched(clock::now() - before);
        }
        choice
    }

    fn infer(&mut self, item: Item, choice: Choice) -> std::io::Result<()> {
        let started = clock::now();
        self.tally.counts.started += 1;
        if let Some(totals) = &self.inbox.totals {
            totals.started(started);
            totals.queue(self.inbox.waiting.len() as u64);
        }
        let arrived = match &item {
            Item::Frame { number, arrived } => {
                let (images, batch) = self.stream.as_ref().expect("frames come from a stream");
                let first = number * *batch as u64;
                self.batcher.fill(|frame| {
                    for i in 0..*batch as u64 {
                        let (pixels, label) = images.get(first + i);
                        frame.push(pixels, label);
                    }
                });
                *arrived
            }
            Item::Request(request) => {
                self.batcher.fill(|frame| frame.push(&request.pixels, None));
                request.arrived
            }
        };
        let inbox = &mut self.inbox;
        let outcome = self.batcher.run(choice.subnet, choice.threads, || {
            let now = clock::now();
            if now >= inbox.told + POLL_NS {
                inbox.intake(now);
            }
        });
        let done = clock::now();
        if let Item::Request(request) = item {
            let answer = self.batcher.first_answer().expect("a request has one image");
            request.answer(Reply::Answer { answer, subnet: choice.subnet, seq: choice.seq, done });
        }
        // A full ring is counted on the channel.
        if let Some(attached) = &mut self.attached {
            let totals = &attached.end.totals;
            totals.judged(outcome.labelled.into(), outcome.correct.into());
            totals.done();
            attached.end.feedback.push(&FeedbackMsg {
                seq: choice.seq,
                inference: self.inference,
                arrived_ns: arrived,
                started_ns: started,
                done_ns: done,
                subnet: u32::try_from(choice.subnet).expect("at most 64 sub-networks"),
                threads: outcome.threads,
                confidence: thousandths(outcome.confidence),
                images: outcome.images,
            });
        }
        self.inference += 1;
        self.tally.add(&Record {
            subnet: choice.subnet,
            seq: choice.seq,
            arrived,
            started,
            done,
            images: outcome.images,
            labelled: outcome.labelled,
            correct: outcome.correct,
            queue: self.inbox.waiting.len(),
            failsafe: choice.grounds == Grounds::Failsafe,
        })
    }

    /// Sleeps until something may have come: never spins.
    fn rest(&self, now: u64) {
        let poll = if self.attached.is_some() { IDLE_NS } else { IDLE_ALONE_NS };
        let until = self.inbox.next.unwrap_or(u64::MAX).min(now + poll);
        // Requests and a found agent wake it.
        std::thread::park_timeout(Duration::from_nanos(until.saturating_sub(clock::now())));
    }

    fn finish(mut self) -> std::io::Result<String> {
        if let Some(attached) = self.attached.take() {
            self.lost_feedback += attached.end.feedback.lost();
            // An agent that is gone by now needs no farewell.
            let _ = attached.connection.send_bye();
        }
        let counts = &mut self.tally.counts;
        counts.arrived = self.inbox.arrived;
        counts.requests = self.inbox.asked;
        counts.dropped = self.inbox.dropped;
        counts.lost_feedback = self.lost_feedback;
        info!(arrived = counts.arrived, done = counts.done, dropped = counts.dropped, "ended");
        self.tally.finish(clock::now(), clock::cpu_time())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
fn thousandths(confidence: f32) -> u32 {
    (confidence.clamp(0.0, 1.0) * 1000.0).round() as u32
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
