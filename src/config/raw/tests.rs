//! A file or a command line in, a configuration or its mistakes out.

use super::*;
use crate::config::{Compression, Directory, Format, Jobs, Limits, Privileges, Run, SyncPolicy};
use crate::error::ExitCode;

/// A folder with a list of jobs and a configuration file.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new(text: &str) -> Files {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hosts.txt"), "a\nb\n").unwrap();
        std::fs::write(folder.path().join("pings.toml"), text).unwrap();
        Files(folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn load_with(&self, overrides: &Overrides) -> Result<Loaded, Error> {
        load(&self.path("pings.toml"), overrides, &Known::default())
    }

    /// The mistakes without the folder, one a line.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let error = self.load_with(&Overrides::default()).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Config);
        let folder = format!("{}/", self.0.path().display());
        error.to_string().replace(&folder, "").lines().map(str::to_owned).collect()
    }
}

fn load_text(text: &str) -> Config {
    Files::new(text).load_with(&Overrides::default()).unwrap().config
}

pub(super) fn mistakes(text: &str) -> Vec<String> {
    Files::new(text).mistakes()
}

pub(super) fn only_mistake(text: &str) -> String {
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.into_iter().next().unwrap()
}

pub(super) const WORKER: &str = "[workers.ping]\ncommand = [\"echo\", \"{}\"]\n";

/// Every key of the interface, except for the two that exclude `command`.
pub(super) const COMPLETE: &str = r#"
name = "pings"
[jobs]
lines = "hosts.txt"
every = "30s"
[workers.ping]
command = ["echo", "-c1", "{}"]
processes = 3
threads = 8
timeout = "5s"
attempts = 3
retry_delay = "2s"
max_output = "32KiB"
env = { LANG = "C" }
[buffer]
flush_records = 500
flush_bytes = "2MiB"
flush_after = "1m 30s"
[output]
file = "pings.jsonl"
sync = "never"
rotate_bytes = "100MiB"
rotate_every = "1day"
keep = 10
compress = "zstd"
[dead_letters]
file = "pings.dead.jsonl"
[shutdown]
deadline = "9s"
flush_reserve = "3s"
[restart]
max = 6
within = "31s"
[spool]
file = ".pings.jsonl.spool"
lane = "100KiB"
jobs = 2048
job_bytes = 8192
[log]
level = "debug"
format = "json"
file = "pings.log"
"#;

#[test]
fn every_key_of_the_interface_is_understood() {
    let files = Files::new(COMPLETE);
    let Loaded { config, warnings, jobs_by_default } =
        files.load_with(&Overrides::default()).unwrap();
    assert!(!jobs_by_default);
    let warnings: Vec<String> = warnings.lines().collect();
    assert_eq!(warnings.len(), 0, "{warnings:#?}");
    let rotation = config.output.rotation;
    assert_eq!(rotation.bytes, Some(100 << 20));
    assert_eq!(rotation.every, Some(Duration::from_secs(86_400)));
    assert_eq!(rotation.keep, Some(10));
    assert_eq!(rotation.compress, Some(Compression::Zstd));
    assert_eq!(config.name, "pings");
    let jobs = config.jobs.as_ref().and_then(Jobs::list).unwrap();
    assert_eq!(jobs.lines, Lines::File(files.path("hosts.txt")));
    assert_eq!(jobs.every, Some(Duration::from_secs(30)));
    let worker = &config.workers[0];
    assert_eq!(worker.name, "ping");
    assert_eq!(worker.run, Run::Command(vec!["echo".into(), "-c1".into(), "{}".into()]));
    assert_eq!((worker.processes, worker.threads, worker.attempts), (3, 8, 3));
    assert_eq!(worker.timeout, Some(Duration::from_secs(5)));
    assert_eq!(worker.retry_delay, Duration::from_secs(2));
    assert_eq!(worker.max_output, 32 << 10);
    assert_eq!(worker.env["LANG"], "C");
    assert_eq!((config.buffer.flush_records, config.buffer.flush_bytes), (500, 2 << 20));
    assert_eq!(config.buffer.flush_after, Duration::from_secs(90));
    assert_eq!(config.output.file, files.path("pings.jsonl"));
    assert_eq!(config.output.sync, SyncPolicy::Never);
    assert_eq!(config.dead_letters, Some(files.path("pings.dead.jsonl")));
    assert_eq!(config.shutdown.deadline, Duration::from_secs(9));
    assert_eq!(config.shutdown.flush_reserve, Duration::from_secs(3));
    assert_eq!((config.restart.max, config.restart.within), (6, Duration::from_secs(31)));
    assert_eq!(config.spool.file, Some(files.path(".pings.jsonl.spool")));
    assert_eq!(config.spool.lane, Some(128 << 10));
    assert_eq!((config.spool.jobs, config.spool.job_bytes), (2048, 8192));
    assert_eq!(config.log.level, ::log::LevelFilter::Debug);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.file, Some(files.path("pings.log")));
}

