//! Jobs, outputs, answers and records of any bytes and any length: each comes through exactly, or fails
//! its job alone, with the reason. All of it is drawn anew in each run; PROCSIG_TEST_SEED repeats it.

mod support;

#[path = "programs/noise.rs"]
mod noise;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use noise::Noise;
use serde_json::Value;
use std::collections::BTreeMap;
use support::{Balance, Ended, Place, Results, Seed, example, needs};

/// A field that is text, or base64 if it would be none.
#[track_caller]
fn bytes_of(line: &Value, key: &str) -> Vec<u8> {
    let base64 = &line[format!("{key}_base64")];
    match (line[key].as_str(), base64.as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text).expect("base64");
            assert!(std::str::from_utf8(&bytes).is_err(), "text needs no base64: {line}");
            bytes
        }
        _ => panic!("neither {key} nor {key}_base64, or both: {line}"),
    }
}

/// The lines of a list that are jobs, in order.
fn jobs_of(list: &[u8]) -> Vec<Vec<u8>> {
    let lines = list.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty()).map(<[u8]>::to_vec).collect()
}

/// A list of so many lines of any bytes but line ends, as long as `length` says.
fn list_of(noise: &mut Noise, count: usize, length: impl Fn(&mut Noise) -> usize) -> Vec<u8> {
    let line = |noise: &mut Noise| {
        let length = length(noise);
        let mut line = noise.bytes(length);
        line.retain(|byte| *byte != b'\n');
        line.push(b'\n');
        line
    };
    (0..count).flat_map(|_| line(noise)).collect()
}

/// One worker after the other, with these keys of it, and tables.
fn place(worker: &str, tables: &str) -> Place {
    let place = Place::new();
    let text = format!(
        "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n{tables}\n[workers.w]\n\
         {worker}\nprocesses = 2\nthreads = 2\n\
         [shutdown]\ndeadline = \"50s\"\nflush_reserve = \"40s\"\n"
    );
    place.write("b.toml", text);
    place
}

fn finish(place: &Place) -> (BTreeMap<u64, Value>, Ended) {
    let ended = place.command(&["run", "b.toml"]).finish();
    ended.assert_nothing_left();
    Balance::of(&ended.log()).assert_even();
    let results: Results = place.results();
    let by_job = results.by_job();
    (by_job.into_iter().map(|((_, seq), line)| (seq, line.clone())).collect(), ended)
}

#[test]
fn a_job_of_any_bytes_reaches_its_command_exactly_or_fails_alone_with_the_reason() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let place = place("command = [\"printf\", \"%s\", \"{}\"]", "[spool]\njob_bytes = 200");
    let list = list_of(&mut noise, 400, |noise| match noise.below(4) {
        0 => 195 + noise.below(10) as usize,
        _ => noise.below(60) as usize,
    });
    let jobs = jobs_of(&list);
    place.write("jobs.txt", list);
    let (results, ended) = finish(&place);
    ended.assert_exit(3);
    assert_eq!(results.len(), jobs.len(), "{}", ended.describe());
    let mut ends = [0; 3];
    for (seq, job) in (1..).zip(&jobs) {
        let line = &results[&seq];
        let error = line["error"].as_str();
        let end = if job.len() > 200 {
            assert_eq!(error, Some("the job is longer than 200 bytes: raise [spool] job_bytes"));
            0
        } else if job.contains(&0) {
            assert!(error.is_some_and(|error| error.contains("NUL")), "{line}");
            1
        } else {
            assert_eq!((&line["ok"], bytes_of(line, "stdout")), (&true.into(), job.clone()));
            2
        };
        ends[end] += 1;
        assert_eq!(line["ok"], end == 2, "{line}");
        assert_eq!(bytes_of(line, "job"), job[..job.len().min(200)], "{line}");
    }
    assert!(ends.iter().all(|count| *count > 5), "{ends:?}: this shows nothing");
}

/// The beginning that is kept: a text is not cut within a character.
fn kept_of(bytes: &[u8], most: usize) -> &[u8] {
    let kept = &bytes[..bytes.len().min(most)];
    match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() && kept.len() < bytes.len() => {
            &kept[..error.valid_up_to()]
        }
        _ => kept,
    }
}

