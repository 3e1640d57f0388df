//! A start as root that becomes somebody else, before it creates anything and for good.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use support::processes::children_of;
use support::{Place, Process, Signal, needs};

/// `nobody`, who is everywhere.
const NOBODY: u32 = 65534;

/// A place in which `nobody` may work, with two kinds of jobs: `wait`, until `go` is there, and others.
fn place(keys: &str) -> Place {
    let place = Place::new();
    let work = place.path("");
    let top = work.parent().and_then(|work| work.parent()).expect("a directory").to_owned();
    for directory in [&top, &work.to_path_buf()] {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory, open).expect("our own directory");
    }
    chown(&work, Some(NOBODY), Some(NOBODY)).expect("root may");
    place.write(
        "work.sh",
        "if [ $1 = wait ]; then while [ ! -e go ]; do sleep 0.02; done; fi\n\
         echo $HOME $USER $LOGNAME; id -u; id -G\n",
    );
    place.write("jobs.txt", "wait\nwell\n");
    place.write(
        "c.toml",
        format!(
            "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.w]\n\
             command = [\"sh\", \"work.sh\", \"{{}}\"]\nprocesses = 1\nthreads = 2\n\
             [log]\nfile = \"log.txt\"\n[dead_letters]\nfile = \"dead.jsonl\"\n\
             [privileges]\n{keys}\n"
        ),
    );
    place
}

/// Nobody but `nobody`, with no way back and no right left.
#[track_caller]
fn assert_nobody(process: &Process, no_new_privs: &str) {
    let status = |field| process.status(field).unwrap_or_else(|| panic!("{field}: {process:?}"));
    for field in ["Uid", "Gid"] {
        let all: Vec<String> = status(field).split_whitespace().map(str::to_owned).collect();
        assert_eq!(all, ["65534", "65534", "65534", "65534"], "{field} of {process:?}");
    }
    assert_eq!(status("Groups").trim(), "65534", "{process:?}");
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(field), "0000000000000000", "{field} of {process:?}");
    }
    assert_eq!(status("NoNewPrivs"), no_new_privs, "{process:?}");
}

fn owners(place: &Place) -> Vec<(String, u32, u32)> {
    let owner = |name: String| {
        let metadata = std::fs::metadata(place.path(&name)).expect("it is there");
        (name, metadata.uid(), metadata.gid())
    };
    let ours = ["c.toml", "jobs.txt", "work.sh", "go"];
    place.files().into_iter().filter(|name| !ours.contains(&name.as_str())).map(owner).collect()
}

#[test]
fn started_by_root_everybody_is_somebody_else_and_so_is_the_owner_of_each_file() {
    let test = "started_by_root_everybody_is_somebody_else_and_so_is_the_owner_of_each_file";
    if !needs(test, &["root", "setpriv"]) {
        return;
    }
    for (keys, no_new_privs) in [
        ("user = \"nobody\"", "0"),
        ("user = \"65534\"\ngroup = \"65534\"\nno_new_privs = true", "1"),
    ] {
        let place = place(keys);
        let running = place.command(&["run", "c.toml"]).without_terminal().start();
        let children = running.until("the children", |_| {
            let main = running.of_program().into_iter().next()?;
            let children = children_of(main.pid);
            let named = |name: &str| children.iter().any(|it| it.comm.starts_with(name));
            (named("worker ") && named("buffer") && named("source")).then_some(children)
        });
        let worker = children.iter().find(|it| it.comm.starts_with("worker")).expect("a worker");
        let command = running.until("the command", |_| {
            let is_command = |it: &Process| it.command_line().trim() == "sh work.sh wait";
            children_of(worker.pid).into_iter().find(is_command)
        });
        let main = running.supervisor();
        for process in children.iter().chain([&main, &command]) {
            assert_nobody(process, no_new_privs);
        }
        // What is opened anew is opened by who it is now.
        std::fs::rename(place.path("log.txt"), place.path("log.1.txt")).expect("root may");
        running.signal(Signal::HUP);
        running.until("a new log", |_| place.path("log.txt").exists().then_some(()));
        running.signal(Signal::TERM);
        running.until("the stop", |_| {
            place.read("log.txt").contains("stopping workers").then_some(())
        });
        place.write("go", "");
        running.wait().assert_exit(if place.results().len() == 2 { 0 } else { 5 });
        let owners = owners(&place);
        assert!(owners.len() >= 4, "{owners:?}");
        assert!(owners.iter().all(|it| (it.1, it.2) == (NOBODY, NOBODY)), "{owners:?}");
        // And whoever starts it again as that user goes on with all of it.
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let again = place.command(&["run", "c.toml"]).under(&[&["setpriv"][..], &ids].concat());
        again.finish().assert_exit(0);
        let results = place.results();
        let out = results.of(1)["stdout"].as_str().expect("output").to_owned();
        assert!(out.contains("nobody nobody\n65534\n65534\n"), "{out}");
        assert!(!out.contains("/root"), "the home of nobody: {out}");
    }
}

#[test]
fn who_may_not_become_another_user_is_told_to_and_nothing_is_created() {
    let test = "who_may_not_become_another_user_is_told_to_and_nothing_is_created";
    if !needs(test, &["root", "setpriv"]) {
        return;
    }
    let place = place("user = \"nobody\"");
    chown(place.path(""), Some(4711), Some(4711)).expect("root may");
    let before = place.files();
    let ids = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups"];
    let ended = place.command(&["run", "c.toml"]).under(&ids).finish();
    ended.assert_exit(78);
    let expected =
        "(uid 4711) and may not become nobody (uid 65534): start it as root or as nobody";
    assert!(ended.stderr.contains(expected), "{}", ended.describe());
    assert_eq!(place.files(), before);
}

#[test]
fn files_of_an_earlier_run_as_root_are_named_with_what_to_do() {
    let test = "files_of_an_earlier_run_as_root_are_named_with_what_to_do";
    if !needs(test, &["root"]) {
        return;
    }
    let place = place("user = \"nobody\"");
    place.write("go", "");
    let text = place.read("c.toml");
    place.write("c.toml", text.replace("user = \"nobody\"", ""));
    place.command(&["run", "c.toml"]).finish().assert_exit(0);
    place.write("c.toml", text);
    let ended = place.command(&["run", "c.toml"]).finish();
    ended.assert_exit(74);
    assert!(ended.stderr.contains("chown nobody:"), "{}", ended.describe());
    for name in [".out.jsonl.spool", "out.jsonl", "dead.jsonl", "log.txt"] {
        assert!(ended.stderr.contains(name), "{name}: {}", ended.describe());
        chown(place.path(name), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    place.command(&["run", "c.toml"]).finish().assert_exit(0);
    assert_eq!(place.results().len(), 4, "the list was run twice");
}

#[test]
fn a_user_that_is_not_there_is_a_mistake_with_its_place() {
    let place = Place::new();
    place.jobs(1);
    place.config("[privileges]\nuser = \"no-such-user\"\n");
    for command in ["check", "run"] {
        let ended = place.command(&[command, "pings.toml"]).finish();
        ended.assert_exit(78);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("there is no user \"no-such-user\" on this system"), "{said}");
        assert!(said.contains("pings.toml:12:8"), "{said}");
    }
}
