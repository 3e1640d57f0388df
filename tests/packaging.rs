//! The files of `packaging/`: they fit the program, each other, and the tools that read them.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::{Place, Process, Signal, needs, tool, wait_until};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

#[track_caller]
fn packaged(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The value of each `NAME=VALUE` line with this name.
fn settings(file: &str, name: &str) -> Vec<String> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    packaged(file).lines().filter_map(value).collect()
}

#[track_caller]
fn setting(file: &str, name: &str) -> String {
    let all = settings(file, name);
    assert_eq!(all.len(), 1, "{name} in {file}: {all:?}");
    all[0].clone()
}

fn numbers(words: &str) -> BTreeSet<u64> {
    let words = words.split([' ', ',']).filter(|word| !word.is_empty());
    words.map(|word| word.parse().expect("an exit code")).collect()
}

/// The documents of a file in YAML.
#[track_caller]
fn yaml(name: &str) -> Vec<Value> {
    let script = "import json, sys, yaml\n\
                  print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = tool("python3", &["-c", script, text(&path(name))]);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// As [`needs`], and a parser of YAML.
fn needs_yaml(test: &str) -> bool {
    if !needs(test, &["python3"]) {
        return false;
    }
    let is_there = tool("python3", &["-c", "import yaml"]).status.success();
    assert!(is_there || std::env::var("CI").is_err(), "{test} needs python3-yaml");
    if !is_there {
        eprintln!("skipped: {test} needs python3-yaml");
    }
    is_there
}

/// The deadline that a configuration names, in seconds.
#[track_caller]
fn deadline(configuration: &str) -> u64 {
    let table: toml::Table = configuration.parse().expect("TOML");
    let text = table["shutdown"]["deadline"].as_str().expect("a deadline");
    text.strip_suffix('s').and_then(|text| text.parse().ok()).expect("whole seconds")
}

#[test]
fn everybody_who_kills_waits_five_seconds_longer_than_the_deadline() {
    if !needs_yaml("everybody_who_kills_waits_five_seconds_longer_than_the_deadline") {
        return;
    }
    let grace = deadline(&packaged("pings.toml")) + 5;
    let words = |number: u64| number.to_string();
    assert_eq!(setting("systemd/procsig@.service", "TimeoutStopSec"), words(grace));
    assert_eq!(setting("supervisor/procsig.conf", "stopwaitsecs"), words(grace));
    assert_eq!(packaged("s6/procsig/timeout-kill").trim(), words(grace * 1000));
    let runit = packaged("runit/procsig/run");
    let waits: BTreeSet<&str> = runit
        .split("-w ")
        .skip(1)
        .map(|rest| rest.split([' ', ':']).next().unwrap_or(""))
        .collect();
    assert_eq!(waits, BTreeSet::from([words(grace).as_str()]), "{runit}");
    let compose = &yaml("docker/compose.yaml")[0]["services"]["pings"];
    assert_eq!(compose["stop_grace_period"], format!("{grace}s"));
    let deployment = yaml("kubernetes/deployment.yaml");
    let configuration = deployment[0]["data"]["pings.toml"].as_str().expect("a configuration");
    let pod = &deployment[2]["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], deadline(configuration) + 5);
    let job = &yaml("kubernetes/job.yaml")[0]["spec"]["template"]["spec"];
    assert_eq!(job["terminationGracePeriodSeconds"], grace);
    let args = job["containers"][0]["args"].to_string();
    assert!(args.contains(&format!("\"--deadline\",\"{}s\"", grace - 5)), "{args}");
}

#[test]
fn nobody_starts_a_finished_list_or_a_wrong_configuration_again() {
    if !needs_yaml("nobody_starts_a_finished_list_or_a_wrong_configuration_again") {
        return;
    }
    let unit = "systemd/procsig@.service";
    assert_eq!(setting(unit, "Restart"), "on-failure");
    assert_eq!(numbers(&setting(unit, "SuccessExitStatus")), BTreeSet::from([3, 5]));
    assert_eq!(numbers(&setting(unit, "RestartPreventExitStatus")), BTreeSet::from([2, 78]));
    let expected = numbers(&setting("supervisor/procsig.conf", "exitcodes"));
    assert_eq!(expected, BTreeSet::from([0, 2, 3, 5, 78]));
    assert_eq!(setting("supervisor/procsig.conf", "autorestart"), "unexpected");
    for finish in ["runit/procsig/finish", "s6/procsig/finish"] {
        assert!(packaged(finish).contains("\n    0 | 2 | 3 | 78) "), "{finish}");
    }
    let job = &yaml("kubernetes/job.yaml")[0]["spec"];
    assert_eq!(job["template"]["spec"]["restartPolicy"], "Never");
    let rules = job["podFailurePolicy"]["rules"].as_array().expect("rules");
    let codes = |action: &str| -> BTreeSet<u64> {
        let rules = rules.iter().filter(|rule| rule["action"] == action);
        let values = rules.filter_map(|rule| rule["onExitCodes"]["values"].as_array());
        values.flatten().filter_map(Value::as_u64).collect()
    };
    assert_eq!(codes("FailJob"), BTreeSet::from([2, 3, 78]));
    assert_eq!(codes("Ignore"), BTreeSet::from([5]));
}

#[test]
fn containers_run_it_without_a_shell_between() {
    if !needs_yaml("containers_run_it_without_a_shell_between") {
        return;
    }
    let docker = packaged("docker/Dockerfile").replace("\\\n", " ");
    let argument = |name: &str| -> Vec<String> {
        let line = docker.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {docker}"));
        let list = &line[line.find('[').unwrap_or_else(|| panic!("a shell: {line}"))..];
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    assert_eq!(argument("ENTRYPOINT"), ["procsig"]);
    assert_eq!(argument("CMD"), ["run", "/etc/procsig/pings.toml"]);
    assert_eq!(argument("HEALTHCHECK")[..2], ["procsig", "status"]);
    assert!(docker.contains("\nSTOPSIGNAL SIGTERM\n"));
    // Cargo refuses to build anything when a file that it knows of is missing.
    let (copied, ignored) = (docker.as_str(), packaged("docker/Dockerfile.dockerignore"));
    for name in ["bin", "src", "docs", "examples", "tests", "Cargo.toml", "Cargo.lock"] {
        let is_copied = |line: &str| {
            let mut words = line.split(' ');
            words.next() == Some("COPY") && words.any(|word| word == name)
        };
        assert!(copied.lines().any(is_copied), "{name} is not copied: {copied}");
        assert!(ignored.lines().any(|line| line == format!("!{name}")), "{name}: {ignored}");
    }
    let pods = [&yaml("kubernetes/deployment.yaml")[2], &yaml("kubernetes/job.yaml")[0]];
    for pod in pods.map(|it| it["spec"]["template"]["spec"].clone()) {
        let container = &pod["containers"][0];
        assert!(container.get("command").is_none(), "the image's entry point: {container}");
        let probe = &container["livenessProbe"]["exec"]["command"];
        assert_eq!(probe[0], "procsig");
        assert_eq!(
            probe[3],
            container["args"].as_array().expect("arguments").last().expect("one").clone()
        );
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        // Every volume that is mounted is there, and the other way round.
        let names = |list: &Value| -> BTreeSet<String> {
            let list = list.as_array().expect("a list");
            list.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect()
        };
        assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    }
}

#[test]
fn the_packaged_configurations_are_valid() {
    if !needs_yaml("the_packaged_configurations_are_valid") {
        return;
    }
    let place = Place::new();
    let deployment = yaml("kubernetes/deployment.yaml");
    let config_map = &deployment[0]["data"];
    let work = place.path("");
    for (toml, hosts) in [
        (packaged("pings.toml"), packaged("pings.hosts")),
        (
            config_map["pings.toml"].as_str().expect("text").to_owned(),
            config_map["pings.hosts"].as_str().expect("text").to_owned(),
        ),
    ] {
        // Where results go is there only once it is installed.
        // Nor has every machine a ping.
        let toml = toml.replace("/var/lib/procsig", text(&work)).replace("\"ping\",", "\"true\",");
        place.write("pings.toml", toml);
        place.write("pings.hosts", hosts);
        place.command(&["check", "pings.toml"]).finish().assert_exit(0);
    }
}

#[test]
fn the_packaged_scripts_are_scripts() {
    let scripts = [
        "build.sh",
        "debian/postinst",
        "debian/prerm",
        "debian/postrm",
        "runit/procsig/run",
        "runit/procsig/finish",
        "runit/procsig/control/t",
        "runit/procsig/log/run",
        "s6/procsig/run",
        "s6/procsig/finish",
        "s6/procsig/log/run",
    ];
    for script in scripts {
        let shell = if packaged(script).starts_with("#!/bin/sh\n") { "sh" } else { "bash" };
        let output = tool(shell, &["-n", text(&path(script))]);
        assert!(output.status.success(), "{script}: {output:?}");
        let mode = std::fs::metadata(path(script)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} can't be executed");
    }
}

/// The unit as an instance, with the program of this build.
fn instance(place: &Place) -> PathBuf {
    let unit =
        packaged("systemd/procsig@.service").replace("/usr/bin/procsig", text(&place.program));
    std::fs::write(place.private("procsig@.service"), &unit).expect("a unit");
    let instance = place.private("procsig@pings.service");
    std::fs::write(&instance, unit).expect("a unit");
    instance
}

#[test]
fn the_unit_is_one_that_systemd_understands_and_finds_hardened() {
    let test = "the_unit_is_one_that_systemd_understands_and_finds_hardened";
    if !needs(test, &["systemd-analyze"]) {
        return;
    }
    let place = Place::new();
    let unit = instance(&place);
    let verify = tool("systemd-analyze", &["verify", "--man=no", text(&unit)]);
    let told = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && told.is_empty(), "{told}");
    // From 0, locked up, to 100, anything goes.
    let security = ["security", "--offline=yes", "--no-pager", "--threshold=20", text(&unit)];
    let security = tool("systemd-analyze", &security);
    let told = String::from_utf8_lossy(&security.stdout).into_owned();
    assert!(security.status.success(), "{told}");
}

/// The system calls of a group that systemd knows.
fn calls_of(group: &str) -> BTreeSet<String> {
    let output = tool("systemd-analyze", &["syscall-filter", "--no-pager", group]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut calls = BTreeSet::new();
    for name in text.lines().skip(1).map(str::trim).filter(|name| !name.starts_with('#')) {
        match name.starts_with('@') {
            true => calls.extend(calls_of(name)),
            false => drop(calls.insert(name.to_owned())),
        }
    }
    calls
}

#[test]
fn the_units_filter_lets_through_every_system_call_of_a_run() {
    let test = "the_units_filter_lets_through_every_system_call_of_a_run";
    if !needs(test, &["systemd-analyze", "strace"]) {
        return;
    }
    let allowed = calls_of(&setting("systemd/procsig@.service", "SystemCallFilter"));
    assert!(allowed.len() > 100, "{allowed:?}");
    let place = Place::new();
    place.jobs(50);
    place.work_script("exit 0");
    let trace = place.private("trace");
    let strace = ["strace", "-f", "-qq", "-o", text(&trace)];
    for jobs in ["jobs.txt", "-"] {
        // A list that is a file, and one that comes through a pipe and is taken by `splice`.
        let run = place.run(&["--jobs", jobs], &["sh", "work.sh", "{}"]);
        let mut cat = std::process::Command::new("cat");
        let cat = cat.arg(place.path("jobs.txt")).stdout(std::process::Stdio::piped());
        let mut cat = support::spawn(cat).expect("cat");
        let pipe = cat.stdout.take().expect("a pipe");
        run.under(&strace).stdin(pipe).finish().assert_exit(0);
        let _ = cat.wait();
        let trace = std::fs::read_to_string(&trace).expect("the trace");
        let call = |line: &str| {
            let name = line.split_once(' ')?.1.trim_start().split_once('(')?.0.to_owned();
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)
        };
        let called: BTreeSet<String> = trace.lines().filter_map(call).collect();
        assert!(called.contains("futex") && called.contains("mmap"), "{called:?}");
        let forbidden: Vec<&String> = called.difference(&allowed).collect();
        assert!(forbidden.is_empty(), "{forbidden:?}");
    }
}

/// The directory that a container of the image would have as its root.
#[track_caller]
fn image(place: &Place) -> PathBuf {
    let root = place.private("root");
    let files = [text(&place.program).to_owned(), "/bin/true".into()];
    let mut wanted =
        vec![(files[0].clone(), format!("/{}", place.name)), (files[1].clone(), files[1].clone())];
    for file in &files {
        let ldd = String::from_utf8_lossy(&tool("ldd", &[file]).stdout).into_owned();
        let libraries = ldd.split_whitespace().filter(|word| word.starts_with('/'));
        wanted.extend(libraries.map(|library| (library.to_owned(), library.to_owned())));
    }
    for (from, to) in &wanted {
        let to = root.join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        assert!(tool("cp", &["-L", from, text(&to)]).status.success(), "{from}");
    }
    for directory in ["proc", "dev", "tmp", "etc/procsig", "var/lib/procsig"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    std::fs::write(root.join("dev/null"), "").expect("a file");
    let configuration = packaged("pings.toml").replace("[\"ping\", \"-c1\", \"{}\"]", "[\"true\"]");
    let configuration = configuration.replace("every = \"30s\"", "every = \"10ms\"");
    std::fs::write(root.join("etc/procsig/pings.toml"), configuration).expect("a file");
    std::fs::write(root.join("etc/procsig/pings.hosts"), packaged("pings.hosts")).expect("a file");
    root
}

/// What the image comes to: process 1, another user, a root that can't be written, a volume.
#[test]
fn as_process_1_of_a_read_only_root_it_stops_in_order() {
    let test = "as_process_1_of_a_read_only_root_it_stops_in_order";
    if !needs(test, &["root", "unshare", "nsenter", "chroot", "mount", "ldd"]) {
        return;
    }
    let place = Place::new();
    let root = image(&place);
    let program = place.name.as_str();
    let script = "set -e; r=$1; shift; mount --make-rprivate /; mount --bind $r $r; \
         mount -t proc proc $r/proc; mount --bind /dev/null $r/dev/null; \
         mount -t tmpfs -o mode=0777 data $r/var/lib/procsig; mount -o remount,bind,ro $r; \
         exec chroot --userspec=65532:65532 $r \"$@\"";
    // `place.command` would name the program by its path outside.
    let words =
        ["-c", script, "sh", text(&root), &format!("/{program}"), "run", "/etc/procsig/pings.toml"];
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "-p", "-f", "sh"]).args(words);
    command.env(support::MARKER, &place.name).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let log = place.private("log");
    command.stderr(std::fs::File::create(&log).expect("a file")).stdin(std::process::Stdio::null());
    let mut unshare = support::spawn(&mut command).expect("unshare");
    let printed = || std::fs::read_to_string(&log).unwrap_or_default();
    let first = wait_until("process 1 has children", support::WATCHDOG, || {
        let first = support::processes::children_of(unshare.id() as i32).into_iter().next()?;
        let children = support::processes::children_of(first.pid);
        let ready = children.iter().filter(|it| it.comm.starts_with("worker ")).count() == 2;
        assert!(unshare.try_wait().expect("its status").is_none(), "{}", printed());
        ready.then_some(first)
    });
    assert_eq!(
        first
            .status("Uid")
            .as_deref()
            .and_then(|ids| ids.split_whitespace().next().map(str::to_owned)),
        Some("65532".into())
    );
    // As a container's own probe: in its namespaces, with its root and its user.
    let pid = first.pid.to_string();
    let own = format!("/{program}");
    let probe = ["-t", &pid, "-m", "-p", "-r", "-w", "-S", "65532", "-G", "65532", &own, "status"];
    let probe = tool("nsenter", &[&probe[..], &["--healthy", "/etc/procsig/pings.toml"]].concat());
    let told = String::from_utf8_lossy(&probe.stdout).into_owned();
    assert!(probe.status.success() && told.starts_with("ok: "), "{probe:?}");
    assert!(first.handle().expect("process 1").send(Signal::TERM));
    let status = unshare.wait().expect("its status");
    assert_eq!(status.code(), Some(0), "{}", printed());
    let lines: Vec<_> = printed().lines().filter_map(support::Line::parse).collect();
    support::log::assert_full_stop(&lines, 2);
    support::Balance::of(&lines).assert_even();
    assert!(Process::marked(&place.name).is_empty());
}
