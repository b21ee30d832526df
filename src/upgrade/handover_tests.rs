//! Every row of the table of generations, as a table test: no clock, no process.

use super::*;
use crate::report::Note;
use proptest::prelude::*;

type Act = Action<&'static str>;

const TIMEOUTS: Timeouts = Timeouts {
    ready: Duration::from_secs(60),
    probation: Duration::ZERO,
    drain: Duration::from_secs(5),
    limit: Duration::from_secs(60),
    kill: Duration::from_secs(2),
};

fn start(generation: Generation, program: &'static str) -> Act {
    Action::Start { generation, program }
}

fn drained(generation: Generation, cut: impl Into<Option<usize>>, end: &str) -> Act {
    drained_after(0, generation, cut, end)
}

fn drained_after(took: u64, generation: Generation, cut: impl Into<Option<usize>>, end: &str) -> Act {
    Action::Tell(Notice::Drained { generation, cut: cut.into(), end: end.into(), took })
}

fn failed(generation: Generation, end: &str, serving: Option<Generation>) -> Act {
    Action::Tell(Notice::StartFailed { generation, end: end.into(), program: Vintage::Newest, serving })
}

fn not_ready(generation: Generation, after: u64) -> Act {
    Action::Tell(Notice::NotReady { generation, after, given_up: 60_000 })
}

fn trouble(handover: &Handover<&'static str>) -> Option<String> {
    handover.standing.trouble(vintage(handover))
}

/// Which program it is that serves.
fn vintage(handover: &Handover<&'static str>) -> Option<Vintage> {
    handover.current_program().map(|program| handover.vintage(program))
}

/// That program is offered, and takes over from the one that serves.
fn swap(handover: &mut Handover<&'static str>, now: Instant, program: &'static str) {
    let _ = handover.offer(now, program, Style::Overlap);
    take_over(handover, now);
}

/// What starts becomes ready, and the old one leaves.
fn take_over(handover: &mut Handover<&'static str>, now: Instant) {
    let (old, new) = (handover.current().unwrap(), handover.roles().starting.unwrap());
    let _ = handover.ready(now, new);
    let _ = handover.exited(now, old, "exit status 0", true);
}

/// A session in which "one" serves as generation 1.
fn serving(timeouts: Timeouts) -> (Handover<&'static str>, Instant) {
    #[allow(clippy::disallowed_methods)] // Any moment will do; the tests count from it.
    let now = Instant::now();
    let mut handover = Handover::new(timeouts);
    assert_eq!(handover.offer(now, "one", Style::Overlap), [start(1, "one")]);
    assert_eq!(handover.ready(now, 1), [Action::Admit(1), Action::Live(1)]);
    (handover, now)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn the_new_one_is_live_only_when_the_old_one_has_stopped_accepting() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(handover.offer(now, "two", Style::Overlap), [start(2, "two")]);
    assert_eq!(handover.current(), Some(1), "the old one serves while the new one starts");
    assert_eq!(handover.ready(now, 2), [Action::Drain(1)]);
    assert_eq!(handover.stopped_accepting(1), [Action::Admit(2), Action::Live(2)]);
    assert_eq!(handover.stopped_accepting(1), [], "said once");
    handover.live(1, 3);
    assert_eq!(handover.exited(now, 1, "exit status 0", true), [drained(1, 0, "exit status 0")]);
    assert_eq!(handover.deadline(), None);
}

#[test]
fn an_old_one_that_dies_instead_of_stopping_makes_the_new_one_live_too() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    assert_eq!(
        handover.exited(now, 1, "signal 9", true),
        [Action::Admit(2), Action::Live(2), drained(1, None, "signal 9")]
    );
}

#[test]
fn the_newest_program_wins_and_at_most_one_starts() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.offer(now, "three", Style::Overlap), [Action::Terminate(2), start(3, "three")]);
    assert_eq!(handover.ready(now, 2), [], "too late");
    assert_eq!(handover.exited(now, 2, "signal 15", true), [], "it never served: nothing to tell");
    assert_eq!(handover.ready(now, 3), [Action::Drain(1)]);
}

#[test]
fn a_start_that_has_bound_an_address_must_be_gone_before_the_next() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    handover.bound(2);
    assert_eq!(handover.offer(now, "three", Style::Overlap), [Action::Terminate(2)]);
    assert_eq!(handover.offer(now, "four", Style::Overlap), [], "the newest wins here too");
    assert_eq!(handover.exited(now, 2, "signal 15", true), [start(3, "four")]);
}

