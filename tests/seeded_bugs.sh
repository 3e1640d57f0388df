#!/usr/bin/env bash
# Do the tests see what they are there for? Applies small wrong changes to a copy of the sources, one at
# a time, and runs the tests that should catch each. A change that no test catches is a failure.
#
#   bash tests/seeded_bugs.sh [PART OF A NAME]
#
# Needs git, perl and cargo. About a quarter of a minute for each change. Writes tests/seeded_bugs.txt when
# all of them were tried.
set -euo pipefail
cd "$(dirname "$0")/.."
only=${1:-}
root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
cd "$copy"
git init -q . && git add -A && git -c user.name=x -c user.email=x@localhost commit -qm copy
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/seeded}
results=()
missed=0

# bug NAME FILE OLD NEW TEST-ARGUMENTS...: OLD must stand in FILE exactly once.
bug() {
    local name=$1 file=$2 old=$3 new=$4
    shift 4
    [[ $name == *"$only"* ]] || return 0
    git checkout -q .
    OLD=$old NEW=$new perl -0pi -e '
        $n = s/\Q$ENV{OLD}\E/$ENV{NEW}/g;
        END { exit(($n // 0) == 1 ? 0 : 9) }' "$file" ||
        { results+=("$(printf '%-62s %s' "$name" "DOES NOT APPLY")"); echo "${results[-1]}"; missed=$((missed + 1)); return 0; }
    local verdict
    if ! cargo test -q --no-run "${@:1:2}" >build.log 2>&1; then
        verdict="DOES NOT COMPILE"
        grep -m3 '^error' build.log || true
        missed=$((missed + 1))
    else
        local code=0
        timeout 400 cargo test -q "$@" >test.log 2>&1 || code=$?
        local tests
        tests=$(sed -n '/^failures:$/,$ s/^    \([a-z_:0-9]*\)$/\1/p' test.log | sed 's/.*:://' |
            sort -u | head -n 2 | paste -sd, | sed 's/,/, /g')
        if [[ $code == 0 || -z $tests ]]; then
            verdict="NOT CAUGHT (exit code $code)"
            missed=$((missed + 1))
        else
            verdict="caught by $tests"
        fi
    fi
    results+=("$(printf '%-62s %s' "$name" "$verdict")")
    echo "${results[-1]}"
}

queue=src/flow/queue

# Publishing.
bug "the tail moves before the frames are copied" $queue/lane.rs \
    '        self.wait_for_space(needed);
        let (mut tail' \
    '        self.wait_for_space(needed);
        self.spool.producer(self.lane).tail.store(self.tail + needed as u64, Ordering::Release);
        let (mut tail' --lib single_step
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
        }' --lib single_step
bug "a job's end is published apart from its records" $queue/lane.rs \
    '            let Finish { seq, round, .. } = finish;' \
    '            self.spool.producer(self.lane).tail.store(tail, Ordering::Release);
            let Finish { seq, round, .. } = finish;' --lib single_step
bug "the lane is believed to be empty when it is full" $queue/lane.rs \
    '        self.capacity.saturating_sub(used)' \
    '        self.capacity.saturating_sub(used / 2)' --lib flow::

# Reading.
bug "a checksum is not checked" $queue/reader.rs \
    'if head.fits(&out[start..]) {' 'if true || head.fits(&out[start..]) {' --lib torn_tests
bug "a frame of an earlier lap is believed" $queue/reader.rs \
    'if head.offset != offset || size(&head) > left' 'if size(&head) > left' --lib queue::
bug "half of a torn job is handed on" $queue/reader.rs \
    '                into.back_to(&before);
                return None;
            };
            let begins' \
    '                return None;
            };
            let begins' --lib torn_tests
bug "the rest of a torn job is taken for a job" $queue/reader.rs \
    '                    .filter(|job| job.begin == mark.offset),' \
    '                    .filter(|_| true),' --lib torn_tests
bug "a number that is missing is not noticed" $queue/reader.rs \
    'into.lost = into.lost.wrapping_add(missing.cast_signed());' '' --lib torn_tests

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
    'if by.lane == lane && !done => {}' 'if by.lane == lane => {}' --lib queue::
bug "done is read from two different claims" $queue/jobs.rs \
    'if again == state {' 'if again == state || true {' --lib queue::tests
bug "a death is forgotten" $queue/jobs.rs \
    'Deaths::UNDER_WAY | (deaths.counted + 1)' 'Deaths::UNDER_WAY | deaths.counted' --test kill three_deaths
bug "a suspect is not run alone" src/flow/worker/mod.rs \
    'let (_together, _alone) = if job.suspect {' 'let (_together, _alone) = if false {' \
    --test kill three_deaths
bug "a slot is freed when its job is published" $queue/jobs.rs \
    'freed >= self.slot(index).result_end.load(Ordering::Acquire)' 'freed < u64::MAX' --lib queue::tests
bug "the place in the list is saved after slots are freed" src/flow/source/hand_out.rs \
    '        self.save();
        // In the order in which they are to be filled again.' \
    '        slots.iter().for_each(|index| self.jobs.free(*index));
        self.save();
        slots.drain(..).for_each(|index| self.free.push_back(index));' --lib single_step
bug "jobs in slots do not count for the place in the list" $queue/position.rs \
    'Some(furthest) if furthest.order() > saved.order() => (generation, furthest),' '' --lib queue::tests

# The buffer.
bug "no intent is stored" src/flow/buffer.rs \
    'next.store_intent(self.spool);' '' --lib buffer::
bug "an old intent is taken for the next" $queue/commit.rs \
    '.filter(|intent| intent.generation == committed.generation + 1)' \
    '.filter(|intent| intent.generation + 9 > committed.generation)' --lib flow::
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
            self.commit(next)?;' --lib flow::
bug "with sync always room is given before the commit is synced" src/flow/buffer.rs \
    '            if !self.syncs_always() {
                self.free();
            } else' \
    '            self.free();
            ' --lib buffer::
bug "what a dead buffer had written is not looked for" src/flow/sink/file.rs \
    '        let done = self
            .common_prefix(committed.len, pending)
            .map_err(|error| self.fail("can'\''t read the output", error))?;' \
    '        let done = 0;' --lib flow::
bug "what a dead buffer had written of the dead letters is not looked for" src/flow/buffer/recovery.rs \
    'Some(sink) => sink.open(at[1], dead_letters)?,' \
    'Some(sink) => sink.open(at[1], dead_letters)? * 0,' --lib buffer::
bug "an output is set aside without an intent" src/flow/buffer/rotate.rs \
    '        intent.store_intent(self.spool);' '' --lib rotation_tests
bug "a rotation is committed before the output is renamed" src/flow/buffer/rotate.rs \
    '        self.rotate(&intent)?;
        Ok(true)' \
    '        self.books = Commit { rotation: 0, ..intent.clone() };
        self.books.store(self.spool);
        self.sinks.output.rotate(intent.sinks[0], intent.rotation).map(|()| true).map_err(|error| {
            failed(&*self.sinks.output, "", error)
        })' --lib rotation_tests
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
bug "a checksum of a record is stored first" $queue/record.rs \
    '    word(1).store(generation, Ordering::Relaxed);' \
    '    word(0).store(checksum(generation, words).into(), Ordering::Release);
    word(1).store(generation, Ordering::Relaxed);' --lib single_step

# What a start does.
bug "the repair of jobs with torn results is skipped" $queue/repair.rs \
    'torn.lane == usize::from(by.lane) && torn.from < result_end && result_end <= torn.to' \
    'torn.lane == usize::MAX && by.lane == 0 && result_end == 0' --lib torn_tests
bug "a tail that can't be is believed" $queue/repair.rs \
    'if !reader.is_sane(head, tail) {' 'if false && !reader.is_sane(head, tail) {' --lib torn_tests
bug "records that outlived a power loss are written again" src/flow/sink/surplus.rs \
    'Some(count) if *count > 0 => {' 'Some(count) if *count > 1_000_000 => {' --lib flow::
bug "a power loss is seen to twice" src/flow/buffer/recovery.rs \
    '        next.boots = self.boots();' '' --lib buffer::
bug "lost jobs are not handed out again" src/flow/source/refill.rs \
    '        if missing.contains(&seq) {' '        if !missing.contains(&seq) {' --lib refill
bug "a job that only a lane knows is read from the list again" src/flow/source/refill.rs \
    'reached.store(spool, ListPosition::saved(spool).0 + 1);' '' --lib refill

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
    'return self.replace(child, now)' 'return self.pause_or_give_up(child, now)' --lib lifecycle

git checkout -q .
caught=$((${#results[@]} - missed))
echo "$caught of ${#results[@]} caught"
if [[ -z $only ]]; then
    {
        echo "# bash tests/seeded_bugs.sh, at commit $(git -C "$root" rev-parse --short HEAD)"
        printf '%s\n' "${results[@]}" | sed 's/ *$//'
        echo "$caught of ${#results[@]} caught"
    } >"$root/tests/seeded_bugs.txt"
fi
[[ $missed == 0 ]]