#[test]
fn what_is_left_out_has_its_default() {
    let files = Files::new(WORKER);
    let loaded = files.load_with(&Overrides::default()).unwrap();
    assert!(loaded.jobs_by_default);
    assert_eq!(loaded.warnings.iter().len(), 0);
    let config = loaded.config;
    assert_eq!(config.name, "pings");
    assert_eq!(config.jobs.as_ref().and_then(Jobs::list).unwrap().lines, Lines::Stdin);
    assert_eq!(config.output.file, files.path("results.jsonl"));
    assert_eq!(config.output.sync, SyncPolicy::Every(Duration::from_secs(1)));
    let run = config.workers[0].run.clone();
    assert_eq!(config.workers, [super::super::Worker::new("ping", run)]);
    assert_eq!(config.shutdown, super::super::Shutdown::default());
    assert!(!config.fresh);
}

#[test]
fn options_override_keys() {
    let overrides = Overrides {
        jobs: Some(Lines::Stdin),
        every: Some(Duration::from_secs(1)),
        output: Some("x.jsonl".into()),
        processes: Some(7),
        threads: Some(9),
        timeout: Some(Duration::from_secs(2)),
        attempts: Some(4),
        deadline: Some(Duration::from_secs(4)),
        spool: Some("x.spool".into()),
        fresh: true,
        log_level: Some(::log::LevelFilter::Error),
        log_format: Some(LogFormat::Text),
        log_file: Some("x.log".into()),
    };
    let loaded = Files::new(COMPLETE).load_with(&overrides).unwrap();
    assert!(!loaded.jobs_by_default);
    let config = loaded.config;
    let jobs = config.jobs.as_ref().and_then(Jobs::list).unwrap();
    assert_eq!((&jobs.lines, jobs.every), (&Lines::Stdin, overrides.every));
    // Relative to the working directory, not to the file.
    assert_eq!(Some(config.output.file), overrides.output);
    assert_eq!((config.spool.file, config.log.file), (overrides.spool, overrides.log_file));
    let worker = &config.workers[0];
    assert_eq!((worker.processes, worker.threads, worker.attempts), (7, 9, 4));
    assert_eq!(worker.timeout, overrides.timeout);
    assert_eq!(config.shutdown.deadline, Duration::from_secs(4));
    assert_eq!(config.shutdown.flush_reserve, Duration::from_secs(3));
    assert!(config.fresh);
    assert_eq!(config.log.level, ::log::LevelFilter::Error);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn the_quick_form_names_things_after_command_and_output() {
    let overrides = Overrides { output: Some("out/pings.jsonl".into()), ..Overrides::default() };
    let config = quick(vec!["/bin/echo".into(), "${X}".into()], &overrides).unwrap().config;
    assert_eq!(config.name, "pings");
    assert_eq!(config.workers[0].name, "echo");
    // The shell had its turn: what is left is meant literally.
    assert_eq!(config.workers[0].run, Run::Command(vec!["/bin/echo".into(), "${X}".into()]));
    let config = quick(vec!["./check.sh".into()], &Overrides::default()).unwrap().config;
    assert_eq!((config.name.as_str(), config.workers[0].name.as_str()), ("results", "check"));
    for command in ["./..", "./", &format!("./{}", "x".repeat(300)), "./a\nb"] {
        let worker = quick(vec![command.into()], &Overrides::default()).unwrap().config;
        assert!(values::worker_name(&worker.workers[0].name).is_ok(), "{command:?}");
    }
    let error = quick(vec![String::new()], &Overrides::default()).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let overrides =
        Overrides { jobs: Some(Lines::File("/no/such".into())), ..Overrides::default() };
    let error = quick(vec!["true".into()], &overrides).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Config);
    assert!(error.to_string().starts_with("--jobs: the list of jobs /no/such can't be read"));
}

