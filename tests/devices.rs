//! Outputs that are no files, directories that can't be written, disks whose own disk runs out, and
//! outputs that are slow.

mod support;

use support::place::OUTPUT;
use support::{Balance, Ended, Launch, Place, Process, Signal, log, needs};

/// A pipeline of that many jobs with this output, and its spool elsewhere; every few results are
/// written.
fn place(jobs: usize, output: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(jobs);
    place.config(
        "[spool]\nfile = \"spool\"\nlane = \"64KiB\"\njobs = 16\njob_bytes = 64\n\
         [buffer]\nflush_records = 4\nflush_after = \"20ms\"\n",
    );
    let text = place.read("pings.toml").replace("file = \"out.jsonl\"", output);
    place.write("pings.toml", text);
    place.work_script("");
    (place, jobs)
}

fn run(place: &Place) -> Launch<'_> {
    place.command(&["run", "pings.toml"])
}

fn seqs(text: &str) -> Vec<u64> {
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["seq"].as_u64();
    let mut seqs: Vec<u64> = text.lines().filter_map(number).collect();
    seqs.sort_unstable();
    seqs
}

#[track_caller]
fn assert_once(text: &str, jobs: &[String], ended: &Ended) {
    let all: Vec<u64> = (1..=jobs.len() as u64).collect();
    assert_eq!(seqs(text), all, "{}", ended.describe());
}

// Row 20: a FIFO or a pipe whose reader goes.

/// What the reader took is not written again, but for the batch in which it went, as documented; what
/// it did not take is kept.
#[test]
fn a_fifo_or_a_pipe_whose_reader_goes_ends_with_74_that_says_so_and_the_next_reader_gets_the_rest()
{
    for fifo in [true, false] {
        let output = if fifo { "file = \"fifo\"" } else { "file = \"/dev/stdout\"" };
        let (place, jobs) = place(300, output);
        // Once there is enough for the reader, the rest waits until it has taken that: what stands in its
        // pipe when it goes is gone.
        let taken = "[ \"$(cat taken 2>/dev/null | wc -c)\" -ge 5000 ]";
        place.work_script(&format!("[ ${{1#job-}} -le 50 ] || until {taken}; do sleep 0.01; done"));
        if fifo {
            drop(place.pipe("fifo"));
        }
        let start = |reader: &str| {
            let script = match fifo {
                true => format!(
                    "{reader} <fifo & exec 3>fifo; \"$@\" 3>&-; code=$?; exec 3>&-; wait; exit $code"
                ),
                false => format!("{{ \"$@\"; echo $? >code; }} | {reader}; exit $(cat code)"),
            };
            // The reader is there before the program opens what it reads.
            run(&place).under(&["sh", "-c", &script, "sh"]).finish()
        };
        let ended = start("head -c 5000 >taken");
        assert_eq!((ended.code, ended.signal), (Some(74), None), "{}", ended.describe());
        let told = "can't write the output: Broken pipe (os error 32); what is not written is kept in the \
                    spool. Whoever has read it is gone: start the reader, then start again";
        assert!(ended.stderr.contains(told), "{}", ended.describe());
        let balance = Balance::of(&ended.log());
        balance.assert_even();
        let again = start("cat >rest");
        again.assert_exit(0);
        Balance::of(&again.log()).assert_even();
        let (taken, rest) = (place.read("taken"), place.read("rest"));
        let mut there = seqs(&(taken + &rest));
        assert_eq!(seqs(&rest).len() as u64, 300 - balance.written, "{}", again.describe());
        there.dedup();
        assert!(there.len() > 300 - 60, "only what its reader had not read yet may be gone");
        drop(jobs);
    }
}

#[test]
fn a_fifo_that_nobody_reads_is_refused_before_anything_is_started() {
    let (place, _) = place(3, "file = \"fifo\"");
    drop(place.pipe("fifo"));
    let ended = run(&place).finish();
    ended.assert_exit(74);
    assert!(ended.stderr.contains("nobody reads this FIFO"), "{}", ended.describe());
    assert!(place.started().is_empty());
    assert!(!place.files().contains("spool"), "{:?}", place.files());
}

