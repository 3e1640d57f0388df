//! A command for each job: how much more than starting it costs it to have its result kept.

use crate::processes::daemon;
use rustix::process::{WaitOptions, wait};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const JOBS: usize = 5_000;

/// Commands at a time.
const AT_A_TIME: usize = 4;

/// Writes the list of jobs into the folder.
///
/// # Errors
/// What the system says.
pub fn prepare(folder: &Path) -> io::Result<()> {
    let jobs: String = (1..=JOBS).map(|job| format!("{job}\n")).collect();
    fs::write(folder.join("jobs.txt"), jobs)
}

/// Seconds for all jobs; the results are looked at.
///
/// # Errors
/// If a result is missing.
pub fn procsig(folder: &Path) -> io::Result<f64> {
    let output = folder.join("out.jsonl");
    let _none = fs::remove_file(&output);
    let mut command = Command::new(daemon()?);
    command
        .args(["run", "--jobs", "jobs.txt", "-o", "out.jsonl", "-P", "2", "-j", "2", "-q"])
        .args(["--", "/bin/true"])
        .current_dir(folder);
    let took = time(&mut command)?;
    let results = fs::read_to_string(&output)?;
    let good = results.lines().filter(|line| line.contains(r#""ok":true"#)).count();
    match good {
        JOBS => Ok(took),
        _ => Err(io::Error::other(format!("{good} good results of {JOBS} jobs"))),
    }
}

/// The limit: commands are started and waited for, and that is all.
///
/// # Errors
/// What the system says.
pub fn spawn_loop(folder: &Path) -> io::Result<f64> {
    let began = Instant::now();
    let mut running = 0;
    for job in fs::read_to_string(folder.join("jobs.txt"))?.lines() {
        if running == AT_A_TIME {
            wait(WaitOptions::empty())?;
            running -= 1;
        }
        // Not dropped as a child would be: `wait` takes whichever has ended.
        std::mem::forget(Command::new("/bin/true").arg(job).spawn()?);
        running += 1;
    }
    for _ in 0..running {
        wait(WaitOptions::empty())?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// # Errors
/// What the system says.
pub fn xargs(folder: &Path) -> io::Result<f64> {
    let mut command = Command::new("xargs");
    command.args(["-P4", "-n1", "/bin/true"]).stdin(fs::File::open(folder.join("jobs.txt"))?);
    time(&mut command)
}

/// # Errors
/// What the system says.
pub fn parallel(folder: &Path) -> io::Result<f64> {
    let log = folder.join("joblog");
    let _none = fs::remove_file(&log);
    let mut command = Command::new("parallel");
    command.args(["-j4", "--joblog"]).arg(&log).args(["/bin/true", "{}"]);
    command.stdin(fs::File::open(folder.join("jobs.txt"))?);
    time(&mut command)
}

fn time(command: &mut Command) -> io::Result<f64> {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    match status.success() {
        true => Ok(began.elapsed().as_secs_f64()),
        false => Err(io::Error::other(format!("{command:?}: {status}"))),
    }
}
