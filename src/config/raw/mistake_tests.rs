//! A mistake in each key, in its type and in its value; files that are no configurations at all.

use super::tables::{self, Table};
use super::tests::{Files, WORKER, mistakes, only_mistake};
use super::*;

/// For each key a value of the right type that is out of its range, none of its words, not there.
const OUT_OF_RANGE: &[(&str, &str)] = &[
    ("name", "\"\""),
    ("jobs.lines", "\"no/such/list.txt\""),
    ("jobs.every", "\"0s\""),
    ("jobs.again", "\"no\""),
    ("jobs.directory", "\"no/such/directory\""),
    ("jobs.once", "\"maybe\""),
    ("jobs.source", "\"nobody\""),
    ("workers.ping.command", "[]"),
    ("workers.ping.function", "\"nobody\""),
    ("workers.ping.coprocess", "[\"\"]"),
    ("workers.ping.processes", "10001"),
    ("workers.ping.threads", "0"),
    ("workers.ping.timeout", "\"5 parsecs\""),
    ("workers.ping.attempts", "0"),
    ("workers.ping.retry_delay", "\"-1s\""),
    ("workers.ping.max_output", "\"1023\""),
    ("workers.ping.env", "{ \"A=B\" = \"\" }"),
    ("workers.ping.recycle_after", "0"),
    ("workers.ping.recycle_above", "\"1KiB\""),
    ("workers.ping.memory_limit", "\"1KiB\""),
    ("workers.ping.descriptor_limit", "0"),
    ("workers.ping.nice", "20"),
    ("workers.ping.oom_score_adj", "1001"),
    ("buffer.flush_records", "0"),
    ("buffer.flush_bytes", "0"),
    ("buffer.flush_after", "\"1 month\""),
    ("output.file", "\"no/such/file\""),
    ("output.sink", "\"nobody\""),
    ("output.format", "\"jsno\""),
    ("output.columns", "[]"),
    ("output.table", "\"sqlite_x\""),
    ("output.sync", "\"alwyas\""),
    ("output.rotate_bytes", "-1"),
    ("output.rotate_every", "\"0s\""),
    ("output.keep", "-1"),
    ("output.compress", "\"zip\""),
    ("dead_letters.file", "\"\""),
    ("shutdown.deadline", "\"1\""),
    ("shutdown.flush_reserve", "\"8s\""),
    ("restart.max", "-1"),
    ("restart.within", "\"99999999d\""),
    ("spool.file", "\"no/such/file\""),
    ("spool.lane", "\"63KiB\""),
    ("spool.jobs", "1048577"),
    ("spool.job_bytes", "\"2MiB\""),
    ("privileges.user", "\"no-such-user-here\""),
    ("privileges.group", "\"no-such-group-here\""),
    ("privileges.no_new_privs", "1"),
    ("log.level", "\"inof\""),
    ("log.format", "\"josn\""),
    ("log.file", "\"no/such/file\""),
];

/// Each key with its table, as they stand in a file.
fn keys() -> Vec<(String, &'static str)> {
    let keys = tables::keys().into_iter();
    keys.map(|(table, key)| (table.replace("NAME", "ping"), key)).collect()
}

/// A file with this value for a key, and the number of the line and the column where the value is.
fn file_with(table: &str, key: &str, value: &str) -> (String, usize, usize) {
    let mut lines = Vec::new();
    let setting = format!("{key} = {value}");
    let is_run = ["command", "function", "coprocess"].contains(&key);
    if table.is_empty() {
        lines.push(setting.clone());
    }
    lines.push("[workers.ping]".to_owned());
    if !is_run {
        lines.push("command = [\"echo\"]".to_owned());
    }
    if table != "workers.ping" && !table.is_empty() {
        lines.push(format!("[{table}]"));
    }
    if !table.is_empty() {
        lines.push(setting.clone());
    }
    let line = 1 + lines.iter().position(|line| *line == setting).unwrap();
    (lines.join("\n"), line, key.len() + 4)
}

