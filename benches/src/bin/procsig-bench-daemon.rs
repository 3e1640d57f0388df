//! procsig as everybody runs it, with a function that does nothing.

use procsig::{Emitter, Job, JobError};

fn main() -> std::process::ExitCode {
    procsig::Daemon::new()
        .worker("nothing", |job: &Job<'_>, out: &mut Emitter<'_, u64>| -> Result<(), JobError> {
            out.emit(&job.seq())
        })
        .main()
}
