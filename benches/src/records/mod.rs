//! Records to a file: several producers, one collector, one file, closed and complete.

pub mod append;
pub mod crossbeam;
#[cfg(feature = "iceoryx2")]
pub mod iceoryx;
pub mod ipc;
pub mod pipes;
pub mod procsig;
pub mod scripts;

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};

/// What a contestant is to do.
#[derive(Debug, Clone)]
pub struct Task {
    pub output: PathBuf,
    pub producers: u64,
    /// Of each producer.
    pub records: u64,
}

/// Bytes of an encoded block, where a contestant sends blocks.
pub const BLOCK: usize = 64 << 10;

/// This program again, as a producer of a contestant: `role`, then what the producer needs.
pub fn producer_process(role: &str, arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("producer").arg(role).args(arguments);
    Ok(command)
}

/// Waits for all producers.
///
/// # Errors
/// If one has failed.
pub fn wait_for(producers: Vec<Child>) -> io::Result<()> {
    for mut producer in producers {
        let status = producer.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("a producer has failed: {status}")));
        }
    }
    Ok(())
}
