//! The change to another user, and the proof that it is one for good.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Group, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};
use rustix::thread::CapabilitySet;
use std::ffi::CString;
use std::path::PathBuf;

/// A user to be, as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Name of the user, or its number if it has none.
    pub(crate) name: String,
    /// Name of the group, or its number.
    pub(crate) group: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// All groups, `gid` among them.
    pub(crate) groups: Vec<Gid>,
    /// Home directory, if the user is in the database.
    pub(crate) home: Option<PathBuf>,
}

/// Which of the two names is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    User,
    Group,
}

impl Identity {
    /// Looks a user up, and its groups: by name, or else by number. Without `group` it is the user's
    /// own one; the supplementary groups are the user's in any case.
    ///
    /// # Errors
    /// Which name is unknown, and a sentence about it.
    pub(crate) fn find(user: &str, group: Option<&str>) -> Result<Identity, (Wrong, String)> {
        let failed = |wrong, what: &str, error: Errno| {
            (wrong, format!("can't look up the {what}: {}", error.desc()))
        };
        let number = |name: &str| name.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        let user_failed = |error| failed(Wrong::User, "user", error);
        let mut entry = User::from_name(user).map_err(user_failed)?;
        if let (None, Some(number)) = (&entry, number(user)) {
            entry = User::from_uid(Uid::from_raw(number)).map_err(user_failed)?;
        }
        let uid = match (&entry, number(user)) {
            (Some(entry), _) => entry.uid,
            (None, Some(number)) => Uid::from_raw(number),
            (None, None) => {
                return Err((Wrong::User, format!("there is no user {user:?} on this system")));
            }
        };
        let gid = match (group, &entry) {
            (Some(group), _) => find_group(group)
                .map_err(|error| failed(Wrong::Group, "group", error))?
                .or(number(group).map(Gid::from_raw))
                .ok_or_else(|| {
                    (Wrong::Group, format!("there is no group {group:?} on this system"))
                })?,
            (None, Some(entry)) => entry.gid,
            (None, None) => {
                let message = format!("user {user} is not in the user database: name a group, too");
                return Err((Wrong::User, message));
            }
        };
        let mut groups = match entry.as_ref().map(|entry| CString::new(entry.name.as_bytes())) {
            Some(Ok(name)) => getgrouplist(&name, gid).map_err(user_failed)?,
            _ => vec![gid],
        };
        groups.sort_unstable_by_key(|gid| gid.as_raw());
        groups.dedup();
        let group = Group::from_gid(gid).ok().flatten().map(|group| group.name);
        Ok(Identity {
            name: entry.as_ref().map_or_else(|| uid.to_string(), |entry| entry.name.clone()),
            group: group.unwrap_or_else(|| gid.to_string()),
            uid,
            gid,
            groups,
            home: entry.map(|entry| entry.dir),
        })
    }

    /// Is this process nobody but this user already?
    pub(crate) fn is_present(&self) -> bool {
        let users = getresuid().is_ok_and(|now| {
            [now.real, now.effective, now.saved].iter().all(|uid| *uid == self.uid)
        });
        let groups = getresgid().is_ok_and(|now| {
            [now.real, now.effective, now.saved].iter().all(|gid| *gid == self.gid)
        });
        users && groups
    }

