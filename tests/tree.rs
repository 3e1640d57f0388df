//! What must stay true of the tree itself: which module may name which, where `unsafe` stands, how
//! long a file may be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file, at the most.
const LINES_MAX: usize = 560;

/// Rust files below `folder`, as paths relative to the repository.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no Rust files below {folder}");
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    path.strip_prefix(root).expect("inside of the repository").to_string_lossy().into_owned()
}

fn source(path: &Path) -> String {
    fs::read_to_string(path).expect("a readable file")
}

/// The code of a file, without the lines that are comments.
fn code(path: &Path) -> String {
    let lines = source(path);
    let code: Vec<&str> =
        lines.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    code.join("\n")
}

/// Top-level modules that a file names by `crate::`.
fn named_modules(path: &Path) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let code = code(path);
    let places = code.split("crate::").skip(1);
    places
        .flat_map(|rest| match rest.strip_prefix('{') {
            // `use crate::{a::b, c}`: the first word of each item of the outermost list.
            Some(list) => top_level_items(list).iter().map(|item| word(item)).collect(),
            None => vec![word(rest)],
        })
        .collect()
}

/// The items of a list in braces, up to its closing brace; lists inside of items stay whole.
fn top_level_items(list: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        if let Some(item) = items.last_mut() {
            item.push(if c == ',' && depth == 0 { ' ' } else { c });
        }
    }
    items
}

#[test]
fn modules_in_a_list_are_seen() {
    let items = top_level_items("flow::{a, b}, control::x};");
    assert_eq!(items.len(), 2);
    assert!(items[1].trim_start().starts_with("control"));
}

/// For each place: what it must not name.
const ARROWS: [(&str, &[&str]); 9] = [
    ("src/sys/", &["flow", "control", "config", "pipeline", "cli", "error", "stop", "log"]),
    ("src/stop.rs", &["flow", "control", "config", "pipeline", "cli", "error"]),
    ("src/flow/", &["control", "pipeline", "cli", "inspect"]),
    ("src/control/", &["pipeline", "cli", "inspect"]),
    ("src/inspect", &["control", "pipeline", "cli"]),
    ("src/config/", &["flow", "control", "pipeline", "cli"]),
    ("src/pipeline.rs", &["cli"]),
    ("src/log", &["flow", "control", "pipeline", "cli", "stop"]),
    ("src/error.rs", &["flow", "control", "config", "pipeline", "cli", "stop", "log", "sys"]),
];

#[test]
fn arrows_between_modules_point_one_way() {
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let name = relative(&path);
        for (place, forbidden) in ARROWS {
            if !name.starts_with(place) {
                continue;
            }
            for module in named_modules(&path) {
                if forbidden.contains(&module.as_str()) {
                    wrong.push(format!("{name} names crate::{module}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn of_control_only_launch_names_the_flow_of_data() {
    for path in rust_files("src/control") {
        let name = relative(&path);
        let names_flow = named_modules(&path).contains(&"flow".to_owned());
        let is_launch = name.starts_with("src/control/launch");
        assert_eq!(names_flow, is_launch, "{name}");
    }
}

#[test]
fn the_lifecycle_has_no_clock_no_system_call_and_no_log() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control");
    let parts = ["lifecycle.rs", "lifecycle/shutdown.rs", "lifecycle/terms.rs"];
    let machine: String = parts.iter().map(|part| code(&root.join(part))).collect();
    for word in ["sys::", "log::", "std::time::Instant", "SystemTime", "nix::", "rustix::", "_ =>"]
    {
        assert!(!machine.contains(word), "the lifecycle has {word}");
    }
}

/// Where the time of day is asked for: to be read by people, as a number that means nothing, or for
/// files that begin anew each day.
const WALL_CLOCKS: [&str; 10] = [
    "src/control/launch/notes.rs",
    "src/flow/queue/jobs.rs",
    "src/flow/queue/spool.rs",
    "src/flow/sink/file/rotation.rs",
    "src/flow/status/tests.rs",
    "src/flow/status.rs",
    "src/flow/worker/command.rs",
    "src/flow/worker/coprocess.rs",
    "src/log.rs",
    "src/sys/clock.rs",
];

#[test]
fn the_clock_on_the_wall_may_jump_since_nothing_waits_by_it() {
    let asks = |path: &Path| {
        let code = code(path);
        let words = ["wall()", "Realtime", "SystemTime", "Timestamp::now", "Zoned::now"];
        words.iter().any(|word| code.contains(word))
    };
    let asking: Vec<String> =
        rust_files("src").iter().filter(|path| asks(path)).map(|path| relative(path)).collect();
    assert_eq!(asking, WALL_CLOCKS, "a deadline goes by `clock::now`");
}

#[test]
fn unsafe_code_stands_in_few_files_and_each_block_has_its_reason() {
    let mut with_unsafe = Vec::new();
    for folder in ["src", "bin", "examples", "tests"] {
        for path in rust_files(folder) {
            let (name, text) = (relative(&path), source(&path));
            if name == "tests/tree.rs" || !code(&path).contains("unsafe ") {
                continue;
            }
            with_unsafe.push(name.clone());
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let line = line.trim_start();
                let block = !line.starts_with("//")
                    && (line.contains("unsafe {") || line.contains("unsafe impl"));
                let before = lines[number.saturating_sub(12)..number].join("\n");
                assert!(
                    !block || before.contains("SAFETY:"),
                    "{name}:{} has no reason",
                    number + 1
                );
            }
        }
    }
    for name in &with_unsafe {
        let allowed = name.starts_with("src/sys/") || name == "src/flow/queue/layout.rs";
        assert!(allowed, "{name} has unsafe code");
    }
    assert!(with_unsafe.len() >= 3, "the check has found too little: {with_unsafe:?}");
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for folder in ["src", "bin", "examples", "tests"] {
        for path in rust_files(folder) {
            let lines = source(&path).lines().count();
            if lines > LINES_MAX {
                long.push(format!("{}: {lines} lines", relative(&path)));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_binary_is_only_an_entry() {
    let lines = source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bin/procsig.rs"));
    assert!(lines.lines().count() < 80);
}

#[test]
fn every_test_that_the_table_of_faults_names_is_there() {
    let table = source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/what-is-survived.md"));
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let name = |word: &&str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let names: Vec<&str> = quoted.filter(name).collect();
    assert!(names.len() > 40, "the check has found too little: {names:?}");
    let files = ["src", "tests"].map(rust_files).concat();
    let all: String = files.iter().map(|path| code(path) + "\n").collect();
    let there = |name: &&str| all.contains(&format!("fn {name}()"));
    let missing: Vec<&str> = names.into_iter().filter(|name| !there(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/what-is-survived.md names tests that are not there: {missing:#?}"
    );
}

/// So that who changes a line that one of them changes hears of it at once.
#[test]
fn every_seeded_bug_still_has_its_place_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let has_perl = Command::new("perl").arg("-v").output().is_ok_and(|perl| perl.status.success());
    if !has_perl {
        assert!(std::env::var_os("CI").is_none(), "in CI there is perl");
        eprintln!("skipped: the places of seeded bugs are looked for with perl");
        return;
    }
    let mut command = Command::new("bash");
    command.arg(root.join("tests/seeded_bugs.sh")).arg("--applies");
    let looked = command.output().expect("bash");
    let [said, lost] = [&looked.stdout, &looked.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(looked.status.success(), "{lost}");
    let count = said.split(' ').next().and_then(|count| count.parse::<usize>().ok());
    assert!(count.is_some_and(|count| count > 70), "{said}{lost}");
}