#[test]
fn one_that_was_asked_to_stop_by_somebody_else_is_replaced_while_it_drains() {
    let (mut handover, now) = serving(TIMEOUTS);
    let now = now + secs(5);
    let died = Notice::Died {
        generation: 1,
        end: "somebody has asked it to stop".into(),
        again_in: Some(0),
        falls_back: false,
        given_up: false,
    };
    assert_eq!(handover.leaves(now, 1), [Action::Tell(died), start(2, "one")]);
    assert_eq!(handover.leaves(now, 1), [], "once");
    assert_eq!(handover.ready(now, 2), [Action::Admit(2), Action::Live(2)]);
    handover.live(1, 0);
    assert_eq!(handover.exited(now, 1, "exit status 0", true), [drained(1, 0, "exit status 0")]);
    // One that asks itself is not started again and again.
    assert_eq!(handover.leaves(now, 2).len(), 1);
    assert_eq!(handover.deadline(), Some(now + secs(1)));
}

#[test]
fn a_newer_program_that_waits_is_not_forgotten_for_the_old_one() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    handover.bound(2);
    let _ = handover.offer(now, "three", Style::Overlap);
    let died =
        Notice::Died { generation: 1, end: "signal 9".into(), again_in: None, falls_back: false, given_up: false };
    assert_eq!(handover.exited(now, 1, "signal 9", true), [Action::Tell(died)]);
    assert_eq!(handover.exited(now, 2, "signal 15", true), [start(3, "three")]);
}

#[test]
fn an_address_bound_at_the_last_moment_is_waited_for_too() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.tick(now + secs(60));
    handover.bound(2);
    assert_eq!(handover.offer(now + secs(61), "three", Style::Overlap), []);
    assert_eq!(handover.exited(now + secs(61), 2, "signal 15", true), [start(3, "three")]);
}

#[test]
fn what_serves_is_known_from_what_was_wanted() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(vintage(&handover), Some(Vintage::Newest));
    let _ = handover.offer(now, "two", Style::StopFirst);
    let _ = handover.exited(now, 1, "exit status 0", true);
    let _ = handover.exited(now, 2, "exit status 1", true);
    let _ = handover.ready(now, 3);
    assert_eq!(handover.current_program(), Some(&"one"));
    assert_eq!(vintage(&handover), Some(Vintage::FallenBack));
}

#[test]
fn a_failed_start_leaves_the_old_one_alone() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let failed = failed(2, "exit status 101", Some(1));
    assert_eq!(handover.exited(now, 2, "exit status 101", true), [failed]);
    assert_eq!(handover.current(), Some(1));
    assert_eq!(handover.deadline(), None, "nothing is tried again before the next change");
}

#[test]
fn a_start_that_hangs_is_ended_in_two_steps() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.deadline(), Some(now + secs(2)));
    assert_eq!(handover.tick(now + secs(1)), []);
    assert_eq!(handover.tick(now + secs(2)), [not_ready(2, 2_000)]);
    assert_eq!(handover.deadline(), Some(now + secs(60)));
    assert_eq!(handover.tick(now + secs(59)), [], "said once");
    let failed = failed(2, "not ready after 60 s", Some(1));
    assert_eq!(handover.tick(now + secs(60)), [failed, Action::Terminate(2)]);
    assert_eq!(handover.tick(now + secs(62)), [Action::Kill(2)]);
    assert_eq!(handover.exited(now + secs(62), 2, "signal 9", true), []);
    assert_eq!(handover.current(), Some(1));
}

#[test]
fn a_first_program_that_fails_waits_for_its_next_version() {
    let (_, now) = serving(TIMEOUTS);
    let mut handover = Handover::new(TIMEOUTS);
    let _ = handover.offer(now, "one", Style::Overlap);
    let failed = failed(1, "exit status 1", None);
    assert_eq!(handover.exited(now, 1, "exit status 1", true), [failed]);
    assert_eq!(handover.deadline(), None);
}

#[test]
fn inside_the_probation_window_the_old_one_takes_over_again() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.ready(now, 2), [Action::Pause(1)]);
    assert_eq!(handover.stopped_accepting(1), [Action::Admit(2), Action::Live(2)]);
    let back = Notice::RolledBack { from: 2, to: 1, end: "signal 6".into() };
    assert_eq!(handover.exited(now + secs(4), 2, "signal 6", true), [Action::Resume(1), Action::Tell(back)]);
    assert_eq!(handover.current_program(), Some(&"one"));
    assert!(handover.rollback(now + secs(4), Style::Overlap).is_err(), "there is nothing further back");
    assert_eq!(handover.current(), Some(1));
}

#[test]
fn when_the_probation_window_closes_the_old_one_drains() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.stopped_accepting(1);
    assert_eq!(handover.deadline(), Some(now + secs(5)));
    assert_eq!(handover.tick(now + secs(5)), [Action::Drain(1)]);
    assert!(matches!(&handover.exited(now + secs(6), 2, "signal 6", true)[0], Action::Tell(Notice::Died { .. })));
}

#[test]
fn a_third_program_inside_the_window_ends_the_first() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.offer(now, "three", Style::Overlap);
    assert_eq!(handover.ready(now, 3), [Action::Drain(1), Action::Pause(2)]);
}