fn label(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

#[test]
fn every_table_has_its_keys_in_the_list() {
    let own: Vec<&str> =
        keys().into_iter().filter(|(table, _)| table.is_empty()).map(|(_, key)| key).collect();
    assert_eq!(own, ["name"], "a table is missing in tables::keys");
    for table in tables::RawConfig::KEYS.iter().filter(|key| **key != "name") {
        assert!(keys().iter().any(|(known, _)| known.split('.').next() == Some(table)), "{table}");
    }
}

#[test]
fn a_value_of_a_wrong_type_is_said_with_its_place_for_every_key() {
    // No key takes a date.
    let value = "2026-01-31";
    for (table, key) in keys() {
        let (text, line, column) = file_with(&table, key, value);
        let found = mistakes(&text);
        let start = format!("pings.toml:{line}:{column}: {}: ", label(&table, key));
        let mistake = found.iter().find(|mistake| mistake.starts_with(&start));
        let mistake = mistake.unwrap_or_else(|| panic!("{start} is not in {found:#?}"));
        assert!(mistake.contains(" needed, and this is the time 2026-01-31"), "{mistake}");
        assert_eq!(found.len(), 1, "{found:#?}");
    }
}

#[test]
fn who_writes_no_text_where_only_some_are_known_is_told_which() {
    for (lines, told) in [
        ("[output]\nsync = true", "this is true; allowed: \"always\", \"never\", or a duration"),
        ("[output]\nformat = 5", "this is the number 5; allowed: "),
        ("[log]\nlevel = 3", "this is the number 3; allowed: "),
    ] {
        let mistake = only_mistake(&format!("{WORKER}{lines}"));
        assert!(mistake.contains(told) && !mistake.contains("did you mean"), "{mistake}");
    }
}

#[test]
fn the_caret_is_below_the_whole_value_for_every_key() {
    for (table, key) in keys() {
        let (text, ..) = file_with(&table, key, "2026-01-31");
        let error = Files::new(&text).load_with(&Overrides::default()).unwrap_err();
        let Error::Mistakes(mistakes) = error else { panic!("{error}") };
        let mistake = mistakes.iter().next().unwrap();
        assert_eq!(&mistakes.text()[mistake.bytes.clone().unwrap()], "2026-01-31");
    }
}

#[test]
fn a_value_out_of_range_is_said_with_its_place_and_what_is_allowed() {
    for (table, key) in keys() {
        let name = label(&table, key);
        let value = OUT_OF_RANGE.iter().find(|(known, _)| *known == name);
        let (_, value) = value.unwrap_or_else(|| panic!("add {name} to OUT_OF_RANGE"));
        let (text, line, column) = file_with(&table, key, value);
        let found = mistakes(&text);
        let (value, name_only) =
            (format!("{line}:{column}: {name}: "), format!("{line}:1: {name}"));
        let in_value = format!("pings.toml:{line}:{}: {name}.", column + 2);
        let starts = [format!("pings.toml:{value}"), format!("pings.toml:{name_only}"), in_value];
        let is_there = |mistake: &String| starts.iter().any(|start| mistake.starts_with(start));
        assert!(found.iter().any(is_there), "{name}: {found:#?}");
    }
}

#[test]
fn a_misspelt_key_gets_its_right_name_for_every_key() {
    for (table, key) in keys().iter().filter(|(_, key)| key.len() > 3) {
        let misspelt = format!("{}{}", &key[..key.len() - 2], &key[key.len() - 1..]);
        let (text, line, _) = file_with(table, &misspelt, "1");
        let mistake = only_mistake(&text);
        let start = format!("pings.toml:{line}:1: {}: ", label(table, &misspelt));
        assert!(mistake.starts_with(&start), "{mistake}");
        assert!(mistake.contains(&format!("did you mean {key}?")), "{mistake}");
    }
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    let told = only_mistake(&format!("{WORKER}[log]\nflush_reserve = \"1s\""));
    assert!(told.contains("flush_reserve belongs to the table [shutdown]"), "{told}");
    let told = only_mistake("[workers]\ncommand = [\"echo\"]");
    assert!(told.starts_with("pings.toml:2:1: workers.command: it needs a table"), "{told}");
}

#[test]
fn twelve_mistakes_are_twelve() {
    let text = "name = 5\n[log]\nlevel = \"inof\"\nformat = 1\n[spool]\njobs = 0\nlane = true\n\
                [workers.w]\ncommand = [\"echo\", 1]\nthreads = 2000\ntimeout = 10\n[ouput]\n\
                [shutdown]\ndeadline = \"1s\"\nflush_reserve = \"2s\"\n[buffer]\nflush_records = 1.5\n\
                [restart]\nwithin = \"\"\n";
    assert_eq!(mistakes(text).len(), 12, "{:#?}", mistakes(text));
}

#[test]
fn a_wrong_syntax_is_said_for_each_line_once() {
    let found = mistakes("a = \n\nb = 'x\nc = 1 2\n[x\n");
    let starts =
        ["1:5: ", "3:7: invalid literal string", "4:5: string values", "5:3: unclosed table"];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (mistake, start) in found.iter().zip(starts) {
        assert!(mistake.starts_with(&format!("pings.toml:{start}")), "{mistake} is not {start}");
    }
    assert_eq!(mistakes(&"= 1\n".repeat(100)).len(), SYNTAX_MISTAKES_MAX);
}

#[test]
fn a_value_from_a_variable_is_not_shown() {
    let text = format!("{WORKER}timeout = \"${{PATH}}\"\n[log]\nlevel = \"x${{PATH}}\"");
    let path = std::env::var("PATH").unwrap();
    for mistake in mistakes(&text) {
        assert!(!mistake.contains(&path), "{mistake}");
        assert!(mistake.contains("${PATH}\", as its variables are set, is"), "{mistake}");
    }
}

#[test]
fn what_is_written_into_what_is_read_is_refused_however_it_is_named() {
    let files =
        |extra: &str| Files::new(&format!("{WORKER}[jobs]\nlines = \"hosts.txt\"\n{extra}"));
    let all = files(
        "[output]\nfile = \"symbolic\"\n[dead_letters]\nfile = \"./hosts.txt\"\n[log]\n\
         file = \"hard\"\n[spool]\nfile = \"hosts.txt\"\n",
    );
    std::os::unix::fs::symlink("hosts.txt", all.path("symbolic")).unwrap();
    std::fs::hard_link(all.path("hosts.txt"), all.path("hard")).unwrap();
    let found = all.mistakes();
    for key in ["output.file", "dead_letters.file", "log.file", "spool.file"] {
        let said = format!("{key}: this is the same file as jobs.lines");
        assert!(found.iter().any(|mistake| mistake.ends_with(&said)), "{said}: {found:#?}");
    }
    // The spool that nobody has named is beside the output.
    let found = files("[output]\nfile = \"x\"\n[log]\nfile = \".x.spool\"").mistakes();
    assert!(found[0].contains("log.file: this is the same file as the spool"), "{found:#?}");
    // What a default names is not in the file; the list is.
    let list = format!("{WORKER}[jobs]\nlines = \"results.jsonl\"");
    let list = Files::new(&list);
    std::fs::write(list.path("results.jsonl"), "a\n").unwrap();
    let told = list.mistakes();
    assert!(told[0].starts_with("pings.toml:4:9: jobs.lines: this is the same"), "{told:#?}");
}

#[test]
fn keys_that_do_not_go_together_are_refused_where_they_stand() {
    for (text, expected) in [
        (
            "[spool]\nlane = \"64KiB\"\njob_bytes = \"64KiB\"",
            "4:8: spool.lane: a lane of 65536 bytes",
        ),
        ("[spool]\njob_bytes = \"1MiB\"", "4:13: spool.job_bytes: a lane of 1048576 bytes is too"),
        ("[output]\nfile = \"/dev/null\"", "4:8: output.file: this is no regular file"),
        ("[jobs]\nlines = \"/dev/null\"\nevery = \"1s\"", "5:9: jobs.every: only a file"),
        ("[shutdown]\nflush_reserve = \"9s\"", "4:17: shutdown.flush_reserve: 9s is not less"),
        (
            "[shutdown]\ndeadline = \"1s\"\nflush_reserve = \"1s\"",
            "5:17: shutdown.flush_reserve: 1s",
        ),
        ("[workers.b]\ncommand = [\"echo\"]", "3:10: workers.b: only one kind of worker can"),
        ("function = \"f\"", "1:10: workers.ping: only one of command, function and coprocess"),
        ("[output]\nfile = \".\"", "4:8: output.file: "),
    ] {
        let told = mistakes(&format!("{WORKER}{text}"));
        assert!(told[0].starts_with(&format!("pings.toml:{expected}")), "{expected}: {told:#?}");
    }
}

#[test]
fn programs_that_can_not_be_started_are_refused_and_others_are_not() {
    let command = |command: &str| format!("[workers.w]\ncommand = {command}\n");
    for (text, expected) in [
        (command("[\"pritnf-no\"]"), "2:12: workers.w.command: there is no program \"pritnf-no\""),
        (command("[\"prinft\"]"), "did you mean \"printf\"?"),
        (
            command("[\"echo -n {}\"]"),
            "2:11: workers.w.command: there is no program \"echo -n {}\" in \
                                      any directory of PATH; did you mean [\"echo\", \"-n\", \"{}\"]?",
        ),
        (
            command("\"echo -n {}\""),
            "this is the text \"echo -n {}\"; did you mean [\"echo\", \"-n\", \"{}\"]?",
        ),
        (command("[\"cd\", \"x\"]"), "cd is a word of the shell"),
        (command("[\"/no/such/program\"]"), "there is no program /no/such/program"),
        (command("[\"/etc/passwd\"]"), "/etc/passwd is not executable"),
        (command("[\"/etc\"]"), "/etc is a directory"),
        (command("[\"echo\"]\nenv = { PATH = \"/no\" }"), "in any directory of PATH"),
        (
            "[workers.w]\ncoprocess = [\"/no/such\"]".to_owned(),
            "2:14: workers.w.coprocess: there is no",
        ),
    ] {
        let told = only_mistake(&text);
        assert!(told.contains(expected), "{told}\nis not\n{expected}");
    }
    for fine in ["[\"echo\"]", "[\"/bin/sh\"]", "[\"{}\"]", "[\"/no/{}\"]", "[\"./relative\"]"] {
        assert!(Files::new(&command(fine)).load_with(&Overrides::default()).is_ok(), "{fine}");
    }
}

#[test]
fn to_look_at_a_run_what_it_names_need_not_be_there() {
    let text = "[workers.w]\ncommand = [\"/no/such\"]\n[jobs]\nlines = \"none\"\n[output]\n\
                file = \"none/x\"\n";
    let files = Files::new(text);
    assert_eq!(files.mistakes().len(), 3);
    let looked = load_to_look(&files.path("pings.toml"), &Known::default()).unwrap();
    assert_eq!(looked.config.output.file, files.path("none/x"));
    let files = Files::new("[workers.w]\ncomand = [\"/no/such\"]\n");
    assert!(load_to_look(&files.path("pings.toml"), &Known::default()).is_err());
}

#[test]
fn what_is_no_configuration_is_refused_without_waiting() {
    let files = Files::new("");
    let told = |name: &str| {
        let error = load(&files.path(name), &Overrides::default(), &Known::default()).unwrap_err();
        error.to_string().replace(&format!("{}/", files.path("").display()), "")
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(files.path(name), bytes).unwrap();
    write("empty", b"");
    write("binary", b"\x7fELF\0\0");
    write("utf-16", b"\xff\xfe[\0j\0");
    write("latin-1", b"name = \"\xe9\"\n");
    write("mark", "\u{feff}nam = 1\r\n".as_bytes());
    std::fs::File::create(files.path("huge")).unwrap().set_len(100 << 20).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, files.path("pipe"), 0o600.into()).unwrap();
    for (name, expected) in [
        ("empty", "workers: no kind of worker is declared"),
        ("binary", "1:5: this is no text"),
        ("utf-16", "1:1: this is UTF-16: save it as UTF-8"),
        ("latin-1", "1:9: the byte 0xe9 is not valid UTF-8"),
        ("mark", "1:1: nam: \"nam\" is no key here; did you mean name?"),
        ("huge", "this is longer than 1 MiB"),
        ("pipe", "a configuration is a file, and this is a pipe"),
        ("", "a configuration is a file, and this is a directory"),
        ("none", "the configuration can't be read: No such file or directory"),
    ] {
        let told = told(name);
        assert!(told.contains(expected), "{name}: {told}");
    }
    let device = load(Path::new("/dev/zero"), &Overrides::default(), &Known::default());
    assert!(device.unwrap_err().to_string().contains("device"));
}

#[test]
fn garbage_is_refused_and_nothing_panics() {
    let whole = super::tests::COMPLETE;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let pieces = [
        "\"", "[", "]", "{", "}", "=", ".", "\n", "0", "\u{feff}", "ä", "\\u0000", "${", "}", "-9",
        "[[",
    ];
    let files = Files::new("");
    for _ in 0..3000 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..=random(6) {
            let at = random(text.len().max(1));
            if text.is_empty() {
                break;
            }
            match random(3) {
                0 => drop(text.remove(at)),
                1 => text.truncate(at.max(1)),
                _ => {
                    let piece = pieces[random(pieces.len())];
                    text.splice(at..at, piece.chars());
                }
            }
        }
        let text: String = text.into_iter().collect();
        let known = (&Overrides::default(), &Known::default());
        let path = files.path("pings.toml");
        let result = resolve::file(&path, &text, known, &|name| std::env::var(name), true);
        if let Err(error) = result {
            let Error::Mistakes(mistakes) = &error else { panic!("{error}") };
            assert!(mistakes.iter().len() > 0, "refused without a word: {text}");
            for mistake in mistakes.iter() {
                let _ = mistakes.range(mistake);
            }
            assert!(!error.to_string().is_empty());
        }
    }
}
