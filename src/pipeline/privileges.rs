//! Who a pipeline is run as, and what it takes of the machine: settled before anything is created.
//!
//! # Order
//! 1. What only a privileged process may do and workers will need is made possible for them: lower
//!    nice values, more descriptors, a lower readiness to be killed.
//! 2. The process becomes the user, if one is named, and proves it. Everything is created after that,
//!    the log first, so that it belongs to that user and can be opened again when it is reopened,
//!    rotated, or found by the next start.
//! 3. Rights that programs could gain by being executed are given up, if that is wanted.
//! 4. What the workers are to get is tried, with the rights that are left: better no start than a
//!    worker that can't be started.
//! 5. Files that are there and belong to somebody else are named, with what to do about them.

use super::claim_threads;
use crate::config::{Config, Format, Jobs, Limits, Lines, Privileges, Worker};
use crate::control::launch::{Kind, Task};
use crate::error::Error;
use crate::flow::prepare::spool_path;
use crate::flow::queue::spool::directory_of;
use crate::sys::limits::{self, Refused, Wanted};
use crate::sys::privileges::{self, Identity, Wrong};
use rustix::fs::Access;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Becomes who the pipeline is to be run as.
///
/// # Errors
/// If that is refused, or if what the pipeline writes belongs to somebody else. Then nothing should be
/// run: the process may be somebody else already.
pub(crate) fn settle(config: &Config) -> Result<(), Error> {
    let Privileges { no_new_privs, .. } = &config.privileges;
    let identity = identity(&config.privileges)?;
    if identity.as_ref().is_some_and(|identity| !identity.is_present()) {
        // Of which each would have to change.
        drop(claim_threads()?);
    }
    let wanted = wanted(&config.workers);
    let way = limits::open_the_way(wanted);
    if let Some(identity) = &identity {
        identity.become_it().map_err(|why| Error::Config(format!("privileges.user: {why}")))?;
    }
    if *no_new_privs {
        privileges::forbid_new()
            .map_err(|why| Error::Config(format!("privileges.no_new_privs: {why}")))?;
    }
    limits::check(wanted, way).map_err(|refused| explain(&refused, &config.workers))?;
    identity.map_or(Ok(()), |identity| check_files(config, &identity))
}

/// What is wrong with what a worker declared in code may take, and when it is replaced.
pub(super) fn mistakes(kind: &Kind) -> Vec<String> {
    let Worker { name, threads, recycle_after, recycle_above, limits, .. } = &kind.settings;
    let least = Limits::least(*threads);
    let mut mistakes = Vec::new();
    let mut mistake = |what: String| mistakes.push(format!("worker {name:?}: {what}"));
    if (recycle_after.is_some() || recycle_above.is_some()) && matches!(kind.task, Task::Produce(_))
    {
        mistake("a producer has no jobs after which it could be replaced".into());
    }
    if *recycle_after == Some(0) {
        mistake("a process does 1 job at least before it is replaced".into());
    }
    if limits.memory.is_some() && limits.memory < least.memory {
        let bytes = least.memory.unwrap_or(0);
        mistake(format!(
            "its memory is limited to {bytes} bytes at least: 32 MiB, 4 for each thread"
        ));
    }
    if limits.descriptors.is_some() && limits.descriptors < least.descriptors {
        let count = least.descriptors.unwrap_or(0);
        mistake(format!("its descriptors are limited to {count} at least: 32, 16 for each thread"));
    }
    if limits.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        mistake("a nice value is -20 to 19".into());
    }
    if limits.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        mistake("oom_score_adj is -1000 to 1000".into());
    }
    mistakes
}

/// Who it is to be, if somebody is named.
///
/// # Errors
/// If the system knows no such user or group.
pub(crate) fn identity(privileges: &Privileges) -> Result<Option<Identity>, Error> {
    let Privileges { user, group, .. } = privileges;
    let Some(user) = user else {
        return match group {
            Some(_) => Err(Error::Config("privileges.group: name a user as well".into())),
            None => Ok(None),
        };
    };
    let found = Identity::find(user, group.as_deref()).map_err(|(wrong, message)| {
        let key = match wrong {
            Wrong::User => "user",
            Wrong::Group => "group",
        };
        Error::Config(format!("privileges.{key}: {message}"))
    })?;
    Ok(Some(found))
}

/// What workers find in their environment of the user that they run as: what `ssh`, `git` and others
/// look into for their own files. Nothing, if no user is named.
///
/// # Errors
/// As [`identity`].
pub(crate) fn environment(privileges: &Privileges) -> Result<Vec<(&'static str, String)>, Error> {
    let Some(Identity { name, home, uid, gid, .. }) = identity(privileges)? else {
        return Ok(Vec::new());
    };
    log::info!("running as {name} (uid {uid}, gid {gid})");
    let mut environment = vec![("USER", name.clone()), ("LOGNAME", name)];
    if let Some(home) = home.and_then(|home| home.into_os_string().into_string().ok()) {
        environment.push(("HOME", home));
    }
    Ok(environment)
}

