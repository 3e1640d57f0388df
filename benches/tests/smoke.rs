//! All workloads with tiny numbers: what they measure means nothing, but every contestant carries its
//! records, and every output is looked at line by line.

use std::path::Path;
use std::process::Command;

#[test]
fn every_workload_runs_every_output_is_complete_and_the_page_shows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("performance.md");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    std::fs::copy(docs, &page).expect("a page with marks");
    let ended = Command::new(env!("CARGO_BIN_EXE_procsig-benches"))
        .arg("all")
        .arg(folder.path())
        .arg("--memory")
        .arg(folder.path())
        .arg("--disk")
        .arg(folder.path())
        .args(["--rounds", "1", "--small", "--of", "A smoke test.", "--page"])
        .arg(&page)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    // What CI installs is there; elsewhere peers may be missing, and are skipped by name.
    let skipped: Vec<_> =
        said.lines().filter(|line| line.ends_with("is not here: skipped")).collect();
    assert!(skipped.is_empty() || std::env::var_os("CI").is_none(), "{skipped:?}");
    skipped.iter().for_each(|line| println!("{line}"));

    let page = std::fs::read_to_string(&page).expect("the page");
    for row in [
        "| 2 × 1,000 records | append |",
        "| 2 × 1,000 records | crossbeam |",
        "| 2 × 1,000 records | crossbeam-256 |",
        "| 2 × 1,000 records | crossbeam-blocks |",
        "| 2 × 1,000 records | pipes |",
        "| 2 × 1,000 records | ipc-channel |",
        "| 2 × 1,000 records | ipc-channel-256 |",
        "| 2 × 1,000 records | append-synced |",
        "| 20 × /bin/true, 4 at a time | a loop of posix_spawn |",
        "| idle, 4 workers | sigwait, kill, waitpid |",
        "| 1,000 records pending |",
        "| 1 MiB pending, until all is written |",
        "| median, quiet | a pipe there and back |",
        "| records of 4 producers |",
        "| start and stop of 3 workers | fork, kill, waitpid of as many |",
        "| jobs that do nothing, 2 × 4 threads |",
        "A smoke test.",
    ] {
        assert!(page.contains(row), "{row} is not in this:\n{page}\n{said}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    let mut left: Vec<_> = left.iter().map(|entry| entry.file_name()).collect();
    left.sort();
    let expected = [
        "jobs.txt",
        "performance.md",
        "performance.svg",
        "results.md",
        "results.svg",
        "results.tsv",
    ];
    assert_eq!(left, expected, "each contest removes what it has written");
}
