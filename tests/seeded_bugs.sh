#!/usr/bin/env bash
# Do the tests see what they are there for? Applies small wrong changes to a copy of the sources, one at
# a time, and runs the tests that should catch each. A change that no test catches is a failure.
#
#   bash tests/seeded_bugs.sh [PATTERN OF NAMES]
#   bash tests/seeded_bugs.sh --applies     only says which changes have lost their place in the sources
#
# Needs git, perl and cargo. About a quarter of a minute for each change. At the end the same tests run on
# the unchanged sources: one that fails there would catch anything.
#
# A change that was caught is noted with the sum of all sources that its tests are made of, and not tried
# again as long as they are the same: so they can be tried in pieces. A run of all of them writes
# tests/seeded_bugs.txt.
# SEEDED_BUGS_LIMIT: seconds that the tests of one change may take (default 400).
# JOBS: how many changes are tried side by side, each in a copy of its own (default 1).
set -euo pipefail
cd "$(dirname "$0")/.."
only=${1:-}
limit=${SEEDED_BUGS_LIMIT:-400}
root=$PWD
names=() files=() olds=() news=() tests=()

# bug NAME FILE OLD NEW (--lib | --test FILE) NAMES-OF-TESTS...: OLD must stand in FILE exactly once.
bug() {
    [[ $only == --applies || $1 =~ $only ]] || return 0
    names+=("$1") files+=("$2") olds+=("$3") news+=("$4")
    shift 4
    tests+=("$*")
}

queue=src/flow/queue

# Publishing.
bug "the tail moves before the frames are copied" $queue/lane.rs \
    '        self.make_room(needed as u64);
        let (mut tail' \
    '        self.make_room(needed as u64);
        self.spool.producer(self.lane).tail.store(self.tail + needed as u64, Ordering::Release);
        let (mut tail' --lib single_step::killed_after_any_instruction_of_a_worker_that_succeeds
bug "result_end is stored after the tail" $queue/lane.rs \
    '            finish.result_end.store(tail, Ordering::Release);
        }
        assert_eq!(tail, self.tail + needed as u64, "frames take what was reckoned");
        self.advance(tail, records);' \
    '        }
        assert_eq!(tail, self.tail + needed as u64, "frames take what was reckoned");
        self.advance(tail, records);
        if let Some(finish) = finish {
            finish.result_end.store(tail, Ordering::Release);
        }' --lib single_step::killed_after_any_instruction_of_a_worker_that_succeeds
bug "a job's end is published apart from its records" $queue/lane.rs \
    '            let Finish { seq, round, .. } = finish;' \
    '            self.spool.producer(self.lane).tail.store(tail, Ordering::Release);
            let Finish { seq, round, .. } = finish;' --lib single_step::killed_after_any_instruction_of_a_worker_that_succeeds
bug "the lane is believed to be empty when it is full" $queue/lane.rs \
    'freed.saturating_add(self.capacity as u64).max(self.tail);' \
    'freed.saturating_add(2 * self.capacity as u64).max(self.tail);' --lib waking_tests
bug "the room that is remembered is too large by one frame" $queue/lane.rs \
    'freed.saturating_add(self.capacity as u64).max(self.tail);' \
    'freed.saturating_add((self.capacity + frame::size(1)) as u64).max(self.tail);' --lib waking_tests
bug "the room that is remembered is never looked at again" $queue/lane.rs \
    '        let freed = ends::freed(self.spool.consumer(self.lane));' \
    '        if self.room > self.tail {
            return self.room - self.tail >= needed;
        }
        let freed = ends::freed(self.spool.consumer(self.lane));' --lib waking_tests
bug "the place in the ring does not wrap" $queue/lane.rs \
    '        if self.place >= self.capacity {
            self.place -= self.capacity;
        }' '' --lib waking_tests
bug "a writer goes on at another place in the ring than its tail" $queue/lane.rs \
    'let place = (tail % capacity as u64) as usize;' 'let place = 0 * capacity;' --lib torn_tests::what_is_published
# Reading.
bug "a checksum is not checked" $queue/reader.rs \
    'head.fits(frame).then(||' '(true || head.fits(frame)).then(||' --lib torn_tests::what_is_published
bug "the checksum leaves out the last word of the payload" $queue/frame.rs \
    '&frame[8..])' '&frame[8..(frame.len() - 8).max(HEAD)])' --lib frame::