#[test]
fn a_current_one_that_dies_is_started_again_at_once_if_it_had_stayed_up() {
    let (mut handover, now) = serving(TIMEOUTS);
    let died =
        Notice::Died { generation: 1, end: "signal 11".into(), again_in: Some(0), falls_back: false, given_up: false };
    assert_eq!(handover.exited(now + secs(30), 1, "signal 11", true), [Action::Tell(died), start(2, "one")]);
}

#[test]
fn one_that_dies_at_once_is_started_again_a_second_later() {
    let (mut handover, now) = serving(TIMEOUTS);
    let died = Notice::Died {
        generation: 1,
        end: "signal 11".into(),
        again_in: Some(1000),
        falls_back: false,
        given_up: false,
    };
    assert_eq!(handover.exited(now, 1, "signal 11", true), [Action::Tell(died)]);
    assert_eq!(handover.deadline(), Some(now + secs(1)));
    assert_eq!(handover.tick(now + secs(1)), [start(2, "one")]);
}

/// What is started when these die one after the other, each as soon as it is ready.
fn started_after_deaths(
    handover: &mut Handover<&'static str>,
    now: Instant,
    dying: std::ops::Range<u64>,
) -> Vec<&'static str> {
    let mut started = Vec::new();
    for (generation, second) in dying.zip(0..) {
        let time = now + secs(second);
        let _ = handover.exited(time, generation, "signal 11", true);
        for action in handover.tick(time + secs(1)) {
            if let Action::Start { generation, program } = action {
                started.push(program);
                let _ = handover.ready(time + secs(1), generation);
            }
        }
    }
    started
}

#[test]
fn one_that_keeps_dying_gives_way_to_the_newest_good_program() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.exited(now, 1, "exit status 0", true);
    assert_eq!(started_after_deaths(&mut handover, now, 2..5), ["two", "two", "one"]);
}

/// A client may bring down every version by the same request: that is no reason to hurry back to the oldest.
#[test]
fn the_one_before_has_as_many_lives() {
    let (mut handover, now) = serving(TIMEOUTS);
    for (generation, program) in [(2, "two"), (3, "three")] {
        let _ = handover.offer(now, program, Style::Overlap);
        let _ = handover.ready(now, generation);
        let _ = handover.exited(now, generation - 1, "exit status 0", true);
    }
    assert_eq!(started_after_deaths(&mut handover, now, 3..9), ["three", "three", "two", "two", "two", "one"]);
}

#[test]
fn a_restart_that_fails_before_ready_is_repeated_every_second() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(handover.exited(now + secs(30), 1, "signal 9", true)[1], start(2, "one"));
    assert_eq!(handover.exited(now + secs(30), 2, "exit status 1", true).len(), 1);
    assert_eq!(handover.deadline(), Some(now + secs(31)));
    assert_eq!(handover.tick(now + secs(31)), [start(3, "one")]);
}

#[test]
fn a_program_without_sockets_just_ends() {
    let (mut handover, now) = serving(TIMEOUTS);
    let finished = Notice::Finished { generation: 1, end: "exit status 0".into() };
    assert_eq!(handover.exited(now, 1, "exit status 0", false), [Action::Tell(finished)]);
    assert_eq!(handover.deadline(), None);
    assert_eq!(handover.offer(now, "two", Style::StopFirst), [start(2, "two")]);
}

#[test]
fn draining_has_a_deadline_and_what_was_cut_is_counted() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.stopped_accepting(1);
    handover.live(1, 7);
    handover.live(1, 4);
    assert_eq!(handover.tick(now + secs(5)), [Action::Terminate(1)]);
    handover.live(1, 0);
    assert_eq!(handover.tick(now + secs(7)), [Action::Kill(1)]);
    assert_eq!(handover.deadline(), None, "a killed process needs no more");
    assert_eq!(handover.exited(now + secs(7), 1, "signal 9", true)[0], drained_after(7_000, 1, 4, "signal 9"));
}

#[test]
fn one_that_has_nothing_left_to_finish_is_ended_at_once() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(handover.drained(now, 1), [], "it serves");
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.stopped_accepting(1);
    handover.live(1, 3);
    assert_eq!(handover.drained(now + secs(1), 1), [Action::Terminate(1)]);
    assert_eq!(handover.drained(now + secs(1), 1), [], "once");
    assert_eq!(handover.tick(now + secs(3)), [Action::Kill(1)], "it takes no notice");
    assert_eq!(handover.exited(now + secs(3), 1, "signal 9", true), [drained_after(3_000, 1, 0, "signal 9")]);
}

#[test]
fn programs_that_turn_out_not_to_pause_are_not_asked_to() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    handover.without_probation();
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.ready(now, 2), [Action::Drain(1)]);
}

