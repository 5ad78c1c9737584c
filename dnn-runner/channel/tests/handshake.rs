//! The handshake over a real socket, with honest and with hostile peers.

use channel::hello::{FromRunner, Report, SubnetHello, Target};
use channel::msg::{DecisionMsg, FeedbackMsg};
use channel::{AgentRegions, Connection, HandshakeError, Hello, Listener, PeerCred, connect};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn hello() -> Hello {
    Hello {
        protocol: 1,
        name: "camera".into(),
        manifest_digest: "0123456789abcdef".repeat(4),
        subnets: [("25%", 8100, 100_000), ("100%", 9000, 1_900_000)]
            .map(|(name, top1, macs)| SubnetHello { name: name.into(), top1, macs, params: macs / 10 })
            .into(),
        failsafe: 0,
        threads_max: 2,
        pid: std::process::id(),
        tids: None,
        latency_ns: Some(40_000_000),
        top1_floor: Some(8000),
        report: Report { network: "mlcad19".into(), batch: 16 },
    }
}

/// The agent's side on this thread, the runner's on another.
fn meet<R: Send>(agent: impl FnOnce(Connection, PeerCred), runner: impl FnOnce(&Path) -> R + Send) -> R {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = Listener::bind(&path, 0o660).unwrap();
    std::thread::scope(|s| {
        let runner = s.spawn(|| runner(&path));
        let (connection, peer) = listener.accept(SOON).unwrap().expect("the runner connects");
        agent(connection, peer);
        runner.join().unwrap()
    })
}

#[test]
fn a_runner_comes_in_works_and_leaves() {
    let regions = AgentRegions::create().unwrap();
    let target = Target { latency_ns: Some(20_000_000), top1_floor: None };
    let end = meet(
        |connection, peer| {
            assert_eq!(peer.pid, std::process::id().cast_signed());
            assert_eq!(connection.recv_hello(SOON).unwrap(), hello());
            connection.welcome(7, &regions).unwrap();
            let mut agent = regions.into_end();
            agent.decisions.publish(&DecisionMsg { seq: 5, subnet: 1, ..Default::default() });
            let mut said = Vec::new();
            loop {
                match connection.try_recv() {
                    Ok(Some(message)) => said.push(message),
                    Ok(None) => std::thread::yield_now(),
                    Err(HandshakeError::Closed) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            assert_eq!(said, [FromRunner::Target(target), FromRunner::Bye {}]);
            let mut done = Vec::new();
            agent.feedback.drain(|m| done.push(m)).unwrap();
            assert_eq!(done, [FeedbackMsg { seq: 5, inference: 1, ..Default::default() }]);
            assert_eq!(agent.totals().taken, 5);
        },
        |path| {
            let (mut end, connection) = connect(path, &hello()).unwrap();
            assert_eq!(connection.slot(), Some(7));
            let decision = loop {
                if let Some(decision) = end.decisions.latest().unwrap() {
                    break decision;
                }
                std::thread::yield_now();
            };
            assert!(end.feedback.push(&FeedbackMsg {
                seq: decision.seq,
                inference: 1,
                ..Default::default()
            }));
            end.totals.taken(decision.seq);
            assert!(!connection.closed());
            connection.send_target(target).unwrap();
            connection.send_bye().unwrap();
            end
        },
    );
    drop(end);
}