bug "the checksum leaves out the length and the kind" $queue/frame.rs \
    'crc32c::crc32c_append(kind_and_len, &frame[8..])' \
    'crc32c::crc32c_append(kind_and_len & 0, &frame[8..])' --lib frame::
bug "a frame of an earlier lap is believed" $queue/reader.rs \
    'if head.offset != offset || size(&head) > until - offset' 'if size(&head) > until - offset' \
    --lib queue::tests queue::reader
bug "a number of records that there can not have been is believed" $queue/reader.rs \
    ' || !plausible(&head)' '' --lib queue::reader
bug "the window keeps its bytes when it is filled anew" $queue/reader.rs \
    '        window.bytes.clear();' '' --lib reader::
bug "the window is believed to begin where it did before" $queue/reader.rs \
    '        window.begin = offset;' '' --lib reader::
bug "the window reaches beyond what is to be read" $queue/reader.rs \
    'let stretch = left.min(WINDOW.max(len as u64)) as usize;' \
    'let stretch = (left - left + WINDOW.max(len as u64).min(self.capacity)) as usize;' --lib reader::
bug "a unit is read beyond the tail" $queue/reader.rs \
    'self.frame(at.offset, until, window)?;' \
    'self.frame(at.offset, until.saturating_add(4096), window)?;' --lib reader::
bug "a record that belongs to no job is read beyond the tail" $queue/reader.rs \
    'self.frame(mark.offset, until, window)?;' \
    'self.frame(mark.offset, until.saturating_add(4096), window)?;' --lib reader::
bug "half of a torn job is handed on" $queue/reader.rs \
    '        if end.is_none() {
            into.back_to(&before);
        }' '        let _ = before;' --lib torn_tests::what_is_published
bug "the rest of a torn job is taken for a job" $queue/reader.rs \
    'JobEnd::from_bytes(payload).filter(|job| job.begin == mark.offset)' \
    'JobEnd::from_bytes(payload).filter(|_| true)' --lib queue::reader
bug "the rest of a torn job is taken for where a job begins" $queue/reader.rs \
    'if self.leads_to(at, begin, end, window) => return begin,' \
    'if begin < at || self.leads_to(at, begin, end, window) => return begin.max(at),' \
    --lib queue::reader
bug "a job behind frames without an end is taken for the rest of a torn one" $queue/reader.rs \
    'if self.leads_to(at, begin, end, window) => return begin,' 'if begin == at => return at,' \
    --lib queue::reader torn_tests::what_is
bug "records that are missing before a job are not noticed" $queue/reader.rs \
    '            into.lost = into.lost.wrapping_add(missing);' '' --lib queue::reader
bug "records that are missing before one that belongs to no job are not noticed" $queue/reader.rs \
    'into.lost = into.lost.wrapping_add(missing(&head, mark));' '' --lib queue::reader

