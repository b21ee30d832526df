//! Tables of what follows from what, and properties of every sequence there may be.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn start() -> Instant {
    // The clock is only where the tables start from.
    #[allow(clippy::disallowed_methods)]
    Instant::now()
}

fn succession(stage: Stage) -> Succession {
    Succession::new(stage, 1000 * MS, Probation::For(100 * MS), PidMode::Handoff)
}

fn with_probation(probation: Probation) -> Succession {
    Succession::new(Stage::Serving, 1000 * MS, probation, PidMode::Handoff)
}

/// One that keeps its process number, and has handed over for the time being.
fn returning() -> (Succession, Instant) {
    let mut core = Succession::new(Stage::Serving, 1000 * MS, Probation::For(Duration::ZERO), PidMode::KeepPid);
    let start = start();
    let actions = run(&mut core, start, &[(0, Input::Wanted), (5, Input::Ready)]);
    assert_eq!(actions, [Action::Report(UpgradeOutcome::Serves), Action::Lend]);
    assert_eq!(core.handed(), Some(Then::Returns));
    (core, start)
}

/// Feeds inputs at times in milliseconds; returns the actions of the last one.
fn run(succession: &mut Succession, start: Instant, inputs: &[(u32, Input)]) -> Vec<Action> {
    let mut actions = Vec::new();
    for (at, input) in inputs {
        actions = succession.handle(start + *at * MS, *input);
    }
    actions
}

fn refused(why: Refusal) -> [Action; 1] {
    [Action::Report(UpgradeOutcome::Refused(why))]
}

const STOP: Input = Input::StopWanted(Asker::Anybody);

#[test]
fn an_upgrade_goes_its_way() {
    let (mut core, start) = (succession(Stage::Serving), start());
    assert_eq!(core.handle(start, Input::Wanted), [Action::Start]);
    assert_eq!(core.stage(), Stage::Starting { by: start + 1000 * MS });
    assert_eq!(core.handle(start + 10 * MS, Input::Ready), [Action::Pause, Action::Report(UpgradeOutcome::Serves)]);
    assert_eq!(core.deadline(), Some(start + 110 * MS));
    assert_eq!(core.handle(start + 109 * MS, Input::Time), []);
    assert_eq!(core.handle(start + 110 * MS, Input::Time), [Action::Commit { again: false }]);
    assert_eq!(core.stage(), Stage::Handed(Then::Leaves));
    assert_eq!(
        core.handle(start + 200 * MS, Input::Ended),
        [Action::Report(UpgradeOutcome::Orphaned { expected: false })]
    );
}

#[test]
fn without_a_probation_it_is_handed_over_at_once() {
    let mut core = with_probation(Probation::For(Duration::ZERO));
    let actions = run(&mut core, start(), &[(0, Input::Wanted), (5, Input::Ready)]);
    assert_eq!(actions, [Action::Report(UpgradeOutcome::Serves), Action::Commit { again: false }]);
}

#[test]
fn a_word_for_a_successor_that_has_just_ended_comes_too_late_once() {
    let lost = |probation, inputs: &[(u32, Input)]| {
        let (mut core, start) = (with_probation(probation), start());
        run(&mut core, start, inputs);
        assert_eq!(core.stage(), Stage::Serving);
        (core, start)
    };
    let started = [(0, Input::Wanted)];
    let ready = [started.as_slice(), &[(5, Input::Ready)]].concat();
    for (inputs, is_lost) in [
        ([ready.as_slice(), &[(10, Input::Ended)]].concat(), true),
        ([ready.as_slice(), &[(10, Input::Garbled)]].concat(), true),
        ([started.as_slice(), &[(10, Input::Ended)]].concat(), true),
        // An operator has said so.
        ([ready.as_slice(), &[(10, Input::Back)]].concat(), false),
        ([started.as_slice(), &[(10, Input::Back)]].concat(), false),
        (vec![], false),
    ] {
        for (at, is_soon) in [(10, true), (1009, true), (1010, false)] {
            let (mut core, start) = lost(Probation::Manual, &inputs);
            assert_eq!(core.comes_too_late(start + at * MS), is_lost && is_soon, "{inputs:?} {at}");
            assert!(!core.comes_too_late(start + at * MS), "the second one is meant: {inputs:?} {at}");
        }
    }
}