/// Whoever has set the pipe not to block has set it for a description of his own: ours waits.
#[test]
fn a_pipe_that_was_set_not_to_block_is_waited_for_while_its_reader_is_slow() {
    let test = "a_pipe_that_was_set_not_to_block_is_waited_for_while_its_reader_is_slow";
    if !needs(test, &["python3"]) {
        return;
    }
    let (place, jobs) = place(300, "file = \"/dev/stdout\"");
    // A pipe holds 16 of them, and as many are handed out.
    place.work_script("head -c 4000 /dev/zero | tr '\\0' x");
    place.write(
        "unblock.py",
        "import fcntl, os, sys\n\
         fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_NONBLOCK)\n\
         os.execv(sys.argv[1], sys.argv[1:])\n",
    );
    let begun = "[ $(cat started.txt 2>/dev/null | wc -l) -ge 24 ]";
    let reader = format!("{{ until {begun}; do sleep 0.05; done; cat >taken; }}");
    let script =
        format!("{{ python3 unblock.py \"$@\"; echo $? >code; }} | {reader}; exit $(cat code)");
    let ended = run(&place).under(&["sh", "-c", &script, "sh"]).finish();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    assert_once(&place.read("taken"), &jobs, &ended);
}

#[test]
fn a_socket_is_refused_as_such_before_anything_is_started() {
    let (place, _) = place(3, "file = \"socket\"");
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).expect("a socket");
    let ended = run(&place).finish();
    ended.assert_exit(74);
    let told = "can't open the output: it is a socket, which has no name to be opened by";
    assert!(ended.stderr.contains(told), "{}", ended.describe());
    assert!(place.started().is_empty());
}

// Row 21: directories that can't be written.

/// A script that mounts something at `disk`, and the program behind it.
fn mounted<'a>(place: &'a Place, script: &str) -> Launch<'a> {
    std::fs::create_dir_all(place.path("disk")).expect("a place to mount at");
    let script = format!(
        "{{ {script}; }} || exit 99\n\"$@\"; code=$?\n\
         cat disk/out.2*.jsonl disk/out.jsonl >{OUTPUT} 2>/dev/null\nexit $code"
    );
    run(place).under(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"])
}

