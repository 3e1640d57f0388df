//! What the program says of itself: lines to paste, its version, completions for shells.

use clap_complete::Shell;

/// Lines that can be pasted, for a command of a program; for the program itself with "".
/// `functions` are those of the program's own.
pub(super) fn examples(command: &str, program: &str, functions: &[&str]) -> Vec<String> {
    let lines: &[&str] = match (command, functions.first()) {
        ("" | "run", None) => &[
            "procsig run --jobs hosts.txt -o pings.jsonl -j 8 --timeout 5s -- ping -c1 {}",
            "procsig run --jobs urls.txt --every 30s -o checks.jsonl -- curl -fsS -o /dev/null \
             -w '%{http_code}' {}",
        ],
        ("" | "run", Some(first)) => {
            return vec![
                format!("{program} run --jobs jobs.txt -o results.jsonl --function {first}"),
                format!("{program} run config.toml"),
            ];
        }
        ("dead-letters", _) => &[
            "procsig dead-letters pings.dead.jsonl",
            "procsig dead-letters pings.dead.jsonl | procsig run --jobs - -o again.jsonl -- ping -c1 {}",
        ],
        ("check", _) => &[
            "procsig check pings.toml && procsig run pings.toml",
            "procsig check --json pings.toml",
        ],
        ("timeline", _) => {
            &["procsig timeline pings.toml", "procsig timeline -o stop.svg pings.toml"]
        }
        ("stop", _) => &["procsig stop", "procsig stop pings.toml --timeout 30s"],
        ("status", _) => &[
            "procsig status",
            "procsig status pings.toml --watch",
            "procsig status --json | jq .jobs",
        ],
        ("init", _) => &["procsig init > pings.toml"],
        ("completions", _) => &[
            "procsig completions bash > ~/.local/share/bash-completion/completions/procsig",
            "procsig completions zsh > ~/.zfunc/_procsig",
            "procsig completions fish > ~/.config/fish/completions/procsig.fish",
        ],
        ("man", _) => {
            &["procsig man | man -l -", "procsig man > /usr/local/share/man/man1/procsig.1"]
        }
        _ => &[],
    };
    lines.iter().map(|line| line.replace("procsig", program)).collect()
}

/// A help that begins with what can be pasted. It stands in a template, since only there clap leaves
/// long lines whole; what is in braces and no tag of clap's is left as it is.
pub(super) fn template(examples: &[String]) -> String {
    let examples: String = examples.iter().map(|line| format!("{line}\n")).collect();
    let gap = if examples.is_empty() { "" } else { "\n" };
    format!(
        "{examples}{gap}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n\
         {{all-args}}{{after-help}}"
    )
}

/// What `-V` and `--version` say after the program's name: one line, and all that a report of a
/// fault needs. A program with a version of its own says procsig's, too.
pub(super) fn versions(own: Option<&str>) -> (String, String) {
    let procsig = env!("CARGO_PKG_VERSION");
    let features: Vec<&str> = [
        ("bincode", cfg!(feature = "bincode")),
        ("sqlite", cfg!(feature = "sqlite")),
        ("zstd", cfg!(feature = "zstd")),
    ]
    .iter()
    .filter_map(|(name, is_there)| is_there.then_some(*name))
    .collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let libc = match cfg!(target_env = "musl") {
        true => "musl",
        false => "gnu",
    };
    let built = format!("features: {features}\ntarget: {}-linux-{libc}", std::env::consts::ARCH);
    match own {
        Some(own) => (own.to_owned(), format!("{own}\nprocsig {procsig}\n{built}")),
        None => (procsig.to_owned(), format!("{procsig}\n{built}")),
    }
}

/// What completes the command line in a shell.
pub(super) fn completions(shell: Shell, mut line: clap::Command, program: &str) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut line, program, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::config::raw::{Known, KnownFunction};

    fn help_of(program: &str, words: &[&str], known: &Known) -> String {
        let line = args::command(program, None, known);
        line.try_get_matches_from(words).unwrap_err().to_string()
    }

    #[test]
    fn the_help_of_every_command_begins_with_a_line_to_paste() {
        for name in ["procsig", "lengths"] {
            let function = KnownFunction { name: "length".into(), takes_jobs: true, record: "u64" };
            let own = Known { functions: vec![function], ..Known::default() };
            let known = if name == "procsig" { Known::default() } else { own };
            let line = args::command(name, None, &known);
            for command in line.get_subcommands() {
                let command = command.get_name();
                let help = help_of(name, &[name, command, "--help"], &known);
                let first = help.lines().next().unwrap_or("");
                assert!(first.starts_with(&format!("{name} {command}")), "{command}:\n{help}");
                assert_eq!(help, help_of(name, &[name, "help", command], &known));
            }
        }
    }

    #[test]
    fn the_version_is_one_line_or_all_that_a_report_needs() {
        let (short, long) = versions(None);
        assert_eq!(short, env!("CARGO_PKG_VERSION"));
        assert!(long.starts_with(&format!("{short}\nfeatures: ")), "{long}");
        assert!(long.contains("\ntarget: ") && long.contains("-linux-"), "{long}");
        let (short, long) = versions(Some("2.0"));
        assert_eq!(short, "2.0");
        assert!(long.starts_with("2.0\nprocsig "), "{long}");
    }

    #[test]
    fn every_shell_gets_completions_that_know_the_commands_and_the_program() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let line = args::command("lengths", None, &Known::default());
            let text = completions(shell, line, "lengths");
            assert!(text.contains("lengths") && text.contains("dead-letters"), "{shell}:\n{text}");
            assert!(!text.contains("procsig run"), "{shell} names another program");
        }
    }
}