#[test]
fn an_output_of_any_bytes_and_any_length_is_kept_exactly_up_to_what_is_allowed() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    for (count, most, lane) in [(200, 4096, "64KiB"), (4, 1 << 20, "32MiB")] {
        let worker = format!(
            "command = [\"sh\", \"-c\", \"cat out-$1; cat err-$1 >&2\", \"sh\", \"{{}}\"]\n\
             max_output = {most}"
        );
        let place = place(&worker, &format!("[spool]\nlane = \"{lane}\""));
        let jobs: Vec<String> = (1..=count).map(|job| job.to_string()).collect();
        place.write("jobs.txt", jobs.join("\n"));
        let mut written = BTreeMap::new();
        for job in &jobs {
            for stream in ["out", "err"] {
                let length = match noise.below(3) {
                    0 => most - 3 + noise.below(7),
                    1 => noise.below(2 * most),
                    _ => noise.below(20),
                };
                let bytes = noise.bytes(length as usize);
                place.write(&format!("{stream}-{job}"), &bytes);
                written.insert((job.clone(), stream), bytes);
            }
        }
        let (results, ended) = finish(&place);
        ended.assert_exit(0);
        let mut cut = 0;
        for (job, line) in jobs.iter().zip(results.values()) {
            for stream in ["out", "err"] {
                let bytes = &written[&(job.clone(), stream)];
                let kept = kept_of(bytes, most as usize);
                let key = format!("std{stream}");
                assert!(bytes_of(line, &key) == kept, "{key} of job {job}: {} bytes", bytes.len());
                let is_cut = line.get(format!("{key}_cut")) == Some(&Value::Bool(true));
                assert_eq!(is_cut, bytes.len() > kept.len(), "{key} of job {job}");
                cut += usize::from(is_cut);
            }
        }
        assert!(count < 100 || cut > 20, "{cut} were cut, this shows nothing");
    }
}

/// Answers with what it was asked, or, if the job is the name of a file, with what is in there.
const ECHO: &str = "\
import base64, json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get('job', '').startswith('answer-'):
        with open(asked['job'], 'rb') as file:
            sys.stdout.buffer.write(file.read() + b'\\n')
    else:
        job = asked['job'].encode() if 'job' in asked else base64.b64decode(asked['job_base64'])
        sys.stdout.buffer.write(json.dumps(base64.b64encode(job).decode()).encode() + b'\\n')
    sys.stdout.buffer.flush()
";

#[test]
fn a_job_of_any_bytes_and_up_to_a_mebibyte_reaches_its_coprocess_exactly() {
    let test = "a_job_of_any_bytes_and_up_to_a_mebibyte_reaches_its_coprocess_exactly";
    if !needs(test, &["python3"]) {
        return;
    }
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let tables = "[spool]\njob_bytes = \"1MiB\"\njobs = 16\nlane = \"32MiB\"";
    let worker = "coprocess = [\"python3\", \"echo.py\"]\nmax_output = \"4MiB\"";
    let place = place(worker, tables);
    place.write("echo.py", ECHO);
    let mut list = list_of(&mut noise, 300, |noise| noise.below(300) as usize);
    list.extend(list_of(&mut noise, 2, |noise| (1 << 20) - noise.below(3) as usize));
    list.extend(list_of(&mut noise, 4, |noise| 60_000 + noise.below(10_000) as usize));
    // Exactly as long as is allowed, and one byte longer.
    list.extend(b"a".repeat(1 << 20));
    list.push(b'\n');
    list.extend(b"b".repeat((1 << 20) + 1));
    let jobs = jobs_of(&list);
    place.write("jobs.txt", list);
    let (results, ended) = finish(&place);
    ended.assert_exit(3);
    assert_eq!(results.len(), jobs.len(), "{}", ended.describe());
    for (seq, job) in (1..).zip(&jobs) {
        let line = &results[&seq];
        if job.len() > 1 << 20 {
            let error = line["error"].as_str().unwrap_or_default();
            assert!(error.starts_with("the job is longer than 1048576 bytes"), "{error}");
            continue;
        }
        let value = line["value"].as_str().unwrap_or_default();
        assert!(BASE64.decode(value).expect("base64") == *job, "job {seq}, {} bytes", job.len());
        assert!(bytes_of(line, "job") == *job, "job {seq}");
    }
}

