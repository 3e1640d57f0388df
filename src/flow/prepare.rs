//! Before anything is started: the output is opened and locked, the spool opened or built, and
//! what an earlier run has kept in it is looked at.

use super::about::About;
use super::buffer::Policy;
use super::exposed;
use super::format;
use super::queue::commit::Commit;
use super::queue::jobs::{Jobs, Phase};
use super::queue::layout::Geometry;
use super::queue::position::ListPosition;
use super::queue::processes::forget_unsynced;
use super::queue::repair::{give_up_damaged, repair};
use super::queue::settle::Orphan;
use super::queue::spool::{Spool, directory_of};
use super::rebuild::{Plan, rebuild};
use super::sink::file::FileSink;
use super::sink::{self, Batch, Position, Sink, Sinks};
use super::source::refill::{refill, settle_slots};
use super::source::{directory, lines};
use crate::config::{Config, Format, Jobs as Origin, Lines, Output, Run};
use crate::error::Error;
use crate::sys::atomic::Ordering;
use crate::sys::{clock, proc_fs, spawn};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the leftovers of an earlier run may take to be gone.
const LEFTOVERS_MAX: Duration = Duration::from_secs(2);

/// What a pipeline writes to.
pub(crate) struct Outputs {
    pub output: Box<dyn Sink>,
    pub dead_letters: Option<FileSink>,
}

impl Outputs {
    fn open(config: &Config, own: Option<Box<dyn Sink>>) -> Result<Outputs, Error> {
        let output: Box<dyn Sink> = match own {
            Some(own) => own,
            None => open_output(&config.output)?,
        };
        let open = |path: &PathBuf| FileSink::open(path, format::shape(&Format::JsonLines));
        let dead_letters = config.dead_letters.as_ref().map(open).transpose()?;
        Ok(Outputs { output, dead_letters })
    }

    pub(crate) fn sinks(&mut self) -> Sinks<'_> {
        let dead_letters = self.dead_letters.as_mut().map(|file| file as &mut dyn Sink);
        Sinks { output: &mut *self.output, dead_letters }
    }

    /// Descriptors that only the buffer needs.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let of_dead = self.dead_letters.iter().flat_map(Sink::descriptors);
        self.output.descriptors().into_iter().chain(of_dead).collect()
    }

    /// Has no file open from now on, but keeps the locks: the buffer, whichever it is, takes them up.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn leave_to_children(&mut self) -> Result<(), Error> {
        let left = self.output.leave_to_children();
        let left = left.and_then(|()| {
            self.dead_letters.as_mut().map_or(Ok(()), |file| file.leave_to_children())
        });
        left.map_err(Error::system("can't leave the output to the buffer"))
    }

    /// In the buffer's process.
    pub(crate) fn take_up(&mut self) {
        self.output.work_in_background();
        if let Some(file) = &mut self.dead_letters {
            file.work_in_background();
        }
    }

    /// From now on it is known where the files were before us.
    fn begin(&mut self) -> Result<[Option<Position>; 2], Error> {
        if !self.output.tells_by_number() {
            self.output.open(None, Batch::default())?;
        }
        if let Some(file) = &mut self.dead_letters {
            Sink::open(file, None, Batch::default())?;
        }
        Ok(self.sinks().positions())
    }
}

fn open_output(output: &Output) -> Result<Box<dyn Sink>, Error> {
    match &output.format {
        Format::Sqlite { table } => super::sink::sqlite(&output.file, table, output.sync),
        Format::Own(name) => Err(Error::Config(format!("{name}: the sink itself is missing"))),
        format => {
            let file = FileSink::open(&output.file, format::shape(format))?;
            file.check_header()?;
            Ok(Box::new(file.rotating(output.rotation)?))
        }
    }
}

