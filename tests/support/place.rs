//! A place of its own for each test: a directory, and the program under a name of its own.

use super::{Process, Results, Running, program, tool};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The output that runs write unless a test says otherwise.
pub const OUTPUT: &str = "out.jsonl";
/// The spool that belongs to it.
pub const SPOOL: &str = ".out.jsonl.spool";
/// Where jobs of [`Place::work_script`] note that they were started.
pub const STARTED: &str = "started.txt";

/// A test's own directory, and its own name for the program, by which `pkill -f` finds the runs
/// of this test and nothing else.
pub struct Place {
    directory: tempfile::TempDir,
    /// The unique name of the program.
    pub name: String,
    /// Its path.
    pub program: PathBuf,
    pub(super) runs: AtomicU32,
}

impl Place {
    pub fn new() -> Place {
        Place::of(program())
    }

    /// A place for another program: an example.
    pub fn of(program: PathBuf) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new().prefix("pst-").tempdir().expect("a directory");
        let name = format!("procsig-test-{}-{count}", std::process::id());
        for part in ["work", "private"] {
            std::fs::create_dir(directory.path().join(part)).expect("a directory");
        }
        let place = directory.path().join("private").join(&name);
        if std::fs::hard_link(&program, &place).is_err() {
            // Not by a copy of our own: a child that another test forks meanwhile would hold the
            // program open for writing, and it could not be executed.
            let (from, to) = (program.to_str().expect("UTF-8"), place.to_str().expect("UTF-8"));
            assert!(tool("cp", &[from, to]).status.success(), "cp {from} {to}");
        }
        Place { directory, name, program: place, runs: AtomicU32::new(0) }
    }

    /// Leaves the directory where it is.
    pub fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// A path in the directory in which the program runs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("work").join(name)
    }

    /// A path in a directory that the program knows nothing of.
    pub fn private(&self, name: &str) -> PathBuf {
        self.directory.path().join("private").join(name)
    }

    #[track_caller]
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("write a file of the test");
    }

    /// A file's text, empty when there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes a list of `count` jobs to `jobs.txt` and returns them.
    pub fn jobs(&self, count: usize) -> Vec<String> {
        let jobs: Vec<String> = (1..=count).map(|number| format!("job-{number}")).collect();
        self.write("jobs.txt", jobs.join("\n") + "\n");
        jobs
    }

    /// Writes `work.sh`: it notes its job in [`STARTED`] and goes on with `body`, where `$1` is
    /// the job. To be run as `sh work.sh {}`.
    pub fn work_script(&self, body: &str) {
        self.write("work.sh", format!("echo \"$1\" >> {STARTED}\n{body}\n"));
    }

    /// Writes `pings.toml`: two processes of two threads of the kind `ping` that run `sh work.sh {}`
    /// for each line of `jobs.txt`, and whatever tables are added.
    pub fn config(&self, tables: &str) {
        let text = "[jobs]\nlines = \"jobs.txt\"\n\n[output]\nfile = \"out.jsonl\"\n\n\
             [workers.ping]\ncommand = [\"sh\", \"work.sh\", \"{}\"]\n\
             processes = 2\nthreads = 2\n";
        self.write("pings.toml", format!("{text}{tables}\n"));
    }

    /// Makes a named pipe and opens it for both directions, without ever waiting for the other end.
    #[track_caller]
    pub fn pipe(&self, name: &str) -> File {
        let path = self.path(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let mut options = File::options();
        options.read(true).write(true).custom_flags(flags);
        options.open(path).expect("the named pipe")
    }

    /// A gate, still closed, before which jobs wait with `: < gate`.
    #[track_caller]
    pub fn gate(&self) -> Gate {
        let path = self.path("gate");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        Gate { path, open: None }
    }

    /// Jobs that have started so far, in order.
    pub fn started(&self) -> Vec<String> {
        self.read(STARTED).lines().map(str::to_owned).collect()
    }

    /// Each job was run exactly once.
    #[track_caller]
    pub fn assert_each_ran_once(&self, jobs: &[String]) {
        let mut started = self.started();
        let mut jobs = jobs.to_vec();
        started.sort();
        jobs.sort();
        assert_eq!(started, jobs, "jobs that were run, against the list");
    }

    /// What is in the output so far.
    #[track_caller]
    pub fn results(&self) -> Results {
        Results::read(&self.path(OUTPUT))
    }

    /// Names of what the output was before, oldest first.
    pub fn rotated(&self) -> Vec<String> {
        self.files().into_iter().filter(|name| is_rotated(name)).collect()
    }

    /// All that was ever written to the output, in order.
    pub fn everything(&self) -> String {
        let rotated = self.rotated();
        // Killed in between, a file can be there as it was as well.
        let once = rotated.iter().filter(|name| {
            let original = name.strip_suffix(".gz").map(str::to_owned);
            original.is_none_or(|original| !rotated.contains(&original))
        });
        let rotated: String = once.map(|name| self.read_packed(name)).collect();
        rotated + &self.read(OUTPUT)
    }

    fn read_packed(&self, name: &str) -> String {
        if !name.ends_with(".gz") {
            return self.read(name);
        }
        let file = File::open(self.path(name)).expect("a rotated file");
        let mut text = String::new();
        let mut unpacked = flate2::read::MultiGzDecoder::new(file);
        std::io::Read::read_to_string(&mut unpacked, &mut text).expect("a whole compressed file");
        text
    }

    /// Names of all files that are there.
    pub fn files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.path("")).expect("the directory");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.flatten().map(name).collect()
    }

    /// The program with these arguments, not started yet.
    pub fn command(&self, args: &[&str]) -> Launch<'_> {
        Launch {
            place: self,
            wrapper: Vec::new(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: Vec::new(),
            stdin: Stdio::null(),
            own_group: true,
        }
    }

    /// Starts `procsig run pings.toml`.
    #[track_caller]
    pub fn start(&self) -> Running<'_> {
        self.command(&["run", "pings.toml"]).start()
    }

    /// Waits until no process of any of its runs lives.
    #[track_caller]
    pub fn until_all_have_ended(&self) {
        super::wait_until("the end of all", super::WATCHDOG, || {
            Process::marked(&self.name).iter().all(Process::is_zombie).then_some(())
        });
    }

    /// `procsig run -o out.jsonl` with these options and this command, not started yet.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Launch<'_> {
        self.command(&[&["run", "-o", OUTPUT], options, &["--"], command].concat())
    }

    /// `procsig run --jobs jobs.txt -o out.jsonl` with these options and `sh work.sh {}`.
    pub fn run_work(&self, options: &[&str]) -> Launch<'_> {
        let options = [&["--jobs", "jobs.txt"], options].concat();
        self.run(&options, &["sh", "work.sh", "{}"])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // For whoever looks for what went wrong: all that was printed and written.
        if std::thread::panicking() && std::env::var_os("PROCSIG_TEST_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("kept: {}", self.directory.path().display());
        }
    }
}