#[test]
fn a_read_only_file_system_is_refused_before_anything_is_started_for_output_and_spool() {
    let test = "a_read_only_file_system_is_refused_before_anything_is_started";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let mount = "mount -t tmpfs none disk && mount -o remount,ro disk";
    for (output, spool, what) in [
        ("file = \"disk/out.jsonl\"", "\"spool\"", "can't open the output"),
        ("file = \"out.jsonl\"", "\"disk/spool\"", "can't create the spool"),
    ] {
        let (place, _) = place(3, output);
        place.write("pings.toml", place.read("pings.toml").replace("\"spool\"", spool));
        let ended = mounted(&place, mount).finish();
        ended.assert_exit(74);
        for word in [what, "Read-only file system", "mount it to be written, then start again"] {
            assert!(ended.stderr.contains(word), "{word:?}\n{}", ended.describe());
        }
        assert!(place.started().is_empty());
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused_before_anything_is_started() {
    let test = "a_directory_of_somebody_else_is_refused_before_anything_is_started";
    if !needs(test, &["root", "setpriv"]) {
        return;
    }
    for (output, spool, what) in [
        ("file = \"disk/out.jsonl\"", "\"/tmp/$SPOOL\"", "can't open the output"),
        ("file = \"/dev/null\"", "\"disk/spool\"", "can't create the spool"),
    ] {
        let (place, _) = place(3, output);
        let spool = spool.replace("$SPOOL", &place.name);
        place.write("pings.toml", place.read("pings.toml").replace("\"spool\"", &spool));
        std::fs::create_dir(place.path("disk")).expect("a directory of root");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let top = place.path("").parent().expect("the place").to_path_buf();
        std::fs::set_permissions(top, open).expect("to be looked into");
        let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let ended = run(&place).under(&nobody).finish();
        ended.assert_exit(74);
        for word in [what, "Permission denied", "the right to it, then start again"] {
            assert!(ended.stderr.contains(word), "{word:?}\n{}", ended.describe());
        }
        assert!(place.started().is_empty());
    }
}

/// ext4 that finds a fault in itself and takes no more writes, whoever has what open.
const FAULTY: &str = "[ -e image ] || { truncate -s 24m image && \
     mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 image; } && \
     { e2fsck -fp image >fsck || [ $? -le 1 ]; } && mount -o loop,errors=remount-ro image disk && \
     findmnt -no SOURCE disk >device";

#[test]
fn a_file_system_that_becomes_read_only_underfoot_ends_with_74_and_the_next_start_goes_on() {
    let test = "a_file_system_that_becomes_read_only_underfoot_ends_with_74";
    if !needs(test, &["root", "mount", "unshare", "mkfs.ext4", "e2fsck", "findmnt", "losetup"]) {
        return;
    }
    if !support::tool("losetup", &["-f"]).status.success() {
        eprintln!("skipped: {test} needs a loop device");
        return;
    }
    // What was not synced is gone with such a file system, as with the power.
    let (place, jobs) = place(1500, "file = \"disk/out.jsonl\"\nsync = \"always\"");
    let running = mounted(&place, FAULTY).start();
    let main = running.until("a supervisor", |run| run.of_program().first().map(|main| main.pid));
    let output = format!("/proc/{main}/root{}", place.path("disk/out.jsonl").display());
    running.until("results", |_| {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        (text.lines().count() > 20).then_some(())
    });
    let device = place.read("device");
    let device = device.trim().trim_start_matches("/dev/");
    // Between two calls: of a sync that the fault meets half-way the system says that it was done.
    let buffer = running.role(2, "buffer").remove(0);
    assert!(buffer.send(Signal::STOP));
    running.until("a buffer that stands still", |_| {
        Process::read(buffer.process.pid).filter(|it| it.state == 'T')
    });
    std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").expect("a fault");
    assert!(buffer.send(Signal::CONT));
    let ended = running.wait();
    ended.assert_exit(74);
    for word in ["out.jsonl", "Read-only file system", "start again"] {
        assert!(ended.stderr.contains(word), "{word:?}\n{}", ended.describe());
    }
    Balance::of(&ended.log()).assert_even();
    log::assert_nothing_out_of_order(&ended.log());
    let again = mounted(&place, FAULTY).finish();
    again.assert_exit(0);
    Balance::of(&again.log()).assert_even();
    assert_once(&place.read(OUTPUT), &jobs, &again);
}

// Row 18: a disk whose own disk runs out: written bytes are lost, and only a sync tells.

/// An ext4 image in a file system in memory that has not the room for it. What is written goes to the
/// memory of the kernel, and is lost when it is to go to the disk.
const THIN: &str = "mkdir back && mount -t tmpfs -o size=3m none back && truncate -s 24m back/image && \
     mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 back/image && \
     mount -o loop,errors=continue back/image disk";

#[test]
fn a_disk_whose_own_disk_runs_out_ends_with_74_that_names_the_bytes_and_nobody_syncs_again() {
    let test = "a_disk_whose_own_disk_runs_out_ends_with_74_that_names_the_bytes";
    if !needs(test, &["root", "mount", "unshare", "mkfs.ext4", "losetup"]) {
        return;
    }
    if !support::tool("losetup", &["-f"]).status.success() {
        eprintln!("skipped: {test} needs a loop device");
        return;
    }
    for sync in ["always", "50ms"] {
        let output = format!("file = \"disk/out.jsonl\"\nsync = \"{sync}\"");
        let (place, jobs) = place(1200, &output);
        place.work_script("head -c 4000 /dev/zero | tr '\\0' x");
        let ended = mounted(&place, THIN).finish();
        ended.assert_exit(74);
        let told = "can't force the output to the disk: bytes ";
        assert!(ended.stderr.contains(told), "{sync}\n{}", ended.describe());
        let end = "See to the disk (dmesg says more), then start again";
        let no_more = "a sync of it has failed in this run, so nothing more is written to it";
        assert!(ended.stderr.contains(end), "{sync}\n{}", ended.describe());
        assert!(ended.stderr.contains(no_more), "{sync}\n{}", ended.describe());
        let afresh = ended.stderr.contains("; writing it again to a new file");
        assert_eq!(afresh, sync == "always", "{}", ended.describe());
        Balance::of(&ended.log()).assert_even();
        log::assert_nothing_out_of_order(&ended.log());
        let mut there = seqs(&place.read(OUTPUT));
        let all = there.len();
        there.dedup();
        assert_eq!(there.len(), all, "twice in the output\n{}", ended.describe());
        assert!(all < jobs.len(), "it never ran out");
    }
}

// Row 37: an output that is slow.

#[test]
fn a_slow_output_holds_up_the_workers_with_bounded_memory_and_nobody_is_called_hung() {
    let test = "a_slow_output_holds_up_the_workers_with_bounded_memory_and_nobody_is_called_hung";
    if !needs(test, &["strace"]) {
        return;
    }
    let (place, jobs) = place(400, "file = \"out.jsonl\"");
    place.work_script("head -c 2000 /dev/zero | tr '\\0' x");
    let (file, output) = (place.private("trace"), place.path(OUTPUT));
    let (file, output) = (file.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    let inject = "inject=write:delay_enter=200000";
    let strace = ["strace", "-f", "-o", file, "-P", output, "-e", "trace=write", "-e", inject];
    let run = run(&place).under(&strace).start();
    let buffer = run.children(2).into_iter().find(|it| it.comm == "buffer").expect("a buffer");
    let memory = || {
        let buffer = Process::read(buffer.pid)?.status("VmHWM")?;
        buffer.split(' ').next()?.parse::<u64>().ok()
    };
    run.until_written(50);
    let before = memory();
    run.until_written(200);
    if let (Some(before), Some(now)) = (before, memory()) {
        // Not more than a batch of what the lanes hold.
        assert!(now < before + 2048, "from {before} to {now} KiB");
    }
    let mut ended = run.wait();
    ended.stderr = ended
        .stderr
        .lines()
        .filter(|it| !it.starts_with("strace"))
        .fold(String::new(), |text, line| text + line + "\n");
    ended.assert_exit(0);
    let calm = ended.log().iter().all(|line| {
        line.level != "ERROR" && line.role != "buffer" || line.message.starts_with("stopped: ")
    });
    assert!(calm && !ended.stderr.contains("does not"), "{}", ended.describe());
    assert_once(&place.read(OUTPUT), &jobs, &ended);
    place.assert_each_ran_once(&jobs);
}

/// A stop is not held up longer than its deadline either, and what is not written is kept.
#[test]
fn a_stop_with_an_output_that_hangs_ends_at_the_deadline_and_the_next_start_writes_the_rest() {
    let test = "a_stop_with_an_output_that_hangs_ends_at_the_deadline";
    if !needs(test, &["strace"]) {
        return;
    }
    let (place, jobs) = place(200, "file = \"out.jsonl\"");
    let shutdown = "[shutdown]\ndeadline = \"2s\"\nflush_reserve = \"1s\"\n";
    place.write("pings.toml", place.read("pings.toml") + shutdown);
    place.work_script("[ -e calm ] || sleep 0.02");
    let (file, output) = (place.private("trace"), place.path(OUTPUT));
    let (file, output) = (file.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    let inject = "inject=write:delay_enter=30000000:when=4";
    let strace = ["strace", "-f", "-o", file, "-P", output, "-e", "trace=write", "-e", inject];
    let stopped = run(&place).under(&strace).start();
    stopped.until("a write that hangs", |_| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        (text.matches("write(").count() >= 4).then_some(())
    });
    stopped.signal(Signal::TERM);
    let ended = stopped.wait();
    assert_eq!((ended.code, ended.signal), (Some(4), None), "{}", ended.describe());
    assert!(ended.stderr.contains("start again to go on"), "{}", ended.describe());
    place.write("calm", "");
    let again = run(&place).finish();
    again.assert_exit(0);
    assert_once(&place.read(OUTPUT), &jobs, &again);
}
