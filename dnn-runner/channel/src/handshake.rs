//! How a runner and the agent meet: a Unix `SOCK_SEQPACKET` socket, over which the runner says hello and
//! gets its two regions. What is said is in [`crate::hello`]; who may come in is the agent's business, which
//! gets the peer's credentials from the kernel.
//!
//! ```text
//! runner: hello {...}      agent: welcome {slot} + two descriptors, or refused {reason}
//! runner: target {...}, any number of times; bye
//! ```
//! Nothing here waits without a deadline, and the socket stays open while the runner lives: its end is how
//! each side learns that the other is gone. The agent receives no descriptors at all: it offers no room for
//! them, so the kernel drops what a peer attaches.

use crate::ends::{AgentRegions, RunnerEnd};
use crate::hello::{FromAgent, FromRunner, Hello, MESSAGE_MAX, MessageError, Target, Welcome};
use crate::region::RegionError;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect as connect_to, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a runner waits for the agent's answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a send may wait for room: the peer has nothing else to do than to read.
const SEND_WITHIN: Duration = Duration::from_millis(200);
/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 64;
/// Descriptors that one packet can carry (`SCM_MAX_FD`). The runner offers room for all of them: what fits
/// can be closed, what overflows would make nix hide the rest.
const FDS_MAX: usize = 253;