/// A text as JSON writes it, of exactly so many bytes.
fn json_text(noise: &mut Noise, bytes: usize) -> String {
    let mut text = String::new();
    loop {
        let more = noise.text(1);
        let longer = serde_json::to_string(&(text.clone() + &more)).expect("a text");
        if longer.len() > bytes {
            break;
        }
        text += &more;
    }
    let written = serde_json::to_string(&text).expect("a text");
    serde_json::to_string(&(text + &"x".repeat(bytes - written.len()))).expect("a text")
}

#[test]
fn an_answer_of_any_text_is_the_value_as_it_came_and_a_longer_one_fails_its_job_alone() {
    let test = "an_answer_of_any_text_is_the_value_as_it_came_and_a_longer_one_fails_its_job_alone";
    if !needs(test, &["python3"]) {
        return;
    }
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let worker = "coprocess = [\"python3\", \"echo.py\"]\nmax_output = \"2KiB\"";
    let place = place(worker, "");
    place.write("echo.py", ECHO);
    let mut answers = Vec::new();
    for number in 0..60 {
        let length = if number % 2 == 0 { 2044 + noise.below(8) } else { 2 + noise.below(200) };
        let answer = json_text(&mut noise, length as usize);
        place.write(&format!("answer-{number}"), &answer);
        answers.push(answer);
    }
    let jobs: Vec<String> = (0..60).map(|number| format!("answer-{number}")).collect();
    place.write("jobs.txt", jobs.join("\n"));
    let (results, ended) = finish(&place);
    assert_eq!(results.len(), jobs.len(), "{}", ended.describe());
    for (answer, line) in answers.iter().zip(results.values()) {
        if answer.len() <= 2048 {
            let value: Value = serde_json::from_str(answer).expect("JSON");
            assert_eq!((&line["value"], &line["ok"]), (&value, &Value::Bool(true)));
        } else {
            assert_eq!(line["ok"], false, "{line}");
            assert!(line["error"].as_str().is_some_and(|error| error.contains("max_output")));
        }
    }
}

#[test]
fn a_job_of_a_mebibyte_reaches_its_function_exactly() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let place = Place::of(example("test_bytes"));
    let mut list = list_of(&mut noise, 3, |noise| (1 << 20) - noise.below(3) as usize);
    list.extend(list_of(&mut noise, 200, |noise| noise.below(200) as usize));
    list.extend(b"a".repeat((1 << 20) + 1));
    let jobs = jobs_of(&list);
    place.write("jobs.txt", list);
    let ended = place.command(&["echo", "16777216", "1048576"]).finish();
    ended.assert_exit(3);
    let (whole, failed) = (chunks(&place), failures(&place));
    let too_long = jobs.len() as u64;
    assert_eq!(failed.keys().collect::<Vec<_>>(), [&too_long], "{}", ended.describe());
    for (seq, job) in (1..too_long).zip(&jobs) {
        assert!(whole[&seq] == [job.clone()], "job {seq}, {} bytes", job.len());
    }
}

/// The records of each job that were written, in order.
#[track_caller]
fn chunks(place: &Place) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut chunks: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for line in place.read("chunks.txt").lines() {
        let [seq, part, bytes] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("no chunk: {line:?}")
        };
        let parts = chunks.entry(seq.parse().expect("a number")).or_default();
        assert_eq!(part.parse(), Ok(parts.len()), "out of order, or twice: {line:?}");
        parts.push(BASE64.decode(bytes).expect("base64"));
    }
    chunks
}

/// The reasons of jobs that have failed, each of which was tried once.
#[track_caller]
fn failures(place: &Place) -> BTreeMap<u64, String> {
    let text = place.read("dead.jsonl");
    let letters = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let failure = |letter: Value| {
        assert_eq!(letter["attempts"], 1, "another attempt would come to the same: {letter}");
        let reason = letter["reason"].as_str().expect("a reason").to_owned();
        (letter["seq"].as_u64().expect("a number"), reason)
    };
    let failed: Vec<_> = letters.map(failure).collect();
    let count = failed.len();
    let failed: BTreeMap<_, _> = failed.into_iter().collect();
    assert_eq!(failed.len(), count, "twice in the dead letters");
    failed
}

