//! What a process may take of the machine: memory, descriptors, processor, and how long it lives when
//! memory runs out.
//!
//! Limits are set in a worker after the fork, when main may have given up the rights for it. So main
//! first [opens the way](open_the_way) as far as it may, and each child [closes](close_the_way) it
//! again, behind itself, so that nothing that a job starts can go it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::sync::{Mutex, PoisonError};

/// The most that any worker is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    pub(crate) memory: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    /// The lowest nice value.
    pub(crate) nice: Option<i32>,
    /// The lowest readiness to be killed.
    pub(crate) oom_score_adj: Option<i32>,
}

/// A limit that can't be had, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory { hard: u64 },
    Descriptors { hard: u64 },
    Nice { now: i32 },
    OomScoreAdj { now: i32 },
}

/// Soft and hard limit.
type Pair = (u64, u64);

/// How it was before the way was opened: of descriptors, and of how nice one has to be.
static BEFORE: Mutex<Option<(Pair, Pair)>> = Mutex::new(None);

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Does what it takes privileges to do, if it has them, for what is wanted to be possible without
/// them. That it was not possible is seen when it is [tried](check).
///
/// Returns what [`check`] has to set back.
pub(crate) fn open_the_way(wanted: Wanted) -> OpenWay {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let nice = getrlimit(Resource::RLIMIT_NICE).unwrap_or((0, 0));
    let mut opened = false;
    if let Some(most) = wanted.descriptors.filter(|most| *most > descriptors.1) {
        opened |= setrlimit(Resource::RLIMIT_NOFILE, descriptors.0, most).is_ok();
    }
    // The kernel counts from 20 down.
    let lowest = wanted.nice.map(|nice| u64::from((20 - nice).unsigned_abs()));
    if let Some(lowest) = lowest.filter(|lowest| *lowest > nice.0) {
        opened |= setrlimit(Resource::RLIMIT_NICE, lowest, lowest.max(nice.1)).is_ok();
    }
    if opened {
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        before.get_or_insert((descriptors, nice));
    }
    // What somebody with the right to it has once set, anybody may set again.
    let now = oom_score_adj();
    let lower = wanted.oom_score_adj.zip(now).filter(|(wanted, now)| wanted < now);
    let lowered =
        lower.is_some_and(|(wanted, _)| std::fs::write(OOM_SCORE_ADJ, wanted.to_string()).is_ok());
    OpenWay { oom_score_adj: now.filter(|_| lowered) }
}

/// See [`open_the_way`].
#[derive(Debug)]
pub(crate) struct OpenWay {
    oom_score_adj: Option<i32>,
}

/// Tries, with the rights that workers will have, whether they can have what is wanted.
///
/// # Errors
/// What they can't have.
pub(crate) fn check(wanted: Wanted, way: OpenWay) -> Result<(), Refused> {
    if let Some(score) = way.oom_score_adj {
        // More than it is now is always allowed.
        let _set_back = std::fs::write(OOM_SCORE_ADJ, score.to_string());
    }
    let hard = |resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard);
    let (memory, descriptors) = (hard(Resource::RLIMIT_DATA), hard(Resource::RLIMIT_NOFILE));
    if wanted.memory.is_some_and(|wanted| wanted > memory) {
        return Err(Refused::Memory { hard: memory });
    }
    if wanted.descriptors.is_some_and(|wanted| wanted > descriptors) {
        return Err(Refused::Descriptors { hard: descriptors });
    }
    let now = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Some(wanted) = wanted.nice.filter(|wanted| *wanted < now) {
        set_nice(wanted).map_err(|_| Refused::Nice { now })?;
        // Nicer than it is is always allowed.
        let _set_back = set_nice(now);
    }
    let score = oom_score_adj().unwrap_or(0);
    if let Some(wanted) = wanted.oom_score_adj.filter(|wanted| *wanted < score) {
        set_oom_score_adj(wanted).map_err(|_| Refused::OomScoreAdj { now: score })?;
        let _set_back = set_oom_score_adj(score);
    }
    Ok(())
}

