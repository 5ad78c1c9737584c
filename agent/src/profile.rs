//! What sub-networks take on this machine: the table of `tandem profile`, given to policies.
//!
//! The runner owns sub-networks and accuracy, the table the times, the configuration the bounds. A table is
//! joined to a runner by the digest of the weights it was measured with, and to the board by its domains and
//! frequencies; what does not fit is refused with file, values and rule, and the policies go without.

pub mod measure;

use crate::board::Board;
use crate::toml_errors::{BadToml, Problems, Section, read_text};
use crate::units::{DomainId, Nanos, OppIndex};
use channel::hello::{Hello, THREADS_MAX};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a frame of a sub-network takes at one operating point while others are quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Where.
    pub domain: DomainId,
    /// At which OPP of it.
    pub opp: OppIndex,
    /// Threads of an inference.
    pub threads: u8,
    /// Start to finish, median.
    pub p50: Nanos,
    /// 90th percentile.
    pub p90: Nanos,
}

/// A table as its file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    path: PathBuf,
    network: String,
    weights: String,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    subnet: String,
    domain: String,
    freq: u64,
    threads: u8,
    batch: u32,
    p50: Nanos,
    p90: Nanos,
}

impl Profile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn load(path: &Path) -> Result<Self, BadToml> {
        Self::parse(path, &read_text(path)?)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BadToml> {
        let file = path.display().to_string();
        let problems = Problems::new(&file, text);
        let mut root = problems.root();
        let network = root.need::<String>("network");
        let weights = root.need::<String>("weights-sha256");
        // For people, and for the runner when it goes on measuring.
        for key in ["machine", "kernel"] {
            let _ = root.opt::<String>(key);
        }
        let _ = root.opt::<f64>("noise");
        for key in ["layers", "predicted"] {
            drop(root.sections(key));
        }
        let rows = root.sections("rows").into_iter().filter_map(row).collect();
        root.close();
        let profile = network.zip(weights).map(|(network, weights)| Self {
            path: path.to_path_buf(),
            network: network.into_inner(),
            weights: weights.into_inner(),
            rows,
        });
        problems.finish(profile)
    }

    /// Of the weights it was measured with.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// Images of a frame of its first row that policies can use.
    pub fn batch(&self) -> Option<u32> {
        self.rows.first().map(|r| r.batch)
    }

    /// Whether all its rows are of this board: else it was measured elsewhere.
    ///
    /// # Errors
    /// File, value and rule.
    pub fn check(&self, board: &Board) -> Result<(), String> {
        self.rows.iter().try_for_each(|r| self.place(board, r).map(drop))
    }

    fn place(&self, board: &Board, row: &Row) -> Result<(DomainId, OppIndex), String> {
        let file = self.path.display();
        let Some(id) = board.domain(&row.domain) else {
            let known: Vec<_> = board.domains.iter().map(|d| d.name.as_str()).collect();
            return Err(format!(
                "{file}: domain {:?}; board {:?} has {}",
                row.domain,
                board.name,
                known.join(", ")
            ));
        };
        let opps = &board.domains[usize::from(id.0)].opps;
        let Some(opp) = opps.iter().position(|o| o.freq.raw == row.freq) else {
            return Err(format!(
                "{file}: frequency {} of domain {:?}; board {:?} has no such OPP",
                row.freq, row.domain, board.name
            ));
        };
        Ok((id, OppIndex(u16::try_from(opp).expect("checked at load: at most 64 OPPs"))))
    }