/// Jobs as `SEED LENGTH ..`: one record of each length around what a lane holds, and many records that
/// come to about as much.
fn jobs_around(noise: &mut Noise, lane: u64) -> Vec<Vec<u64>> {
    let mut jobs: Vec<Vec<u64>> = (lane - 150..lane + 2).map(|length| vec![length]).collect();
    jobs.extend([vec![], vec![0], vec![0; 50], vec![3 * lane], vec![lane; 2]]);
    for _ in 0..60 {
        let (mut left, mut lengths) = (lane * 3 / 4 + noise.below(lane / 3), Vec::new());
        while left > 0 && lengths.len() < 60 {
            let length = noise.below(2 * left.min(lane / 4) + 1);
            lengths.push(length);
            left = left.saturating_sub(length + 40);
        }
        jobs.push(lengths);
    }
    for index in (1..jobs.len()).rev() {
        jobs.swap(index, noise.below(index as u64 + 1) as usize);
    }
    jobs.into_iter().map(|lengths| [vec![noise.below(1 << 40)], lengths].concat()).collect()
}

fn write_jobs(place: &Place, jobs: &[Vec<u64>]) {
    let line = |job: &Vec<u64>| {
        let words: Vec<String> = job.iter().map(u64::to_string).collect();
        words.join(" ")
    };
    place.write("jobs.txt", jobs.iter().map(line).collect::<Vec<_>>().join("\n"));
}

/// Lengths of the single records that have come through, and of those that were refused: the longest of
/// the first is one byte shorter than the shortest of the others.
#[track_caller]
fn assert_sharp_limit(jobs: &[Vec<u64>], failed: &BTreeMap<u64, String>) {
    let single = |is_failed: bool| {
        let jobs = (1..).zip(jobs).filter(|(_, job)| job.len() == 2);
        let jobs = jobs.filter(|(seq, _)| failed.contains_key(seq) == is_failed);
        jobs.map(|(_, job)| job[1]).collect::<Vec<u64>>()
    };
    let (longest, shortest) = (single(false).into_iter().max(), single(true).into_iter().min());
    let (longest, shortest) = (longest.expect("some"), shortest.expect("some"));
    assert_eq!(longest + 1, shortest, "the limit is no limit");
    let reasons = failed.values().all(|reason| reason.contains("raise [spool] lane"));
    assert!(reasons, "{failed:?}");
    let many = jobs.iter().zip(1..).filter(|(job, _)| job.len() > 3);
    let (refused, whole): (Vec<_>, Vec<_>) = many.partition(|(_, seq)| failed.contains_key(seq));
    assert!(refused.len() > 3 && whole.len() > 3, "{} and {}", refused.len(), whole.len());
}

#[test]
fn records_of_any_length_are_whole_up_to_the_largest_and_one_byte_more_fails_its_job_alone() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    for lane in [8192, 65536] {
        let place = Place::of(example("test_bytes"));
        let jobs = jobs_around(&mut noise, lane);
        write_jobs(&place, &jobs);
        let ended = place.command(&["records", &lane.to_string()]).finish();
        ended.assert_exit(3);
        Balance::of(&ended.log()).assert_even();
        let (whole, failed) = (chunks(&place), failures(&place));
        for (seq, job) in (1..).zip(&jobs) {
            let mut noise = Noise(job[0]);
            let parts: Vec<_> = job[1..].iter().map(|len| noise.bytes(*len as usize)).collect();
            let expected =
                Some(parts).filter(|parts| !failed.contains_key(&seq) && !parts.is_empty());
            assert!(whole.get(&seq) == expected.as_ref(), "job {seq} of lengths {:?}", &job[1..]);
        }
        assert_sharp_limit(&jobs, &failed);
    }
}