# Jobs and settling.
bug "a stale result_end stays when a job is put back" $queue/jobs.rs \
    '        slot.command.store(0, Ordering::Relaxed);
        slot.result_end.store(NO_RESULT, Ordering::Release);
        self.change(job.slot' \
    '        slot.command.store(0, Ordering::Relaxed);
        self.change(job.slot' --lib queue::tests
bug "a stale result_end stays when a job is settled" $queue/jobs.rs \
    '        slot.result_end.store(NO_RESULT, Ordering::Release);
        self.change(index, state, Phase::Ready);' \
    '        self.change(index, state, Phase::Ready);' --lib queue::tests
bug "a done job of a dead worker is settled as well" $queue/settle.rs \
    'if by.lane == lane && !done => {}' 'if by.lane == lane => {}' --lib queue::tests
bug "done is read from two different claims" $queue/jobs.rs \
    'if again == state {' 'if again == state || true {' --lib queue::tests::put_back
bug "a death is forgotten" $queue/jobs.rs \
    'Deaths::UNDER_WAY | (deaths.counted + 1)' 'Deaths::UNDER_WAY | deaths.counted' --test kill a_command_that_kills
bug "a suspect is not run alone" src/flow/worker/mod.rs \
    'let (_together, _alone) = if job.suspect {' 'let (_together, _alone) = if false {' \
    --test kill a_command_that_kills
bug "a slot is freed when its job is published" $queue/jobs.rs \
    'freed >= self.slot(index).result_end.load(Ordering::Acquire)' 'freed < u64::MAX' --lib queue::tests
bug "the place in the list is saved after slots are freed" src/flow/source/hand_out.rs \
    '        self.save();
        // In the order in which they are to be filled again.' \
    '        slots.iter().for_each(|index| self.jobs.free(*index));
        self.save();
        slots.drain(..).for_each(|index| self.free.push_back(index));' --lib single_step::killed_after_any_instruction_of_a_source
bug "jobs in slots do not count for the place in the list" $queue/position.rs \
    'Some(furthest) if furthest.order() > saved.order() => (generation, furthest),' '' --lib queue::tests

# Waking.
bug "a lane is freed and not rung" src/flow/buffer.rs \
    '                moved.push(lane);' '                let _: &mut Vec<usize> = &mut moved;' --lib waking_tests
bug "of the lanes that are freed only the first is rung" src/flow/buffer.rs \
    'for lane in moved {' 'for lane in moved.into_iter().take(1) {' --lib waking_tests
bug "the source wakes one worker and never all before it waits" src/flow/source/hand_out.rs \
    'self.jobs.announce(self.unannounced);' 'self.jobs.announce(1);' --lib hand_out
bug "the source waits without waking anybody for its last jobs" src/flow/source/hand_out.rs \
    'if self.unannounced > 0 {' 'if self.unannounced >= WAKE_AT {' --lib hand_out
bug "the source announces nothing before it waits for a slot" src/flow/source/hand_out.rs \
    '            self.announce();
            self.collect();' '            self.collect();' --lib hand_out

# The buffer.
bug "no intent is stored" src/flow/buffer.rs \
    'next.store_intent(self.spool);' '' --lib buffer::
bug "an old intent is taken for the next" $queue/commit.rs \
    '.filter(|intent| intent.generation == committed.generation + 1)' \
    '.filter(|intent| intent.generation + 9 > committed.generation)' --lib queue::tests buffer::tests
bug "an intent from before a power loss is taken for the next" $queue/commit.rs \
    '.filter(|intent| intent.boots >= committed.boots)' '' --lib salvage
bug "a batch is committed before it is written" src/flow/buffer.rs \
    '            self.write_all(next.number(), [0, 0])?;
            self.commit(next)?;' \
    '            let number = next.number();
            self.commit(next)?;
            self.write_all(number, [0, 0])?;' --lib buffer::
bug "room is given before the batch is written" src/flow/buffer.rs \
    '            self.write_all(next.number(), [0, 0])?;
            self.commit(next)?;' \
    '            self.books.lanes.clone_from(&next.lanes);
            self.free();
            self.write_all(next.number(), [0, 0])?;
            self.commit(next)?;' --lib buffer::tests
bug "with sync always room is given before the commit is synced" src/flow/buffer.rs \
    '            if !self.syncs_always() {
                self.free();
                self.begin_write_back()?;' \
    '            self.free();
            if !self.syncs_always() {
                self.begin_write_back()?;' --lib buffer::
bug "what others stored in the spool is not synced at the end" src/flow/buffer.rs \
    'if self.is_spool_synced() { Ok(()) } else { self.sync_spool() }' 'Ok(())' \
    --test jobs is_synced
bug "a job that waits for its next attempt is no reason to sync at the end" \
    src/flow/buffer/places.rs '!self.dirty && !pending &&' '!self.dirty &&' \
    --test disk a_stop_syncs
bug "what was written is not synced at the end" src/flow/buffer.rs \
    'if self.dirty || !self.writes_a_file() {' 'if !self.writes_a_file() {' --test jobs is_synced
bug "a sink of a program's own is not synced at the end" src/flow/buffer.rs \
    'if self.dirty || !self.writes_a_file() {' 'if self.dirty {' --lib buffer::
bug "what a dead buffer had written is not looked for" src/flow/sink/file.rs \
    '        let done = self
            .common_prefix(committed.len, pending)
            .map_err(|error| self.fail("can'\''t read the output", error))?;' \
    '        let done = 0;' --lib buffer::tests sink::file::tests
bug "what a dead buffer had written of the dead letters is not looked for" src/flow/buffer/recovery.rs \
    'Some(sink) => open(self.spool, sink, at[1], dead_letters)?,' \
    'Some(sink) => open(self.spool, sink, at[1], dead_letters)? * 0,' --lib buffer::
bug "an output is set aside without an intent" src/flow/buffer/rotate.rs \
    '        intent.store_intent(self.spool);' '' --lib rotation_tests
bug "a rotation is committed before the output is renamed" src/flow/buffer/rotate.rs \
    '        let mut room = Room::new(self.spool);
        loop {
            match output.rotate' \
    '        let mut room = Room::new(self.spool);
        Commit { rotation: 0, ..intent.clone() }.store(self.spool);
        loop {
            match output.rotate' --lib rotation_tests
bug "an output is set aside before it is synced" src/flow/buffer/rotate.rs \
    '        self.sync()?;' '' --lib rotation_tests
bug "what was renamed before a death is renamed again" src/flow/sink/file/rotation.rs \
    'if old.as_ref().is_some_and(is_committed) {' 'if old.is_some() {' --lib rotation_tests
bug "a file that only looks like a rotated one is removed" src/flow/sink/file/names.rs \
    '(text(moment) == written).then_some(moment)' 'Some(moment)' --lib names
bug "the newest rotated files are removed" src/flow/sink/file/names.rs \
    'it.moment < *oldest_kept' 'it.moment > *oldest_kept' --lib rotation_tests
bug "a sync that has failed is tried again by the next buffer" src/flow/buffer/places.rs \
    '            processes::note_unsynced(self.spool);' '' --lib places_tests
bug "what could not be synced stays in the old file" src/flow/buffer/places.rs \
    '.max(1) | CUT,' '.max(1),' --lib places_tests
bug "a compressed file is not read back before the original goes" src/flow/sink/file/compress.rs \
    'if (back.len, back.sum) != expected {' 'if false {' \
    --lib compress
bug "the original goes before the compressed file has its name" src/flow/sink/file/compress.rs \
    '            std::fs::rename(&part, &packed)?;' \
    '            std::fs::remove_file(path)?;
            std::fs::rename(&part, &packed)?;' --lib compress
bug "an own sink is not believed to have the batch" src/flow/sink/own.rs \
    'if written && unfinished.is_some() {' 'if written && pending.number == 0 {' --lib buffer::
bug "numbers of batches come again after a power loss" $queue/commit.rs \
    'self.generation.wrapping_add(self.boots << BOOT_SHIFT)' 'self.generation' --lib buffer::
bug "a header is written behind what is there" src/flow/buffer.rs \
    'Some(position) => position.len == 0,' 'Some(_) => true,' --lib buffer::

# What a start does.
bug "the repair of jobs with torn results is skipped" $queue/repair.rs \
    '!spool.has_lane(by.lane) || lost.contains(&index),' '!spool.has_lane(by.lane),' --lib torn_tests::any_flipped
bug "results that are torn while it runs are committed" src/flow/buffer.rs \
    '            if self.hold_back(&mut ends) {
                continue;
            }' '' --lib damage_tests
bug "a wrong bit is put right one bit beside it" $queue/record.rs \
    'Some(bits - 1 - from_end)' 'Some(bits.saturating_sub(2 + from_end))' --lib record::
bug "a tail that can't be is believed" $queue/repair.rs \
    'if !reader.is_sane(head, tail) || tail < least {' 'if false {' --lib torn_tests::a_tail
bug "a tail before the end of the batch that was begun is believed" $queue/repair.rs \
    'if !reader.is_sane(head, tail) || tail < least {' 'if !reader.is_sane(head, tail) {' \
    --lib damage_tests::a_tail_before
bug "what is before a tail that is only too small is written again" $queue/repair.rs \
    ' || tail < head.offset || reader.is_sane(head, tail) {' ' || tail < head.offset {' \
    --lib damage_tests::a_tail_that_is_only
bug "records that outlived a power loss are written again" src/flow/sink/surplus.rs \
    'Some(count) if *count > 0 => {' 'Some(count) if *count > 1_000_000 => {' --lib salvage sink::surplus
bug "a power loss is seen to twice" src/flow/buffer/recovery.rs \
    '        next.boots = self.boots();' '' --lib buffer::
bug "lost jobs are not handed out again" src/flow/source/refill.rs \
    '        if missing.contains(&seq) {' '        if !missing.contains(&seq) {' --lib refill
bug "a job that only a lane knows is read from the list again" src/flow/source/refill.rs \
    'reached.store(spool, ListPosition::saved(spool).0 + 1);' '' --lib refill

# What a dead worker has left behind.
bug "descendants of what a worker has left behind are not looked for" src/control/supervisor.rs \
    'left.iter().flat_map(below).chain(left.iter().copied())' \
    'left.iter().flat_map(below).take(0).chain(left.iter().copied())' \
    --test processes what_a_killed_worker
bug "what a worker has left behind is left alone until the end" src/control/supervisor.rs \
    'stat.session == session && !stat.ended()' 'stat.session == session && stat.ended()' \
    --test processes what_a_killed_worker

# A function that has timed out.
bug "timed out: both thread and watchdog go on with the job" src/flow/worker/watchdog.rs \
    '            TIMED_OUT => None,
            _deadline => Some(IDLE),' \
    '            _deadline => Some(IDLE),' --lib watchdog
bug "timed out: the job is ready before its process is dead" src/flow/queue/jobs.rs \
    '                slot.attempts.fetch_add(1, Ordering::Release);' \
    '                self.put_back(job, PutBack::Failed, Some(not_before));' --lib watchdog
bug "timed out: other jobs in hand are blamed" src/flow/worker/watchdog.rs \
    '        processes::condemn(self.jobs.0, processes::worker(self.settings.lane.into()));' \
    '' --lib watchdog
bug "timed out: the end of the process counts as a death" src/control/lifecycle.rs \
    'return self.replace(child, Notice::Replacing(child), now)' \
    'return self.pause_or_give_up(child, now)' --lib lifecycle::examples

# Replaces what is to be replaced in the file; nothing, and a failure, if that isn't there just once.
apply() {
    OLD=${olds[$1]} NEW=${news[$1]} perl -0pi -e '
        $n = s/\Q$ENV{OLD}\E/$ENV{NEW}/g;
        END { exit(($n // 0) == 1 ? 0 : 8) }' "${files[$1]}"
}

# Before anything is compiled.
lost=0
for index in "${!names[@]}"; do
    if ! OLD=${olds[$index]} perl -0ne '
        $n += () = /\Q$ENV{OLD}\E/g;
        END { exit(($n // 0) == 1 ? 0 : 8) }' "${files[$index]}"; then
        echo "does not apply to ${files[$index]}: ${names[$index]}" >&2
        lost=$((lost + 1))
    fi
done
[[ $lost == 0 ]] || exit 1
if [[ $only == --applies ]]; then
    echo "${#names[@]} changes apply"
    exit
fi

target=${CARGO_TARGET_DIR:-$root/target/seeded}
jobs=${JOBS:-1}
# Compiled for each change, and looked at by nobody.
export CARGO_PROFILE_DEV_DEBUG=0 RUST_BACKTRACE=0
place=$target/seeded_bugs
notes=$place/caught
verdicts=$place/verdicts
rm -rf "$verdicts"
mkdir -p "$notes" "$verdicts"

# enter NUMBER: makes a copy, and goes there. Always the same place: what was compiled of an earlier copy is
# of use.
enter() {
    export CARGO_TARGET_DIR=$target
    if [[ $1 != 0 ]]; then
        export CARGO_TARGET_DIR=$place/target$1
        # What is the same for all is not compiled again.
        [[ -d $CARGO_TARGET_DIR ]] || {
            mkdir "$CARGO_TARGET_DIR"
            cp -a "$target/debug" "$CARGO_TARGET_DIR/"
        }
    fi
    rm -rf "$place/copy$1"
    mkdir "$place/copy$1"
    git -C "$root" ls-files -z --cached --others --exclude-standard |
        (cd "$root" && xargs -0 cp --parents -t "$place/copy$1")
    cd "$place/copy$1"
    git init -q . && git add -A && git -c user.name=x -c user.email=x@localhost commit -qm copy
}
enter 0

# sum_of PATHS...
sum_of() {
    git ls-files -s -- Cargo.toml Cargo.lock src "$@" ':!*.md' ':!*.sh' ':!*.txt' | sha256sum
}
of_lib=$(sum_of)
of_all=$(sum_of bin examples tests)

# Names of the tests that have failed, two at the most.
failed() {
    sed -n '/^failures:$/,$ s/^    \([a-z_:0-9]*\)$/\1/p' test.log | sed 's/.*:://' |
        sort -u | head -n 2 | paste -sd, | sed 's/,/, /g'
}

# The same of those that have not ended.
hanging() {
    sed -n 's/^test \([a-z_:0-9]*\) has been running for .*/\1/p' test.log | sed 's/.*:://' |
        sort -u | head -n 2 | paste -sd, | sed 's/,/, /g'
}

# Sets `which` and `wanted`: the program that has the tests, and parts of their names.
split() {
    local words
    read -ra words <<<"$1"
    which=("${words[0]}")
    [[ $1 != --test* ]] || which+=("${words[1]}")
    wanted=("${words[@]:${#which[@]}}")
}

# run TEST-ARGUMENTS [SECONDS]: a failure to compile is 9.
run() {
    split "$1"
    cargo test -q --no-run "${which[@]}" >build.log 2>&1 || return 9
    timeout -k 10 "${2:-$limit}" cargo test -q "${which[@]}" -- "${wanted[@]}" >test.log 2>&1
}

# Sets `verdict`.
try() {
    local code=0
    git checkout -q .
    apply "$1"
    run "${tests[$1]}" || code=$?
    case $code in
        9) grep -m3 '^error' build.log || true
            verdict="DOES NOT COMPILE" ;;
        124) verdict=$(hanging)
            verdict=${verdict:+"caught by $verdict, without an end"} ;;
        0) verdict= ;;
        *) verdict=$(failed)
            verdict=${verdict:+"caught by $verdict"} ;;
    esac
    verdict=${verdict:-"NOT CAUGHT (exit code $code)"}
}

# What these tests are noted under, with a change or without.
note_of() {
    local sum=$of_all
    [[ ${!#} == --lib* ]] && sum=$of_lib
    sum=$(printf '%s\0' "$sum" "$@" | sha256sum)
    echo "$notes/${sum%% *}"
}

note_of_change() {
    note_of "${names[$1]}" "${files[$1]}" "${olds[$1]}" "${news[$1]}" "${tests[$1]}"
}

todo=()
for index in "${!names[@]}"; do
    [[ -e $(note_of_change "$index") ]] || todo+=("$index")
done

# The line of a change that was tried.
line() {
    printf '%-74s %-36s %s\n' "${names[$1]}" "${files[$1]}" "$2"
}

# work NUMBER: tries each change whose turn it is.
work() {
    local turn index begin
    [[ $1 == 0 ]] || enter "$1"
    for turn in "${!todo[@]}"; do
        ((turn % jobs == $1)) || continue
        index=${todo[$turn]}
        begin=$SECONDS
        try "$index"
        verdict="$(printf '%3d' $((SECONDS - begin))) s  $verdict"
        echo "$verdict" >"$verdicts/$index"
        [[ $verdict != *" s  caught by "* ]] || cp "$verdicts/$index" "$(note_of_change "$index")"
        line "$index" "$verdict"
    done
}

workers=()
# Whoever ends this ends them all, or the next one would meet them in the copies.
trap 'kill ${workers[@]+"${workers[@]}"} 2>/dev/null || true' EXIT
for ((number = 1; number < jobs; number++)); do
    work "$number" &
    workers+=($!)
done
work 0
for worker in ${workers[@]+"${workers[@]}"}; do wait "$worker"; done
workers=()

# The same tests on the unchanged sources.
git checkout -q .
declare -A unchanged
for index in "${!names[@]}"; do
    split "${tests[$index]}"
    for name in "${wanted[@]}"; do
        [[ -e $(note_of "$name" "${which[*]}") ]] || unchanged[${which[*]}]+=" $name"
    done
done
for program in "${!unchanged[@]}"; do
    arguments="$program $(xargs -n 1 <<<"${unchanged[$program]}" | sort -u | paste -sd ' ')"
    if ! run "$arguments" $((10 * limit)); then
        echo "without any change these fail: cargo test $arguments" >&2
        cat build.log test.log >&2
        exit 1
    fi
    for name in "${wanted[@]}"; do
        if ! cargo test -q "${which[@]}" -- --list "$name" 2>/dev/null | grep ': test$' >list.log; then
            echo "no test has such a name: $name, of cargo test $arguments" >&2
            exit 1
        fi
        touch "$(note_of "$name" "$program")"
    done
done

results=()
missed=0
for index in "${!names[@]}"; do
    note=$(note_of_change "$index")
    if [[ -e $note ]]; then
        verdict=$(<"$note")
    else
        verdict=$(<"$verdicts/$index")
        missed=$((missed + 1))
    fi
    results+=("$(line "$index" "$verdict")")
done
caught=$((${#results[@]} - missed))
echo "$caught of ${#results[@]} caught"
if [[ -z $only ]]; then
    {
        # Without what is written here.
        changed=$(git -C "$root" status --porcelain -- . ':!tests/seeded_bugs.txt')
        echo "# bash tests/seeded_bugs.sh, at commit $(git -C "$root" rev-parse --short HEAD)${changed:+, changed}"
        echo "# The change, where, seconds to compile and run the tests, and two at the most that have failed."
        printf '%s\n' "${results[@]}" | sed 's/ *$//'
        echo "$caught of ${#results[@]} caught"
    } >"$root/tests/seeded_bugs.txt"
fi
[[ $missed == 0 ]]