/// Opening a named pipe to read waits until somebody has it open to write: that is the gate.
pub struct Gate {
    path: PathBuf,
    open: Option<File>,
}

impl Gate {
    /// Lets through who waits, and who comes.
    #[track_caller]
    pub fn open(&mut self) {
        let pipe = File::options().read(true).write(true).open(&self.path);
        self.open = Some(pipe.expect("the gate"));
    }
}

/// A run that is about to be started.
pub struct Launch<'a> {
    pub(super) place: &'a Place,
    wrapper: Vec<String>,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    stdin: Stdio,
    own_group: bool,
}

impl<'a> Launch<'a> {
    /// Starts the program through another, which gets the program's path as its next argument.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Launch<'a> {
        self.wrapper.extend(wrapper.iter().map(|arg| (*arg).to_owned()));
        self
    }

    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Launch<'a> {
        self.stdin = stdin.into();
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Launch<'a> {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In a session of its own, without a controlling terminal. A hangup is heeded, also if the tests
    /// themselves are run under nohup.
    #[must_use]
    pub fn without_terminal(mut self) -> Launch<'a> {
        self.own_group = false;
        self.under(&["setsid", "env", "--default-signal=HUP"])
    }

    /// In a session of its own whose controlling terminal is its standard input. A hangup is heeded, as
    /// above.
    #[must_use]
    pub fn on_terminal(mut self, terminal: &super::Terminal) -> Launch<'a> {
        self.own_group = false;
        self.under(&["env", "--default-signal=HUP", "setsid", "--ctty"]).stdin(terminal.far_end())
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Running<'a> {
        let place = self.place;
        let mut words = self.wrapper;
        words.push(place.program.to_str().expect("UTF-8").to_owned());
        words.extend(self.args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(place.path("")).stdin(self.stdin);
        command.envs(self.environment).env(super::MARKER, &place.name);
        if self.own_group {
            command.process_group(0);
        }
        Running::start(place, command, words.join(" "))
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn finish(self) -> super::Ended {
        self.start().wait()
    }
}

/// Is it the name of what the output was before?
pub fn is_rotated(name: &str) -> bool {
    name.starts_with("out.2") && (name.ends_with("Z.jsonl") || name.ends_with("Z.jsonl.gz"))
}

/// Bytes of a file, nothing when there is none.
pub fn bytes(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}