#[test]
fn a_manual_probation_waits_for_an_operator() {
    let on_probation = || {
        let mut core = with_probation(Probation::Manual);
        run(&mut core, start(), &[(0, Input::Wanted), (5, Input::Ready)]);
        assert_eq!((core.stage(), core.deadline()), (Stage::Probation { until: None }, None));
        core
    };
    let mut core = on_probation();
    assert_eq!(core.handle(start(), Input::Confirm), [Action::Commit { again: false }]);
    let mut core = on_probation();
    let back = [Action::Dismiss, Action::Resume, Action::Report(UpgradeOutcome::SentAway)];
    assert_eq!(core.handle(start(), Input::Back), back);
    assert_eq!(core.stage(), Stage::Serving);
    let mut core = on_probation();
    assert_eq!(core.handle(start(), Input::Leaves), back);
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let starting: &[(u32, Input)] = &[(0, Input::Wanted)];
    let on_probation: &[(u32, Input)] = &[(0, Input::Wanted), (5, Input::Ready)];
    let kill = |outcome| vec![Action::Kill, Action::Report(outcome)];
    let back = |outcome| vec![Action::Kill, Action::Resume, Action::Report(outcome)];
    let table = [
        (starting, 7, Input::Ended, kill(UpgradeOutcome::Ended)),
        (starting, 7, Input::Garbled, kill(UpgradeOutcome::Garbled)),
        (starting, 999, Input::Time, vec![]),
        (starting, 1000, Input::Time, kill(UpgradeOutcome::NotReady)),
        (starting, 7, Input::Back, kill(UpgradeOutcome::SentAway)),
        (starting, 7, Input::Leaves, kill(UpgradeOutcome::SentAway)),
        (on_probation, 7, Input::Ended, back(UpgradeOutcome::RolledBack)),
        (on_probation, 7, Input::Garbled, back(UpgradeOutcome::Garbled)),
    ];
    for (before, at, input, expected) in table {
        let (mut core, start) = (succession(Stage::Serving), start());
        run(&mut core, start, before);
        assert_eq!(run(&mut core, start, &[(at, input)]), expected, "{input:?} after {before:?}");
        if !expected.is_empty() {
            assert_eq!(core.stage(), Stage::Serving);
            assert_eq!(core.handle(start, Input::Wanted), [Action::Start], "and it can be tried again");
        }
    }
    let mut core = succession(Stage::Serving);
    assert_eq!(run(&mut core, start(), &[(0, Input::Wanted), (0, Input::NotStarted)]), []);
    assert_eq!(core.stage(), Stage::Serving);
}

#[test]
fn signals_are_remembered_once_and_calls_are_answered() {
    let (mut core, start) = (succession(Stage::Serving), start());
    run(&mut core, start, &[(0, Input::Wanted)]);
    assert_eq!(core.handle(start, Input::Wanted), [Action::Report(UpgradeOutcome::Remembered)]);
    assert_eq!(core.handle(start, Input::Wanted), []);
    assert_eq!(core.refusal(), Some(Refusal::InProgress));
    // One more try, when this one has failed.
    let actions = core.handle(start, Input::Ended);
    assert_eq!(actions, [Action::Kill, Action::Report(UpgradeOutcome::Ended), Action::Start]);
    // It is the successor's to do, when it has not.
    assert_eq!(core.handle(start, Input::Wanted), [Action::Report(UpgradeOutcome::Remembered)]);
    let actions = run(&mut core, start, &[(2, Input::Ready), (102, Input::Time)]);
    assert_eq!(actions, [Action::Commit { again: true }]);
    assert_eq!(core.handle(start, Input::Wanted), refused(Refusal::HandedOver));
}

#[test]
fn who_is_not_yet_the_one_that_serves_remembers() {
    for (stage, why) in [(Stage::Unconfirmed, Refusal::OnProbation), (Stage::Relieving, Refusal::Returning)] {
        let (mut core, start) = (succession(stage), start());
        assert_eq!(core.refusal(), Some(why));
        assert_eq!(core.handle(start, Input::Wanted), [Action::Report(UpgradeOutcome::Remembered)]);
        assert_eq!(core.handle(start, Input::Confirmed), [Action::Start]);
    }
    for stage in [Stage::Held, Stage::Interim] {
        assert_eq!(succession(stage).handle(start(), Input::Wanted), refused(Refusal::Held));
    }
}