    /// Of each of a runner's sub-networks, what was measured with its weights and frames.
    ///
    /// # Errors
    /// File, values and rule: other weights, or no row for its frames.
    pub fn of(&self, hello: &Hello, board: &Board) -> Result<Vec<Vec<Measured>>, String> {
        let file = self.path.display();
        if self.weights != hello.weights_digest {
            return Err(format!(
                "{file}: of {} with weights {}; {:?} runs weights {}: `tandem profile` makes another",
                self.network, self.weights, hello.name, hello.weights_digest
            ));
        }
        let mut found = vec![Vec::new(); hello.subnets.len()];
        for r in self.rows.iter().filter(|r| r.batch == hello.report.batch) {
            let Some(subnet) = hello.subnets.iter().position(|s| s.name == r.subnet) else {
                return Err(format!("{file}: sub-network {:?}; {:?} has no such", r.subnet, hello.name));
            };
            let (domain, opp) = self.place(board, r)?;
            found[subnet].push(Measured { domain, opp, threads: r.threads, p50: r.p50, p90: r.p90 });
        }
        if let Some(missing) = found.iter().position(Vec::is_empty) {
            return Err(format!(
                "{file}: no row of sub-network {:?} with batch {}, which {:?} runs; one at least",
                hello.subnets[missing].name, hello.report.batch, hello.name
            ));
        }
        Ok(found)
    }
}

