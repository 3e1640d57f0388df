//! What a start does about a spool in which nobody lives.
//!
//! Everything here can be killed at any point and done again: nothing is decided by what an earlier
//! repair has written, only by what the dead have left. Nothing here stands in the way of a start:
//! what can't be read is given up, counted and said.
//!
//! # What was found dead, and what is done
//! | died here | found as | repair |
//! | --- | --- | --- |
//! | **publish**: frames copied, tail not stored | bytes behind the tail | never published: overwritten by the next worker |
//! | publish: `result_end` stored, tail not | `result_end` beyond the tail | reset, the job is ready again ([`super::settle`]) |
//! | publish: tail stored, nobody rung | a buffer that sleeps | main wakes all after each reaping |
//! | **claim**: slot claimed | claimed, `result_end` not set | ready again; its command is killed first |
//! | claim: death counted, attempt begun | `started` set | ready again, a suspect that is run alone |
//! | claim: a function has timed out, which ends its process | its worker condemned, the attempt counted or the reason noted in the claimed slot | ready again, not before its pause, or to be published as failed; its neighbours as not begun |
//! | claim: a function has asked for the stop | claimed | ready again, no attempt counted |
//! | **finish**: tail stored | `result_end` reached | done; the source frees the slot once it is committed |
//! | finish: failed, attempt counted, not put back | claimed | ready again, the attempt counts |
//! | **flush**: before the intent | intent not newer than the commit | the batch is gathered anew |
//! | flush: intent half stored | its checksum is wrong | as before: nothing was written yet |
//! | flush: batch wholly or partly written | intent newer than the commit | the same batch is gathered; what stands in the output counts as written, the rest is appended |
//! | flush: output written, dead letters not or partly | as above, each with its own position in the intent | each is compared with its own file |
//! | flush: batch handed to an own sink | intent newer than the commit | the sink is asked by the batch's number, and has all of it or nothing |
//! | flush: the header of a CSV file partly written | it is part of the first batch | as any batch |
//! | **sync**: output synced, commit not stored | as above, all of the batch there | committed |
//! | sync: spool not synced, power lost | an older commit; frames, slots, places of any age | see below |
//! | **commit**: half stored | its checksum is wrong, the other commit is whole | as before the commit |
//! | **free**: committed, not freed | `freed` behind the commit | set to the commit |
//! | free (source): place saved, slot not freed | done slot | freed by the next source |
//! | **acknowledge** (own source): committed, not acknowledged; or acknowledged, slot not freed | committed slot | acknowledged, perhaps for the second time, by the next source ([`crate::flow::source::own`]) |
//! | **recover**: anywhere in this file | as it was, or partly repaired | done again, with the same outcome |
//! | recover: rebuild before its rename | the old spool | rebuilt again; what was written before is in its books |
//! | a disk or a broken worker: frames | units that are none, between head and tail | skipped and put aside by the buffer; at a start their jobs are ready again |
//! | while it runs: frames of jobs that are done | the same; a claimed slot's `result_end` is in them | the buffer commits nothing of that lane from there on, and ends with 74; then as above |
//! | a commit, the intent, a place in the list: one bit | its checksum fits with one bit changed | put right |
//! | tail | less than the head, more than a ring behind it, between two steps of frames, or before the end of the batch that was begun | moved to where units end |
//! | slot: state | none that we store | ready again |
//! | slot: what the source wrote | its checksum is wrong | the job fails with that reason |
//! | both commits | both checksums wrong | heads from `freed`, the output's end as its place |
//! | power loss: output shorter than its commit | what was written since the last sync is not there | written again, as far as the lanes still have it; the rest is counted, and said |
//! | power loss: output with records behind what was synced | a record of the lanes stands there | not written again |
//! | power loss: output torn or zeroed at its end | no whole record | put aside |
//! | power loss: own sink, all synced but the last intent | as before it: the intent is on the disk before the sink is written to | the sink is asked by its number |
//! | power loss: own sink, synced now and then | its position of the last sync | it may go back there; else records since then can be there twice |
//! | power loss: buffer, while it salvages for an own sink | an intent of this boot | the sink is asked by its number |
//! | power loss: a slot that never reached the disk | a job in no slot and no lane, before one that is | read again from the list ([`crate::flow::source::refill`]) |
//! | power loss: a slot that never reached the disk, though the job's results did | a job in a lane, further than all in slots | the list goes on behind it ([`crate::flow::source::refill`]) |
//! | power loss: an older page of a slot | its job's end stands in a lane | done |
//! | power loss: an older page of a slot or of its text | its checksum is wrong | free; its job is read again from the list |
//! | **rotate**: synced, its intent not or half stored | no newer intent than the commit | rotated by who writes next |
//! | rotate: intent stored, not renamed | intent newer than the commit; the committed file has the output's name | renamed, a new file created, committed |
//! | rotate: renamed, no new file | the same; no file has the output's name | created, committed |
//! | rotate: new file there, not committed | the same; another file has the output's name | committed |
//! | rotate: committed, old ones not removed | a position in the new file | removed after the next rotation |
//! | power loss: in any step of a rotation | the old file committed, under either name, and all of it synced; or the new one, which is there | gone on in the file that has the output's name |