#[test]
fn stop_first_waits_for_the_old_one_to_leave() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(handover.offer(now, "two", Style::StopFirst), [Action::Drain(1)]);
    assert_eq!(handover.current(), None);
    assert_eq!(handover.offer(now, "three", Style::StopFirst), [], "the newest wins here too");
    assert_eq!(handover.exited(now, 1, "exit status 0", true), [drained(1, None, "exit status 0"), start(2, "three")]);
    assert_eq!(handover.ready(now, 2), [Action::Admit(2), Action::Live(2)]);
}

#[test]
fn stop_first_waits_for_every_other_process() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.offer(now, "three", Style::StopFirst), [Action::Terminate(2), Action::Drain(1)]);
    assert_eq!(handover.exited(now, 2, "signal 15", true), []);
    assert_eq!(handover.exited(now, 1, "exit status 0", true)[1], start(3, "three"));
}

#[test]
fn stop_first_lets_nobody_back_before_the_late_one_is_gone() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::StopFirst);
    let _ = handover.exited(now, 1, "exit status 0", true);
    assert_eq!(handover.tick(now + secs(60)).len(), 2, "told, and ended");
    assert_eq!(handover.exited(now + secs(61), 2, "signal 15", true), [start(3, "one")]);
}

#[test]
fn stop_first_brings_the_old_program_back_when_the_new_one_fails() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::StopFirst);
    let _ = handover.exited(now, 1, "exit status 0", true);
    let failed = failed(2, "exit status 101", None);
    assert_eq!(handover.exited(now, 2, "exit status 101", true), [failed, start(3, "one")]);
}

#[test]
fn rollback_goes_to_the_one_before_and_upgrade_to_the_same() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert!(handover.rollback(now, Style::Overlap).is_err());
    swap(&mut handover, now, "two");
    assert_eq!(handover.again(now, Style::Overlap).unwrap(), [start(3, "two")]);
    take_over(&mut handover, now);
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [start(4, "one")]);
    take_over(&mut handover, now);
    assert_eq!(vintage(&handover), Some(Vintage::RolledBack));
    assert!(handover.rollback(now, Style::Overlap).is_err(), "not forth again");
    assert_eq!(handover.again(now, Style::Overlap).unwrap(), [start(5, "one")]);
    take_over(&mut handover, now);
    assert_eq!(vintage(&handover), Some(Vintage::RolledBack), "an upgrade without a build changes nothing of that");
}

#[test]
fn each_rollback_goes_one_further_and_a_build_ends_it() {
    let (mut handover, now) = serving(TIMEOUTS);
    for program in ["two", "three", "four"] {
        swap(&mut handover, now, program);
    }
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [start(5, "three")]);
    // Before that one is ready.
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [Action::Terminate(5), start(6, "two")]);
    let _ = handover.exited(now, 5, "signal 15", true);
    take_over(&mut handover, now);
    assert_eq!((handover.current_program(), vintage(&handover)), (Some(&"two"), Some(Vintage::RolledBack)));
    swap(&mut handover, now, "five");
    assert_eq!(vintage(&handover), Some(Vintage::Newest));
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [start(8, "two")], "what served before");
    take_over(&mut handover, now);
    // Where a build gives what serves, it is what the newest sources are; where it gives what cannot be kept, nothing is.
    handover.unchanged();
    assert_eq!(vintage(&handover), Some(Vintage::Newest));
    handover.not_kept("no space");
    assert_eq!(vintage(&handover), Some(Vintage::FallenBack));
}

#[test]
fn a_rollback_that_fails_leaves_what_serves_as_it_was() {
    let (mut handover, now) = serving(TIMEOUTS);
    swap(&mut handover, now, "two");
    let _ = handover.rollback(now, Style::Overlap).unwrap();
    let end = "exit status 1".to_owned();
    let failed = Notice::StartFailed { generation: 3, end, program: Vintage::RolledBack, serving: Some(2) };
    assert_eq!(handover.exited(now, 3, "exit status 1", true)[0], Action::Tell(failed));
    assert_eq!((handover.current_program(), vintage(&handover)), (Some(&"two"), Some(Vintage::Newest)));
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [start(4, "one")], "it may be tried again");
}

#[test]
fn a_rollback_on_probation_that_dies_goes_forth_again() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    swap(&mut handover, now, "two");
    let _ = handover.rollback(now, Style::Overlap).unwrap();
    let _ = handover.ready(now, 3);
    assert_eq!(handover.current_program(), Some(&"one"));
    let _ = handover.exited(now, 3, "signal 6", true);
    assert_eq!((handover.current_program(), vintage(&handover)), (Some(&"two"), Some(Vintage::Newest)));
    assert_eq!(handover.rollback(now, Style::Overlap).unwrap(), [start(4, "one")]);
}

#[test]
fn only_a_handful_of_programs_is_kept() {
    let (mut handover, now) = serving(TIMEOUTS);
    let later = ["2", "3", "4", "5", "6", "7", "8"];
    for program in later {
        swap(&mut handover, now, program);
    }
    assert_eq!(handover.programs().collect::<std::collections::BTreeSet<_>>().len(), KEPT + 1);
    for program in later.iter().rev().skip(1).take(KEPT) {
        let _ = handover.rollback(now, Style::Overlap).unwrap();
        take_over(&mut handover, now);
        assert_eq!(handover.current_program(), Some(program));
    }
    assert!(handover.rollback(now, Style::Overlap).is_err());
}