#[test]
fn mistakes_are_told_together_in_the_order_of_the_file() {
    let text = "[log]\nlevel = \"inof\"\n[spool]\njobs = 0\n[workers.ping]\n\
                command = [\"ping\", \"${NO_SUCH_VARIABLE}\"]\nthreads = 2000\n\
                timeout = \"5\"\n[jobs]\n  lines = \"none.txt\"\n";
    let mistakes = mistakes(text);
    let starts = [
        "pings.toml:2:9: log.level: \"inof\" is not known; did you mean \"info\"?",
        "pings.toml:4:8: spool.jobs: 0 is out of range; allowed: 1 to 1048576",
        "pings.toml:6:20: workers.ping.command: the variable NO_SUCH_VARIABLE is not set",
        "pings.toml:7:11: workers.ping.threads: 2000 is out of range; allowed: 1 to 1024",
        "pings.toml:8:11: workers.ping.timeout: \"5\" is no duration: its unit is missing",
        "pings.toml:10:11: jobs.lines: the list of jobs none.txt can't be read",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake}\nis not\n{start}");
    }
}

#[test]
fn mistakes_of_syntax_and_type_have_a_place_and_a_suggestion() {
    for (text, expected) in [
        (
            "thread = 2",
            "3:1: workers.ping.thread: \"thread\" is no key here; did you mean threads?",
        ),
        ("[output]\nfoo = 2", "4:1: output.foo: \"foo\" is no key here; allowed: file, sink,"),
        ("[worker.x]", "3:2: worker: \"worker\" is no key here; did you mean workers?"),
        ("[name]", "3:1: name: a text is needed, and this is a table"),
        (
            "name = 5",
            "3:1: workers.ping.name: \"name\" is no key here; allowed: command, function, coprocess, processes, threads, timeout, attempts, retry_delay, max_output, env, recycle_after",
        ),
        (
            "[jobs]\nlines = 5",
            "4:9: jobs.lines: a text is needed, and this is the number 5; did you mean \"5\"?",
        ),
        ("[spool]\nlane = true", "4:8: spool.lane: a size is needed, and this is true; allowed: a"),
        (
            "[spool]\njobs = \"1\"",
            "4:8: spool.jobs: a whole number is needed, and this is the text",
        ),
        (
            "timeout = 10",
            "3:11: workers.ping.timeout: 10 is no duration: its unit is missing; did you \
                         mean \"10s\"?",
        ),
        ("# ä\nname = \"ä\" x", "4:12: "),
        ("threads = 1\nthreads = 2", "4:1: duplicate key"),
        (
            "[[jobs]]\nlines = \"-\"",
            "3:1: jobs: one table is needed, and this is an array of tables",
        ),
    ] {
        let mistake = only_mistake(&format!("{WORKER}{text}"));
        let expected = format!("pings.toml:{expected}");
        assert!(mistake.starts_with(&expected), "{mistake}\nis not\n{expected}");
    }
}

