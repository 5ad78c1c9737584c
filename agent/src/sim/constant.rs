//! Numbers that say where they come from.
//!
//! A model's constants are measured, derived (computed from measurements or documents) or assumed. An
//! assumed one has a range; a result that changes sign within it is undecided (see `compare`).

use serde::{Deserialize, Serialize};

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Read from the hardware in question.
    Measured,
    /// Computed from what was measured, or from a document of the maker.
    Derived,
    /// Neither: a guess, with a range.
    Assumed,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
            Self::Assumed => "assumed",
        })
    }
}

/// One number of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constant {
    /// Its name; a domain's begins with the domain's: `big.work-per-mhz`.
    pub name: String,
    /// In its unit.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Where it comes from.
    pub kind: Kind,
    /// Of an assumed one: lowest and highest that can be defended.
    pub range: Option<[f64; 2]>,
    /// Which document, measurement or reason.
    pub source: String,
}

/// All of a model's, in the order of its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Constants(pub Vec<Constant>);

impl Constants {
    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|c| c.name == name).map(|c| c.value)
    }

    /// The same with another value; unchanged if there is none of that name.
    pub fn with(&self, name: &str, value: f64) -> Self {
        let mut changed = self.clone();
        if let Some(c) = changed.0.iter_mut().find(|c| c.name == name) {
            c.value = value;
        }
        changed
    }

    /// Those that were assumed, each with its range.
    pub fn assumed(&self) -> impl Iterator<Item = (&Constant, [f64; 2])> {
        self.0.iter().filter_map(|c| Some((c, c.range?)))
    }
}

impl std::fmt::Display for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} {} ({}", self.name, self.value, self.unit, self.kind)?;
        if let Some([lo, hi]) = self.range {
            write!(f, ", {lo} to {hi}")?;
        }
        write!(f, "): {}", self.source)
    }
}
