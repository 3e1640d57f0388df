//! From the signal to the end of the last process.

use crate::processes::{Running, idle_daemon, name, tree, wait_until};
use rustix::process::Signal;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Workers, or services.
pub const WORKERS: usize = 4;

/// Seconds to stop a pipeline that has nothing to do.
///
/// # Errors
/// What the system says.
pub fn procsig(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let running = idle_daemon(folder.path(), WORKERS)?;
    // It is idle when what it has done is on the disk, which is a second later.
    std::thread::sleep(Duration::from_millis(1500));
    running.stop(Signal::TERM)
}

/// A process that waits for the signal, ends as many others, and waits for their ends.
///
/// # Errors
/// What the system says.
pub fn bare(_: &Path) -> io::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bare", &WORKERS.to_string(), "wait"]).stdout(Stdio::piped());
    let mut main = command.spawn()?;
    let mut said = main.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    io::Read::read_exact(&mut said, &mut [0])?;
    Running::of(main)?.stop(Signal::TERM)
}

/// s6's supervisor with as many services that do nothing.
///
/// # Errors
/// What the system says.
pub fn s6(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    start_s6(folder.path())?.stop(Signal::TERM)
}

/// # Errors
/// If it does not get ready.
pub fn start_s6(folder: &Path) -> io::Result<Running> {
    start_services("s6-svscan", folder)
}

/// runit's likewise; HUP is its signal to stop its services.
///
/// # Errors
/// What the system says.
pub fn runit(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let running = start_services("runsvdir", folder.path())?;
    // It does not stop a service that is younger than a second before it is that old.
    std::thread::sleep(Duration::from_millis(1200));
    running.stop(Signal::HUP)
}

fn start_services(supervisor: &str, folder: &Path) -> io::Result<Running> {
    for service in 0..WORKERS {
        let service = folder.join(format!("service{service}"));
        fs::create_dir(&service)?;
        let run = service.join("run");
        fs::write(&run, "#!/bin/sh\nexec sleep 1000\n")?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(supervisor);
    let main = command.arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Each service has a supervisor of its own.
    wait_until("services", || {
        let asleep = |pid: &&u32| name(**pid) == "sleep";
        Ok(tree(main.id()).iter().filter(asleep).count() == WORKERS)
    })?;
    Running::of(main)
}
