//! `procsig man`: the manual page, one for the whole program.
//!
//! Commands and options come from the command line's own description, exit codes from
//! [`ExitCode`]; the rest stands here.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::help;
use crate::config::raw::Known;
use crate::error::{Error, ExitCode};

/// What is left of a terminal's line beside the page's margins and a line's ` \`.
const EXAMPLE_COLUMNS: usize = 68;

const DESCRIPTION: [&str; 3] = [
    "A source hands out the jobs, worker processes run the command or function for each, several at a \
     time, and a buffer appends the results to the output. A supervisor starts all of these, starts them \
     again when they die, and stops them in this order: the source first, then the workers, which finish \
     the jobs in hand, then the buffer, which writes everything.",
    "Stop it any way you like, kill any part of it, and start the same line again: every job's result is in \
     the output once, whole. A power loss can take what came after the last sync.",
    "`PROGRAM help COMMAND` explains the options of a command; the configuration file is explained by the \
     one that `PROGRAM init` prints.",
];

const SIGNALS: [(&str, &str); 5] = [
    (
        "SIGINT, SIGTERM",
        "To the supervisor: the ordered stop. A second one, at least 300 ms later, kills the workers, \
         writes what is published and exits with 4; a third kills everything, and the spool keeps the \
         rest. Sent to the whole group or to every process it is the same, since all children ignore it.",
    ),
    (
        "SIGHUP",
        "With a controlling terminal: the ordered stop. Without one: log, output and dead letters are opened anew, for logrotate. \
         Ignored at the start (nohup): stays ignored.",
    ),
    ("SIGUSR1", "The supervisor writes its status to the log."),
    (
        "SIGSTOP, SIGCONT",
        "A supervisor that was stopped moves its deadlines by as much. A stop wakes children.",
    ),
    (
        "SIGKILL",
        "Loses nothing that is published, whoever it hits. A child that is killed is started again. When the \
         supervisor is killed its children finish what they have in hand, write it and end.",
    ),
];

const FILES: [(&str, &str); 5] = [
    ("OUTPUT", "The results; appended to. Locked while a pipeline writes it."),
    (
        ".OUTPUT.spool",
        "Beside the output: what is published and not written yet, and which jobs are done. Start again with \
         the same one to go on. Must not be touched while it is in use; on a local file system.",
    ),
    ("OUTPUT.quarantine", "Bytes that were found damaged and are no records any more."),
    ("CONFIG.toml", "All settings; `PROGRAM init` prints one with every key explained."),
    ("done/, failed/", "In a directory of jobs: files whose results are on the disk."),
];

const ENVIRONMENT: [(&str, &str); 2] = [
    ("Any variable", "Replaces ${VAR} and ${VAR:-default} in texts of the configuration file."),
    (
        "PROCSIG_RUN",
        "Set by the program for each command, with the run's number. What a dead worker has left running is \
         known by it; don't clear it.",
    ),
];

/// The page, for `man -l -`.
pub(super) fn page(mut line: clap::Command, program: &str, known: &Known) -> Result<String, Error> {
    line.build();
    // No date: the same program has the same page whenever it is built. Left out, it would be a gap
    // into which the next word of the title moves up.
    let man = Man::new(line.clone()).date(" ").manual("User Commands");
    let mut page = Vec::new();
    let failed = Error::system::<std::io::Error>("can't make the manual page");
    let functions: Vec<&str> = known.functions.iter().map(|it| it.name.as_str()).collect();
    render(&mut page, &man, &line, program, &functions).map_err(failed)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn render(
    page: &mut Vec<u8>,
    man: &Man,
    line: &clap::Command,
    program: &str,
    functions: &[&str],
) -> std::io::Result<()> {
    let mut commands: Vec<&clap::Command> = line.get_subcommands().collect();
    commands.sort_by_key(|command| command.get_display_order());
    commands.retain(|command| command.get_name() != "help");
    man.render_title(page)?;
    man.render_name_section(page)?;
    section("SYNOPSIS", |roff| synopsis(roff, &commands, program)).to_writer(page)?;
    man.render_description_section(page)?;
    let mut more = Roff::new();
    for text in DESCRIPTION {
        more.control("PP", []);
        more.text([roman(text.replace("PROGRAM", program))]);
    }
    more.to_writer(page)?;
    section("COMMANDS", |_| {}).to_writer(page)?;
    for command in &commands {
        page.extend(of_command(command, program)?);
    }
    section("EXIT CODES", |roff| {
        roff.text([roman("Where several are true, the one further up.")]);
        for code in ExitCode::ALL {
            entry(roff, &code.code().to_string(), code.meaning(), program);
        }
    })
    .to_writer(page)?;
    let tables: [(&str, &[(&str, &str)]); 3] =
        [("SIGNALS", &SIGNALS), ("FILES", &FILES), ("ENVIRONMENT", &ENVIRONMENT)];
    for (name, entries) in tables {
        let fill = |roff: &mut Roff| entries.iter().for_each(|it| entry(roff, it.0, it.1, program));
        section(name, fill).to_writer(page)?;
    }
    section("EXAMPLES", |roff| {
        for command in &commands {
            for example in help::examples(command.get_name(), program, functions) {
                // As it is, so that it can be copied: no hyphenation, no line broken.
                roff.control("PP", []);
                roff.control("EX", []);
                for line in folded(&example) {
                    roff.text([roman(line)]);
                }
                roff.control("EE", []);
            }
        }
    })
    .to_writer(page)
}

fn section(name: &str, fill: impl FnOnce(&mut Roff)) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [name]);
    fill(&mut roff);
    roff
}

