//! What a worker may take of the machine, and the `[privileges]` table.

use super::super::{Limits, Privileges};
use super::reader::Field;
use super::resolve::Resolver;
use super::tables::{RawPrivileges, RawWorker};
use crate::error::Wrong;
use crate::sys::privileges::{Identity, Wrong as WrongName};

impl Resolver<'_> {
    /// A worker needs something for itself.
    pub(super) fn check_limits(&mut self, raw: &RawWorker, threads: u16) {
        let least = Limits::least(threads);
        let threads = match threads {
            1 => "a process of 1 thread needs".to_owned(),
            _ => format!("a process of {threads} threads needs"),
        };
        if let Some((limit, origin)) = raw.memory_limit.with_origin()
            && Some(*limit) < least.memory
        {
            let least = bytesize::ByteSize(least.memory.unwrap_or(0));
            let wrong = Wrong::of(bytesize::ByteSize(*limit).to_string(), "is too little memory")
                .allowed(format!("at least {least}, which {threads} for itself"));
            self.mistake(origin, wrong);
        }
        if let Some((limit, origin)) = raw.descriptor_limit.with_origin()
            && Some(*limit) < least.descriptors
        {
            let least = least.descriptors.unwrap_or(0);
            let wrong = Wrong::of(limit.to_string(), "are too few descriptors")
                .allowed(format!("at least {least}, which {threads} for itself"));
            self.mistake(origin, wrong);
        }
    }

    /// As whom the pipeline is run: a user that the system knows.
    pub(super) fn privileges(&mut self, table: &Field<RawPrivileges>) -> Privileges {
        let nothing = RawPrivileges::default();
        let raw = table.get().unwrap_or(&nothing);
        let privileges = Privileges {
            user: raw.user.get().cloned(),
            group: raw.group.get().cloned(),
            no_new_privs: raw.no_new_privs.get().copied().unwrap_or(false),
        };
        if let Some((user, origin)) = raw.user.with_origin() {
            if let Err((which, message)) = Identity::find(user, raw.group.get().map(String::as_str))
            {
                let (origin, help) = match (which, raw.group.origin()) {
                    (WrongName::Group, Some(group)) => (
                        group,
                        format!(
                            "groupadd --system {:?}",
                            raw.group.get().map_or("", String::as_str)
                        ),
                    ),
                    _ => (origin, format!("useradd --system {user}")),
                };
                let wrong = Wrong::new(message)
                    .help(format!("create it ({help}), or name one by its number, in quotes"));
                self.mistake(origin, wrong.outside());
            }
        } else if let (Some(group), false) = (raw.group.origin(), raw.user.is_given()) {
            let wrong = Wrong::new("a group without a user")
                .help("add user = \"NAME\", whose groups it is to be one of");
            self.mistake(group, wrong);
        }
        privileges
    }
}