#[test]
fn a_worker_does_exactly_one_thing() {
    let with = |lines: &str| only_mistake(&format!("[workers.ping]\n{lines}"));
    assert!(with("").contains("does nothing with a job"));
    assert!(with("command = []").contains("workers.ping.command: it is empty"));
    assert!(with("coprocess = [\"\"]").contains("workers.ping.coprocess: it is empty"));
    assert!(with("coproces = [\"cat\"]").contains("did you mean coprocess?"));
    assert!(with("function = \"ping\"").contains("has no functions"));
    for second in ["function = \"f\"", "coprocess = [\"cat\"]"] {
        let both = mistakes(&format!("[workers.ping]\ncommand = [\"cat\"]\n{second}"));
        assert!(both[0].starts_with("pings.toml:1:10: workers.ping: only one of command"));
    }
    let lines = "[workers.ping]\ncoprocess = [\"sh\", \"{}\"]";
    let run = &load_text(lines).workers[0].run;
    assert_eq!(*run, Run::Coprocess(vec!["sh".into(), "{}".into()]));
    assert!(only_mistake("").starts_with("pings.toml:1:1: workers: no kind of worker"));
    // In the order of the file, not of the names.
    let mistake =
        only_mistake("[workers.z]\ncommand = [\"cat\"]\n[workers.a]\ncommand = [\"cat\"]");
    assert!(mistake.starts_with("pings.toml:3:10: workers.a: only one kind of worker"));
    assert!(with("command = [\"a\\u0000\"]").contains("NUL"));
    assert!(only_mistake("[workers.\"a/b\"]\ncommand = [\"cat\"]").contains("contains a '/'"));
    assert!(with("command = [\"cat\"]\nenv = { \"A=B\" = \"\" }").contains("'='"));
}

/// The option overrides its key, and is not wrong because of another key of the file.
#[test]
fn a_deadline_of_the_command_line_that_is_shorter_than_the_reserve_leaves_a_quarter_and_says_so() {
    let files = Files::new(&format!("{WORKER}[shutdown]\nflush_reserve = \"2s\"\n"));
    for (seconds, reserve, warnings) in [(2, 500, 1), (1, 250, 1), (3, 2000, 0)] {
        let deadline = Some(Duration::from_secs(seconds));
        let loaded = files.load_with(&Overrides { deadline, ..Overrides::default() }).unwrap();
        assert_eq!(loaded.config.shutdown.flush_reserve, Duration::from_millis(reserve));
        let said: Vec<String> = loaded.warnings.lines().map(|line| line.to_string()).collect();
        assert_eq!(said.len(), warnings, "{said:?}");
        assert!(said.iter().all(|it| it.contains("shutdown.flush_reserve: 2s is not less than")));
    }
}

#[test]
fn a_short_deadline_leaves_a_quarter_for_the_flush() {
    let shutdown = |lines: &str| load_text(&format!("{WORKER}[shutdown]\n{lines}")).shutdown;
    let milliseconds = Duration::from_millis;
    assert_eq!(shutdown("deadline = \"2s\"").flush_reserve, milliseconds(500));
    assert_eq!(shutdown("deadline = \"2001ms\"").flush_reserve, milliseconds(2000));
    let reserve = "deadline = \"1s\"\nflush_reserve = \"999ms\"";
    assert_eq!(shutdown(reserve).flush_reserve, milliseconds(999));
    for lines in ["deadline = \"0s\"", "deadline = \"1s\"\nflush_reserve = \"1s\""] {
        let mistake = only_mistake(&format!("{WORKER}[shutdown]\n{lines}"));
        assert!(mistake.contains(": shutdown."), "{mistake}");
    }
}

#[test]
fn one_file_has_one_use() {
    let files = Files::new(&format!(
        "{WORKER}[jobs]\nlines = \"hosts.txt\"\n[output]\nfile = \"link\"\n[spool]\n\
         file = \"./new\"\n[log]\nfile = \"${{NO_SUCH_VARIABLE:-new}}\""
    ));
    std::fs::hard_link(files.path("hosts.txt"), files.path("link")).unwrap();
    let mistakes = files.mistakes();
    assert_eq!(
        mistakes,
        [
            "pings.toml:6:8: output.file: this is the same file as jobs.lines",
            "pings.toml:10:8: log.file: this is the same file as spool.file",
        ]
    );
    let null = "[jobs]\nlines = \"/dev/null\"\n[output]\nfile = \"/dev/null\"\n[spool]\nfile = \"spool\"\n";
    assert_eq!(load_text(&format!("{WORKER}{null}")).name, "pings");
    let itself = only_mistake(&format!("{WORKER}[output]\nfile = \"pings.toml\""));
    assert!(itself.ends_with("the same file as the configuration"), "{itself}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        |path: &Path| load(path, &Overrides::default(), &Known::default()).unwrap_err().to_string();
    let missing = folder.path().join("none.toml");
    assert!(text(&missing).starts_with(&format!("{}: ", missing.display())));
    assert!(text(folder.path()).contains("this is a directory"));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"a = 1\nb\xff").unwrap();
    assert!(text(&binary).contains("binary.toml:2:2: the byte 0xff is not valid UTF-8"));
}

