//! What the two sides say on the socket: JSON, one message a packet, every field checked before use.
//!
//! Text from the other side goes into logs, so it is short and printable by rule.

use serde::{Deserialize, Serialize};

/// Version of these messages; both sides must have the same.
pub const PROTOCOL: u32 = 2;
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
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
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
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
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
    /// SHA-256 of the weights, lower-case hex: what a profile of this network is joined by.
    pub weights_digest: String,
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
                "must be less than 64, the number of runners",
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
        rule(self.protocol == PROTOCOL, "protocol", self.protocol, "must be 2, the version of this side")?;
        check_name("name", &self.name)?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let digests = [("manifest_digest", &self.manifest_digest), ("weights_digest", &self.weights_digest)];
        for (field, digest) in digests {
            let good = digest.len() == 64 && digest.bytes().all(hex);
            rule(good, field, format_args!("{digest:.70?}"), "is 64 lower-case hex digits")?;
        }
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
                "must not fall",
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn hello() -> Value {
        json!({"hello": {
            "protocol": 2, "name": "camera", "manifest_digest": "0123456789abcdef".repeat(4),
            "weights_digest": "fedcba9876543210".repeat(4),
            "subnets": [
                {"name": "25%", "top1": 8000, "macs": 100, "params": 10},
                {"name": "100%", "top1": 9000, "macs": 400, "params": 40},
            ],
            "failsafe": 0, "threads_max": 2, "pid": 1, "tids": [1, 2],
            "latency_ns": 40_000_000, "top1_floor": 8500,
            "report": {"network": "mlcad19", "batch": 16},
        }})
    }

    fn parsed(message: &Value) -> Result<FromRunner, String> {
        FromRunner::parse(message.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    /// A hello with one value put in place of what lies at `path`.
    fn refused(path: &str, value: Value) -> String {
        let mut message = hello();
        *message.pointer_mut(&format!("/hello{path}")).expect("a field that is there") = value;
        parsed(&message).expect_err(path)
    }

    #[test]
    fn each_rule_of_a_hello_is_checked_and_named() {
        parsed(&hello()).expect("the hello is good");
        let name_rule = "is 1 to 64 of A-Z a-z 0-9 - _ . : / + %";
        let long = "x".repeat(65);
        let subnet = hello()["hello"]["subnets"][0].clone();
        for (path, value, error) in [
            ("/protocol", json!(1), "protocol: 1: must be 2, the version of this side".into()),
            ("/name", json!(""), format!("name: \"\": {name_rule}")),
            ("/name", json!(long), format!("name: {long:?}: {name_rule}")),
            ("/name", json!("a\u{1b}[2J"), format!("name: \"a\\u{{1b}}[2J\": {name_rule}")),
            ("/name", json!("na\u{ef}ve"), format!("name: \"na\u{ef}ve\": {name_rule}")),
            ("/manifest_digest", json!("AB"), "manifest_digest: \"AB\": is 64 lower-case hex digits".into()),
            (
                "/weights_digest",
                json!("g".repeat(64)),
                format!("weights_digest: {:?}: is 64 lower-case hex digits", "g".repeat(64)),
            ),
            ("/subnets", json!([]), "subnets: 0 of them: must be 1 to 64".into()),
            ("/subnets", json!(vec![subnet; 65]), "subnets: 65 of them: must be 1 to 64".into()),
            ("/subnets/1/macs", json!(99), "subnets.macs: 100, then 99 at 1: must not fall".into()),
            ("/subnets/0/macs", json!(0), "subnets.macs: 0: must be at least 1".into()),
            (
                "/subnets/0/top1",
                json!(10_001),
                "subnets.top1: 10001: must be at most 10000 (100.00 %)".into(),
            ),
            ("/subnets/0/name", json!(" "), format!("subnets.name: \" \": {name_rule}")),
            ("/failsafe", json!(2), "failsafe: 2: must be the position of a sub-network".into()),
            ("/threads_max", json!(0), "threads_max: 0: must be 1 to 128".into()),
            ("/threads_max", json!(129), "threads_max: 129: must be 1 to 128".into()),
            ("/tids", json!(vec![1; 257]), "tids: 257 of them: must be at most 256".into()),
            ("/latency_ns", json!(0), "latency_ns: 0: must be 1 ns to 1 h".into()),
            ("/top1_floor", json!(10_001), "top1_floor: 10001: must be at most 10000 (100.00 %)".into()),
            ("/report/network", json!("\n"), format!("report.network: \"\\n\": {name_rule}")),
        ] {
            assert_eq!(refused(path, value), error, "{path}");
        }
    }

    #[test]
    fn a_target_keeps_the_same_rules() {
        let target = |latency_ns| parsed(&json!({"target": {"latency_ns": latency_ns}}));
        assert_eq!(target(5), Ok(FromRunner::Target(Target { latency_ns: Some(5), top1_floor: None })));
        assert_eq!(target(0), Err("latency_ns: 0: must be 1 ns to 1 h".into()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut unknown = hello();
        unknown["hello"]["labels"] = json!([1]);
        let mut deep = hello();
        deep["hello"]["report"]["x"] = json!(1);
        for (message, part) in [
            (unknown, "unknown field `labels`"),
            (deep, "unknown field `x`"),
            (json!({"bye": {"x": 1}}), "unknown field `x`"),
            (json!({"go\u{1b}[0m": {}}), "unknown variant `go\\u{1b}[0m`"),
            (json!({"hello": null}), "invalid type: null"),
            (json!({"target": {}, "bye": {}}), "expected value"),
            (json!({"target": {"latency_ns": -1}}), "invalid value"),
            (json!({"target": {"latency_ns": 1.5}}), "invalid type"),
            (json!([[[[]]]]), "not a message"),
        ] {
            let error = parsed(&message).unwrap_err();
            assert!(error.contains(part), "{message}: {error}");
        }
        for bytes in [&b""[..], b"{", b"\xff\xfe", b"{\"bye\":{}}x", b"\0", &[b'['; 60_000]] {
            assert!(FromRunner::parse(bytes).is_err());
        }
        let twice = br#"{"target":{"latency_ns":1,"latency_ns":2}}"#;
        assert!(FromRunner::parse(twice).unwrap_err().to_string().contains("duplicate field"));
        let long = format!("{}{}", hello(), " ".repeat(MESSAGE_MAX));
        assert!(matches!(FromRunner::parse(long.as_bytes()), Err(MessageError::TooLong)));
    }

    #[test]
    fn an_answer_keeps_its_rules() {
        let parsed = |text: &str| FromAgent::parse(text.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(parsed(r#"{"welcome":{"slot":63}}"#), Ok(FromAgent::Welcome(Welcome { slot: 63 })));
        let slot = "slot: 64: must be less than 64, the number of runners";
        assert_eq!(parsed(r#"{"welcome":{"slot":64}}"#), Err(slot.into()));
        assert!(parsed(r#"{"refused":{"reason":"\u001b[2J"}}"#).unwrap_err().contains("control characters"));
        assert!(parsed(r#"{"welcome":{"slot":1,"more":2}}"#).unwrap_err().contains("unknown field `more`"));
    }

    fn names() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.:/+%-]{1,64}"
    }

    prop_compose! {
        fn hellos()(
            name in names(),
            manifest_digest in "[0-9a-f]{64}",
            weights_digest in "[0-9a-f]{64}",
            mut subnets in prop::collection::vec(
                (names(), 0u16..=10_000, 1u64.., any::<u64>())
                    .prop_map(|(name, top1, macs, params)| SubnetHello { name, top1, macs, params }),
                1..=SUBNETS_MAX,
            ),
            failsafe in any::<prop::sample::Index>(),
            threads_max in 1..=THREADS_MAX,
            pid: u32,
            tids in prop::option::of(prop::collection::vec(any::<u32>(), 0..=256)),
            latency_ns in prop::option::of(1u64..=3_600_000_000_000),
            top1_floor in prop::option::of(0u16..=10_000),
            network in names(),
            batch: u32,
        ) -> Hello {
            subnets.sort_by_key(|s| s.macs);
            let failsafe = u32::try_from(failsafe.index(subnets.len())).unwrap();
            let report = Report { network, batch };
            Hello { protocol: PROTOCOL, name, manifest_digest, weights_digest, subnets, failsafe, threads_max, pid, tids, latency_ns, top1_floor, report }
        }
    }

    proptest! {
        #[test]
        fn what_one_side_says_the_other_understands(hello in hellos()) {
            hello.check().unwrap();
            let message = FromRunner::Hello(hello);
            let bytes = serde_json::to_vec(&message).unwrap();
            prop_assert!(bytes.len() <= MESSAGE_MAX);
            prop_assert_eq!(FromRunner::parse(&bytes).unwrap(), message);
        }
    }
}