/// Opens what the pipeline writes. `end` ends commands that an earlier run has left behind.
/// `acknowledged`: the source has to hear of each job before its slot is freed.
///
/// # Errors
/// If something can't be opened, is held by another daemon, or holds work of another pipeline. What
/// is kept in the spool is as it was then.
pub(crate) fn prepare(
    config: &Config,
    own: Option<Box<dyn Sink>>,
    acknowledged: bool,
    end: impl FnMut(Orphan),
) -> Result<(Spool, Outputs), Error> {
    check_list(config)?;
    let path = spool_path(config)?;
    check_dead_letters(config, &path)?;
    exposed::warn(config, &path);
    let geometry = geometry(config)?;
    let fingerprint = fingerprint(config);
    let existing = Spool::open(&path)?;
    let (mut keeps, mut is_foreign) = (false, false);
    if let Some(spool) = &existing {
        // Of another pipeline only with `--fresh`, and with the same files to write it to.
        let left = check_kept(spool, fingerprint, config)?;
        is_foreign = left.records && !spool.has_fingerprint(fingerprint);
        keeps = !spool.is_closed() && (is_foreign || spool.has_fingerprint(fingerprint));
    }
    let mut outputs = Outputs::open(config, own)?;
    if let Some(spool) = existing.as_ref().filter(|_| keeps) {
        put_in_order(spool, config, acknowledged, is_foreign, end)?;
    }
    let spool = match existing {
        Some(spool) if keeps && !is_foreign && spool.layout.geometry == geometry => spool,
        Some(spool) if keeps => {
            let policy = Policy { flush: config.buffer, sync: config.output.sync };
            let plan = Plan { geometry, fingerprint, with_done: acknowledged };
            rebuild(&spool, &path, &plan, (&mut outputs, policy))?
        }
        other => {
            let begin = begin_behind(other.as_ref(), fingerprint);
            let sinks = outputs.begin()?;
            let last = other.as_ref().map_or(0, |old| Commit::last_number(old, fingerprint));
            Spool::create(&path, geometry, fingerprint, other.as_ref(), |new| {
                begin.store(new, 1);
                let generation = last + 1;
                let mut books = Commit { generation, sinks, ..Commit::initial(new.lanes()) };
                books.all_synced();
                books.store(new);
            })?
        }
    };
    if config.fresh {
        forget(&spool, acknowledged);
    }
    Ok((spool, outputs))
}

/// Settles what an earlier run has kept. Of another pipeline only records are left then.
fn put_in_order(
    spool: &Spool,
    config: &Config,
    acknowledged: bool,
    is_foreign: bool,
    mut end: impl FnMut(Orphan),
) -> Result<(), Error> {
    end_leftovers(spool);
    trust_again(spool, config);
    let run = spool.run();
    let same_boot = run.boot_id.load(Ordering::Relaxed) == proc_fs::boot_id();
    if !same_boot {
        // Until this run signs the spool: killed before that, it is found once more.
        run.boots.fetch_add(1, Ordering::Release);
    }
    repair(spool, |orphan| {
        // After another boot the numbers of processes mean others.
        if same_boot {
            end(orphan);
        }
    })?;
    match &config.jobs {
        _ if is_foreign => {}
        Some(Origin::List(list)) if !same_boot => refill(spool, list)?,
        Some(Origin::Directory(_) | Origin::Own(_)) if !same_boot => {
            settle_slots(spool, acknowledged)?
        }
        Some(_) | None => {}
    }
    give_up_damaged(spool);
    if is_foreign {
        // While it is still theirs: none of their jobs is ever in a spool of ours.
        forget(spool, false);
    }
    Ok(())
}

/// The place in the list of a new spool that takes the place of this one, in which nothing is kept.
fn begin_behind(old: Option<&Spool>, fingerprint: u64) -> ListPosition {
    let before = old.map(|spool| (spool, ListPosition::load(spool).1));
    let round = before.as_ref().map_or(0, |(_, position)| position.round);
    // The same list was done to its end: its owner may want it not to be begun again.
    let at_end = before.is_some_and(|(spool, position)| {
        spool.has_fingerprint(fingerprint) && position.complete && position.at_end
    });
    ListPosition { round, complete: true, at_end, ..ListPosition::default() }
}

