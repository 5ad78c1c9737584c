//! What the two sides say on the socket: JSON, one message a packet, every field checked before use.
//!
//! Text from the other side goes into logs, so it is short and printable by rule.

use serde::{Deserialize, Serialize};

/// Version of these messages; both sides must have the same.
pub const PROTOCOL: u32 = 1;
/// The longest message, bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Sub-networks of one runner.
pub const SUBNETS_MAX: usize = 64;
/// Threads of one inference.
pub const THREADS_MAX: u8 = 128;
/// Thread ids of one runner.
const TIDS_MAX: usize = 256;

/// Runner to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromRunner {
    /// First, once.
    Hello(Hello),
    /// The application wants something else from now on.
    Target(Target),
    /// It ends in good order. A connection that closes without it ended by accident.
    Bye {},
}

/// Agent to runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAgent {
    /// The answer to a hello; the two regions come with it.
    Welcome(Welcome),
    /// The other answer; the connection ends.
    Refused {
        /// The rule that was broken.
        reason: String,
    },
}

/// Who the runner is and what it can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`]
    pub protocol: u32,
    /// The application's; the agent checks that its user may use it.
    pub name: String,
    /// SHA-256 of the manifest file, lower-case hex.
    pub manifest_digest: String,
    /// By rising cost, 1 to 64.
    pub subnets: Vec<SubnetHello>,
    /// Position in `subnets`: what to run when no agent is heard.
    pub failsafe: u32,
    /// The most threads one inference can use, 1 to 128.
    pub threads_max: u8,
    /// As the runner sees it. For people: the agent goes by the socket's credentials.
    pub pid: u32,
    /// Its threads, if it knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tids: Option<Vec<u32>>,
    /// What it wants at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<u64>,
    /// Hundredths of a percentage point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_floor: Option<u16>,
    /// For people.
    pub report: Report,
}

/// One sub-network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetHello {
    /// For people.
    pub name: String,
    /// The manifest's accuracy, hundredths of a percentage point.
    pub top1: u16,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Weights it uses.
    pub params: u64,
}

/// What runs, for `tandem status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The network's name.
    pub network: String,
    /// Images of one frame.
    pub batch: u32,
}

/// A changed target; `None` = no constraint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Arrival to finish.
    #[serde(default)]
    pub latency_ns: Option<u64>,
    /// Hundredths of a percentage point.
    #[serde(default)]
    pub top1_floor: Option<u16>,
}

/// The runner is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Its slot, 0 to 63.
    pub slot: u16,
}

/// A message that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or not one of ours.
    #[error("not a message of this protocol: {0}")]
    Json(String),
    /// Longer than [`MESSAGE_MAX`].
    #[error("a message of more than {MESSAGE_MAX} bytes")]
    TooLong,
    /// A field breaks its rule.
    #[error("{field}: {value}: {rule}")]
    Rule {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl FromRunner {
    /// From the bytes of one packet; all rules hold of what it returns.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let message = parse(bytes)?;
        match &message {
            Self::Hello(hello) => hello.check()?,
            Self::Target(target) => check_target(target.latency_ns, target.top1_floor)?,
            Self::Bye {} => {}
        }
        Ok(message)
    }
}

impl FromAgent {
    /// From the bytes of one packet; all rules hold of what it returns.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let message = parse(bytes)?;
        match &message {
            Self::Welcome(w) => rule(
                usize::from(w.slot) < crate::MAX_RUNNERS,
                "slot",
                w.slot,
                "is less than the number of runners, 64",
            )?,
            Self::Refused { reason } => {
                let ok = reason.len() <= 4096 && !reason.contains(char::is_control);
                rule(
                    ok,
                    "reason",
                    format_args!("{reason:.40?}"),
                    "is at most 4096 bytes, without control characters",
                )?;
            }
        }
        Ok(message)
    }
}

impl Hello {
    /// Checks every rule of its fields.
    pub fn check(&self) -> Result<(), MessageError> {
        rule(self.protocol == PROTOCOL, "protocol", self.protocol, "must be 1, this agent's")?;
        check_name("name", &self.name)?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let digest = self.manifest_digest.as_bytes();
        rule(
            digest.len() == 64 && digest.iter().copied().all(hex),
            "manifest_digest",
            format_args!("{:.70?}", self.manifest_digest),
            "is 64 lower-case hex digits",
        )?;
        let n = self.subnets.len();
        rule((1..=SUBNETS_MAX).contains(&n), "subnets", format_args!("{n} of them"), "must be 1 to 64")?;
        for subnet in &self.subnets {
            check_name("subnets.name", &subnet.name)?;
            check_top1("subnets.top1", subnet.top1)?;
            rule(subnet.macs > 0, "subnets.macs", 0, "must be at least 1")?;
        }
        for (i, pair) in self.subnets.windows(2).enumerate() {
            let (here, next) = (pair[0].macs, pair[1].macs);
            rule(
                here <= next,
                "subnets.macs",
                format_args!("{here}, then {next} at {}", i + 1),
                "must rise",
            )?;
        }
        let failsafe = usize::try_from(self.failsafe).unwrap_or(usize::MAX);
        rule(failsafe < n, "failsafe", self.failsafe, "must be the position of a sub-network")?;
        let threads = (1..=THREADS_MAX).contains(&self.threads_max);
        rule(threads, "threads_max", self.threads_max, "must be 1 to 128")?;
        let tids = self.tids.as_deref().unwrap_or_default();
        rule(tids.len() <= TIDS_MAX, "tids", format_args!("{} of them", tids.len()), "must be at most 256")?;
        check_name("report.network", &self.report.network)?;
        check_target(self.latency_ns, self.top1_floor)
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MessageError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(MessageError::TooLong);
    }
    // serde_json quotes the unknown field or variant it met: escaped, since it may go to a terminal.
    serde_json::from_slice(bytes)
        .map_err(|e| MessageError::Json(e.to_string().escape_debug().take(200).collect()))
}

fn check_name(field: &'static str, name: &str) -> Result<(), MessageError> {
    let ok = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+%".contains(&b));
    rule(ok, field, format_args!("{name:.70?}"), "is 1 to 64 of A-Z a-z 0-9 - _ . : / + %")
}

fn check_top1(field: &'static str, top1: u16) -> Result<(), MessageError> {
    rule(top1 <= 10_000, field, top1, "must be at most 10000 (100.00 %)")
}

fn check_target(latency_ns: Option<u64>, top1_floor: Option<u16>) -> Result<(), MessageError> {
    // 0 is "none" in shared memory; an hour is more than any frame takes.
    let latency = latency_ns.unwrap_or(1);
    rule((1..=3_600_000_000_000).contains(&latency), "latency_ns", latency, "must be 1 ns to 1 h")?;
    check_top1("top1_floor", top1_floor.unwrap_or(0))
}

fn rule(
    ok: bool,
    field: &'static str,
    value: impl std::fmt::Display,
    rule: &'static str,
) -> Result<(), MessageError> {
    if ok { Ok(()) } else { Err(MessageError::Rule { field, value: value.to_string(), rule }) }
}