#[test]
fn the_one_that_was_fallen_back_to_is_neither_the_newest_nor_asked_for() {
    let (mut handover, now) = serving(TIMEOUTS);
    swap(&mut handover, now, "two");
    let mut falls = Vec::new();
    for death in 0..3u64 {
        let time = now + secs(death);
        for action in handover.exited(time, 2 + death, "signal 11", true) {
            if let Action::Tell(Notice::Died { falls_back, .. }) = action {
                falls.push(falls_back);
            }
        }
        let _ = handover.tick(time + secs(1));
        let _ = handover.ready(time + secs(1), 3 + death);
    }
    assert_eq!(falls, [false, false, true]);
    assert_eq!((handover.current_program(), vintage(&handover)), (Some(&"one"), Some(Vintage::FallenBack)));
    let _ = handover.again(now + secs(9), Style::Overlap).unwrap();
    take_over(&mut handover, now + secs(9));
    assert_eq!(vintage(&handover), Some(Vintage::FallenBack), "an upgrade makes it no newer");
    assert!(handover.rollback(now, Style::Overlap).is_err());
}

#[test]
fn what_takes_long_is_told_of_meanwhile() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.stopped_accepting(1);
    handover.live(1, 3);
    assert_eq!(handover.deadline(), Some(now + secs(2)));
    let draining = Notice::Draining { generation: 1, live: 3, after: 2_000, limit: None };
    assert_eq!(handover.tick(now + secs(2)), [Action::Tell(draining)]);
    assert_eq!(handover.tick(now + secs(3)), [], "once");
    assert_eq!(handover.deadline(), Some(now + secs(5)));
    // A time-out that is shorter says it all.
    let mut handover = Handover::new(Timeouts { ready: secs(1), ..TIMEOUTS });
    let _ = handover.offer(now, "one", Style::Overlap);
    assert_eq!(handover.deadline(), Some(now + secs(1)));
    assert!(matches!(&handover.tick(now + secs(3))[0], Action::Tell(Notice::StartFailed { .. })));
}

#[test]
fn a_stop_drains_all_and_the_second_one_kills() {
    let (mut handover, now) = serving(Timeouts { probation: secs(5), ..TIMEOUTS });
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.offer(now, "three", Style::Overlap);
    assert_eq!(handover.stop(now), [Action::Terminate(3), Action::Drain(1), Action::Drain(2)]);
    assert!(!handover.is_over());
    assert_eq!(handover.offer(now, "four", Style::Overlap), []);
    assert_eq!(handover.force(now), [Action::Kill(1), Action::Kill(2), Action::Kill(3)]);
    for generation in 1..=3 {
        let _ = handover.exited(now, generation, "signal 9", true);
    }
    assert!(handover.is_over());
}

#[derive(Debug, Clone)]
enum Input {
    Offer(bool),
    Ready,
    StoppedAccepting,
    Drained,
    ExitStarting,
    ExitCurrent,
    ExitOldest,
    Progress,
    Pass(u64),
    Rollback,
    Again,
    Unchanged,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        any::<bool>().prop_map(Input::Offer),
        Just(Input::Ready),
        Just(Input::StoppedAccepting),
        Just(Input::Drained),
        Just(Input::ExitStarting),
        Just(Input::ExitCurrent),
        Just(Input::ExitOldest),
        Just(Input::Progress),
        (1..70_000u64).prop_map(Input::Pass),
        Just(Input::Rollback),
        Just(Input::Again),
        Just(Input::Unchanged),
    ]
}

/// Generation 2 is ready, and the first one, with so many connections, has stopped accepting.
fn draining(handover: &mut Handover<&'static str>, now: Instant, live: usize) {
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.stopped_accepting(1);
    handover.live(1, live);
}

fn on(live: usize, after: u64) -> Act {
    Action::Tell(Notice::Draining { generation: 1, live, after, limit: Some(60_000) })
}

#[test]
fn one_that_goes_on_answering_is_not_ended_before_the_limit() {
    let (mut handover, now) = serving(TIMEOUTS);
    draining(&mut handover, now, 30);
    let mut told = Vec::new();
    for second in 1..=59 {
        handover.progress(now + secs(second), 1, 30);
        told.extend(handover.tick(now + secs(second)));
    }
    let slow = Notice::Draining { generation: 1, live: 30, after: 2_000, limit: None };
    assert_eq!(told, [Action::Tell(slow), on(30, 5_000)]);
    handover.progress(now + secs(60), 1, 30);
    assert_eq!(handover.deadline(), Some(now + secs(60)));
    assert_eq!(handover.tick(now + secs(60)), [Action::Terminate(1)]);
    // No time is left for any more of it, but for what every end has.
    handover.progress(now + secs(61), 1, 30);
    assert_eq!(handover.tick(now + secs(62)), [Action::Kill(1)]);
}

