//! Contestants that are no Rust: a script each in `peers/`, which starts producers and what
//! collects their records.

use super::Task;
use crate::processes::is_here;
use crate::record::bytes;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// A script, and what it needs.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// As it stands in the table.
    pub name: &'static str,
    script: &'static str,
    needs: &'static str,
    /// Of the records that others carry, it carries one in so many: it is slow.
    pub part: u64,
    /// What procsig's rate should be, as a multiple of its.
    pub goal: Option<f64>,
}

const fn logger(name: &'static str, script: &'static str) -> Peer {
    Peer { name, script, needs: name, part: 1, goal: None }
}

pub const PEERS: [Peer; 5] = [
    logger("s6-log", "s6-log.sh"),
    logger("multilog", "multilog.sh"),
    logger("svlogd", "svlogd.sh"),
    Peer { needs: "rsyslogd", ..logger("rsyslog", "rsyslog.sh") },
    Peer {
        name: "Python's multiprocessing.Queue",
        script: "queue_to_file.py",
        needs: "python3",
        part: 4,
        goal: Some(70.0),
    },
];

/// Where the scripts are.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))
}

impl Peer {
    /// Is its program on this machine?
    pub fn is_here(&self) -> bool {
        is_here(self.needs)
    }

    /// `SCRIPT OUTPUT PRODUCERS RECORDS PROGRAM BYTES`: the program is this one, whose roles
    /// `producer lines` and `producer socket` write records, and so many bytes are the output.
    ///
    /// # Errors
    /// What the system says.
    pub fn command(&self, task: &Task) -> io::Result<Command> {
        let mut command = match self.needs {
            "python3" => Command::new("python3"),
            _ => Command::new("sh"),
        };
        command
            .arg(folder().join(self.script))
            .arg(&task.output)
            .args([task.producers.to_string(), task.records.to_string()])
            .arg(std::env::current_exe()?)
            .arg(bytes(task.producers, task.records).to_string());
        Ok(command)
    }
}
