//! What is compared: a list of rows, data rather than code.

use serde::Serialize;
use std::collections::BTreeSet;

/// One row of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// In tables and files.
    pub name: String,
    /// What runs.
    pub what: What,
}

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A kernel governor with fixed sub-networks, found by trial.
    Trial {
        /// `kernel:...` without a sub-network.
        governor: String,
        /// Which.
        pick: Pick,
        /// Co-runners run at nice 10; only where there are any.
        nice: bool,
        /// It differs from `kernel:schedutil` on CPUs only.
        cpus_only: bool,
    },
    /// As `tandem sim --policy`.
    Policy {
        /// Its text.
        spec: String,
        /// Somebody asked for it: it is an error if it cannot run. One of our own list is then left out, and that is said.
        asked: bool,
    },
}

/// Which fixed sub-networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pick {
    /// Of those at or above the floor that meet the target the one of least energy; if none does, the one with the
    /// fewest violations.
    Best,
    /// The largest of each application.
    Largest,
}

/// The primary comparator: what every other row is held against.
pub const PRIMARY: &str = "schedutil, best fixed";

/// Kernel governors: name, governor, pick, nice, differs on CPUs only. The first is the primary comparator, the second the
/// secondary. `kernel:schedutil` on a device is its own governor, simple_ondemand.
const TRIALS: [(&str, &str, Pick, bool, bool); 14] = [
    (PRIMARY, "kernel:schedutil", Pick::Best, false, false),
    ("schedutil, largest", "kernel:schedutil", Pick::Largest, false, false),
    ("schedutil, best fixed, co-runner nice 10", "kernel:schedutil", Pick::Best, true, true),
    ("schedutil, largest, co-runner nice 10", "kernel:schedutil", Pick::Largest, true, true),
    ("schedutil not invariant, best fixed", "kernel:schedutil?invariant=false", Pick::Best, false, true),
    ("schedutil not invariant, largest", "kernel:schedutil?invariant=false", Pick::Largest, false, true),
    ("ondemand, largest", "kernel:ondemand", Pick::Largest, false, true),
    ("ondemand, best fixed", "kernel:ondemand", Pick::Best, false, true),
    ("conservative, largest", "kernel:conservative", Pick::Largest, false, true),
    ("conservative, best fixed", "kernel:conservative", Pick::Best, false, true),
    ("performance, largest", "kernel:performance", Pick::Largest, false, false),
    ("performance, best fixed", "kernel:performance", Pick::Best, false, false),
    ("powersave, largest", "kernel:powersave", Pick::Largest, false, false),
    ("powersave, best fixed", "kernel:powersave", Pick::Best, false, false),
];

/// Managers: name, policy. Ours first, then with others' clock kept, then what it is without a part of it, then the published ones.
const POLICIES: [(&str, &str); 11] = [
    (OURS, "tandem"),
    ("tandem, co-runners served", "tandem?others=serve"),
    ("tandem, network only", "kernel:schedutil+tandem-allocator+tandem-tuner?tuner.knobs=dnn"),
    ("tandem, clock only", "tandem?tuner.knobs=dvfs"),
    ("tandem, without learning", "tandem?tuner.learn=false"),
    ("tandem, without upper level", "grants+tandem-tuner"),
    ("dynamic-ofa", "kernel:schedutil+dynamic-ofa"),
    ("dynamic-ofa, hold", "kernel:schedutil+dynamic-ofa?tuner.hold=true"),
    ("lrgd", "grants+lrgd"),
    ("loudva", "grants+loudva"),
    ("loudva, network only", "kernel:schedutil+loudva"),
];

/// Our manager.
pub const OURS: &str = "tandem";

/// What is claimed to win: the primary comparator (against whom), our manager, and what was asked for.
pub fn claimed(rows: &[Row]) -> BTreeSet<usize> {
    let of = |(i, row): &(usize, &Row)| {
        *i == 0 || row.name == OURS || matches!(row.what, What::Policy { asked: true, .. })
    };
    rows.iter().enumerate().filter(of).map(|(i, _)| i).collect()
}

/// All rows; `policies` in place of our own list of managers if there are any. `quick`: of both lists the beginning.
pub fn all(policies: &[String], quick: bool) -> Vec<Row> {
    let trial = |&(name, governor, pick, nice, cpus_only): &(&str, &str, Pick, bool, bool)| Row {
        name: name.into(),
        what: What::Trial { governor: governor.into(), pick, nice, cpus_only },
    };
    let mut rows: Vec<Row> = TRIALS.iter().take(if quick { 2 } else { TRIALS.len() }).map(trial).collect();
    let policy = |name: &str, spec: &str, asked| Row {
        name: name.into(),
        what: What::Policy { spec: spec.into(), asked },
    };
    if policies.is_empty() {
        rows.extend(
            POLICIES
                .iter()
                .take(if quick { 1 } else { POLICIES.len() })
                .map(|(name, spec)| policy(name, spec, false)),
        );
    } else {
        rows.extend(policies.iter().map(|spec| policy(spec, spec, true)));
    }
    rows
}