#[test]
fn the_time_of_one_that_stands_still_counts_from_its_last_progress() {
    let (mut handover, now) = serving(TIMEOUTS);
    draining(&mut handover, now, 3);
    let _ = handover.tick(now + secs(2));
    handover.progress(now + secs(4), 1, 3);
    assert_eq!(handover.tick(now + secs(5)), [on(3, 5_000)]);
    assert_eq!(handover.deadline(), Some(now + secs(9)));
    assert_eq!(handover.tick(now + secs(8)), [], "said once");
    assert_eq!(handover.tick(now + secs(9)), [Action::Terminate(1)]);
}

#[test]
fn one_that_answers_after_it_was_asked_to_end_is_not_killed_for_it() {
    let (mut handover, now) = serving(TIMEOUTS);
    draining(&mut handover, now, 3);
    assert_eq!(handover.tick(now + secs(5)), [Action::Terminate(1)]);
    for second in 6..30 {
        handover.progress(now + secs(second), 1, 3);
        assert_eq!(handover.tick(now + secs(second)), []);
    }
    assert_eq!(handover.tick(now + secs(31)), [Action::Kill(1)]);
}

#[test]
fn a_longer_drain_timeout_is_not_made_shorter_by_the_limit() {
    let (mut handover, now) = serving(Timeouts { drain: secs(100), ..TIMEOUTS });
    draining(&mut handover, now, 3);
    let _ = handover.tick(now + secs(2));
    handover.progress(now + secs(50), 1, 3);
    assert_eq!(handover.tick(now + secs(99)), []);
    assert_eq!(handover.tick(now + secs(100)), [Action::Terminate(1)]);
}

/// What it has is known from outside alone.
#[test]
fn what_is_waited_for_is_told_of_a_program_that_tells_nothing() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(handover.offer(now, "two", Style::StopFirst), [Action::Drain(1)]);
    handover.progress(now + secs(4), 1, 7);
    assert_eq!(handover.tick(now + secs(5)), [on(7, 5_000)]);
    assert_eq!(
        handover.exited(now + secs(6), 1, "exit status 0", true)[0],
        drained_after(6_000, 1, None, "exit status 0")
    );
}

#[test]
fn who_ends_the_session_does_not_wait_for_a_stream() {
    let (mut handover, now) = serving(TIMEOUTS);
    handover.live(1, 1);
    assert_eq!(handover.stop(now), [Action::Drain(1)]);
    handover.progress(now + secs(4), 1, 1);
    assert_eq!(handover.tick(now + secs(5)), [Action::Terminate(1)]);
}

#[test]
fn an_old_one_that_hangs_does_not_keep_the_new_one_waiting() {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    assert_eq!(handover.ready(now, 2), [Action::Drain(1)], "nobody accepts beside it");
    assert_eq!(handover.deadline(), Some(now + secs(1)));
    assert_eq!(handover.tick(now + secs(1)), [Action::Admit(2)]);
    assert_eq!(handover.tick(now + secs(2)), [], "once");
    assert_eq!(handover.stopped_accepting(1), [Action::Live(2)]);
}

fn notes(actions: &[Act]) -> Vec<&Note> {
    let note = |action| if let &Action::Tell(Notice::Note(ref note)) = action { Some(note) } else { None };
    actions.iter().filter_map(note).collect()
}

#[test]
fn a_second_start_that_fails_beside_the_old_one_brings_advice() {
    let (mut handover, now) = serving(TIMEOUTS);
    let mut said = Vec::new();
    for (generation, program) in [(2, "two"), (3, "three"), (4, "four")] {
        let _ = handover.offer(now, program, Style::Overlap);
        let actions = handover.exited(now, generation, "exit status 1", true);
        said.push(notes(&actions).contains(&&Note::RunsOnlyOnce { generation }));
    }
    assert_eq!(said, [false, true, true]);
    // A program of which one process has served already can run, only not twice.
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.again(now, Style::Overlap).unwrap();
    let actions = handover.exited(now, 2, "exit status 1", true);
    assert_eq!(notes(&actions).len(), 1);
    // And one that was mended is not remembered.
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.exited(now, 2, "exit status 1", true);
    let _ = handover.offer(now, "three", Style::Overlap);
    let _ = handover.ready(now, 3);
    let _ = handover.exited(now, 1, "exit status 0", true);
    let _ = handover.offer(now, "four", Style::Overlap);
    assert_eq!(notes(&handover.exited(now, 4, "exit status 1", true)).len(), 0);
}