/// The most that any kind of worker is to get.
fn wanted(workers: &[Worker]) -> Wanted {
    let all = || workers.iter().map(|worker| worker.limits);
    Wanted {
        memory: all().filter_map(|limits| limits.memory).max(),
        descriptors: all().filter_map(|limits| limits.descriptors).max(),
        nice: all().filter_map(|limits| limits.nice).min(),
        oom_score_adj: all().filter_map(|limits| limits.oom_score_adj).min(),
    }
}

/// What is refused, for which kind of worker, and what to do.
fn explain(refused: &Refused, workers: &[Worker]) -> Error {
    let most = wanted(workers);
    let first = |has: &dyn Fn(&Worker) -> bool| {
        workers.iter().find(|worker| has(worker)).map_or("", |worker| &worker.name)
    };
    let text = match refused {
        Refused::Memory { hard } => format!(
            "workers.{}.memory_limit: more than the {hard} bytes that this process was started with \
             as its own hard limit (ulimit -Hd): lower it, or start the process with more",
            first(&|worker| worker.limits.memory == most.memory)
        ),
        Refused::Descriptors { hard } => format!(
            "workers.{}.descriptor_limit: {} are more than the {hard} that this process was started \
             with as its own hard limit (ulimit -Hn, or LimitNOFILE= of systemd): lower it, or start \
             the process with more, or as root",
            first(&|worker| worker.limits.descriptors == most.descriptors),
            most.descriptors.unwrap_or(0)
        ),
        Refused::Nice { now } => format!(
            "workers.{}.nice: {} needs more rights than this process has: it may not go below its own \
             nice value, {now}. Start it with the capability CAP_SYS_NICE, and with CAP_SYS_RESOURCE if \
             it is to become another user (root has both, but in a container it may not), or with \
             LimitNICE= of systemd; or raise the value",
            first(&|worker| worker.limits.nice == most.nice),
            most.nice.unwrap_or(0)
        ),
        Refused::OomScoreAdj { now } => format!(
            "workers.{}.oom_score_adj: {} needs more rights than this process has: it may not go \
             below its own value, {now}. Start it with the capability CAP_SYS_RESOURCE (root has it, \
             but in a container it may not), or with OOMScoreAdjust= of systemd; or raise the value",
            first(&|worker| worker.limits.oom_score_adj == most.oom_score_adj),
            most.oom_score_adj.unwrap_or(0)
        ),
    };
    Error::Config(text)
}

/// Looks for files of an earlier run as somebody else, and for folders in which nothing can be created:
/// all at once, before the first of them is stumbled over.
fn check_files(config: &Config, identity: &Identity) -> Result<(), Error> {
    let spool = spool_path(config)?;
    let mut written = vec![spool.clone()];
    written.extend(config.log.file.clone());
    written.extend(config.dead_letters.clone());
    if !matches!(config.output.format, Format::Own(_)) {
        written.push(config.output.file.clone());
    }
    let refused =
        |path: &Path, access| rustix::fs::access(path, access) == Err(rustix::io::Errno::ACCESS);
    let read_write = Access::READ_OK | Access::WRITE_OK;
    let mut wrong: Vec<PathBuf> = Vec::new();
    let mut note = |path: &Path| {
        if !wrong.iter().any(|known| known == path) {
            wrong.push(path.to_path_buf());
        }
    };
    for path in &written {
        let folder = directory_of(path);
        // The spool is renamed into its place when it is built anew.
        let creates = !path.exists() || *path == spool;
        if creates && refused(folder, Access::WRITE_OK | Access::EXEC_OK) {
            note(folder);
        }
        if path.is_file() && refused(path, read_write) {
            note(path);
        }
    }
    let Identity { name, group, uid, .. } = identity;
    if let [first, ..] = wrong.as_slice() {
        let owner = std::fs::metadata(first).map_or(String::new(), |it| {
            format!(" (it belongs to uid {}, with mode {:o})", it.uid(), it.mode() & 0o7777)
        });
        let paths: Vec<String> = wrong.iter().map(|path| path.display().to_string()).collect();
        let message = format!(
            "{name} (uid {uid}), who [privileges] user names, may not write it{owner}. If it is from a \
             run as somebody else: chown {name}:{group} {}",
            paths.join(" ")
        );
        return Err(Error::File { path: first.clone(), message });
    }
    match config.jobs.as_ref().and_then(Jobs::list).map(|list| &list.lines) {
        Some(Lines::File(list)) if refused(list, Access::READ_OK) => Err(Error::Config(format!(
            "{}: {name} (uid {uid}), who [privileges] user names, may not read the list of jobs",
            list.display()
        ))),
        _ => Ok(()),
    }
}
