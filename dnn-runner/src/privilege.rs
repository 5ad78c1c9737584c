//! Gives up root.
//!
//! Responsible for: becoming an ordinary user for good, groups included. Not responsible for: what was
//! opened before (the network, the images, the report files, the request socket: the user may not be able
//! to reach them).

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setresgid, setresuid, setuid};

/// A user to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
}

/// The user of that name or number; never root.
pub fn find(user: &str) -> Result<Identity> {
    let known = match user.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid))?
            .map(|u| (u.uid, u.gid))
            .or(Some((Uid::from_raw(uid), Gid::from_raw(uid)))),
        Err(_) => User::from_name(user)?.map(|u| (u.uid, u.gid)),
    };
    let Some((uid, gid)) = known else { bail!("--user {user}: there is no such user on this machine") };
    ensure!(
        !uid.is_root() && gid.as_raw() != 0,
        "--user {user}: the runner does not run as root or in root's group"
    );
    // The kernel takes the highest number for "leave as it is".
    ensure!(uid.as_raw() != u32::MAX && gid.as_raw() != u32::MAX, "--user {user}: {uid} is no user's number");
    Ok(Identity { uid, gid })
}

/// Whether this process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes `user`, with no other groups, and checks that there is no way back.
pub fn become_user(user: Identity) -> Result<()> {
    setgroups(&[]).context("give up the supplementary groups")?;
    setresgid(user.gid, user.gid, user.gid).with_context(|| format!("become group {}", user.gid))?;
    setresuid(user.uid, user.uid, user.uid).with_context(|| format!("become user {}", user.uid))?;
    nix::sys::prctl::set_no_new_privs().context("forbid new privileges")?;
    ensure!(
        setuid(Uid::from_raw(0)).is_err() && setgid(Gid::from_raw(0)).is_err(),
        "root was not given up for good"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_unknown_users_are_refused() {
        for (user, rule) in [
            ("root", "does not run as root"),
            ("0", "does not run as root"),
            ("no-such-user-of-ours", "there is no such user"),
            ("-1", "there is no such user"),
            ("4294967295", "is no user's number"),
        ] {
            let error = find(user).unwrap_err().to_string();
            assert!(error.contains(rule), "{user}: {error}");
        }
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let nobody = find("nobody").unwrap();
        assert_eq!(find(&nobody.uid.to_string()).unwrap(), nobody);
        // A number needs no entry in the user database.
        assert_eq!(find("3999999999").unwrap().uid.as_raw(), 3_999_999_999);
    }
}
