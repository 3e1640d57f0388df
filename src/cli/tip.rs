//! What was probably meant by a command line that is not understood.

use std::ffi::OsString;
use std::path::Path;

/// The command after `run` without the `--` before it: how it is written.
///
/// `line` is the command line of this process, its program first.
pub(super) fn forgotten_dashes(
    line: &[OsString],
    description: &clap::Command,
    program: &str,
) -> Option<String> {
    let words: Vec<&str> = line.iter().skip(1).map(|word| word.to_str()).collect::<Option<_>>()?;
    let run = description.find_subcommand("run")?;
    if words.first() != Some(&"run") || words.contains(&"--") {
        return None;
    }
    let first = 1 + first_free(&words[1..], run)?;
    let path = Path::new(words[first]);
    if path.extension().is_some() || path.exists() {
        return None;
    }
    let join = |words: &[&str]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let options = words[1..first].iter().map(|word| format!("{} ", quoted(word)));
    let options: String = options.collect();
    Some(format!(
        "there is no configuration {:?}; a command is written after \"--\": {program} run {options}-- {}",
        words[first],
        join(&words[first..])
    ))
}

/// The first word that is no option and no option's value.
fn first_free(words: &[&str], run: &clap::Command) -> Option<usize> {
    let takes_value = |is: &dyn Fn(&clap::Arg) -> bool| {
        run.get_arguments().any(|argument| is(argument) && argument.get_action().takes_values())
    };
    let mut index = 0;
    while let Some(word) = words.get(index) {
        index += 1;
        let has_value = if let Some(long) = word.strip_prefix("--") {
            takes_value(&|argument| argument.get_long() == Some(long))
        } else if word.len() == 2 && word.starts_with('-') {
            let short = word.chars().nth(1);
            takes_value(&|argument| argument.get_short() == short)
        } else if word.starts_with('-') {
            false
        } else {
            return Some(index - 1);
        };
        index += usize::from(has_value);
    }
    None
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,{}".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::config::raw::Known;

    #[test]
    fn a_command_without_dashes_is_written_with_them() {
        let description = args::command("procsig", None, &Known::default());
        let tip = |line: &str| {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            forgotten_dashes(&line, &description, "procsig")
        };
        for (line, expected) in [
            ("procsig run ping -c1 x", "procsig run -- ping -c1 x"),
            (
                "procsig run --jobs ping -j 8 -v ping -c1 {}",
                "procsig run --jobs ping -j 8 -v -- ping",
            ),
            ("procsig run --jobs=a -j8 curl -w %{x}|y", "run --jobs=a -j8 -- curl -w '%{x}|y'"),
        ] {
            let tip = tip(line).unwrap_or_default();
            assert!(tip.contains(expected), "{line}: {tip}");
        }
        for line in
            ["procsig run x.toml -c1", "procsig run -- a -b", "procsig stop x -c", "procsig run -j"]
        {
            assert_eq!(tip(line), None, "{line}");
        }
    }
}
