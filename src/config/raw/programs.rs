//! The programs that commands and coprocesses name: can they be started at all?
//!
//! What a job names is known only when it comes. A path that is relative to the working directory of
//! the run is not refused either, since that may be another one than today's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;

use super::reader::Origin;
use super::resolve::Resolver;
use super::values;
use crate::error::Wrong;
use crate::sys::spawn;

/// Words of a shell that are no programs.
const BUILTINS: [&str; 12] =
    [".", "alias", "cd", "eval", "exec", "exit", "export", "for", "if", "set", "source", "while"];

/// What stands between commands of a shell.
const OPERATORS: [&str; 9] = ["|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1"];

impl Resolver<'_> {
    /// Is there such a program? `origins`: of the whole command, and of its first word.
    pub(super) fn program(
        &mut self,
        command: &[String],
        environment: &BTreeMap<String, String>,
        origins: (&Origin, &Origin),
    ) {
        let Some(name) = command.first() else { return };
        let is_line = command.len() == 1 && name.contains(' ') && !name.contains('/');
        if name.contains("{}") && !is_line {
            return;
        }
        let path = Path::new(name);
        let by_path = name.contains('/');
        let error = match spawn::find_program(name, environment) {
            Err(error) => error,
            // A directory can be "executed", too.
            Ok(()) if by_path && path.is_dir() => Errno::EACCES,
            Ok(()) => return,
        };
        let is_missing = matches!(error, Errno::ENOENT | Errno::ENOTDIR);
        if by_path && path.is_absolute() {
            let wrong = match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    Some(Wrong::new(format!("{name} is a directory, and no program")))
                }
                Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some(
                    Wrong::new(format!("{name} is not executable"))
                        .help(format!("make it so with: chmod +x {name}")),
                ),
                _ if is_missing => Some(Wrong::new(format!("there is no program {name}"))),
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.mistake(origins.1, wrong.outside());
            }
        } else if is_missing && by_path {
            let wrong = format!("there is no program {name}, seen from this directory");
            self.warning(
                origins.1,
                Wrong::new(wrong).help("it is relative to where procsig is started"),
            );
        } else if is_missing {
            self.not_found(command, environment, origins);
        }
    }

    fn not_found(
        &mut self,
        command: &[String],
        environment: &BTreeMap<String, String>,
        (whole, first): (&Origin, &Origin),
    ) {
        let name = &command[0];
        let words: Vec<&str> = name.split_whitespace().collect();
        let wrong = Wrong::new(format!("there is no program {name:?} in any directory of PATH"));
        if words.len() > 1 && command.len() == 1 {
            let wrong = wrong.suggest(Some(format!("[{}]", values::list(&words))));
            let wrong =
                wrong.help("a command is an array: the program, and each argument by itself");
            return self.mistake(whole, wrong.outside());
        }
        let path = environment.get("PATH").map(|path| path.as_str().into());
        let path = path.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        let wrong = match BUILTINS.contains(&name.as_str()) {
            true => wrong.help(format!(
                "{name} is a word of the shell: [\"sh\", \"-c\", \"{name} ... \\\"$1\\\"\", \"sh\", \"{{}}\"]"
            )),
            false => wrong
                .suggest(similar(name, &path).map(|name| format!("{name:?}")))
                .help(format!("PATH is {}", path.to_string_lossy())),
        };
        self.mistake(first, wrong.outside());
    }

    /// Words that only a shell would understand.
    pub(super) fn warn_of_shell(&mut self, command: &[(String, Origin)]) {
        let is_shell = |name: &str| {
            Path::new(name).file_name().is_some_and(|name| {
                ["sh", "bash", "dash", "zsh", "ksh", "busybox"].iter().any(|shell| name == *shell)
            })
        };
        if command.first().is_some_and(|(name, _)| is_shell(name)) {
            return;
        }
        for (word, origin) in command.iter().skip(1) {
            if OPERATORS.contains(&word.as_str()) {
                let what = format!("the program gets {word:?} as it is: no shell is between");
                let help =
                    "if a shell is meant: [\"sh\", \"-c\", \"... \\\"$1\\\" ...\", \"sh\", \"{}\"]";
                self.warning(origin, Wrong::new(what).help(help));
            }
        }
    }
}

/// The program in PATH whose name is nearest.
fn similar(name: &str, path: &OsStr) -> Option<String> {
    let folders = std::env::split_paths(path).filter_map(|folder| std::fs::read_dir(folder).ok());
    let names: Vec<String> =
        folders.flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    values::near_miss(name, names.iter().map(String::as_str)).map(str::to_owned)
}
