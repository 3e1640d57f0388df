//! What is built into procsig: each crate has a licence and a source that `deny.toml` accepts, and is none that
//! it refuses. `cargo deny` says the same where it is installed.

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use toml::Table;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> Table {
    let text = std::fs::read_to_string(root().join(name)).expect(name);
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn texts(list: &toml::Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|it| it.as_str().expect("a text")).collect()
}

/// Is this licence expression met by these licences alone? `OR` and the older `/`, `AND`, parentheses;
/// `WITH` is part of a name.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let spaced = spaced.replace(" WITH ", "+WITH+");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any_of(&mut rest, allowed);
    assert!(rest.is_empty(), "not understood: {expression}");
    met
}

/// Takes a word off the beginning, if it is this one.
fn takes(rest: &mut &[&str], word: &str) -> bool {
    let is_next = rest.first() == Some(&word);
    *rest = &rest[usize::from(is_next)..];
    is_next
}

fn any_of(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = all_of(rest, allowed);
    while takes(rest, "OR") {
        // Is read, whatever the first has come to.
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = one(rest, allowed);
    while takes(rest, "AND") {
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &[&str]) -> bool {
    if takes(rest, "(") {
        let met = any_of(rest, allowed);
        assert!(takes(rest, ")"), "a parenthesis is open");
        return met;
    }
    let (name, behind) = rest.split_first().expect("a licence");
    *rest = behind;
    allowed.contains(name)
}

#[test]
fn a_licence_is_accepted_only_if_there_is_a_way_to_keep_to_it() {
    let allowed = ["MIT", "Zlib"];
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Zlib", true),
        ("(GPL-3.0 OR Apache-2.0) AND Zlib", false),
        ("Zlib AND (GPL-3.0 OR MIT)", true),
        ("MIT WITH GPL-exception", false),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}

/// `1.2.3` as numbers; what stands behind is left away.
fn numbers(version: &str) -> Vec<u64> {
    let version = version.split(['-', '+']).next().unwrap_or_default();
    version.split('.').map(|part| part.parse().expect("a number")).collect()
}

/// Is it what an entry of `bans.deny` means: `name`, `name:<1.2.3` or `name:>=1.2.3`?
fn is_banned(entry: &str, name: &str, version: &str) -> bool {
    let (banned, range) = entry.split_once(':').unwrap_or((entry, ">=0.0.0"));
    let is_in_range = match (range.strip_prefix(">="), range.strip_prefix('<')) {
        (Some(from), _) => numbers(version) >= numbers(from),
        (None, Some(to)) => numbers(version) < numbers(to),
        (None, None) => panic!("not understood: {entry}"),
    };
    name == banned && is_in_range
}

#[test]
fn a_crate_is_refused_by_name_and_version() {
    assert!(is_banned("old", "old", "7.0.0") && !is_banned("old", "older", "7.0.0"));
    assert!(is_banned("old:<0.3.47", "old", "0.3.9") && !is_banned("old:<0.3.47", "old", "0.3.47"));
    assert!(
        is_banned("old:>=3.0.0", "old", "3.0.0-rc.1") && !is_banned("old:>=3.0.0", "old", "2.9.9")
    );
}

#[test]
fn every_crate_is_of_an_accepted_source_and_none_that_is_refused() {
    let (lock, deny) = (read("Cargo.lock"), read("deny.toml"));
    let sources = texts(&deny["sources"]["allow-registry"]);
    let banned = deny["bans"]["deny"].as_array().expect("a list");
    let banned: Vec<&str> = banned.iter().map(|it| it["crate"].as_str().expect("a name")).collect();
    let packages = lock["package"].as_array().expect("packages");
    assert!(packages.len() > 50 && !banned.is_empty());
    for package in packages {
        let text = |key: &str| package.get(key).and_then(|it| it.as_str());
        let (name, version) = (text("name").expect("a name"), text("version").expect("a version"));
        // Only procsig itself has none.
        if let Some(source) = text("source") {
            let source = source.strip_prefix("registry+").unwrap_or(source);
            assert!(sources.contains(&source), "{name} {version} comes from {source}");
            assert!(text("checksum").is_some(), "{name} {version} has no checksum");
        } else {
            assert_eq!(name, "procsig");
        }
        let why = banned.iter().find(|entry| is_banned(entry, name, version));
        assert!(why.is_none(), "{name} {version} is refused: {why:?} in deny.toml");
    }
}

/// What cargo knows of all packages, with these features. `None`: some are not on this machine.
fn packages(features: &str) -> Option<Vec<Value>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let host = Command::new(&cargo).args(["-vV"]).output().expect("cargo").stdout;
    let host = String::from_utf8(host).expect("UTF-8");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline", features];
    let output = Command::new(&cargo)
        .args(arguments)
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo");
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let mut all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    match all["packages"].take() {
        Value::Array(packages) => Some(packages),
        other => panic!("no packages: {other}"),
    }
}

#[test]
fn every_crate_has_a_licence_that_is_accepted() {
    let deny = read("deny.toml");
    let allowed = texts(&deny["licenses"]["allow"]);
    let mut used = std::collections::BTreeSet::new();
    for features in ["--features=default", "--all-features"] {
        let Some(packages) = packages(features) else {
            assert!(std::env::var("CI").is_err(), "in CI all packages are there");
            eprintln!("skipped: the licences of packages that are not on this machine");
            continue;
        };
        assert!(packages.len() > 50);
        for package in packages {
            let (name, version) = (&package["name"], &package["version"]);
            let licence = package["license"].as_str();
            let licence = licence.unwrap_or_else(|| panic!("{name} {version} names no licence"));
            assert!(is_met(licence, &allowed), "{name} {version}: {licence} is not accepted");
            used.insert(licence.to_owned());
        }
    }
    // One that nobody needs any more would let in what nobody has looked at.
    for licence in &allowed {
        let others: Vec<&str> = allowed.iter().copied().filter(|it| it != licence).collect();
        let needed = used.iter().any(|used| !is_met(used, &others));
        assert!(needed || *licence == "Apache-2.0", "{licence} is accepted and not needed");
    }
}
