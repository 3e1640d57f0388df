//! The documents: what they name is there, and what is there is named.

use procsig::ExitCode;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder with this extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|it| it == extension) => found.push(path),
                false => {}
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {folder}");
    found.sort();
    found
}

/// All documents that are for readers.
fn documents() -> Vec<PathBuf> {
    let mut all = files("docs", "md");
    all.extend(
        ["README.md", "ARCHITECTURE.md", "SECURITY.md", "tests/README.md"]
            .map(|name| root().join(name)),
    );
    all
}

/// The code of a file: without comments, and without its tests.
fn code(path: &Path) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The text in quotation marks that code begins with, without the marks.
fn literal(code: &str) -> String {
    let mut text = String::new();
    let mut letters = code[1..].chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => match letters.next() {
                // The line goes on behind the spaces of the next one.
                Some('\n') => {
                    let rest = letters.as_str().trim_start();
                    letters = rest.chars();
                }
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            letter => text.push(letter),
        }
    }
    text
}

/// The longest part of a message that is always the same.
fn fixed_part(message: &str) -> &str {
    let parts = message.split(['{', '}', '\n']).step_by(2);
    let parts = parts.map(|part| part.trim_matches([' ', ':', ';', ',', '.', '(', ')']));
    parts.max_by_key(|part| part.len()).unwrap_or("")
}

/// How messages of the kinds `error` and `warn` are made, and errors that end a run.
const CALLS: [&str; 12] = [
    "log::warn!(",
    "log::error!(",
    "Error::Held(",
    "Error::Failure(",
    "Error::Stop(",
    "Error::Usage(",
    "Error::file(",
    "Error::File {",
    "Error::System {",
    "Error::system(",
    "Error::system::<std::io::Error>(",
    "self.fail(",
];

/// The fixed parts of all messages, each with the file that it is from.
fn messages() -> BTreeSet<(String, String)> {
    let mut messages = BTreeSet::new();
    for path in files("src", "rs") {
        let name = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
        let is_test = ["tests.rs", "_tests.rs", "/model", "single_step", "/lifecycle"];
        if is_test.iter().any(|part| name.contains(part)) {
            continue;
        }
        let code = code(&path);
        for call in CALLS {
            for rest in code.split(call).skip(1) {
                // Its first text, if there is one in its first words.
                let near: String = rest.chars().take(160).collect();
                let end = near.find([';', '}']).unwrap_or(near.len());
                let Some(start) = near.find('"').filter(|start| *start < end) else { continue };
                let message = literal(&rest[start..]);
                let fixed = fixed_part(&message);
                if fixed.split(' ').count() >= 3 {
                    messages.insert((fixed.to_owned(), name.clone()));
                }
            }
        }
    }
    assert!(messages.len() > 80, "messages are made in another way now: {messages:#?}");
    messages
}

#[test]
fn parts_of_messages_are_told_apart() {
    assert_eq!(literal("\"a \\\"b\\\" \\\n     c\", d"), "a \"b\" c");
    assert_eq!(fixed_part("{}: waiting for {room}, the records are kept"), "the records are kept");
}

/// What the page quotes of messages: the first cells of its tables. `…` stands for what differs.
fn quotes() -> Vec<String> {
    let page = read("docs/when-something-goes-wrong.md").replace("\\|", "|");
    let cells = page.lines().filter(|line| line.starts_with("| `"));
    let cells = cells.filter_map(|line| Some(line.split("` |").next()?.to_owned() + "`"));
    let quoted = cells.flat_map(|cell| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    });
    let parts = quoted.flat_map(|quote| -> Vec<String> {
        quote
            .split('…')
            .map(|part| part.trim_matches([' ', ':', ';', '(', ')', ',']).to_owned())
            .collect()
    });
    parts.filter(|part| part.split(' ').count() >= 3).collect()
}

#[test]
fn every_warning_and_error_stands_on_the_page_of_what_goes_wrong() {
    let quotes = quotes();
    let is_there = |message: &str| {
        quotes.iter().any(|quote| quote.contains(message) || message.contains(quote.as_str()))
    };
    let missing: Vec<_> =
        messages().into_iter().filter(|(message, _)| !is_there(message)).collect();
    assert!(
        missing.is_empty(),
        "docs/when-something-goes-wrong.md has nothing about these; write what each means, what is safe \
         and what to do: {missing:#?}"
    );
}

#[test]
fn every_message_that_the_page_quotes_is_one_of_the_program() {
    let code: String = files("src", "rs").iter().map(|path| code(path)).collect();
    let mut whole = String::new();
    for (at, part) in code.split("\\\n").enumerate() {
        whole.push_str(if at > 0 { part.trim_start() } else { part });
    }
    let whole = whole.replace("\\\"", "\"");
    let unknown: Vec<_> = quotes().into_iter().filter(|quote| !whole.contains(quote)).collect();
    assert!(unknown.is_empty(), "no message any more: {unknown:#?}");
}

#[test]
fn every_exit_code_stands_in_the_tables_in_the_order_of_precedence() {
    for page in ["README.md", "docs/when-something-goes-wrong.md"] {
        let text = read(page);
        let code = |line: &str| line.strip_prefix("| ")?.split(" |").next()?.parse::<u8>().ok();
        let codes: Vec<u8> = text.lines().filter_map(code).collect();
        assert_eq!(codes, ExitCode::ALL.map(ExitCode::code), "{page}");
    }
}

/// A heading as the end of a link.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().to_lowercase();
    let letters = letters.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    letters.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("crate::") {
                continue;
            }
            let (path, end) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("a folder").join(path),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if !end.is_empty() {
                let headings = read(&target);
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|heading| anchor(heading) == end);
                assert!(found, "{}: {link} has no such heading", document.display());
            }
        }
    }
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut names = BTreeSet::new();
    for path in files("tests", "rs").into_iter().chain(files("src", "rs")) {
        let text = read(&path);
        let name = |line: &str| {
            let rest = line.trim_start().strip_prefix("fn ")?;
            Some(rest.split(['(', '<']).next()?.to_owned())
        };
        names.extend(text.lines().filter_map(name));
    }
    for document in documents() {
        let text = read(&document);
        for word in text.split('`').skip(1).step_by(2) {
            let is_sentence = word.matches('_').count() >= 4
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let is_there = !is_sentence || names.contains(word);
            assert!(is_there, "{}: there is no test {word}", document.display());
            let is_file = word.starts_with("tests/") && word.ends_with(".rs");
            assert!(!is_file || root().join(word).exists(), "{}: {word}", document.display());
        }
    }
}

#[test]
fn each_of_the_49_faults_says_what_happens_has_a_test_and_where_it_runs() {
    let page = read("docs/what-is-survived.md");
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let number = cells[0].strip_prefix("| ")?.parse::<usize>().ok()?;
        Some((number, cells))
    });
    let rows: Vec<_> = rows.collect();
    let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=49).collect::<Vec<_>>());
    let runs = page.split("## Last results").nth(1).expect("the long runs");
    for (number, cells) in rows {
        let [_, _, happens, tests, place] = cells[..] else { panic!("row {number}: {cells:?}") };
        assert!(happens.len() > 10 && tests.contains('`'), "row {number}");
        let place = place.trim_end_matches(" |").trim_end_matches('|').trim();
        let more = place.strip_prefix("CI").map(|more| more.trim_start_matches("; more: "));
        let more = more.unwrap_or_else(|| panic!("row {number} runs nowhere: {place:?}"));
        for run in more.split(", ").filter(|run| !run.is_empty()) {
            assert!(runs.contains(&format!("| {run}: ")), "row {number}: no long run {run}");
        }
    }
}