#[test]
fn five_starts_in_vain_are_enough() {
    let (mut handover, now) = serving(TIMEOUTS);
    let mut time = now;
    let _ = handover.offer(time, "two", Style::StopFirst);
    let mut actions = handover.exited(time, 1, "exit status 0", true);
    for generation in 2..7 {
        assert!(actions.iter().any(|action| matches!(action, Action::Start { .. })), "{actions:?}");
        actions = handover.exited(time, generation, "exit status 1", true);
        time += secs(1);
        actions.extend(handover.tick(time));
    }
    assert_eq!(notes(&actions), [&Note::GivenUp { starts: 5 }]);
    assert_eq!((handover.deadline(), handover.is_settled()), (None, true));
    assert_eq!(handover.offer(time, "three", Style::StopFirst), [start(7, "three")]);
    assert_eq!(handover.ready(time, 7), [Action::Admit(7), Action::Live(7)]);
}

#[test]
fn one_without_a_program_before_it_is_let_be_after_five_deaths() {
    let (mut handover, now) = serving(TIMEOUTS);
    assert_eq!(started_after_deaths(&mut handover, now, 1..6), ["one"; 4]);
    assert_eq!((handover.current(), handover.deadline()), (None, None));
    assert_eq!(handover.again(now + secs(9), Style::Overlap).unwrap(), [start(6, "one")]);
}

/// Two programs have served; the second does.
fn serving_a_second() -> (Handover<&'static str>, Instant) {
    let (mut handover, now) = serving(TIMEOUTS);
    let _ = handover.offer(now, "two", Style::Overlap);
    let _ = handover.ready(now, 2);
    let _ = handover.exited(now, 1, "exit status 0", true);
    (handover, now)
}

#[test]
fn what_was_rolled_back_to_is_not_the_newest_sources() {
    let (mut handover, now) = serving_a_second();
    assert_eq!(trouble(&handover), None);
    let _ = handover.rollback(now, Style::Overlap).unwrap();
    let _ = handover.ready(now, 3);
    let trouble = trouble(&handover).unwrap();
    assert!(trouble.contains("rolled back") && trouble.contains("newest sources do not serve"), "{trouble}");
}

#[test]
fn a_rollback_that_fails_says_nothing_of_the_newest_program() {
    let (mut handover, now) = serving_a_second();
    let _ = handover.rollback(now, Style::Overlap).unwrap();
    let _ = handover.exited(now, 3, "exit status 1", true);
    let why = handover.standing.take_failed_rollback().unwrap();
    assert!(why.contains("rollback has failed"), "{why}");
    assert_eq!((handover.standing.take_failed_rollback(), trouble(&handover)), (None, None), "told once");
}

#[test]
fn one_that_keeps_dying_is_trouble_until_the_newest_serves() {
    let (mut handover, now) = serving_a_second();
    let _ = handover.exited(now, 2, "signal 6 (SIGABRT)", true);
    assert!(trouble(&handover).unwrap().contains("did not stay up: signal 6"));
    let _ = handover.tick(now + secs(1));
    let _ = handover.ready(now + secs(1), 3);
    assert_eq!(trouble(&handover), None);
    assert_eq!(started_after_deaths(&mut handover, now + secs(1), 3..5), ["two", "one"]);
    assert_eq!(vintage(&handover), Some(Vintage::FallenBack));
    assert!(trouble(&handover).unwrap().contains("did not stay up: signal 11"));
    handover.not_kept("no space");
    assert!(trouble(&handover).unwrap().contains("cannot be started: no space"));
}

#[test]
fn a_program_without_sockets_that_fails_is_trouble_and_one_that_comes_to_its_end_is_not() {
    for (end, is_trouble) in [("exit status 0", false), ("exit status 101", true)] {
        let (mut handover, now) = serving(TIMEOUTS);
        let _ = handover.exited(now, 1, end, false);
        assert_eq!(trouble(&handover).is_some_and(|trouble| trouble.contains(end)), is_trouble);
        handover.standing.outdated();
        assert_eq!(trouble(&handover), None);
    }
}

#[test]
fn one_that_reverted_to_the_same_program_is_no_trouble() {
    let (mut handover, now) = serving(Timeouts { probation: secs(10), ..TIMEOUTS });
    let _ = handover.again(now, Style::Overlap).unwrap();
    let _ = handover.ready(now, 2);
    let _ = handover.exited(now, 2, "signal 9", true);
    assert_eq!((handover.current(), trouble(&handover)), (Some(1), None));
}