/// A row that an OPP was set for; those of `dnn-runner profile` alone have none and are for people.
fn row(mut section: Section<'_>) -> Option<Row> {
    let subnet = section.need::<String>("subnet");
    let threads = section.need::<u8>("threads");
    let batch = section.need::<u32>("batch");
    let _ = section.opt::<u64>("frames");
    let _ = section.opt::<u64>("khz");
    let _ = section.opt::<f64>("p10-ms");
    let time = |key: &'static str, section: &mut Section<'_>| {
        let ms = section.need::<f64>(key)?;
        let good = crate::config::millis_from(*ms.get_ref(), 1e-6, 3_600_000.0);
        if good.is_none() {
            section.bad(ms.span(), key, "between 0.000001 and 3600000");
        }
        good
    };
    let (p50, p90) = (time("p50-ms", &mut section), time("p90-ms", &mut section));
    if let Some(threads) = threads.as_ref().filter(|t| !(1..=THREADS_MAX).contains(t.get_ref())) {
        section.bad(threads.span(), "threads", "between 1 and 128");
    }
    if p50.zip(p90).is_some_and(|(p50, p90)| p50 > p90) {
        section.wrong("p50-ms is above p90-ms");
    }
    let at = section.section("at").map(|mut at| {
        let found = at.need::<String>("domain").zip(at.need::<u64>("freq"));
        at.close();
        found
    });
    section.close();
    let (domain, freq) = at??;
    Some(Row {
        subnet: subnet?.into_inner(),
        domain: domain.into_inner(),
        freq: freq.into_inner(),
        threads: threads?.into_inner(),
        batch: batch?.into_inner(),
        p50: p50?,
        p90: p90?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use channel::hello::{PROTOCOL, Report, SubnetHello};

    fn board() -> Board {
        let text = "name = \"here\"\nsource = \"test\"\n[[domain]]\nname = \"cpu\"\nkind = \"cpu-bandwidth\"\n\
                    cpus = [0]\nopps = [{ freq = 500 }, { freq = 1000 }]\n";
        Board::parse("here.toml", text).unwrap()
    }

    fn hello() -> Hello {
        let subnet = |name: &str, macs| SubnetHello { name: name.into(), top1: 8000, macs, params: 1 };
        Hello {
            protocol: PROTOCOL,
            name: "camera".into(),
            manifest_digest: "0".repeat(64),
            weights_digest: "a".repeat(64),
            subnets: vec![subnet("small", 1), subnet("large", 2)],
            failsafe: 0,
            threads_max: 1,
            pid: 1,
            tids: None,
            latency_ns: None,
            top1_floor: None,
            report: Report { network: "net".into(), batch: 4 },
        }
    }

    fn text() -> String {
        let row = |subnet: &str, freq: u64, ms: f64| {
            format!(
                "[[rows]]\nsubnet = \"{subnet}\"\nthreads = 1\nbatch = 4\nframes = 30\np10-ms = 0.5\np50-ms = {ms:?}\n\
                 p90-ms = 30.0\n[rows.at]\ndomain = \"cpu\"\nfreq = {freq}\n"
            )
        };
        format!(
            "network = \"net\"\nweights-sha256 = \"{}\"\nmachine = \"m\"\nkernel = \"k\"\nnoise = 0.01\n{}{}{}\
             [[layers]]\nlayer = \"conv\"\nn = 3\np50-us = 1.0\n",
            "a".repeat(64),
            row("small", 1000, 1.5),
            row("large", 500, 9.0),
            row("large", 1000, 4.0)
        )
    }

    fn parse(text: &str) -> Result<Profile, String> {
        Profile::parse(Path::new("p.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn rows_are_joined_to_sub_networks_and_opps() {
        let profile = parse(&text()).unwrap();
        profile.check(&board()).unwrap();
        let found = profile.of(&hello(), &board()).unwrap();
        let at = |opp, us: u64| Measured {
            domain: DomainId(0),
            opp: OppIndex(opp),
            threads: 1,
            p50: Nanos(us * 1000),
            p90: Nanos::from_ms(30),
        };
        assert_eq!(found, [vec![at(1, 1500)], vec![at(0, 9000), at(1, 4000)]]);
    }

    #[test]
    fn other_weights_frames_or_boards_are_refused_with_file_values_and_rule() {
        let of = |hello: &Hello| parse(&text()).unwrap().of(hello, &board()).unwrap_err();
        let error = of(&Hello { weights_digest: "b".repeat(64), ..hello() });
        for part in ["p.toml: of net with weights aaaa", "\"camera\" runs weights bbbb", "`tandem profile`"] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        let error = of(&Hello { report: Report { network: "net".into(), batch: 5 }, ..hello() });
        assert_eq!(
            error,
            "p.toml: no row of sub-network \"small\" with batch 5, which \"camera\" runs; one at least"
        );
        let error = parse(&text().replace("\"cpu\"", "\"big\"")).unwrap().check(&board()).unwrap_err();
        assert_eq!(error, "p.toml: domain \"big\"; board \"here\" has cpu");
        let error = parse(&text().replace("freq = 500", "freq = 501")).unwrap().check(&board()).unwrap_err();
        assert_eq!(error, "p.toml: frequency 501 of domain \"cpu\"; board \"here\" has no such OPP");
    }

    #[test]
    fn every_problem_of_a_file_is_told_with_its_line() {
        let wrong = text().replace("p50-ms = 1.5", "p50-ms = -1.0").replace("threads = 1", "threads = 0");
        let error = parse(&wrong.replace("noise = 0.01", "noise = 0.01\nmore = 1")).unwrap_err();
        for part in
            ["p.toml:6: unknown key `more`", "p50-ms (-1.0): between", "threads (0): between 1 and 128"]
        {
            assert!(error.contains(part), "{part:?} is not in\n{error}");
        }
        assert!(parse("").unwrap_err().contains("`network` is missing"));
        let error = parse(&text().replace("p90-ms = 30.0", "p90-ms = 1.0")).unwrap_err();
        assert!(error.contains("p50-ms is above p90-ms"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_edit_of_a_file_is_read_or_refused(edits in proptest::collection::vec(proptest::prelude::any::<(u16, u8, bool)>(), 1..6)) {
            let mut bytes = text().into_bytes();
            for (at, byte, put) in edits {
                let at = usize::from(at) % bytes.len();
                if put { bytes.insert(at, byte) } else { bytes[at] = byte }
            }
            if let Ok(profile) = parse(&String::from_utf8_lossy(&bytes)) {
                let _ = (profile.check(&board()), profile.of(&hello(), &board()));
            }
        }
    }

    #[test]
    fn rows_without_an_opp_are_for_people() {
        let bare = text().replace("[rows.at]\ndomain = \"cpu\"\nfreq = 1000\n", "");
        let error = parse(&bare).unwrap().of(&hello(), &board()).unwrap_err();
        assert!(error.contains("no row of sub-network \"small\""), "{error}");
    }
}
