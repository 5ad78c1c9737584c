//! What the configuration may ask for, and which sub-networks are worth running.

use policy_sdk::App;

/// Which settings are the tuner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knobs {
    /// Sub-network and OPP.
    Both,
    /// The sub-network.
    Dnn,
    /// The OPP.
    Dvfs,
}

impl std::str::FromStr for Knobs {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "both" => Ok(Self::Both),
            "dnn" => Ok(Self::Dnn),
            "dvfs" => Ok(Self::Dvfs),
            _ => Err(()),
        }
    }
}

/// Threads of one inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// So many.
    Fixed(u8),
    /// By the profile.
    Auto,
}

impl std::str::FromStr for Threads {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        if word == "auto" { Ok(Self::Auto) } else { word.parse().map(Self::Fixed).map_err(|_| ()) }
    }
}

/// The sub-networks that are not both dearer and no more accurate than another.
pub fn order(app: &App) -> Result<Vec<u16>, String> {
    let mut all: Vec<usize> = (0..app.subnets.len()).collect();
    all.sort_by_key(|i| (std::cmp::Reverse(app.subnets[*i].top1), app.subnets[*i].macs));
    let mut kept: Vec<u16> = vec![];
    let mut cheapest = u64::MAX;
    for i in all {
        if app.subnets[i].macs < cheapest {
            cheapest = app.subnets[i].macs;
            kept.push(u16::try_from(i).map_err(|_| "more sub-networks than an index can name")?);
        }
    }
    if kept.is_empty() { Err("application without a sub-network".into()) } else { Ok(kept) }
}
