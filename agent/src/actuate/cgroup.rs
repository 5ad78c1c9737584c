//! Where cgroups are on this machine (v1, v2, or both side by side), and our own group in them.
//!
//! All applications live in one group, `tandem` unless configured, with a group of its own for each.

use super::ActuateError;
use super::attr::{below, read_error, read_value, write_error, write_value};
use super::claim::Claim;
use super::saved::{Setting, Step};
use std::path::Path;

/// Which interface a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `cpu.shares`, `cpu.cfs_quota_us`
    V1,
    /// `cpu.weight`, `cpu.max`
    V2,
}

/// A mounted hierarchy that has a controller we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted, as the machine names it.
    pub mount: String,
    /// Which of its groups the mount shows (`/` unless in a container).
    pub shows: String,
}

/// The hierarchies with the controllers we use; `None`: the controller is nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// CPU shares and bandwidth.
    pub cpu: Option<Hierarchy>,
    /// Which CPUs.
    pub cpuset: Option<Hierarchy>,
}

impl Cgroups {
    /// Looks through `/proc/self/mountinfo`.
    pub fn detect(root: &Path) -> Result<Self, ActuateError> {
        let mounts = read_value(root, "/proc/self/mountinfo")?;
        let all: Vec<(Hierarchy, Vec<String>)> = mounts.lines().filter_map(|l| mount(root, l)).collect();
        let with = |controller: &str| {
            let mut hits = all.iter().filter(|(_, c)| c.iter().any(|c| c == controller)).map(|(h, _)| h);
            let first = hits.clone().next();
            hits.find(|h| h.shows == "/").or(first).cloned()
        };
        Ok(Self { cpu: with("cpu"), cpuset: with("cpuset") })
    }

    /// In a few words, for people.
    pub fn describe(&self) -> String {
        let one = |h: &Option<Hierarchy>| match h {
            Some(h) => format!("{} at {}", if h.version == Version::V1 { "v1" } else { "v2" }, h.mount),
            None => "absent".into(),
        };
        format!("cpu controller {}, cpuset controller {}", one(&self.cpu), one(&self.cpuset))
    }
}

/// One line of mountinfo: `36 35 98:0 /shown /mount opts [optional] - type source super-options`.
fn mount(root: &Path, line: &str) -> Option<(Hierarchy, Vec<String>)> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (shows, mount) = (unescape(front.next()?), unescape(front.next()?));
    let mut back = back.split(' ');
    match back.next()? {
        "cgroup" => {
            let controllers = back.nth(1)?.split(',').map(str::to_owned).collect();
            Some((Hierarchy { version: Version::V1, mount, shows }, controllers))
        }
        "cgroup2" => {
            let list = read_value(root, &format!("{mount}/cgroup.controllers")).ok()?;
            let controllers = list.split_ascii_whitespace().map(str::to_owned).collect();
            Some((Hierarchy { version: Version::V2, mount, shows }, controllers))
        }
        _ => None,
    }
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (code, char)| text.replace(code, char))
}

impl Hierarchy {
    /// The folder of the group that a process is in.
    pub fn group_of(&self, root: &Path, tgid: i32, controller: &str) -> Result<String, ActuateError> {
        let file = format!("/proc/{tgid}/cgroup");
        let text = read_value(root, &file)?;
        let group = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, group) = (parts.next()?, parts.next()?);
            let ours = match self.version {
                Version::V1 => controllers.split(',').any(|c| c == controller),
                Version::V2 => controllers.is_empty(),
            };
            ours.then_some(group)
        });
        let seen = group.and_then(|g| if self.shows == "/" { Some(g) } else { g.strip_prefix(&self.shows) });
        match seen {
            Some(g) if !g.starts_with("/..") => Ok(format!("{}{}", self.mount, g.trim_end_matches('/'))),
            _ => Err(read_error(&file, std::io::Error::other(format!("no group of {} in it", self.mount)))),
        }
    }
}

/// Creates the folder of a group; one that is there already is fine.
pub fn make(root: &Path, dir: &str) -> Result<(), ActuateError> {
    match std::fs::create_dir(below(root, dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(write_error(dir, "a new cgroup", e)),
        _ => {
            // A test's plain folder does not fill itself as the kernel's does.
            #[cfg(test)]
            super::fake::fill_group(root, dir);
            Ok(())
        }
    }
}

/// The values of those files of a group that exist, to be put back.
pub fn values(root: &Path, dir: &str, files: &[&str]) -> Step {
    let held = |file: &&str| {
        let path = format!("{dir}/{file}");
        read_value(root, &path).ok().map(|value| Setting { path, value })
    };
    Step::Write { settings: files.iter().filter_map(held).collect() }
}

/// Our own group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGroup {
    /// Which hierarchy.
    pub hierarchy: Hierarchy,
    /// Its folder.
    pub dir: String,
    /// What it is for: `cpu`, `cpuset`.
    pub controllers: Vec<&'static str>,
}