/// A word, and what there is to say of it.
fn entry(roff: &mut Roff, word: &str, text: &str, program: &str) {
    roff.control("TP", []);
    roff.text([bold(word)]);
    roff.text([roman(text.replace("PROGRAM", program))]);
}

/// How each command is called, without its options.
fn synopsis(roff: &mut Roff, commands: &[&clap::Command], program: &str) {
    for command in commands {
        let usage = usage(command);
        let (name, rest) = usage.split_at(usage.find(['[', '<']).unwrap_or(usage.len()));
        roff.text([bold(name), italic(rest)]);
        roff.control("br", []);
    }
    roff.text([bold(format!("{program} help")), italic(" [COMMAND]")]);
}

/// A line to paste as lines of a page, which a shell reads as the one.
fn folded(example: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in example.split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if last.len() + word.len() < EXAMPLE_COLUMNS => {
                last.push(' ');
                last.push_str(word);
            }
            Some(last) => {
                last.push_str(" \\");
                lines.push(format!("    {word}"));
            }
            None => {}
        }
    }
    lines
}

fn usage(command: &clap::Command) -> String {
    let text = command.clone().render_usage().to_string();
    text.strip_prefix("Usage: ").unwrap_or(&text).trim().to_owned()
}

/// A command with all its options, as a part of the section of commands.
fn of_command(command: &clap::Command, program: &str) -> std::io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    roff.control("SS", [format!("{program} {}", command.get_name()).as_str()]);
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        roff.text([roman(format!("{about}."))]);
    }
    let mut part = Vec::new();
    roff.to_writer(&mut part)?;
    let mut options = Vec::new();
    // `--help` and `--version` are the same everywhere, and `--color` is explained with the first.
    let own = command.clone().mut_args(|arg| {
        let id = arg.get_id().as_str();
        let is_said = id.ends_with("color") && command.get_name() != "run";
        let is_same = is_said || ["help", "version"].contains(&id);
        if is_same { arg.hide(true) } else { arg }
    });
    Man::new(own).render_options_section(&mut options)?;
    // Groups of options are sections of a page of their own; here they are paragraphs.
    for line in String::from_utf8_lossy(&options).lines() {
        match line.strip_prefix(".SH ") {
            Some("OPTIONS") => {}
            Some(heading) => {
                let heading = heading.trim_matches('"').to_lowercase();
                let (first, rest) = heading.split_at(heading.len().min(1));
                part.extend(format!(".PP\n{}{rest}:\n", first.to_uppercase()).into_bytes());
            }
            None => part.extend(format!("{line}\n").into_bytes()),
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::config::raw::KnownFunction;

    fn page_of(program: &str, known: &Known) -> String {
        page(args::command(program, None, known), program, known).unwrap()
    }

    #[test]
    fn the_page_has_every_command_option_and_exit_code() {
        let page = page_of("procsig", &Known::default());
        let line = args::command("procsig", None, &Known::default());
        for command in line.get_subcommands() {
            let name = command.get_name();
            let heading = format!(".SS \"procsig {name}\"");
            assert!(name == "help" || page.contains(&heading), "{heading}:\n{page}");
            for option in command.get_opts().filter(|option| !option.is_hide_set()) {
                let option = option.get_long().unwrap().replace('-', "\\-");
                assert!(page.contains(&format!("\\-\\-{option}")), "{option}:\n{page}");
            }
        }
        for code in ExitCode::ALL {
            assert!(page.contains(&format!("\\fB{}\\fR", code.code())), "{code:?}:\n{page}");
        }
        for section in ["\"EXIT CODES\"", "SIGNALS", "FILES", "ENVIRONMENT", "EXAMPLES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{section}:\n{page}");
        }
    }

    #[test]
    fn lines_to_paste_fit_a_terminal_of_80_columns() {
        let page = page_of("procsig", &Known::default());
        let examples = page.split(".SH EXAMPLES").nth(1).unwrap();
        for line in examples.lines() {
            // A margin of 7 on the left; an escaped character is two here and one on the page.
            assert!(line.replace("\\-", "-").len() <= 73, "{line}");
        }
        assert_eq!(folded("a 'b c' {}"), ["a 'b c' {}"]);
    }

    #[test]
    fn a_program_with_functions_has_a_page_in_its_own_name() {
        let function = KnownFunction { name: "length".into(), takes_jobs: true, record: "u64" };
        let page = page_of("lengths", &Known { functions: vec![function], ..Known::default() });
        assert!(page.contains("lengths run"), "{page}");
        assert!(!page.contains("procsig run") && !page.contains("PROGRAM"), "{page}");
    }
}
