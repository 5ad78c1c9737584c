//! The handshake over a real socket, with honest and with hostile peers.

use channel::hello::{FromRunner, Report, SubnetHello, Target};
use channel::msg::{DecisionMsg, FeedbackMsg};
use channel::{AgentRegions, Connection, HandshakeError, Hello, Listener, PeerCred, connect};
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen,
    sendmsg, socket,
};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn hello() -> Hello {
    Hello {
        protocol: 2,
        name: "camera".into(),
        manifest_digest: "0123456789abcdef".repeat(4),
        weights_digest: "fedcba9876543210".repeat(4),
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

// ---- hostile runners

/// A peer that speaks no protocol of ours.
struct Raw(OwnedFd);

impl Raw {
    fn connect(path: &Path) -> Self {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self(fd)
    }
    fn listen(path: &Path) -> OwnedFd {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&fd, Backlog::new(4).unwrap()).unwrap();
        fd
    }
    fn send(&self, bytes: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None).unwrap();
    }
    fn recv(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let n = nix::sys::socket::recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        bytes.truncate(n);
        bytes
    }
}

/// What the agent makes of a runner's first packet.
fn first_packet(bytes: &[u8], fds: &[RawFd]) -> HandshakeError {
    let mut seen = None;
    let raw = meet(
        |connection, _| seen = Some(connection.recv_hello(SOON).expect_err("refused")),
        |path| {
            let raw = Raw::connect(path);
            raw.send(bytes, fds);
            raw
        },
    );
    drop(raw);
    seen.unwrap()
}

#[test]
fn what_is_no_hello_is_refused_with_the_rule() {
    let oversize = vec![b' '; 65 * 1024];
    for (bytes, rule) in [
        (&b"garbage"[..], "not a message of this protocol: expected value at line 1 column 1"),
        (b"\xff\xff\xff\xff", "not a message of this protocol"),
        (b"{\"hello\":{}}", "missing field"),
        (b"{\"bye\":{}}", "got bye, expected hello"),
        (b"{\"target\":{}}", "got target, expected hello"),
        (&oversize, "a message of more than 65536 bytes"),
        (b"", "the other side closed the connection"),
    ] {
        let error = first_packet(bytes, &[]).to_string();
        assert!(error.contains(rule), "{error}");
    }
}

#[test]
fn a_silent_runner_is_late_and_a_gone_one_is_closed() {
    let raw = meet(
        |connection, _| {
            let late = connection.recv_hello(Duration::from_millis(20)).unwrap_err();
            assert_eq!(late.to_string(), "the other side did not say hello within 20 ms");
            assert!(matches!(connection.try_recv_hello(), Ok(None)));
        },
        Raw::connect,
    );
    drop(raw);
    meet(
        |connection, _| assert!(matches!(connection.recv_hello(SOON), Err(HandshakeError::Closed))),
        |path| drop(Raw::connect(path)),
    );
}

#[test]
fn descriptors_nobody_asked_for_are_refused_and_closed() {
    // While any copy of `write` is open, reading from `read` would not end.
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    let bytes = serde_json::to_vec(&FromRunner::Hello(hello())).unwrap();
    let error = first_packet(&bytes, &[write.as_raw_fd(), write.as_raw_fd()]);
    assert_eq!(error.to_string(), "a message with unexpected descriptors, must carry none");
    drop(write);
    assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0), "a copy is still open");
}

#[test]
fn a_second_hello_is_refused() {
    let regions = AgentRegions::create().unwrap();
    let raw = meet(
        |connection, _| {
            connection.recv_hello(SOON).unwrap();
            connection.welcome(0, &regions).unwrap();
            let error = loop {
                match connection.try_recv() {
                    Ok(None) => std::thread::yield_now(),
                    Ok(Some(message)) => panic!("{message:?}"),
                    Err(e) => break e,
                }
            };
            assert_eq!(error.to_string(), "got a second hello, expected target or bye");
        },
        |path| {
            let raw = Raw::connect(path);
            let bytes = serde_json::to_vec(&FromRunner::Hello(hello())).unwrap();
            raw.send(&bytes, &[]);
            raw.send(&bytes, &[]);
            raw
        },
    );
    assert_eq!(raw.recv(), br#"{"welcome":{"slot":0}}"#);
}

#[test]
fn a_runner_that_never_reads_does_not_hold_the_agent() {
    meet(
        |connection, _| {
            let regions = AgentRegions::create().unwrap();
            // Until the socket's buffer is full; then the answer is an error, not a wait without end.
            let error =
                (0..100_000).find_map(|_| connection.welcome(0, &regions).err()).expect("buffers are finite");
            assert_eq!(error.to_string(), "the other side did not read within 200 ms");
        },
        Raw::connect,
    );
}

#[test]
fn a_refused_runner_learns_why() {
    let refused = meet(
        |connection, _| {
            connection.recv_hello(SOON).unwrap();
            connection.refuse("camera: name is taken\n").unwrap();
        },
        |path| connect(path, &hello()).unwrap_err(),
    );
    assert_eq!(refused.to_string(), "the agent refused: camera: name is taken");
}

// ---- hostile agents

/// What a runner makes of an agent's answer.
fn answer(bytes: &[u8], fds: &[RawFd]) -> Result<(), HandshakeError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = Raw::listen(&path);
    std::thread::scope(|s| {
        let runner = s.spawn(|| connect(&path, &hello()).map(drop));
        let raw = Raw(accept4(&listener, SockFlag::SOCK_CLOEXEC).unwrap());
        raw.recv();
        raw.send(bytes, fds);
        runner.join().unwrap()
    })
}