#[test]
fn a_stop_is_for_whoever_serves() {
    let table = [
        (Stage::Serving, vec![Action::Stop]),
        (Stage::Held, vec![Action::Stop]),
        (Stage::Relieving, vec![Action::Stop]),
        (Stage::Unconfirmed, vec![Action::AskToLeave]),
        (Stage::Interim, vec![Action::AskToLeave]),
        (Stage::Starting { by: start() }, vec![Action::Kill, Action::Stop]),
        (Stage::Probation { until: None }, vec![Action::StopBoth]),
        (Stage::Handed(Then::Leaves), vec![Action::Report(UpgradeOutcome::Finishing)]),
        (Stage::Stopping, vec![Action::Report(UpgradeOutcome::Finishing)]),
    ];
    for (stage, expected) in table {
        assert_eq!(succession(stage).handle(start(), STOP), expected, "{stage:?}");
    }
}

/// The process before decides what becomes of one that has asked to leave; a second request does not wait for it.
#[test]
fn who_has_asked_to_leave_gets_an_answer() {
    for (stage, answer, expected) in [
        (Stage::Unconfirmed, Input::Confirmed, vec![Action::Stop]),
        (Stage::Unconfirmed, Input::Dismissed, vec![]),
        (Stage::Unconfirmed, STOP, vec![Action::Stop, Action::Force]),
        (Stage::Interim, Input::Confirmed, vec![Action::Stop]),
        (Stage::Interim, Input::Dismissed, vec![]),
    ] {
        let mut core = succession(stage);
        run(&mut core, start(), &[(0, STOP)]);
        assert_eq!(core.handle(start(), answer), expected, "{stage:?}, {answer:?}");
        assert_eq!(core.stage(), Stage::Stopping);
        assert_eq!(core.handle(start(), Input::Confirmed), [], "nothing wakes it up");
    }
    // The one that was to return has gone: so has the service.
    assert_eq!(succession(Stage::Interim).handle(start(), Input::Confirmed), [Action::Stop]);
}

/// Whoever asks again is in a hurry; who most likely asks says what the first time means.
#[test]
fn a_stop_that_is_said_again_is_in_a_hurry() {
    let (finishing, force) = (Action::Report(UpgradeOutcome::Finishing), Action::Force);
    // The stage, and what three requests in a row lead to.
    let table = [
        (Stage::Serving, Asker::Anybody, [Action::Stop, force, force]),
        // It had only drained for its successor.
        (Stage::Handed(Then::Leaves), Asker::Anybody, [finishing, force, force]),
        (Stage::Held, Asker::Holder, [Action::Stop, force, force]),
        // It has been told to drain before, by a message.
        (Stage::Stopping, Asker::Holder, [force, force, force]),
    ];
    for (stage, asker, expected) in table {
        let mut core = succession(stage);
        for action in expected {
            assert_eq!(core.handle(start(), Input::StopWanted(asker)), [action], "{stage:?} {asker:?}");
        }
    }
    let mut core = succession(Stage::Handed(Then::Leaves));
    assert_eq!(core.handle(start(), Input::StopWanted(Asker::Manager)), [finishing]);
    assert_eq!(core.handle(start(), Input::StopWanted(Asker::Manager)), [], "it has its own way");
}

#[test]
fn a_stop_that_is_passed_on_waits_for_no_answer() {
    let table = [
        (Stage::Held, vec![Action::Stop]),
        (Stage::Unconfirmed, vec![Action::Stop]),
        (Stage::Interim, vec![Action::Stop]),
        (Stage::AskedToLeave, vec![Action::Stop]),
        (Stage::Probation { until: None }, vec![Action::StopBoth]),
        (Stage::Handed(Then::Leaves), vec![]),
        (Stage::Stopping, vec![Action::Force]),
    ];
    for (stage, expected) in table {
        assert_eq!(succession(stage).handle(start(), Input::StopPassedOn), expected, "{stage:?}");
    }
}

/// The service is the successor meanwhile, and this process only a number that somebody knows it by.
#[test]
fn a_stop_of_one_that_waits_to_return_is_for_the_service() {
    let passed_on = [Action::ReleaseTaken, Action::PassStopOn];
    for cannot_return in [false, true] {
        let (mut core, start) = returning();
        if cannot_return {
            assert_eq!(core.handle(start, Input::CannotReturn), []);
            assert_eq!(core.handed(), Some(Then::Stays));
        }
        let told = [[Action::Report(UpgradeOutcome::Finishing)].as_slice(), &passed_on].concat();
        assert_eq!(core.handle(start, STOP), told);
        assert_eq!(core.handed(), Some(Then::Stops));
        assert_eq!(core.handle(start, STOP), [Action::Force, Action::PassStopOn], "both are in a hurry");
        assert_eq!(core.handle(start, Input::Leaves), [], "as it was told to");
        assert_eq!(core.handle(start, Input::Ended), [Action::Report(UpgradeOutcome::Orphaned { expected: true })]);
    }
    // The successor itself was asked to stop.
    let (mut core, start) = returning();
    assert_eq!(core.handle(start, Input::Leaves), passed_on);
}