/// Our own group, in one hierarchy or two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// One per hierarchy, none without a controller.
    pub groups: Vec<OwnGroup>,
}

impl Own {
    /// Makes it, each hierarchy's part saved first.
    pub fn make(claim: &mut Claim, name: &str) -> Result<Self, ActuateError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0', '\n']) {
            let rule = "the cgroup's name must be a folder name: no `/`, no leading `.`";
            return Err(write_error(name, "a new cgroup", std::io::Error::other(rule)));
        }
        let Cgroups { cpu, cpuset } = Cgroups::detect(claim.root())?;
        let mut groups: Vec<OwnGroup> = vec![];
        for (controller, hierarchy) in [("cpu", cpu), ("cpuset", cpuset)] {
            let Some(hierarchy) = hierarchy else { continue };
            match groups.iter_mut().find(|g| g.hierarchy == hierarchy) {
                Some(group) => group.controllers.push(controller),
                None => {
                    let dir = format!("{}/{name}", hierarchy.mount);
                    groups.push(OwnGroup { hierarchy, dir, controllers: vec![controller] });
                }
            }
        }
        for group in &groups {
            make_own(claim, group)?;
        }
        Ok(Self { groups })
    }

    /// The part that has a controller.
    pub fn with(&self, controller: &str) -> Option<&OwnGroup> {
        self.groups.iter().find(|g| g.controllers.contains(&controller))
    }
}

fn make_own(claim: &mut Claim, group: &OwnGroup) -> Result<(), ActuateError> {
    let root = claim.root().to_path_buf();
    let OwnGroup { hierarchy: Hierarchy { version, mount, .. }, dir, controllers } = group;
    let switch = format!("{mount}/cgroup.subtree_control");
    let mut steps = vec![];
    if below(&root, dir).exists() {
        // Someone else's: its values are put back, itself stays.
        let v1 = ["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares", "cpuset.cpus", "cpuset.mems"];
        let v2 = ["cpu.max", "cpu.weight", "cpuset.cpus"];
        steps.push(values(&root, dir, if *version == Version::V1 { &v1 } else { &v2 }));
    } else {
        steps.push(Step::RemoveCgroup { dir: dir.clone() });
    }
    if *version == Version::V2 {
        for c in missing(&root, &switch, controllers)? {
            steps.push(Step::DisableController { file: switch.clone(), controller: c.into() });
        }
    }
    claim.save(&format!("cgroup{dir}"), steps)?;
    if *version == Version::V2 {
        enable(&root, &switch, controllers)?;
    }
    make(&root, dir)?;
    match version {
        Version::V2 => enable(&root, &format!("{dir}/cgroup.subtree_control"), controllers),
        // A v1 cpuset takes no task before it has CPUs and memory.
        Version::V1 if controllers.contains(&"cpuset") => inherit_cpuset(&root, mount, dir),
        Version::V1 => Ok(()),
    }
}

/// Those controllers that a `cgroup.subtree_control` has not on.
fn missing<'c>(root: &Path, file: &str, controllers: &[&'c str]) -> Result<Vec<&'c str>, ActuateError> {
    let on = read_value(root, file)?;
    Ok(controllers.iter().filter(|c| !on.split_ascii_whitespace().any(|o| o == **c)).copied().collect())
}

fn enable(root: &Path, file: &str, controllers: &[&str]) -> Result<(), ActuateError> {
    for c in missing(root, file, controllers)? {
        write_value(root, file, &format!("+{c}"))?;
    }
    Ok(())
}

/// Gives a v1 cpuset the memory nodes and CPUs of its parent.
pub fn inherit_cpuset(root: &Path, parent: &str, dir: &str) -> Result<(), ActuateError> {
    for file in ["cpuset.mems", "cpuset.cpus"] {
        let value = read_value(root, &format!("{parent}/{file}"))?;
        write_value(root, &format!("{dir}/{file}"), &value)?;
    }
    Ok(())
}