/// Takes back what [`open_the_way`] has allowed, from this process and all that it will start. What is
/// set already stays: the nice value, and with `limited` the limit of descriptors.
pub(crate) fn close_the_way(limited: bool) {
    let before = *BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((descriptors, nice)) = before else { return };
    let mut lower = vec![(Resource::RLIMIT_NICE, nice)];
    if !limited {
        lower.push((Resource::RLIMIT_NOFILE, descriptors));
    }
    for (resource, (_, hard)) in lower {
        if let Ok((soft_now, hard_now)) = getrlimit(resource) {
            // Less is always allowed.
            let _lowered = setrlimit(resource, soft_now.min(hard), hard_now.min(hard));
        }
    }
}

/// Limits private memory that can be written, for good, here and in all that is started from here.
///
/// # Errors
/// What the system says, or that it does not keep it.
pub(crate) fn limit_memory(bytes: u64) -> io::Result<()> {
    limit(Resource::RLIMIT_DATA, bytes)
}

/// Limits open descriptors, in the same way.
///
/// # Errors
/// As [`limit_memory`].
pub(crate) fn limit_descriptors(count: u64) -> io::Result<()> {
    limit(Resource::RLIMIT_NOFILE, count)
}

/// Allows this process so many open descriptors, as far as its hard limit does. Never fewer than before.
pub(crate) fn allow_descriptors(count: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < count.min(hard)
    {
        // Up to the hard limit anybody may.
        let _allowed = setrlimit(Resource::RLIMIT_NOFILE, count.min(hard), hard);
    }
}

/// The most descriptors that this process can ever have open.
pub(crate) fn descriptors_max() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard)
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    setrlimit(resource, value, value)?;
    let kept = getrlimit(resource)? == (value, value);
    if kept { Ok(()) } else { Err(io::Error::other("the system does not keep it")) }
}

/// Sets the nice value of the calling thread and of all that it starts.
///
/// # Errors
/// As [`limit_memory`].
pub(crate) fn set_nice(value: i32) -> io::Result<()> {
    rustix::process::setpriority_process(None, value)?;
    let kept = rustix::process::getpriority_process(None)? == value;
    if kept { Ok(()) } else { Err(io::Error::other("the system does not keep it")) }
}

/// Sets how readily the kernel kills this process, and what it starts, when memory runs out.
///
/// # Errors
/// As [`limit_memory`].
pub(crate) fn set_oom_score_adj(value: i32) -> io::Result<()> {
    std::fs::write(OOM_SCORE_ADJ, value.to_string())?;
    let kept = oom_score_adj() == Some(value);
    if kept { Ok(()) } else { Err(io::Error::other("the system does not keep it")) }
}

fn oom_score_adj() -> Option<i32> {
    std::fs::read_to_string(OOM_SCORE_ADJ).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_may_have_is_not_refused() {
        let score = oom_score_adj().expect("/proc is mounted");
        let hard = getrlimit(Resource::RLIMIT_NOFILE).expect("is there").1;
        let wanted = Wanted {
            memory: Some(1 << 20),
            descriptors: Some(hard),
            nice: Some(19),
            oom_score_adj: Some(1000),
        };
        assert_eq!(check(wanted, open_the_way(wanted)), Ok(()));
        assert_eq!(oom_score_adj(), Some(score), "it was only tried");
    }

    #[test]
    fn what_nobody_may_have_is_refused_with_what_there_is() {
        let wanted = Wanted { descriptors: Some(1 << 40), ..Wanted::default() };
        let hard = getrlimit(Resource::RLIMIT_NOFILE).expect("is there").1;
        assert_eq!(check(wanted, open_the_way(wanted)), Err(Refused::Descriptors { hard }));
    }
}