/// A configuration whose `[output]` table is this one.
fn with_output(table: &str) -> Result<Loaded, Error> {
    let text =
        format!("[jobs]\nlines = \"-\"\n[workers.w]\ncommand = [\"true\"]\n[output]\n{table}\n");
    Files::new(&text).load_with(&Overrides::default())
}

#[test]
fn a_format_brings_its_own_keys_and_defaults() {
    let output = |table: &str| with_output(table).unwrap().config.output;
    let csv = output("format = \"csv\"\ncolumns = [\"job\", \"ok\"]");
    assert_eq!(csv.format, Format::Csv { columns: vec!["job".into(), "ok".into()] });
    assert!(csv.file.ends_with("results.csv"));
    let Format::Csv { columns } = output("format = \"csv\"").format else { panic!("csv") };
    assert!(columns.starts_with(&["job".into(), "seq".into()]));
    assert_eq!(output("format = \"json\"").format, Format::JsonLines);
}

#[test]
fn a_format_that_can_not_be_is_refused_with_what_can() {
    for (table, message) in [
        ("format = \"jsno\"", "did you mean \"json\"?"),
        ("format = \"lines\"", "the result of a command has several fields"),
        ("format = \"postcard\"", "it can't hold the results of commands"),
        ("columns = [\"a\"]", "only the format \"csv\" has this key"),
        ("format = \"csv\"\ncolumns = []", "at least one column"),
        ("format = \"csv\"\ncolumns = [\"a\", \"a\"]", "there twice"),
        ("format = \"csv\"\ntable = \"t\"", "only the format \"sqlite\" has this key"),
        ("format = \"sqlite\"\ntable = \"sqlite_x\"", "can't be a table"),
    ] {
        let error = with_output(table).unwrap_err().to_string();
        assert!(error.contains(message), "{table}: {error}");
    }
    let sqlite = with_output("format = \"sqlite\"").map(|loaded| loaded.config.output.format);
    match (cfg!(feature = "sqlite"), sqlite) {
        (true, Ok(format)) => assert_eq!(format, Format::Sqlite { table: "results".into() }),
        (false, Err(error)) => assert!(error.to_string().contains("built without SQLite")),
        (_, other) => panic!("{other:?}"),
    }
}

#[test]
fn dead_letters_have_a_file_of_their_own() {
    let error = with_output("file = \"out.jsonl\"\n[dead_letters]\nfile = \"out.jsonl\"");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("dead_letters.file: this is the same file as output.file"), "{error}");
}

