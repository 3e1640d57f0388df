//! `procsig init`: an example of a configuration, for the program that prints it.

use crate::config::raw::Known;

/// What `procsig init` prints. A line that begins with `# ` and a key shows a setting that is not in
/// force; without the `# ` it is valid, too.
const EXAMPLE: &str = include_str!("init.toml");

/// The kind of worker in it, and what it does.
const WORKER: &str = "checksum";
const COMMAND: &str = "command = [\"sha256sum\", \"{}\"]";
/// Stands for a name that a program has registered.
const NAME: &str = "\"NAME\"";

/// The example, with what this program has registered.
pub(super) fn example(program: &str, known: &Known) -> String {
    let mut text = EXAMPLE.replace("`procsig ", &format!("`{program} "));
    let functions = known.functions.iter();
    let all: Vec<&str> = functions.clone().map(|it| it.name.as_str()).collect();
    if let Some(first) = functions.clone().find(|it| it.takes_jobs).or(known.functions.first()) {
        let function = format!("function = {:?}", first.name);
        text = text
            .replace(COMMAND, &format!("{function}{}", others(&all)))
            .replace(&format!("#   function = {NAME}"), &format!("#   {COMMAND}"))
            .replace(&format!("[workers.{WORKER}]"), &format!("[workers.{:?}]", first.name))
            .replace(
                &format!("\"{WORKER}\" is the name"),
                &format!("{:?} is the name", first.name),
            );
        if !first.takes_jobs {
            text = text.replace("[jobs]\n", "# [jobs]\n").replace("\nlines =", "\n# lines =");
            text = text.replace("\ntimeout =", "\n# timeout =");
            text = text.replace("\nattempts =", "\n# attempts =");
        }
    }
    let sinks: Vec<&str> = known.sinks.iter().map(|it| it.name.as_str()).collect();
    let sources: Vec<&str> = known.sources.iter().map(|it| it.name.as_str()).collect();
    for (key, names) in [("sink", sinks), ("source", sources)] {
        if let Some(first) = names.first() {
            let named = format!("{key} = {first:?}{}", others(&names));
            text = text.replace(&format!("{key} = {NAME}"), &named);
        }
    }
    text
}

/// What else can stand there.
fn others(names: &[&str]) -> String {
    match names {
        [] | [_] => String::new(),
        names => format!("   # this program has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Own;
    use crate::config::raw::{self, KnownFunction, KnownSource, Overrides};
    use crate::error::Error;

    fn load_text(text: &str) -> Result<raw::Loaded, Error> {
        load_with(text, &Known::default())
    }

    fn load_with(text: &str, known: &Known) -> Result<raw::Loaded, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.toml");
        std::fs::write(&path, text).unwrap();
        raw::load(&path, &Overrides::default(), known)
    }

    #[test]
    fn the_example_is_valid_as_it_is() {
        let loaded = load_text(EXAMPLE).unwrap();
        assert_eq!(loaded.warnings.iter().len(), 0);
        assert_eq!(loaded.config.workers[0].name, "checksum");
    }

    /// `key = value`, in force or not, with the table that it stands in.
    fn settings_of_example() -> Vec<(String, String)> {
        let mut table = String::new();
        let mut settings = Vec::new();
        for line in EXAMPLE.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            if let Some(rest) = line.strip_prefix('[') {
                table = rest.split(']').next().unwrap_or_default().to_owned();
            } else if let Some((key, _)) = line.split_once(" = ") {
                settings.push((table.replace("workers.checksum", "workers.NAME"), key.to_owned()));
            }
        }
        settings
    }

    #[test]
    fn the_example_says_what_each_key_does() {
        let settings = settings_of_example();
        let said = |table: &str, key: &str| {
            settings.iter().any(|setting| (setting.0.as_str(), setting.1.as_str()) == (table, key))
        };
        let forgotten: Vec<_> = raw::keys().into_iter().filter(|key| !said(key.0, key.1)).collect();
        assert!(forgotten.is_empty(), "init.toml says nothing about {forgotten:?}");
    }

    #[test]
    fn the_example_is_valid_with_every_setting_in_force() {
        let is_setting = |line: &str| {
            let key = line.split(" = ").next().unwrap_or("");
            key != line && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let text: Vec<&str> = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
            .collect();
        assert!(text.contains(&"every = \"30s\""));
        let loaded = load_text(&text.join("\n")).unwrap();
        assert_eq!(loaded.config.name, "checksums");
        assert_eq!(loaded.config.spool.lane, Some(1 << 20));
    }

    #[test]
    fn a_program_with_functions_gets_an_example_that_names_them() {
        let function =
            |name: &str, takes_jobs| KnownFunction { name: name.into(), takes_jobs, record: "u64" };
        let own = Own { name: "queue".into(), finite: false };
        let source = KnownSource { name: "queue".into(), own };
        for (functions, worker) in [
            (vec![function("beat", false), function("my crc", true)], "my crc"),
            (vec![function("beat", false)], "beat"),
        ] {
            let sources = vec![source.clone()];
            let known = Known { functions, sources, ..Known::default() };
            let text = example("sums", &known);
            let loaded = load_with(&text, &known).unwrap();
            assert_eq!(loaded.warnings.iter().len(), 0, "{}", loaded.warnings);
            assert_eq!(loaded.config.workers[0].name, worker);
            assert!(text.contains("`sums check FILE`") && text.contains("source = \"queue\""));
        }
    }
}