    /// Becomes this user for good: supplementary groups, group, user, in this order, since each step
    /// takes the right to the one before it. Without effect if it is this user already.
    ///
    /// Then it is looked whether it is so, in every thread, whether no capability is left, and whether
    /// there is no way back. To be called before there are threads that run anything.
    ///
    /// # Errors
    /// A sentence, with what to do. After an error nothing should be run: it may be half done.
    pub(crate) fn become_it(&self) -> Result<(), String> {
        if self.is_present() {
            return Ok(());
        }
        // Otherwise capabilities would outlive the change.
        let _unset = prctl::set_keepcaps(false);
        setgroups(&self.groups).map_err(|error| self.refused("setgroups", error))?;
        setresgid(self.gid, self.gid, self.gid)
            .map_err(|error| self.refused("setresgid", error))?;
        setresuid(self.uid, self.uid, self.uid)
            .map_err(|error| self.refused("setresuid", error))?;
        if !self.uid.is_root() {
            let nothing = rustix::thread::CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, nothing)
                .map_err(|error| format!("can't give up the capabilities: {error}"))?;
        }
        self.verify()?;
        // A process that has changed its user can't write its own files in /proc, and leaves no core.
        // What was root's only in its memory is the configuration, which is this user's as well.
        prctl::set_dumpable(true).map_err(|error| format!("PR_SET_DUMPABLE: {}", error.desc()))
    }

    fn refused(&self, call: &str, error: Errno) -> String {
        let Identity { name, uid, .. } = self;
        let now = Uid::effective();
        let now_name = User::from_uid(now)
            .ok()
            .flatten()
            .map_or("a user without a name".into(), |user| user.name);
        match error {
            Errno::EPERM => format!(
                "this process runs as {now_name} (uid {now}) and may not become {name} (uid {uid}): \
                 start it as root or as {name}, or leave [privileges] user away ({call}: {})",
                error.desc()
            ),
            _ => format!("can't become {name} (uid {uid}): {call}: {}", error.desc()),
        }
    }

    /// Is the change complete, and for good?
    fn verify(&self) -> Result<(), String> {
        let wrong =
            |what: &str| format!("tried to become {}, but {what}; nothing is run", self.name);
        if !self.is_present() {
            return Err(wrong("the system says that this process is still somebody else"));
        }
        let mut groups = getgroups().map_err(|error| wrong(error.desc()))?;
        groups.sort_unstable_by_key(|gid| gid.as_raw());
        groups.dedup();
        if groups != self.groups {
            return Err(wrong("it has other groups than that user"));
        }
        let own = format!("Uid: {0} {0} {0} {0}", self.uid);
        if !every_thread_says(&own) {
            return Err(wrong("a thread of it has not"));
        }
        if self.uid.is_root() {
            return Ok(());
        }
        let left = rustix::thread::capabilities(None)
            .map_err(|error| wrong(&format!("its capabilities can't be read: {error}")))?;
        if !(left.effective | left.permitted | left.inheritable).is_empty() {
            return Err(wrong("it has capabilities left"));
        }
        let root = Uid::from_raw(0);
        let back = setresuid(root, root, root).is_ok()
            || (self.gid.as_raw() != 0 && {
                let root = Gid::from_raw(0);
                setresgid(root, root, root).is_ok()
            });
        if back {
            return Err(wrong("it could become root again"));
        }
        Ok(())
    }
}

fn find_group(name: &str) -> Result<Option<Gid>, Errno> {
    Ok(Group::from_name(name)?.map(|group| group.gid))
}

/// Does this line stand in the status of each thread of this process? Without `/proc` nobody knows.
fn every_thread_says(line: &str) -> bool {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return true };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            status.lines().any(|one| words(one) == line)
        })
    })
}

/// From now on nothing that this process starts gains rights by being executed: set-user-id programs,
/// capabilities of files. Inherited, and for good.
///
/// # Errors
/// A sentence.
pub(crate) fn forbid_new() -> Result<(), String> {
    prctl::set_no_new_privs().map_err(|error| format!("PR_SET_NO_NEW_PRIVS: {}", error.desc()))?;
    match prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err("the system does not keep PR_SET_NO_NEW_PRIVS".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_its_own_group() {
        let by_name = Identity::find("root", None).expect("there is a root");
        assert_eq!((by_name.uid.as_raw(), by_name.gid.as_raw()), (0, 0));
        assert!(by_name.groups.contains(&by_name.gid));
        assert_eq!(Identity::find("0", None), Ok(by_name));
    }

    #[test]
    fn a_group_is_found_by_name_and_by_number_and_takes_the_place_of_the_user_s_own() {
        let named = Identity::find("root", Some("daemon")).expect("there is such a group");
        assert_ne!(named.gid.as_raw(), 0);
        assert_eq!(named.group, "daemon");
        let number = named.gid.to_string();
        assert_eq!(Identity::find("root", Some(&number)), Ok(named));
    }

    #[test]
    fn a_number_without_a_user_needs_a_group() {
        let (wrong, message) = Identity::find("3999999", None).expect_err("no such user");
        assert!(wrong == Wrong::User && message.contains("name a group"), "{message}");
        let found = Identity::find("3999999", Some("3999998")).expect("numbers are enough");
        assert_eq!((found.uid.as_raw(), found.groups.len()), (3_999_999, 1));
        assert_eq!((found.home, found.name.as_str()), (None, "3999999"));
    }

    #[test]
    fn unknown_names_are_said_to_be_so() {
        let (wrong, message) = Identity::find("no such", None).expect_err("unknown");
        assert_eq!(
            (wrong, &*message),
            (Wrong::User, "there is no user \"no such\" on this system")
        );
        let (wrong, _) = Identity::find("root", Some("no such")).expect_err("unknown");
        assert_eq!(wrong, Wrong::Group);
        // As a number it would mean "leave it as it is".
        assert!(Identity::find("4294967295", Some("0")).is_err());
        assert!(Identity::find("root", Some("-1")).is_err());
    }

    #[test]
    fn a_process_can_be_told_to_stay_who_it_is() {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let me = Identity::find(&uid.to_string(), Some(&gid.to_string())).expect("that's me");
        assert!(me.is_present());
        assert_eq!(me.become_it(), Ok(()));
    }
}