/// A list that is run again and again must be one that can be read again; a directory must be there.
fn check_list(config: &Config) -> Result<(), Error> {
    let list = match &config.jobs {
        Some(Origin::List(list)) => list,
        Some(Origin::Directory(directory)) => return directory::check(directory),
        Some(Origin::Own(_)) | None => return Ok(()),
    };
    let regular = lines::is_regular(&list.lines).map_err(|error| {
        let name = lines::name(&list.lines).display();
        Error::Config(format!("{name}: can't read the list of jobs: {error}"))
    })?;
    if list.every.is_some() && !regular {
        return Err(Error::Config(format!(
            "{}: a list that is run again and again must be a file; this is a pipe or a terminal, \
             which can be read only once",
            lines::name(&list.lines).display()
        )));
    }
    Ok(())
}

/// Dead letters among anything else that the pipeline reads or writes would destroy it.
fn check_dead_letters(config: &Config, spool: &Path) -> Result<(), Error> {
    let Some(path) = &config.dead_letters else { return Ok(()) };
    let identity = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Some((metadata.dev(), metadata.ino())),
        _ => None,
    };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let same = |other: &Path| {
        absolute(other) == absolute(path)
            || identity(other).is_some_and(|other| Some(other) == identity(path))
    };
    let list = match config.jobs.as_ref().and_then(Origin::list).map(|list| &list.lines) {
        Some(Lines::File(list)) => Some(list.as_path()),
        Some(Lines::Stdin) | None => None,
    };
    let others =
        [(Some(config.output.file.as_path()), "output"), (Some(spool), "spool"), (list, "list")];
    match others.iter().find(|(other, _)| other.is_some_and(same)) {
        Some((_, what)) => Err(Error::Config(format!(
            "dead_letters.file: {} is the {what} as well; name another file",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Where the spool of a pipeline is.
///
/// # Errors
/// If there is no place for it beside the output.
pub(crate) fn spool_path(config: &Config) -> Result<PathBuf, Error> {
    if let Some(path) = &config.spool.file {
        return Ok(path.clone());
    }
    if let Format::Own(_) = &config.output.format {
        let name = config.name.replace('/', "_");
        return Ok(PathBuf::from(format!(".{name}.spool")));
    }
    let output = &config.output.file;
    if output.as_os_str() == "-" {
        return Err(Error::Usage(
            "--output: \"-\" is not standard output; for a file of that name write ./-".into(),
        ));
    }
    // That a directory is no output is for its opening to say.
    let special =
        std::fs::metadata(output).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    // Nothing is kept beside /dev/stdout, whatever file it is today.
    let special = special || sink::file::is_alias(output);
    let Some(name) = output.file_name().filter(|_| !special) else {
        return Err(Error::Config(format!(
            "{}: not a regular file, so there is no place beside it for the spool: name one with \
             --spool. Such an output can't be compared with what was written: after a crash a \
             batch may be in it twice",
            output.display()
        )));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".spool");
    Ok(output.with_file_name(hidden))
}

fn geometry(config: &Config) -> Result<Geometry, Error> {
    let lanes: u64 = config.workers.iter().map(|worker| u64::from(worker.processes)).sum();
    let lane_bytes = config.spool.lane_bytes(lanes);
    let geometry = Geometry {
        lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
        lane_bytes,
        slots: config.spool.jobs,
        job_bytes: config.spool.job_bytes,
    };
    if !geometry.is_sound() {
        return Err(Error::Config(format!(
            "a spool can't be built for {lanes} worker processes with lanes of {lane_bytes} bytes \
             and {} jobs of {} bytes",
            geometry.slots, geometry.job_bytes
        )));
    }
    let failure = config.spool.lane_bytes_min();
    if geometry.lane_bytes < failure {
        return Err(Error::Config(format!(
            "spool.lane: {lane_bytes} bytes are too few for jobs of {} bytes (spool.job_bytes): \
             at least {failure} are needed",
            geometry.job_bytes
        )));
    }
    Ok(geometry)
}

/// One name of a file, however it was written: `a/../b` and `b` are the same pipeline's.
fn one_name(path: &Path) -> PathBuf {
    let folder = directory_of(path).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}

/// Of job source, kinds of workers with what they run, and output: whose work is in a spool.
fn fingerprint(config: &Config) -> u64 {
    let absolute = |path: &Path| one_name(path).into_os_string().into_vec();
    let mut parts: Vec<Vec<u8>> = vec![absolute(&config.output.file)];
    parts.push(match &config.output.format {
        Format::JsonLines => vec![b'\n'],
        Format::Postcard => vec![0],
        other => format!("{other:?}").into_bytes(),
    });
    if let Some(path) = &config.dead_letters {
        parts.push(b"dead letters".to_vec());
        parts.push(absolute(path));
    }
    match &config.jobs {
        None => parts.push(b"no list".to_vec()),
        Some(Origin::List(list)) => match &list.lines {
            Lines::Stdin => parts.push(b"standard input".to_vec()),
            Lines::File(path) => parts.push(absolute(path)),
        },
        Some(Origin::Directory(directory)) => {
            parts.extend([b"directory".to_vec(), absolute(&directory.path)]);
        }
        Some(Origin::Own(own)) => {
            parts.extend([b"own source".to_vec(), own.name.clone().into_bytes()]);
        }
    }
    for worker in &config.workers {
        parts.push(worker.name.clone().into_bytes());
        match &worker.run {
            Run::Function(name) => parts.push(name.clone().into_bytes()),
            Run::Coprocess(argv) => {
                // No argument can be this.
                parts.push(b"\0coprocess".to_vec());
                parts.extend(argv.iter().map(|argument| argument.clone().into_bytes()));
            }
            Run::Command(argv) => {
                parts.extend(argv.iter().map(|argument| argument.clone().into_bytes()));
            }
        }
    }
    // FNV-1a, 64 bits; the length of each part before it, so that parts can't run together.
    let bytes = parts.iter().flat_map(|part| {
        part.len().to_le_bytes().into_iter().chain(part.iter().copied()).collect::<Vec<u8>>()
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What an earlier run has kept in its spool.
struct Kept {
    jobs: usize,
    records: bool,
    /// The list was begun and not run to its end.
    list: Option<ListPosition>,
}

impl Kept {
    fn of(spool: &Spool) -> Kept {
        let (_, position) = ListPosition::load(spool);
        let begun = position.round > 0 && !position.complete;
        if spool.is_closed() {
            // Only a spool whose list is done gives its room back.
            return Kept { jobs: 0, records: false, list: begun.then_some(position) };
        }
        let heads = Commit::load(spool).lanes;
        let tail = |lane| spool.producer(lane).tail.load(Ordering::Acquire);
        Kept {
            jobs: Jobs(spool).pending(),
            records: heads.iter().enumerate().any(|(lane, head)| tail(lane) > head.offset),
            list: begun.then_some(position),
        }
    }

    fn is_nothing(&self) -> bool {
        self.jobs == 0 && !self.records && self.list.is_none()
    }
}

/// Yesterday's jobs must never go through today's command. What is kept, if we may go on with it or
/// forget it.
fn check_kept(spool: &Spool, fingerprint: u64, config: &Config) -> Result<Kept, Error> {
    let kept = Kept::of(spool);
    if kept.is_nothing() || spool.has_fingerprint(fingerprint) {
        return Ok(kept);
    }
    // Jobs can be forgotten. Published records can't: they go where they were to go, or nowhere.
    let may_begin_anew =
        !kept.records || About::load(spool).is_some_and(|about| about.has_files_of(config));
    if config.fresh && may_begin_anew {
        return Ok(kept);
    }
    let what = match &kept.list {
        Some(position) => format!(
            "{} jobs in hand or waiting, and a list that was handed out up to job {}",
            kept.jobs, position.seq
        ),
        None => format!("{} jobs in hand or waiting", kept.jobs),
    };
    let records = if kept.records { ", and records that are not written yet" } else { "" };
    let why = "of another pipeline (other jobs, another command, another \
               output or other dead letters): run that one \
               again to finish it";
    let fresh = match (may_begin_anew, kept.records) {
        (false, _) => "",
        (true, false) => ", begin anew with --fresh to forget it",
        (true, true) => ", begin anew with --fresh to forget the jobs and write the records",
    };
    Err(Error::Config(format!(
        "{}: this spool holds pending work ({what}{records}) {why}{fresh}, or name another spool \
         with --spool. Nothing was touched",
        spool.path.display()
    )))
}

/// A new run tries again what the last one could not force to the disk.
fn trust_again(spool: &Spool, config: &Config) {
    if forget_unsynced(spool) {
        log::warn!(
            "{}: the last run ended since this could not be forced to the disk; going on behind what \
             stands there now",
            config.output.file.display()
        );
    }
}

/// Ends what the jobs of an earlier run have left behind, if that run was killed as a whole.
fn end_leftovers(spool: &Spool) {
    let run = spool.run();
    let run_id = run.run_id.load(Ordering::Relaxed);
    if run_id != 0 && run.ended.load(Ordering::Relaxed) == 0 {
        let marker = spawn::run_marker(&spawn::run_name(run_id));
        proc_fs::kill_marked(&[&marker], clock::now() + LEFTOVERS_MAX);
    }
}

/// Forgets the kept jobs and the place in the list. What is published already stays; so does, with
/// `acknowledged`, what the source is still to hear of.
fn forget(spool: &Spool, acknowledged: bool) {
    let jobs = Jobs(spool);
    let kept = jobs.pending();
    let (generation, position) = ListPosition::load(spool);
    if kept > 0 {
        log::warn!("--fresh: {kept} kept jobs are forgotten, the list begins anew");
    }
    let begin = ListPosition { round: position.round, complete: true, ..ListPosition::default() };
    // First that the list begins anew: killed in between, what is not forgotten yet is run before it.
    begin.store(spool, generation + 1);
    for index in (0..jobs.len()).filter(|index| jobs.phase(*index) != Phase::Free) {
        if !(acknowledged && jobs.is_done(index)) {
            jobs.forget(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Worker;

    fn config(command: &[&str]) -> Config {
        let command = command.iter().map(ToString::to_string).collect();
        Config {
            name: "test".into(),
            jobs: None,
            workers: vec![Worker::new("w", Run::Command(command))],
            buffer: Default::default(),
            output: Output::new("out.jsonl"),
            dead_letters: None,
            shutdown: Default::default(),
            restart: Default::default(),
            spool: Default::default(),
            log: Default::default(),
            privileges: Default::default(),
            fresh: false,
        }
    }

    #[test]
    fn the_fingerprint_tells_pipelines_apart() {
        let print = |command: &[&str]| fingerprint(&config(command));
        assert_eq!(print(&["ping", "-c1"]), print(&["ping", "-c1"]));
        assert_ne!(print(&["ping", "-c1"]), print(&["rm", "-c1"]));
        assert_ne!(print(&["a", "bc"]), print(&["ab", "c"]));
        let mut coprocess = config(&[]);
        coprocess.workers[0].run = Run::Coprocess(vec!["ping".into(), "-c1".into()]);
        assert_ne!(fingerprint(&coprocess), print(&["ping", "-c1"]));
    }

    #[test]
    fn lanes_shrink_with_many_workers() {
        let mut config = config(&["true"]);
        assert_eq!(geometry(&config).expect("sound").lane_bytes, 1 << 20);
        config.workers[0].processes = 500;
        assert_eq!(geometry(&config).expect("sound").lane_bytes, 128 << 10);
    }

    #[test]
    fn a_lane_that_can_not_hold_a_failure_is_refused() {
        let mut config = config(&["true"]);
        config.spool.lane = Some(64 << 10);
        config.spool.job_bytes = 64 << 10;
        assert!(matches!(geometry(&config), Err(Error::Config(_))));
    }

    #[test]
    fn the_spool_stands_beside_the_output() {
        let mut config = config(&["true"]);
        config.output.file = "/tmp/x/results.jsonl".into();
        let path = spool_path(&config).expect("a path");
        assert_eq!(path, Path::new("/tmp/x/.results.jsonl.spool"));
        for special in ["/dev/null", "/dev/stdout", "/proc/self/fd/1"] {
            config.output.file = special.into();
            assert!(matches!(spool_path(&config), Err(Error::Config(_))), "{special}");
        }
        config.output.file = "/dev/shm/results.jsonl".into();
        let path = spool_path(&config).expect("a file system in memory has files as any other");
        assert_eq!(path, Path::new("/dev/shm/.results.jsonl.spool"));
        config.output.file = "-".into();
        assert!(matches!(spool_path(&config), Err(Error::Usage(_))));
    }
}
