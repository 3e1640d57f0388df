//! From the signal to the end of the last process.

use crate::processes::{Running, idle_daemon};
use rustix::process::Signal;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Workers, or services.
pub const WORKERS: usize = 4;

/// Records that wait when the stop is asked for.
pub const PENDING: u64 = 1_000_000;

/// Seconds to stop a pipeline that has nothing to do.
///
/// # Errors
/// What the system says.
pub fn procsig(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    idle_daemon(folder.path(), WORKERS)?.stop(Signal::TERM)
}

/// s6's supervisor with as many services that do nothing.
///
/// # Errors
/// What the system says.
pub fn s6(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    services(folder.path())?;
    let mut command = Command::new("s6-svscan");
    command.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    // Each service has a supervisor of its own.
    Running::start(&mut command, 1 + 2 * WORKERS)?.stop(Signal::TERM)
}

/// runit's likewise; HUP is its signal to stop its services.
///
/// # Errors
/// What the system says.
pub fn runit(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    services(folder.path())?;
    let mut command = Command::new("runsvdir");
    command.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    Running::start(&mut command, 1 + 2 * WORKERS)?.stop(Signal::HUP)
}

fn services(folder: &Path) -> io::Result<()> {
    for service in 0..WORKERS {
        let service = folder.join(format!("service{service}"));
        fs::create_dir(&service)?;
        let run = service.join("run");
        fs::write(&run, "#!/bin/sh\nexec sleep 1000\n")?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Seconds to stop a pipeline in which so many records wait to be written.
///
/// # Errors
/// If one of them is not in the output.
pub fn with_pending(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let output = folder.path().join("out.jsonl");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("pending").arg(&output).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running::start(&mut command, 3)?;
    // It says so when all are published.
    let mut said = running.main.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    io::Read::read_exact(&mut said, &mut [0])?;
    let written = fs::metadata(&output)?.len();
    if written != 0 {
        return Err(io::Error::other(format!("{written} bytes were written before the stop")));
    }
    let took = running.stop(Signal::TERM)?;
    crate::record::verify(&output, 1, PENDING)?;
    Ok(took)
}

/// Seconds to write as many bytes to a file and to the disk.
///
/// # Errors
/// What the system says.
pub fn disk(folder: &Path) -> io::Result<f64> {
    let block: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    let began = Instant::now();
    let mut file = tempfile::tempfile_in(folder)?;
    for _ in 0..PENDING * 105 / block.len() as u64 {
        io::Write::write_all(&mut file, &block)?;
    }
    file.sync_data()?;
    Ok(began.elapsed().as_secs_f64())
}

/// A pipeline that publishes its records, says so, and writes them when it is stopped.
pub fn pending(output: &Path) -> std::process::ExitCode {
    use procsig::{Emitter, Pipeline, Stop, config};
    use std::io::Write;
    use std::time::Duration;
    let never = Duration::from_secs(3600);
    let produce = move |stop: &Stop, out: &mut Emitter<'_, crate::record::Record>| {
        for number in 0..PENDING {
            out.emit(&crate::record::Record::of(0, number))?;
        }
        io::stdout().write_all(b".").and_then(|()| io::stdout().flush())?;
        while !stop.wait(never) {}
        Ok(())
    };
    Pipeline::new("pending")
        .producer("p", produce)
        .sink(procsig::sink::json_lines(output))
        .flush(config::Buffer {
            flush_records: u64::MAX,
            flush_bytes: u64::MAX,
            flush_after: never,
        })
        .shutdown(config::Shutdown {
            deadline: Duration::from_secs(60),
            flush_reserve: Duration::from_secs(50),
        })
        .spool(config::Spool { lane: Some(256 << 20), ..config::Spool::default() })
        .run()
        .into()
}