use super::commit::Commit;
use super::jobs::{Jobs, Phase};
use super::layout::POSITION_WORDS;
use super::position::ListPosition;
use super::reader::{Gathered, LaneReader, Mark, Torn, survey};
use super::record;
use super::settle::{Orphan, settle};
use super::spool::Spool;
use crate::error::Error;
use crate::sys::atomic::Ordering;

/// Puts a spool in order in which nobody lives. Commands that the dead have left are ended by `end`.
///
/// # Errors
/// If a lane can't be mapped.
pub(crate) fn repair(spool: &Spool, end: impl FnMut(Orphan)) -> Result<(), Error> {
    mend_records(spool);
    let books = match Commit::load(spool) {
        books if books.generation == 0 && Commit::is_lost(spool) => restore_books(spool)?,
        books => books,
    };
    if ListPosition::is_lost(spool) {
        note_damage(spool);
        log::error!(
            "{}: both records of the place in the list are damaged; it goes on behind the last job \
             that is known, or begins anew",
            spool.path.display()
        );
    }
    // After a power loss the lanes are looked through anew, whatever was begun.
    let is_here = books.boots == spool.run().boots.load(Ordering::Relaxed);
    let begun = Commit::load_intent(spool, &books).filter(|_| is_here);
    let mut torn = Vec::new();
    for (lane, head) in books.lanes.iter().enumerate() {
        let begun = begun.as_ref().map_or(head.offset, |batch| batch.lanes[lane].offset);
        torn.append(&mut repair_lane(spool, lane, *head, begun)?);
    }
    settle_all(spool, &torn, end);
    Ok(())
}

/// Puts the books and places right in which a single bit is wrong.
fn mend_records(spool: &Spool) {
    let (layout, batch) = (&spool.layout, Commit::words(spool.lanes()));
    let books = [layout.commit[0], layout.commit[1], layout.intent].map(|at| (at, batch));
    let places = layout.position.map(|at| (at, POSITION_WORDS));
    let records = books.iter().chain(&places);
    let mended = records.filter(|(at, words)| record::mend(&spool.mapping, *at, *words)).count();
    if mended > 0 {
        log::warn!(
            "{}: a bit was wrong in {mended} of the records of what was written and handed out; it \
             is put right. Look after the memory and the disk of this machine",
            spool.path.display()
        );
    }
}

/// Both commits are damaged: what was freed had been committed, and no more is known.
fn restore_books(spool: &Spool) -> Result<Commit, Error> {
    log::error!(
        "{}: both records of what was written are damaged; going on with what the workers were \
         given room for, and at the end of the output",
        spool.path.display()
    );
    let mut lanes = Vec::new();
    for lane in 0..spool.lanes() {
        let offset = spool.consumer(lane).freed.load(Ordering::Relaxed);
        let reader = open(spool, lane)?;
        let tail = spool.producer(lane).tail.load(Ordering::Relaxed);
        // The number in the first frame says how many there were before.
        let (mut mark, mut first) = (Mark { offset, records: 0 }, Gathered::default());
        reader.gather(&mut mark, tail, 1, &mut first);
        lanes.push(Mark { offset, records: u64::try_from(first.lost).unwrap_or(0) });
    }
    let intent = Commit::load_any_intent(spool);
    if let Some(intent) = intent.as_ref().filter(|intent| intent.rotation != 0) {
        // All before it was committed and synced, whether it has come to its end or not.
        lanes.clone_from(&intent.lanes);
    }
    let is_pending = |intent: &Commit| {
        intent.lanes.iter().zip(&lanes).any(|(end, freed)| end.offset > freed.offset)
    };
    let (generation, sinks) = match intent {
        Some(intent) if is_pending(&intent) => (intent.generation - 1, intent.sinks),
        Some(intent) => (intent.generation, [None, None]),
        // No batch may get the number of another, and nobody knows how many there were.
        None => (1 << 40, [None, None]),
    };
    let generation = generation.max(1);
    // If the power was cut, that is still to be seen to.
    let boots = spool.run().boots.load(Ordering::Relaxed).saturating_sub(1);
    let mut books = Commit { generation, boots, sinks, lanes, ..Commit::initial(spool.lanes()) };
    books.all_synced();
    books.store(spool);
    note_damage(spool);
    // How many jobs have ended is not known any more.
    let (generation, place) = ListPosition::saved(spool);
    ListPosition { ended_before: None, ..place }.store(spool, generation + 1);
    Ok(books)
}

/// From now on a job without an outcome is no mistake of ours.
fn note_damage(spool: &Spool) {
    spool.run().damaged.store(1, Ordering::Relaxed);
}