proptest! {
    /// Whatever happens: what runs is what was started and has not exited, nothing runs twice, one generation at most
    /// starts, a generation that serves is never ended for one that is not ready (with overlap), and after a stop all leave.
    #[test]
    fn nothing_is_lost_in_any_order_of_events(
        inputs in proptest::collection::vec(input(), 1..60),
        probation in prop_oneof![Just(0u64), Just(5)],
        overlap in any::<bool>(),
    ) {
        #[allow(clippy::disallowed_methods)] // Any moment will do.
        let mut now = Instant::now();
        let style = if overlap { Style::Overlap } else { Style::StopFirst };
        let mut handover = Handover::new(Timeouts { probation: secs(probation), ..TIMEOUTS });
        let mut running: BTreeMap<Generation, bool> = BTreeMap::new(); // whether it was told to leave
        let mut programs = 0u32;
        // What the newest sources are, and whether anybody has gone back since.
        let (mut newest, mut went_back) = (None, false);
        for input in inputs {
            let before = handover.current();
            let exit = |generation: Option<Generation>, handover: &mut Handover<u32>, running: &mut BTreeMap<_, _>| {
                match generation.filter(|generation| running.remove(generation).is_some()) {
                    Some(generation) => handover.exited(now, generation, "signal 9", true),
                    None => Vec::new(),
                }
            };
            let exits = matches!(input, Input::ExitCurrent | Input::ExitStarting | Input::ExitOldest);
            let actions = match input {
                Input::Offer(new) => {
                    programs += u32::from(new);
                    (newest, went_back) = (Some(programs), false);
                    handover.offer(now, programs, style)
                }
                Input::Ready => match handover.starting.as_ref().map(|starting| starting.generation) {
                    Some(generation) => handover.ready(now, generation),
                    None => Vec::new(),
                },
                Input::StoppedAccepting => match running.keys().next().copied() {
                    Some(generation) => handover.stopped_accepting(generation),
                    None => Vec::new(),
                },
                Input::Drained => match running.keys().next().copied() {
                    Some(generation) => handover.drained(now, generation),
                    None => Vec::new(),
                },
                Input::ExitStarting => {
                    let generation = handover.starting.as_ref().map(|starting| starting.generation);
                    exit(generation, &mut handover, &mut running)
                }
                Input::ExitCurrent => exit(handover.current(), &mut handover, &mut running),
                Input::ExitOldest => exit(running.keys().next().copied(), &mut handover, &mut running),
                Input::Progress => {
                    if let Some(generation) = running.keys().next() {
                        handover.progress(now, *generation, 1);
                    }
                    Vec::new()
                }
                Input::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    handover.tick(now)
                }
                Input::Rollback => {
                    went_back = true;
                    let serving = handover.current_program().copied();
                    let actions = handover.rollback(now, style).unwrap_or_default();
                    let target = actions.iter().find_map(|action| match action {
                        Action::Start { program, .. } => Some(*program),
                        _ => None,
                    });
                    prop_assert!(target.is_none() || target != serving, "back to what serves");
                    actions
                }
                Input::Again => handover.again(now, style).unwrap_or_default(),
                Input::Unchanged => {
                    if let Some(program) = handover.coming_program().or(handover.current_program()).copied() {
                        (newest, went_back) = (Some(program), false);
                    }
                    handover.unchanged();
                    Vec::new()
                }
            };
            for action in &actions {
                match action {
                    Action::Start { generation, .. } => {
                        prop_assert!(running.insert(*generation, false).is_none(), "started twice");
                    }
                    Action::Drain(g) | Action::Terminate(g) | Action::Kill(g) => {
                        prop_assert!(running.contains_key(g), "{action:?} of one that does not run");
                        running.insert(*g, true);
                    }
                    Action::Admit(g) | Action::Pause(g) | Action::Resume(g) | Action::Live(g) => {
                        prop_assert!(running.contains_key(g), "{action:?} of one that does not run");
                    }
                    Action::Tell(_) => {}
                }
            }
            // One that is to leave is not let in again.
            let admitted = |action: &_| matches!(action, Action::Admit(generation) if running[generation]);
            prop_assert!(!actions.iter().any(admitted), "{actions:?}");
            if overlap && !exits && before.is_some() {
                prop_assert!(handover.current().is_some(), "a switch left nobody serving");
            }
            // What is said of the program that serves is true.
            if let Some(program) = handover.current_program() {
                let vintage = handover.vintage(program);
                prop_assert_eq!(vintage == Vintage::Newest, newest == Some(*program));
                prop_assert!(vintage != Vintage::RolledBack || went_back);
            }
            let kept: std::collections::BTreeSet<_> = handover.history.programs().collect();
            prop_assert!(kept.len() <= KEPT + 1, "{kept:?}");
            prop_assert_eq!(kept.len(), handover.history.programs().count(), "one stands twice");
            // Everything that runs is known, and everything known runs.
            let mut known: Vec<Generation> = handover.leaving.keys().copied().collect();
            known.extend(handover.starting.as_ref().map(|starting| starting.generation));
            known.extend(handover.paused.as_ref().map(|paused| paused.was.generation));
            known.extend(handover.current());
            known.sort_unstable();
            prop_assert_eq!(known, running.keys().copied().collect::<Vec<_>>());
        }
        let _ = handover.force(now);
        for generation in running.into_keys() {
            let _ = handover.exited(now, generation, "signal 9", true);
        }
        prop_assert!(handover.is_over());
    }
}