#[test]
fn texts_of_any_characters_and_any_length_are_lines_of_json_or_fail_their_job_alone() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let place = Place::of(example("test_bytes"));
    // Most characters take more than a byte, so fewer of them fill a lane.
    let jobs: Vec<Vec<u64>> = (0..200)
        .map(|_| {
            let most = [10, 1000, 3000, 5000][noise.below(4) as usize];
            let lengths = (0..noise.below(5)).map(|_| noise.below(most)).collect();
            [vec![noise.below(1 << 40)], lengths].concat()
        })
        .collect();
    write_jobs(&place, &jobs);
    let ended = place.command(&["texts", "8192"]).finish();
    ended.assert_exit(3);
    Balance::of(&ended.log()).assert_even();
    let failed = failures(&place);
    let mut whole: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in place.read("out.jsonl").lines() {
        let (seq, part, text): (u64, usize, String) = serde_json::from_str(line).expect("whole");
        let texts = whole.entry(seq).or_default();
        assert_eq!(part, texts.len(), "out of order, or twice: {line}");
        texts.push(text);
    }
    for (seq, job) in (1..).zip(&jobs) {
        let mut noise = Noise(job[0]);
        let texts: Vec<_> = job[1..].iter().map(|len| noise.text(*len as usize)).collect();
        let expected = Some(texts).filter(|texts| !failed.contains_key(&seq) && !texts.is_empty());
        assert!(whole.get(&seq) == expected.as_ref(), "job {seq} of lengths {:?}", &job[1..]);
    }
    assert!(failed.len() > 5 && whole.len() > 50, "{} failed", failed.len());
    assert!(failed.values().all(|reason| reason.contains("raise [spool] lane")), "{failed:?}");
}

#[test]
fn records_of_no_bytes_are_published_counted_and_written_like_any_others() {
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let counts: Vec<u64> = (0..40).map(|_| noise.below(120)).chain([0, 1]).collect();
    let list: Vec<String> = counts.iter().map(u64::to_string).collect();
    for arguments in [&["nothing"][..], &["nothing", "postcard"]] {
        let place = Place::of(example("test_bytes"));
        place.write("jobs.txt", list.join("\n"));
        let ended = place.command(arguments).finish();
        ended.assert_exit(0);
        let balance = Balance::of(&ended.log());
        balance.assert_even();
        let all = counts.iter().sum::<u64>();
        assert_eq!((balance.published, balance.written), (all, all), "{}", ended.describe());
        let text = place.read("counts.txt") + &ended.stdout;
        let written: u64 = text.lines().map(|line| line.parse::<u64>().expect("a number")).sum();
        assert_eq!(written, all, "{arguments:?}\n{}", ended.describe());
    }
}

#[test]
fn a_producer_is_told_of_a_record_that_is_too_long_and_loses_no_other() {
    let place = Place::of(example("test_bytes"));
    let seed = Seed::new();
    let mut noise = Noise(seed.start());
    let mut lengths: Vec<u64> = (8192 - 60..8192 + 2).chain([0, 100_000]).collect();
    for index in (1..lengths.len()).rev() {
        lengths.swap(index, noise.below(index as u64 + 1) as usize);
    }
    let list: Vec<String> = lengths.iter().map(u64::to_string).collect();
    let ended = place.command(&["producer", "8192", &list.join(" ")]).finish();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    let refused = place.read("refused");
    let refused: Vec<u64> = refused
        .lines()
        .map(|line| {
            assert!(line.contains("raise [spool] lane"), "{line}");
            line.split(' ').next().and_then(|length| length.parse().ok()).expect("a number")
        })
        .collect();
    let mut written = Vec::new();
    for line in place.read("chunks.txt").lines() {
        let [_, part, bytes] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let part: u64 = part.parse().expect("a number");
        let length = lengths[part as usize];
        let expected = Noise(part).bytes(length as usize);
        assert!(BASE64.decode(bytes).expect("base64") == expected, "of {length} bytes");
        written.push(length);
    }
    let expected: Vec<u64> = lengths.into_iter().filter(|it| !refused.contains(it)).collect();
    assert_eq!(written, expected, "{}", ended.describe());
    assert_eq!(written.iter().max().map(|most| most + 1), refused.iter().min().copied());
}