/// Sees to the ends of a lane, of which a batch was begun up to there, and says what of it is torn.
fn repair_lane(spool: &Spool, lane: usize, head: Mark, begun: u64) -> Result<Vec<Torn>, Error> {
    let (producer, consumer) = (spool.producer(lane), spool.consumer(lane));
    let reader = open(spool, lane)?;
    let tail = producer.tail.load(Ordering::Acquire);
    // It was published, and will be committed: no tail is before it.
    let least = if reader.is_sane(head, begun) { begun } else { head.offset };
    if !reader.is_sane(head, tail) || tail < least {
        let (from, end) = find_units(spool, &reader, head, tail);
        log::error!(
            "{}: lane {lane}: its tail is damaged; what is whole is gone on with",
            spool.path.display()
        );
        if from != head.offset {
            // What lies between was overwritten long ago.
            let mut next = Commit::load(spool);
            next.generation += 1;
            next.lanes[lane].offset = from;
            next.store(spool);
        }
        producer.tail.store(end.max(least), Ordering::Release);
        note_damage(spool);
    }
    let books = Commit::load(spool);
    let head = books.lanes[lane];
    // After a power loss the frames since the last sync are still wanted.
    consumer.freed.store(books.believed(spool).lanes[lane].offset, Ordering::Release);
    let found = survey(spool, lane, head).map_err(Error::system("can't map a lane"))?;
    if !found.torn.is_empty() {
        note_damage(spool);
    }
    producer.published.store(found.records, Ordering::Relaxed);
    producer.waiting_for.store(0, Ordering::Relaxed);
    Ok(found.torn)
}

/// Where units stand in a lane whose tail can't be right: from the first offset to look at, to the
/// end of the last one. Behind the head, if there are any; else before the tail.
fn find_units(spool: &Spool, reader: &LaneReader, head: Mark, tail: u64) -> (u64, u64) {
    let capacity = spool.layout.geometry.lane_bytes;
    let last_unit = |from: u64| {
        let until = from.saturating_add(capacity) / 8 * 8;
        let (mut mark, mut end) = (Mark { offset: from, records: head.records }, from);
        while mark.offset < until && reader.is_sane(mark, until) {
            let mut unit = Gathered::default();
            reader.gather(&mut mark, until, 1 << 16, &mut unit);
            if unit.result_records + unit.jobs_done + unit.jobs_failed > 0 {
                // Torn bytes can be the last that was found.
                let torn = unit.torn.last().filter(|torn| torn.to == mark.offset);
                end = torn.map_or(mark.offset, |torn| torn.from);
            }
        }
        end
    };
    let end = last_unit(head.offset);
    // A tail that is only too small says nothing of what is before it.
    if end > head.offset || tail < head.offset || reader.is_sane(head, tail) {
        return (head.offset, end);
    }
    let from = tail.saturating_sub(capacity).next_multiple_of(8);
    match last_unit(from) {
        end if end > from => (from, end),
        _ => (head.offset, head.offset),
    }
}

/// Everybody is dead: what they had in hand is done, or ready again. No job is blamed for it: what
/// ends main as well was hardly a job.
fn settle_all(spool: &Spool, torn: &[Torn], mut end: impl FnMut(Orphan)) {
    for lane in 0..spool.lanes() {
        // Lanes are numbered by u16 in the layout.
        settle(spool, lane as u16, None, &mut end);
    }
    let jobs = Jobs(spool);
    let lost: Vec<usize> = torn.iter().flat_map(|torn| done_in(spool, *torn)).collect();
    let mut again = 0;
    for index in 0..jobs.len() {
        let (state, _) = jobs.look(index);
        let damaged = match state.phase() {
            Phase::Unknown => true,
            Phase::Claimed(by) => !spool.has_lane(by.lane) || lost.contains(&index),
            Phase::Free | Phase::Ready => false,
        };
        if damaged {
            again += 1;
            jobs.make_ready(index, state, None);
        }
        jobs.make_due(index);
    }
    if again > 0 {
        note_damage(spool);
        log::error!(
            "{}: {again} jobs whose results are damaged are run again",
            spool.path.display()
        );
    }
}

/// The slots of jobs that count as done, and whose results ended in this range.
pub(crate) fn done_in(spool: &Spool, torn: Torn) -> impl Iterator<Item = usize> {
    let jobs = Jobs(spool);
    (0..jobs.len()).filter(move |index| {
        let (state, done) = jobs.look(*index);
        let result_end = jobs.slot(*index).result_end.load(Ordering::Acquire);
        let here = torn.from < result_end && result_end <= torn.to;
        matches!(state.phase(), Phase::Claimed(by) if usize::from(by.lane) == torn.lane)
            && done
            && here
    })
}

/// Says how many jobs can't be run any more, since what the source had written of them is damaged. To be
/// called when everything else was tried.
pub(crate) fn give_up_damaged(spool: &Spool) {
    let jobs = Jobs(spool);
    let is_lost = |index: &usize| jobs.phase(*index) != Phase::Free && !jobs.is_sound(*index);
    let lost = (0..jobs.len()).filter(is_lost).count();
    if lost > 0 {
        note_damage(spool);
        log::error!("{}: {lost} jobs are damaged, and fail", spool.path.display());
    }
}

fn open(spool: &Spool, lane: usize) -> Result<LaneReader, Error> {
    LaneReader::open(spool, lane).map_err(Error::system("can't map a lane"))
}
