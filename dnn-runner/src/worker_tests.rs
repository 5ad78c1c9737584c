use super::*;
use crate::fixture::{Net, PIXELS};
use crate::kernel::Kernel;
use crate::link::hello;
use crate::report::Setup;
use crate::serve::{bind, start};
use crate::stream::{Arrivals, Victim};
use channel::hello::FromRunner;
use channel::msg::DecisionMsg;
use channel::{AgentEnd, AgentRegions, Connection, HandshakeError, Listener, Target};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a test wants of a worker.
#[derive(Clone)]
struct Plan {
    rate: f64,
    frames: u64,
    batch: usize,
    queue: usize,
    drop: Victim,
    agent: Option<PathBuf>,
    serve: Option<PathBuf>,
    fixed: Option<usize>,
    stop: Arc<AtomicBool>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            frames: u64::MAX,
            batch: 2,
            queue: 8,
            drop: Victim::Oldest,
            agent: None,
            serve: None,
            fixed: None,
            stop: Arc::default(),
        }
    }
}

/// Images of 10 x 10 whose label is the class that a sub-network gives half of them at least.
fn images(dir: &Path) -> Images {
    for n in 0..5u8 {
        let mut file = b"P5 10 10 255\n".to_vec();
        file.extend((0..PIXELS).map(|i| u8::try_from(i % 256).unwrap().wrapping_mul(n)));
        std::fs::write(dir.join(format!("{n}.pgm")), file).unwrap();
    }
    Images::from_folder(dir, (10, 10, 1)).unwrap()
}

/// Runs a worker on a thread; its report.
fn launch(plan: Plan) -> std::thread::JoinHandle<Value> {
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let net = Arc::new(Net::new(4, 1).load());
        let me = std::thread::current();
        let began = clock::now();
        let setup = Setup {
            name: "app".into(),
            network: "net".into(),
            manifest_sha256: net.digest(),
            kernel: "portable",
            batch: plan.batch,
            threads: 2,
            rate_hz: Some(plan.rate),
            arrivals: "periodic".into(),
            seed: 0,
            fixed: None,
            failsafe: "n1".into(),
            deadline_ms: Some(1000.0),
        };
        let requests = plan.serve.map(|p| start(bind(&p).unwrap(), Arc::clone(&net), me.clone()).unwrap());
        let hello = hello("app", &net, 0, 2, plan.batch, Target::default());
        let link = plan.agent.map(|socket| Link::new(socket, hello, me).unwrap());
        let follower = plan.fixed.map_or(Follower::new(4, 0, 2, 1_000_000_000), |s| Follower::fixed(s, 2));
        let worker = Worker::new(Parts {
            tally: Tally::new(setup, net.subnets(), None, began).unwrap(),
            batcher: Batcher::new(net, Kernel::portable(), 2).unwrap(),
            follower,
            stream: Some(Stream {
                images: images(dir.path()),
                schedule: Schedule::new(Arrivals::Periodic, plan.rate, 0),
                batch: plan.batch,
                frames: plan.frames,
            }),
            requests,
            queue: plan.queue,
            drop: plan.drop,
            link,
            stop: plan.stop,
            began,
            duration_ns: u64::MAX,
        });
        serde_json::from_str(&worker.run().unwrap()).unwrap()
    })
}

/// An agent that takes one runner in.
fn accept(listener: &Listener) -> (AgentEnd, Connection) {
    let (connection, _) = listener.accept(Duration::from_secs(60)).unwrap().expect("a runner comes");
    let hello = connection.recv_hello(Duration::from_secs(60)).unwrap();
    assert_eq!((hello.name.as_str(), hello.subnets.len(), hello.failsafe), ("app", 4, 0));
    let regions = AgentRegions::create().unwrap();
    connection.welcome(0, &regions).unwrap();
    (regions.into_end(), connection)
}

fn decision(seq: u64, subnet: u32) -> DecisionMsg {
    DecisionMsg { seq, subnet, threads: 1, valid_until_ns: u64::MAX, ..DecisionMsg::default() }
}