#[test]
fn an_end_of_the_successor_is_expected_only_of_one_that_stops() {
    for (then, expected) in [(Then::Leaves, false), (Then::Returns, false), (Then::Stays, true), (Then::Stops, true)] {
        let mut core = succession(Stage::Handed(then));
        let orphaned = Action::Report(UpgradeOutcome::Orphaned { expected });
        assert_eq!(core.handle(start(), Input::Ended), [orphaned], "{then:?}");
        assert_eq!(then.is_for_good(), matches!(then, Then::Leaves | Then::Stops));
    }
}

#[test]
fn one_that_keeps_its_number_refuses_upgrades_until_it_has_returned() {
    let (mut core, start) = returning();
    assert_eq!(core.handle(start, Input::Wanted), refused(Refusal::InProgress));
    assert_eq!(core.refusal(), Some(Refusal::InProgress));
}

fn inputs() -> impl Strategy<Value = Vec<(u32, Input)>> {
    let input = prop_oneof![
        6 => Just(Input::Wanted),
        1 => Just(Input::Confirmed),
        1 => Just(Input::Leaves),
        4 => Just(Input::Ready),
        2 => Just(Input::Ended),
        1 => Just(Input::Garbled),
        1 => Just(Input::Confirm),
        1 => Just(Input::Back),
        1 => Just(STOP),
        4 => Just(Input::Time),
    ];
    proptest::collection::vec((0..400u32, input), 0..60)
}

proptest! {
    /// Whatever happens in whatever order: there is one successor at most, somebody always serves, and nobody who has handed
    /// over or stopped comes back.
    #[test]
    fn somebody_serves_and_nobody_comes_back(inputs in inputs(), starts in proptest::collection::vec(any::<bool>(), 60)) {
        let (mut core, start) = (succession(Stage::Serving), start());
        let mut starts = starts.into_iter().cycle();
        let mut now = start;
        // What the actions so far have made of the world.
        let (mut accepts, mut successor, mut over) = (true, false, false);
        // The clock is looked at before whatever happens next, as it is after every wait.
        for (pause, input) in inputs.into_iter().flat_map(|(pause, input)| [(pause, Input::Time), (0, input)]) {
            now += pause * MS;
            // Only a successor that is there can do these.
            let of_a_successor = matches!(input, Input::Ready | Input::Ended | Input::Garbled | Input::Leaves);
            if of_a_successor && !successor {
                continue;
            }
            let mut waiting = std::collections::VecDeque::from(core.handle(now, input));
            if input == Input::Time {
                prop_assert!(core.deadline().is_none_or(|deadline| deadline > now), "a deadline is forgotten");
            }
            if input == Input::Ended {
                successor = false;
            }
            while let Some(action) = waiting.pop_front() {
                match action {
                    Action::Start => {
                        prop_assert!(!successor && !over && accepts, "a second successor");
                        successor = starts.next().unwrap_or(true);
                        if !successor {
                            waiting.extend(core.handle(now, Input::NotStarted));
                        }
                    }
                    Action::Pause => {
                        prop_assert!(successor && accepts);
                        accepts = false;
                    }
                    Action::Resume => {
                        prop_assert!(!accepts && !over);
                        accepts = true;
                    }
                    Action::Commit { .. } => {
                        prop_assert!(successor && !over);
                        (accepts, over) = (false, true);
                    }
                    Action::Kill | Action::Dismiss => successor = false,
                    Action::Stop => {
                        prop_assert!(!over && accepts);
                        (accepts, over) = (false, true);
                    }
                    Action::StopBoth => {
                        prop_assert!(successor && !over);
                        (accepts, over) = (false, true);
                    }
                    Action::Force => prop_assert!(over, "only who has stopped is in a hurry"),
                    Action::Lend | Action::PassStopOn | Action::ReleaseTaken => {
                        prop_assert!(false, "this process keeps no number");
                    }
                    Action::AskToLeave => prop_assert!(false, "nobody is there to be asked"),
                    Action::Report(_) => {}
                }
            }
            prop_assert!(over || accepts || successor, "nobody serves after {input:?}");
        }
    }
}