#[test]
fn a_runner_checks_what_it_is_handed() {
    let welcome = br#"{"welcome":{"slot":3}}"#;
    let regions = AgentRegions::create().unwrap();
    let [orders, report] = regions.fds().map(|fd| fd.as_raw_fd());
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    answer(welcome, &[orders, report]).expect("the answer is good");
    for (fds, rule) in [
        (&[][..], "a message with 0 descriptors, must be 2"),
        (&[orders], "a message with 1 descriptors, must be 2"),
        (&[orders, report, write.as_raw_fd()], "a message with 3 descriptors, must be 2"),
        (&[write.as_raw_fd(); 253], "a message with 253 descriptors, must be 2"),
        (&[report, orders], "orders region: seals are"),
        (&[orders, orders], "report region: seals are"),
        (&[write.as_raw_fd(), report], "orders region: read the seals of: EINVAL: Invalid argument"),
    ] {
        let error = answer(welcome, fds).expect_err(rule).to_string();
        assert!(error.contains(rule), "{error}");
    }
    let error = answer(br#"{"welcome":{"slot":64}}"#, &[orders, report]).unwrap_err();
    assert_eq!(error.to_string(), "slot: 64: must be less than 64, the number of runners");
    drop(write);
    assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0), "a copy is still open");
}

#[test]
fn a_hello_that_breaks_a_rule_is_not_even_sent() {
    let hello = Hello { failsafe: 9, ..hello() };
    let error = connect(Path::new("/nonexistent/agent.sock"), &hello).unwrap_err();
    assert_eq!(error.to_string(), "failsafe: 9: must be the position of a sub-network");
}

// ---- the door

#[test]
fn a_second_agent_is_kept_out_and_a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let error = connect(&path, &hello()).unwrap_err().to_string();
    assert!(
        error.ends_with("agent.sock: connect (is the agent running?): ENOENT: No such file or directory"),
        "{error}"
    );

    let first = Listener::bind(&path, 0o660).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let error = Listener::bind(&path, 0o660).unwrap_err().to_string();
    assert!(
        error.ends_with("agent.sock: another agent is listening; only one may govern a machine"),
        "{error}"
    );
    drop(first);
    assert!(!path.exists(), "an agent that ends in order takes its socket along");

    drop(Raw::listen(&path));
    assert!(path.exists(), "one that is killed leaves it");
    let error = connect(&path, &hello()).unwrap_err().to_string();
    assert!(error.contains("ECONNREFUSED"), "{error}");
    let second = Listener::bind(&path, 0o600).unwrap();

    std::fs::remove_file(&path).unwrap();
    let third = Listener::bind(&path, 0o600).unwrap();
    drop(second);
    assert!(path.exists(), "it was not the second's any more");
    assert!(matches!(third.accept(Duration::ZERO), Ok(None)));
}

#[test]
fn an_agent_too_busy_to_answer_is_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let busy = Raw::listen(&path);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let queue: Vec<OwnedFd> = std::iter::from_fn(|| {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).is_ok().then_some(fd)
    })
    .collect();
    assert!(matches!(Listener::bind(&path, 0o660), Err(HandshakeError::InUse(_))), "{} wait", queue.len());
    drop(busy);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Listener::bind(&path, 0o660), Err(HandshakeError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

#[test]
fn sixty_four_runners_come_and_go_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = Listener::bind(&path, 0o660).unwrap();
    let join = |slot: u16| {
        std::thread::scope(|s| {
            let runner = s.spawn(|| connect(&path, &hello()).unwrap());
            let (connection, _) = listener.accept(SOON).unwrap().unwrap();
            connection.recv_hello(SOON).unwrap();
            let regions = AgentRegions::create().unwrap();
            connection.welcome(slot, &regions).unwrap();
            (connection, regions.into_end(), runner.join().unwrap())
        })
    };
    let mut all: Vec<_> = (0..64).map(join).collect();
    for (slot, (_, agent, (runner, _))) in all.iter_mut().enumerate() {
        agent.decisions.publish(&DecisionMsg { seq: slot as u64 + 1, ..Default::default() });
        runner.totals.arrived(slot as u64);
    }
    // Every other one dies; one agent's end goes first, which its runner notices.
    let mut kept: Vec<_> = all.into_iter().enumerate().filter(|(slot, _)| slot % 2 == 0).collect();
    for (slot, (connection, agent, (runner, of_runner))) in &mut kept {
        assert_eq!(runner.decisions.latest().unwrap().unwrap().seq, *slot as u64 + 1);
        assert_eq!(agent.totals().arrived, *slot as u64);
        assert!(matches!(connection.try_recv(), Ok(None)));
        assert!(!of_runner.closed());
    }
    let (_, (connection, agent, (mut runner, of_runner))) = kept.pop().unwrap();
    drop((connection, agent));
    assert!(of_runner.closed());
    assert_eq!(runner.decisions.latest().unwrap().unwrap().seq, 63, "the regions outlive the agent");
    let (_, agent, (mut runner, _)) = join(1);
    assert_eq!((runner.decisions.latest(), agent.totals().arrived), (Ok(None), 0), "a slot starts afresh");
}