/// Waits for what must come; how long is not the test's claim.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < patience, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_frame_is_accounted_for() {
    let report = launch(Plan { frames: 300, fixed: Some(2), ..Plan::default() }).join().unwrap();
    let total = |key: &str| report["totals"][key].as_u64().unwrap();
    assert_eq!(total("arrived"), 300);
    assert_eq!(total("done") + total("dropped"), 300);
    assert_eq!((total("started"), report["waiting"].as_u64()), (total("done"), Some(0)));
    assert_eq!(report["subnets"][2]["frames"].as_u64().unwrap(), total("done"));
    assert_eq!(report["images"].as_u64().unwrap(), 2 * total("done"));
}

#[test]
fn an_overloaded_queue_drops_and_counts() {
    // All 400 arrive within 4 us, while the first has not even started.
    for drop in [Victim::Oldest, Victim::Newest] {
        let plan = Plan { frames: 400, rate: 1e8, queue: 3, drop, fixed: Some(3), ..Plan::default() };
        let report = launch(plan).join().unwrap();
        let total = |key: &str| report["totals"][key].as_u64().unwrap();
        assert_eq!(total("arrived"), 400);
        assert!(total("dropped") > 0);
        assert_eq!(total("done") + total("dropped"), 400);
        assert_eq!(
            report["violations"].as_u64().unwrap(),
            total("dropped") + report["late"].as_u64().unwrap()
        );
    }
}

#[test]
fn a_decision_is_taken_while_idle_and_runs_from_the_next_frame_on() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let listener = Listener::bind(&socket, 0o600).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    // One frame at the start, the next after 1,000 s: the worker is idle.
    let plan = Plan { rate: 0.001, agent: Some(socket), stop: Arc::clone(&stop), ..Plan::default() };
    let worker = launch(plan);
    let (mut agent, connection) = accept(&listener);
    for seq in 1..=3 {
        agent.decisions.publish(&decision(seq, 3));
        until("taken while idle", || agent.totals().taken == seq);
    }
    let before = agent.totals().heartbeat_ns;
    until("a heartbeat while idle", || agent.totals().heartbeat_ns > before);
    assert_eq!(agent.totals().switches, 1, "from the failsafe to the largest, once");
    stop.store(true, Ordering::Relaxed);
    let report = worker.join().unwrap();
    assert_eq!(report["totals"]["agents"], 1);
    let mut said = Vec::new();
    until("bye", || match connection.try_recv() {
        Ok(Some(word)) => {
            said.push(word);
            false
        }
        Ok(None) => false,
        Err(HandshakeError::Closed) => true,
        Err(other) => panic!("{other}"),
    });
    assert_eq!(said, [FromRunner::Bye {}]);
}

#[test]
fn feedback_and_totals_tell_what_was_run_under_which_decision() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let listener = Listener::bind(&socket, 0o600).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let worker = launch(Plan { agent: Some(socket), stop: Arc::clone(&stop), ..Plan::default() });
    let (mut agent, _connection) = accept(&listener);
    let mut seen: Vec<FeedbackMsg> = Vec::new();
    for (seq, subnet) in [(1, 3), (2, 0), (3, 2)] {
        agent.decisions.publish(&decision(seq, subnet));
        until("feedback under the decision", || {
            agent.feedback.drain(|m| seen.push(m)).unwrap();
            seen.iter().filter(|m| m.seq == seq).count() >= 5
        });
    }
    // No such sub-network: refused, and the choice stays.
    agent.decisions.publish(&decision(4, 4));
    let so_far = seen.len();
    until("more feedback", || {
        agent.feedback.drain(|m| seen.push(m)).unwrap();
        seen.len() > so_far + 20
    });
    stop.store(true, Ordering::Relaxed);
    let report = worker.join().unwrap();
    agent.feedback.drain(|m| seen.push(m)).unwrap();
    let totals = agent.totals();
    assert_eq!(totals.taken, 3);
    assert_eq!(report["totals"]["refused_decisions"], 1);
    for m in &seen {
        let expected = [0, 3, 0, 2][usize::try_from(m.seq).unwrap()];
        assert_eq!(m.subnet, expected, "decision {}", m.seq);
        assert!(m.arrived_ns <= m.started_ns && m.started_ns <= m.done_ns);
        assert_eq!((m.images, m.threads), (2, 1));
        assert!((1..=1000).contains(&m.confidence));
    }
    assert!(seen.windows(2).all(|w| w[1].inference == w[0].inference + 1 && w[1].seq >= w[0].seq));
    assert_eq!(seen.len() as u64 + totals.lost_feedback, totals.done);
    assert_eq!(totals.arrived, totals.done + totals.dropped + totals.queue);
    assert_eq!(totals.started, totals.done);
    assert_eq!(totals.in_flight_since_ns, 0);
}