#[test]
fn jobs_come_from_a_list_or_from_a_directory() {
    let files = |jobs: &str| {
        let files = Files::new(&format!("{WORKER}[jobs]\n{jobs}\n"));
        std::fs::create_dir(files.path("in")).unwrap();
        files
    };
    for (jobs, once) in [("directory = \"in\"", false), ("directory = \"in\"\nonce = true", true)] {
        let files = files(jobs);
        let loaded = files.load_with(&Overrides::default()).unwrap();
        let directory = Directory { path: files.path("in"), once };
        assert_eq!(loaded.config.jobs, Some(Jobs::Directory(directory)));
        assert!(!loaded.jobs_by_default);
        // An option of the command line is another place for jobs.
        let overrides = Overrides { jobs: Some(Lines::Stdin), ..Overrides::default() };
        let loaded = files.load_with(&overrides).unwrap();
        let list = loaded.config.jobs.as_ref().and_then(Jobs::list).unwrap();
        assert_eq!(list.lines, Lines::Stdin);
    }
    for (jobs, mistake) in [
        ("directory = \"in\"\nlines = \"hosts.txt\"", "jobs.lines is set as well"),
        ("directory = \"in\"\nevery = \"1s\"", "jobs.every: a directory is not run again"),
        ("lines = \"hosts.txt\"\nonce = true", "jobs.once: it goes with jobs.directory"),
        ("directory = \"out\"", "jobs.directory: the directory out can't be read"),
        ("directory = \"hosts.txt\"", "jobs.directory: hosts.txt is no directory"),
        ("directory = \"in\"\nonce = \"yes\"", "this is the text \"yes\"; did you mean true?"),
    ] {
        let mistakes = files(jobs).mistakes().join("\n");
        assert!(mistakes.contains(mistake), "{jobs}: {mistakes}");
    }
}

#[test]
fn limits_and_privileges_are_understood() {
    let text = "recycle_after = 10000\nrecycle_above = \"300MiB\"\nmemory_limit = \"512MiB\"\n\
                descriptor_limit = 1024\nnice = -5\noom_score_adj = -100\n\
                [privileges]\nuser = \"root\"\ngroup = \"0\"\nno_new_privs = true\n";
    let config = load_text(&format!("{WORKER}{text}"));
    let worker = &config.workers[0];
    assert_eq!((worker.recycle_after, worker.recycle_above), (Some(10_000), Some(300 << 20)));
    let limits = Limits {
        memory: Some(512 << 20),
        descriptors: Some(1024),
        nice: Some(-5),
        oom_score_adj: Some(-100),
    };
    assert_eq!(worker.limits, limits);
    let privileges =
        Privileges { user: Some("root".into()), group: Some("0".into()), no_new_privs: true };
    assert_eq!(config.privileges, privileges);
}

#[test]
fn mistakes_in_limits_and_privileges_have_a_place_and_say_what_to_do() {
    for (text, expected) in [
        ("recycle_after = 0", "3:17: workers.ping.recycle_after: 0 is out of range; allowed: 1 or"),
        ("recycle_above = \"1KiB\"", "3:17: workers.ping.recycle_above: \"1KiB\" is out of range"),
        ("nice = 20", "3:8: workers.ping.nice: 20 is out of range; allowed: -20 to 19"),
        ("oom_score_adj = 1001", "3:17: workers.ping.oom_score_adj: 1001 is out of range"),
        (
            "threads = 100\nmemory_limit = \"64MiB\"",
            "4:16: workers.ping.memory_limit: 64.0 MiB is too little memory; allowed: at least \
             432.0 MiB, which a process of 100 threads needs for itself",
        ),
        (
            "threads = 1\ndescriptor_limit = 20",
            "4:20: workers.ping.descriptor_limit: 20 are too few descriptors; allowed: at least 48, \
             which a process of 1 thread needs",
        ),
        (
            "[privileges]\nuser = \"no such\"",
            "4:8: privileges.user: there is no user \"no such\" on this system; create it (useradd",
        ),
        (
            "[privileges]\nuser = \"root\"\ngroup = \"nosuch\"",
            "5:9: privileges.group: there is no group \"nosuch\" on this system; create it (groupadd",
        ),
        ("[privileges]\ngroup = \"root\"", "4:9: privileges.group: a group without a user"),
        ("[privileges]\nuser = 65534", "4:8: privileges.user: a text is needed"),
        ("[privileges]\nuser = \"3999999\"", "4:8: privileges.user: user 3999999 is not in the"),
        ("[privileges]\nno_new_privileges = true", "4:1: privileges.no_new_privileges: "),
    ] {
        let mistake = only_mistake(&format!("{WORKER}{text}"));
        let expected = format!("pings.toml:{expected}");
        assert!(mistake.starts_with(&expected), "{mistake}\nis not\n{expected}");
    }
}
