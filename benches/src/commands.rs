//! A command for each job: how much more than starting it costs it to have its result kept.

use crate::processes::daemon;
use rustix::process::{WaitOptions, wait};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Commands at a time.
const AT_A_TIME: usize = 4;

/// Commands that are run in a folder, one for each line of a list.
#[derive(Debug, Clone, Copy)]
pub struct Commands<'a> {
    pub folder: &'a Path,
    pub count: usize,
}

impl Commands<'_> {
    /// Writes the list.
    ///
    /// # Errors
    /// What the system says.
    pub fn prepare(&self) -> io::Result<()> {
        let jobs: String = (1..=self.count).map(|job| format!("{job}\n")).collect();
        fs::write(self.folder.join("jobs.txt"), jobs)
    }

    fn jobs(&self) -> io::Result<fs::File> {
        fs::File::open(self.folder.join("jobs.txt"))
    }

    /// Seconds for all jobs; the results are looked at.
    ///
    /// # Errors
    /// If a result is missing.
    pub fn procsig(&self) -> io::Result<f64> {
        let folder = tempfile::tempdir_in(self.folder)?;
        let mut command = Command::new(daemon()?);
        command
            .args(["run", "--jobs", "../jobs.txt", "-o", "out.jsonl", "-P", "2", "-j", "2", "-q"])
            .args(["--", "/bin/true"])
            .current_dir(folder.path());
        let took = time(&mut command)?;
        let results = fs::read_to_string(folder.path().join("out.jsonl"))?;
        let mut good = results
            .lines()
            .map(serde_json::from_str::<serde_json::Value>)
            .filter(|result| result.as_ref().is_ok_and(|result| result["ok"] == true))
            .filter_map(|result| result.ok()?["seq"].as_u64())
            .collect::<Vec<_>>();
        good.sort_unstable();
        match good.iter().copied().eq(1..=self.count as u64) {
            true => Ok(took),
            false => {
                Err(io::Error::other(format!("{} good results of {} jobs", good.len(), self.count)))
            }
        }
    }

    /// The limit: commands are started and waited for, and that is all.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn_loop(&self) -> io::Result<f64> {
        let began = Instant::now();
        let mut running = 0;
        for job in io::read_to_string(self.jobs()?)?.lines() {
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
    pub fn xargs(&self) -> io::Result<f64> {
        let mut command = Command::new("xargs");
        command.args(["-P4", "-n1", "/bin/true"]).stdin(self.jobs()?);
        time(&mut command)
    }

    /// With a log that it can be gone on with after a stop.
    ///
    /// # Errors
    /// If a job is missing in it.
    pub fn parallel(&self) -> io::Result<f64> {
        let folder = tempfile::tempdir_in(self.folder)?;
        let log = folder.path().join("joblog");
        let mut command = Command::new("parallel");
        command.args(["-j4", "--joblog"]).arg(&log).args(["/bin/true", "{}"]).stdin(self.jobs()?);
        let took = time(&mut command)?;
        // Its first line is a header.
        match fs::read_to_string(log)?.lines().count() {
            lines if lines == self.count + 1 => Ok(took),
            lines => Err(io::Error::other(format!("{lines} lines of {} jobs", self.count))),
        }
    }
}

fn time(command: &mut Command) -> io::Result<f64> {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    match status.success() {
        true => Ok(began.elapsed().as_secs_f64()),
        false => Err(io::Error::other(format!("{command:?}: {status}"))),
    }
}
