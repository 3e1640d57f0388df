//! The pipelines of the soak: what each is told to do, and where its jobs come from.

use crate::support::{Place, example, program};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// What the workers of a pipeline are, and where their jobs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A list, to its end, by commands; dead letters; rotated files are compressed, a few kept.
    Commands,
    /// A list again and again by coprocesses, each flush synced; its output is moved by others.
    Coprocesses,
    /// A list, to its end, by functions with several records each.
    Functions,
    /// The files of a directory as rows of CSV, in a file for each few seconds; dead letters.
    Files,
    /// Producers, synced at the stop only.
    Producers,
}

/// One pipeline of the soak.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of its workers, too; the kernel has room for 6 bytes of it.
    pub name: &'static str,
    pub kind: Kind,
    /// Main, source and buffer are never killed and never told to stop before the end: what grows in
    /// them is seen.
    pub steady: bool,
}

pub const PLANS: [Plan; 7] = [
    Plan { name: "cmd", kind: Kind::Commands, steady: false },
    Plan { name: "cop", kind: Kind::Coprocesses, steady: false },
    Plan { name: "func", kind: Kind::Functions, steady: false },
    Plan { name: "file", kind: Kind::Files, steady: false },
    Plan { name: "tick", kind: Kind::Producers, steady: false },
    Plan { name: "scop", kind: Kind::Coprocesses, steady: true },
    Plan { name: "sfile", kind: Kind::Files, steady: true },
];

pub const CONFIG: &str = "soak.toml";
pub const DEAD: &str = "dead.jsonl";
/// Of [`Kind::Coprocesses`].
pub const LINES_OF_A_ROUND: u64 = 60;

/// What a command does: some fail, hang, have much to say, end by a signal, or leave something behind.
const WORK: &str = r#"echo "$1"
case $1 in
*00) exit 1 ;;
*20) exec sleep 100 ;;
*40) sleep 3 & ;;
*60) head -c 12000 /dev/zero | tr '\0' x ;;
*80) kill -SEGV $$ ;;
esac
exec sleep 0.2
"#;

const ALL: &str = "[buffer]\nflush_records = 20\nflush_after = \"200ms\"\n\
     [restart]\nmax = 1000\nwithin = \"1s\"\n\
     [spool]\nlane = \"64KiB\"\njobs = 64\njob_bytes = 256\n\
     [shutdown]\ndeadline = \"6s\"\nflush_reserve = \"2s\"\n";

impl Kind {
    /// A list that comes to its end by itself, and is done to it exactly once.
    pub fn is_finite(self) -> bool {
        matches!(self, Kind::Commands | Kind::Functions)
    }

    /// Main, buffer, two workers, and a source if there are jobs.
    pub fn processes(self) -> usize {
        if self == Kind::Producers { 4 } else { 5 }
    }