/// What went wrong between the two.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The kernel refused.
    #[error("{subject}: {doing}: {error}")]
    System {
        /// The socket's path, or "connection".
        subject: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        error: Errno,
    },
    /// Another agent listens there.
    #[error("{0}: another agent is listening; only one may govern a machine")]
    InUse(PathBuf),
    /// Something that is no socket lies there.
    #[error("{0}: exists and is not a socket; not removing it")]
    NotASocket(PathBuf),
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side took too long.
    #[error("the other side did not {what} within {} ms", .within.as_millis())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// A message that cannot be used.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A good message at the wrong time.
    #[error("got {got}, expected {expected}")]
    Unexpected {
        /// What came.
        got: &'static str,
        /// What should have come.
        expected: &'static str,
    },
    /// Not the descriptors that belong to the message.
    #[error("a message with {found} descriptors, must be {needed}")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many must come.
        needed: usize,
    },
    /// Descriptors where none were asked for. They were never received.
    #[error("a message with unexpected descriptors, must carry none")]
    Unasked,
    /// The agent said no.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The regions that the agent handed over cannot be used.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// Who is on the other side, by the kernel's word, as of its `connect` (or `listen`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process, in this side's namespace; 0 = not visible from it.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// The agent's door.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Listens at `path`, with these permission bits. A socket that nobody listens at is replaced; two agents
    /// that start in the same moment may both think so, a lock against that is the agent's business.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, HandshakeError> {
        let system =
            |doing| move |error| HandshakeError::System { subject: path.display().to_string(), doing, error };
        let io = |doing| move |e: std::io::Error| system(doing)(errno_of(&e));
        let address = UnixAddr::new(path).map_err(system("use as a socket's path"))?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(HandshakeError::NotASocket(path.into()));
            }
            Ok(_) => match knock(&address) {
                Err(Errno::ECONNREFUSED) => {
                    std::fs::remove_file(path).map_err(io("remove the stale socket"))?
                }
                // Listening, or too busy to answer, or another program's.
                _ => return Err(HandshakeError::InUse(path.into())),
            },
            Err(_) => {}
        }
        let fd = new_socket().map_err(system("create"))?;
        bind(fd.as_raw_fd(), &address).map_err(system("bind"))?;
        // Before `listen`: until then nobody can connect, whatever the umask made of the mode.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io("set the mode"))?;
        let made = std::fs::symlink_metadata(path).map_err(io("look at"))?;
        listen(&fd, Backlog::new(BACKLOG).map_err(system("listen"))?).map_err(system("listen"))?;
        Ok(Self { fd, path: path.into(), inode: (made.dev(), made.ino()) })
    }

    /// The next runner, `None` if none comes within `timeout`. After an error (no descriptors left, say) the
    /// runner still waits at the door: pause before the next try.
    pub fn accept(&self, timeout: Duration) -> Result<Option<(Connection, PeerCred)>, HandshakeError> {
        let system = |doing| {
            move |error| HandshakeError::System { subject: self.path.display().to_string(), doing, error }
        };
        if !wait(self.fd.as_fd(), PollFlags::POLLIN, timeout).map_err(system("wait"))? {
            return Ok(None);
        }
        match accept4(&self.fd, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            Ok(fd) => {
                let connection = Connection::new(fd)?;
                let peer = connection.peer;
                Ok(Some((connection, peer)))
            }
            Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
            Err(error) => Err(system("accept")(error)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only if it is still ours: another agent may have replaced it.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One runner and the agent, either's end.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    peer: PeerCred,
    slot: Option<u16>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The agent's part.
impl Connection {
    /// The runner's first message.
    pub fn recv_hello(&self, within: Duration) -> Result<Hello, HandshakeError> {
        if !wait(self.as_fd(), PollFlags::POLLIN, within).map_err(broken("wait"))? {
            return Err(HandshakeError::Late { what: "say hello", within });
        }
        self.try_recv_hello()?.ok_or(HandshakeError::Late { what: "say hello", within })
    }

    /// The runner's first message if it is there: for an agent that polls many connections at once.
    pub fn try_recv_hello(&self) -> Result<Option<Hello>, HandshakeError> {
        match self.recv_from_runner()? {
            Some(FromRunner::Hello(hello)) => Ok(Some(hello)),
            Some(FromRunner::Target(_)) => {
                Err(HandshakeError::Unexpected { got: "target", expected: "hello" })
            }
            Some(FromRunner::Bye {}) => Err(HandshakeError::Unexpected { got: "bye", expected: "hello" }),
            None => Ok(None),
        }
    }

    /// Lets the runner in and hands it its regions.
    pub fn welcome(&self, slot: u16, regions: &AgentRegions) -> Result<(), HandshakeError> {
        self.send(&FromAgent::Welcome(Welcome { slot }), &regions.fds())
    }

    /// Turns the runner away. `reason` names the rule.
    pub fn refuse(self, reason: &str) -> Result<(), HandshakeError> {
        let reason = reason.chars().filter(|c| !c.is_control()).take(1000).collect();
        self.send(&FromAgent::Refused { reason }, &[])
    }

    /// What the runner said since, `None` if nothing is waiting. `Closed` without a `Bye` before: it died.
    pub fn try_recv(&self) -> Result<Option<FromRunner>, HandshakeError> {
        match self.recv_from_runner()? {
            Some(FromRunner::Hello(_)) => {
                Err(HandshakeError::Unexpected { got: "a second hello", expected: "target or bye" })
            }
            other => Ok(other),
        }
    }

    fn recv_from_runner(&self) -> Result<Option<FromRunner>, HandshakeError> {
        if !wait(self.as_fd(), PollFlags::POLLIN, Duration::ZERO).map_err(broken("wait"))? {
            return Ok(None);
        }
        Ok(match self.recv(None)? {
            Some(packet) => Some(FromRunner::parse(&packet.bytes)?),
            None => None,
        })
    }
}

/// The runner's part.
impl Connection {
    /// The slot that the agent gave this runner, 0 to 63.
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// Wants something else from now on.
    pub fn send_target(&self, target: Target) -> Result<(), HandshakeError> {
        self.send(&FromRunner::Target(target), &[])
    }

    /// Ends in good order.
    pub fn send_bye(self) -> Result<(), HandshakeError> {
        self.send(&FromRunner::Bye {}, &[])
    }

    /// Whether the agent is gone.
    pub fn closed(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|seen| seen.intersects(gone))
    }

    fn recv_answer(&self, within: Duration) -> Result<(Welcome, RunnerEnd), HandshakeError> {
        if !wait(self.as_fd(), PollFlags::POLLIN, within).map_err(broken("wait"))? {
            return Err(HandshakeError::Late { what: "answer", within });
        }
        let mut room = nix::cmsg_space!([std::os::fd::RawFd; FDS_MAX]);
        let Some(Packet { bytes, fds }) = self.recv(Some(&mut room))? else {
            return Err(HandshakeError::Late { what: "answer", within });
        };
        match FromAgent::parse(&bytes)? {
            FromAgent::Refused { reason } => Err(HandshakeError::Refused(reason)),
            FromAgent::Welcome(welcome) => {
                let [orders, report] = fds.as_slice() else {
                    return Err(HandshakeError::Descriptors { found: fds.len(), needed: 2 });
                };
                Ok((welcome, RunnerEnd::open(orders.as_fd(), report.as_fd())?))
            }
        }
    }
}

/// Joins the agent that listens at `path`, as [`Hello`] says, and gets this runner's end of the channel.
pub fn connect(path: &Path, hello: &Hello) -> Result<(RunnerEnd, Connection), HandshakeError> {
    hello.check()?;
    let system =
        |doing| move |error| HandshakeError::System { subject: path.display().to_string(), doing, error };
    let address = UnixAddr::new(path).map_err(system("use as a socket's path"))?;
    let fd = new_socket().map_err(system("create a socket for"))?;
    // A full backlog makes `connect` wait, as long as a send may.
    let within = i64::try_from(ANSWER_WITHIN.as_millis()).expect("seconds");
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(within))
        .map_err(system("set a timeout for"))?;
    connect_to(fd.as_raw_fd(), &address).map_err(system("connect (is the agent running?)"))?;
    let mut connection = Connection::new(fd)?;
    connection.send(&FromRunner::Hello(hello.clone()), &[])?;
    let (welcome, end) = connection.recv_answer(ANSWER_WITHIN)?;
    connection.slot = Some(welcome.slot);
    Ok((end, connection))
}

impl Connection {
    fn new(fd: OwnedFd) -> Result<Self, HandshakeError> {
        let cred = getsockopt(&fd, sockopt::PeerCredentials).map_err(broken("read the credentials"))?;
        Ok(Self { fd, peer: PeerCred { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() }, slot: None })
    }

    /// Who is on the other side.
    pub fn peer(&self) -> PeerCred {
        self.peer
    }

    fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), HandshakeError> {
        let bytes = serde_json::to_vec(message).map_err(|e| MessageError::Json(e.to_string()))?;
        if bytes.len() > MESSAGE_MAX {
            return Err(MessageError::TooLong.into());
        }
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if fds.is_empty() { &[] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let deadline = Instant::now() + SEND_WITHIN;
        loop {
            match sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(HandshakeError::Closed),
                Err(Errno::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !wait(self.as_fd(), PollFlags::POLLOUT, left).map_err(broken("wait"))? {
                        return Err(HandshakeError::Late { what: "read", within: SEND_WITHIN });
                    }
                }
                Err(error) => return Err(broken("send")(error)),
            }
        }
    }

    /// One packet and the descriptors with it, `None` if none is waiting. Without room for descriptors the
    /// kernel drops them and says so.
    fn recv(&self, room: Option<&mut [u8]>) -> Result<Option<Packet>, HandshakeError> {
        let asked = room.is_some();
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let got = match recvmsg::<()>(self.fd.as_raw_fd(), &mut into, room, flags) {
            Ok(got) => got,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(Errno::ECONNRESET) => return Err(HandshakeError::Closed),
            Err(error) => return Err(broken("receive")(error)),
        };
        let mut fds = Vec::new();
        if asked {
            for control in got.cmsgs().map_err(broken("receive descriptors"))? {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: the kernel has just made these descriptors for us, and nobody else has them.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
        } else if got.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(HandshakeError::Unasked);
        }
        let (len, cut) = (got.bytes, got.flags.contains(MsgFlags::MSG_TRUNC));
        if cut {
            return Err(MessageError::TooLong.into());
        }
        if len == 0 {
            return Err(HandshakeError::Closed);
        }
        bytes.truncate(len);
        Ok(Some(Packet { bytes, fds }))
    }
}

/// What came in one piece.
struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// Whether somebody listens there, without waiting in a queue.
fn knock(address: &UnixAddr) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect_to(fd.as_raw_fd(), address)
}

/// Whether `what` happens (or the peer is gone) within `timeout`.
fn wait(fd: BorrowedFd<'_>, what: PollFlags, timeout: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a poll that wakes a moment early would spin.
        let ms = left.as_nanos().div_ceil(1_000_000);
        let ms = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd, what)];
        match poll(&mut fds, ms) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

fn broken(doing: &'static str) -> impl Fn(Errno) -> HandshakeError {
    move |error| HandshakeError::System { subject: "connection".into(), doing, error }
}

fn errno_of(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