#[test]
fn the_agent_may_die_and_come_back_while_frames_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let stop = Arc::new(AtomicBool::new(false));
    // The runner comes first.
    let worker = launch(Plan { agent: Some(socket.clone()), stop: Arc::clone(&stop), ..Plan::default() });
    for agents in 1..=3 {
        let listener = Listener::bind(&socket, 0o600).unwrap();
        let (mut agent, _connection) = accept(&listener);
        agent.decisions.publish(&decision(1, agents));
        until("a frame under this agent", || {
            let mut found = false;
            agent.feedback.drain(|m| found |= m.seq == 1 && m.subnet == agents).unwrap();
            found
        });
        let t = agent.totals();
        assert!(t.done <= t.started && t.started <= t.arrived, "{t:?}");
        // Here the agent dies: socket, regions and all.
    }
    stop.store(true, Ordering::Relaxed);
    let report = worker.join().unwrap();
    assert_eq!(report["totals"]["agents"], 3);
    let total = |key: &str| report["totals"][key].as_u64().unwrap();
    assert_eq!(total("arrived"), total("done") + total("dropped") + report["waiting"].as_u64().unwrap());
}

#[test]
fn requests_are_answered_between_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve");
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        rate: 50.0,
        serve: Some(path.clone()),
        fixed: Some(1),
        stop: Arc::clone(&stop),
        ..Plan::default()
    };
    let worker = launch(plan);
    // That its file is there is not enough: between `bind` and `listen` it refuses.
    let mut connected = None;
    until("the socket", || {
        connected = UnixStream::connect(&path).ok();
        connected.is_some()
    });
    let mut stream = connected.unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..20 {
        stream.write_all(format!("{{\"image\": {:?}}}\n", [7u8; PIXELS]).as_bytes()).unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&reply["subnet"], &reply["seq"]), (&"n2".into(), &0.into()), "{reply}");
    }
    stop.store(true, Ordering::Relaxed);
    let report = worker.join().unwrap();
    assert_eq!(report["totals"]["requests"], 20);
    assert_eq!(report["labelled"], 0, "neither requests nor pictures have labels");
    assert!(report["accuracy_pct"].is_null(), "not measured is not 0");
}

#[test]
fn a_request_for_which_the_queue_has_no_room_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve");
    let stop = Arc::new(AtomicBool::new(false));
    // Frames arrive faster than they can be run: the one place in the queue is mostly taken.
    let plan = Plan {
        rate: 5000.0,
        batch: 2000,
        queue: 1,
        drop: Victim::Newest,
        serve: Some(path.clone()),
        fixed: Some(3),
        stop: Arc::clone(&stop),
        ..Plan::default()
    };
    let worker = launch(plan);
    let mut connected = None;
    until("the socket", || {
        connected = UnixStream::connect(&path).ok();
        connected.is_some()
    });
    let mut stream = connected.unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    until("a dropped request", || {
        stream.write_all(format!("{{\"image\": {:?}}}\n", [7u8; PIXELS]).as_bytes()).unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(!line.contains("ending"), "{line}");
        line.contains("dropped: the queue is full")
    });
    stop.store(true, Ordering::Relaxed);
    worker.join().unwrap();
}