    pub fn output(self) -> &'static str {
        if self == Kind::Files { "out.csv" } else { "out.jsonl" }
    }

    pub fn spool(self) -> String {
        format!(".{}.spool", self.output())
    }

    fn program(self) -> PathBuf {
        if self == Kind::Commands { program() } else { example("test_soak") }
    }

    /// Its tables but for those that all have.
    fn tables(self, name: &str, itself: &str) -> String {
        match self {
            Kind::Commands => format!(
                "[jobs]\nlines = \"jobs.txt\"\nagain = false\n\
                 [workers.{name}]\ncommand = [\"sh\", \"work.sh\", \"{{}}\"]\n\
                 processes = 2\nthreads = 4\n\
                 timeout = \"1s\"\nattempts = 2\nretry_delay = \"100ms\"\nmax_output = \"8KiB\"\n\
                 [output]\nfile = \"out.jsonl\"\nsync = \"1s\"\n\
                 rotate_bytes = \"32KiB\"\nkeep = 10\ncompress = \"gzip\"\n\
                 [dead_letters]\nfile = \"{DEAD}\"\n"
            ),
            Kind::Coprocesses => format!(
                "[jobs]\nlines = \"jobs.txt\"\nevery = \"3s\"\n\
                 [workers.{name}]\ncoprocess = [\"{itself}\", \"answer\"]\n\
                 processes = 2\nthreads = 2\n\
                 timeout = \"1s\"\nattempts = 2\nretry_delay = \"50ms\"\nmax_output = \"8KiB\"\n\
                 [output]\nfile = \"out.jsonl\"\nsync = \"always\"\n"
            ),
            Kind::Functions => format!(
                "[jobs]\nlines = \"jobs.txt\"\nagain = false\n\
                 [workers.{name}]\nfunction = \"work\"\nprocesses = 2\nthreads = 4\n\
                 timeout = \"1s\"\nattempts = 2\nretry_delay = \"20ms\"\nrecycle_after = 300\n\
                 [output]\nfile = \"out.jsonl\"\nsync = \"50ms\"\n\
                 rotate_bytes = \"256KiB\"\nkeep = 10\n"
            ),
            Kind::Files => format!(
                "[jobs]\ndirectory = \"in\"\n\
                 [workers.{name}]\nfunction = \"file\"\nprocesses = 2\nthreads = 2\n\
                 recycle_after = 200\n\
                 [output]\nfile = \"out.csv\"\nformat = \"csv\"\nsync = \"200ms\"\n\
                 columns = [\"who\", \"nth\", \"file\", \"text\"]\n\
                 rotate_every = \"5s\"\nkeep = 10\ncompress = \"zstd\"\n\
                 [dead_letters]\nfile = \"{DEAD}\"\n"
            ),
            Kind::Producers => format!(
                "[workers.{name}]\nfunction = \"tick\"\nprocesses = 2\n\
                 [output]\nfile = \"out.jsonl\"\nsync = \"never\"\n\
                 rotate_bytes = \"64KiB\"\nkeep = 10\ncompress = \"gzip\"\n"
            ),
        }
    }

    /// A name in its directory that is no temporary file, and none of what was put aside as damaged.
    pub fn is_known_file(self, name: &str) -> bool {
        let known = ["soak.toml", "work.sh", "jobs.txt", "in", FILLER];
        known.contains(&name)
            || name == self.output()
            || name == self.spool()
            || (name == DEAD && matches!(self, Kind::Commands | Kind::Files))
            || (name.starts_with("moved.") && self == Kind::Coprocesses)
            || self.set_aside(name).is_some()
    }

    /// The name that a file had when it was set aside, before it was compressed.
    pub fn set_aside(self, name: &str) -> Option<&str> {
        let (stem, extension) = self.output().split_once('.')?;
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
        let time = name.strip_prefix(stem)?.strip_prefix('.')?.strip_suffix(extension)?;
        (time.starts_with('2') && time.ends_with("Z.")).then_some(name)
    }
}

/// What takes the room of a full disk.
pub const FILLER: &str = "filler";

impl Plan {
    /// Its place, with all that does not change.
    pub fn place(&self, mount: impl Fn(&Place)) -> Place {
        let place = Place::of(self.kind.program());
        mount(&place);
        fs::create_dir(place.private("published")).expect("a directory");
        if self.kind == Kind::Files {
            fs::create_dir(place.path("in")).expect("a directory");
        }
        let itself = place.program.to_str().expect("UTF-8");
        let tables = self.kind.tables(self.name, itself);
        place.write(CONFIG, format!("name = \"{}\"\n{tables}{ALL}", self.name));
        place.write("work.sh", WORK);
        if self.kind == Kind::Coprocesses {
            place.write("jobs.txt", lines("c", LINES_OF_A_ROUND));
        }
        place
    }
}

/// A list of jobs.
pub fn lines(prefix: &str, count: u64) -> String {
    (1..=count).map(|number| format!("{prefix}-{number}\n")).collect()
}

/// Files that are dropped into the directory.
#[derive(Default)]
pub struct Drops {
    count: u64,
    pub dropped: BTreeSet<String>,
    pub moved: BTreeSet<String>,
}

impl Drops {
    /// Drops the next file, if there is room for it.
    pub fn drop(&mut self, place: &Place) {
        let number = self.count + 1;
        let name = format!("f-{number}");
        let text = match number % 50 {
            0 => "bad\n".to_owned(),
            1 => format!("a \"quoted\" text,\nof {number}\r\n"),
            _ => format!("{number}{}", "x".repeat((number * 31 % 200) as usize)),
        };
        let hidden = place.path(&format!("in/.{name}"));
        if fs::write(&hidden, text).is_err() {
            // The disk is full, which is meant to be.
            let _ = fs::remove_file(&hidden);
            return;
        }
        fs::rename(hidden, place.path(&format!("in/{name}"))).expect("a file to drop");
        self.count = number;
        self.dropped.insert(name);
    }

    /// Removes what was acknowledged, which comes once.
    #[track_caller]
    pub fn take_moved(&mut self, place: &Place) {
        for folder in ["in/done", "in/failed"] {
            for entry in fs::read_dir(place.path(folder)).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().expect("UTF-8");
                assert!(self.dropped.contains(&name), "{folder}/{name} was never dropped");
                assert!(self.moved.insert(name.clone()), "{name} came to {folder} a second time");
                fs::remove_file(entry.path()).expect("a file that is done");
            }
        }
    }

    pub fn are_done(&self) -> bool {
        self.moved == self.dropped
    }
}
