//! Coming back: by itself when the successor dies on probation, by an operator's word when the probation is manual (nginx's
//! ladder of signals, and the same as calls).

use crate::harness::{Client, Service, Serving, ask, eventually};
use crate::load::{Load, Mix};
use hotrun::Signal;

const MIX: Mix = Mix { fresh: 2, keep_alive: 2, slow: 1, slow_ms: 200 };

fn manual() -> (Service, Serving) {
    Service::start(|command, _| {
        command.env("MANUAL", "1");
    })
}

#[test]
fn a_successor_that_dies_on_probation_is_undone() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("PROBATION_MS", "60000");
    });
    let mut kept = Client::connect(first.address("http"));
    assert_eq!(kept.ask("/").0, 1);
    service.script("crash");
    first.signal(Signal::SIGUSR2);
    let second = service.serving();
    let line = service.says("failed ");
    assert!(line.contains(&format!("process {}, ended with signal: 6 (SIGABRT)", second.pid)), "{line}");
    eventually("it is alone", || {
        (ask(first.address("http"), "/state") == (1, "2 connections, 1 generations".to_owned())).then_some(())
    });
    assert_eq!(kept.ask("/").0, 1, "a connection from before is still there");

    service.script("");
    kept.ask("/upgrade");
    let third = service.serving();
    assert_eq!(ask(first.address("http"), "/").0, 2, "the new one accepts");
    third.signal(Signal::SIGKILL);
    service.says("failed ");
    assert_eq!(ask(first.address("http"), "/").0, 1, "the old one accepts again");
}

#[test]
fn the_pause_is_over_at_once_for_those_who_wait_in_the_queue() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("PROBATION_MS", "60000");
    });
    // Stopped, it serves nobody, and is not dead.
    ask(first.address("http"), "/upgrade");
    let second = service.serving();
    second.signal(Signal::SIGSTOP);
    eventually("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", second.pid)).unwrap();
        stat.contains(") T ").then_some(())
    });
    let mut waiting = Client::connect(first.address("http"));
    waiting.send("/");
    second.signal(Signal::SIGKILL);
    assert_eq!(waiting.receive().0, 1);
}

#[test]
fn an_operator_confirms_by_a_signal_or_by_a_call() {
    for by_signal in [true, false] {
        let (mut service, first) = manual();
        let mut kept = Client::connect(first.address("http"));
        assert_eq!(kept.ask("/confirm").1, "Err(NothingToConfirm)");
        // Returns when the successor is on probation.
        kept.ask("/upgrade");
        let second = service.serving();
        if by_signal {
            first.signal(Signal::SIGQUIT);
        } else {
            let (generation, answer, _) = kept.ask("/confirm");
            assert_eq!((generation, answer.as_str()), (1, "Ok(())"));
        }
        kept.ends();
        assert_eq!(service.leaves(&first), "Upgraded");
        assert_eq!(service.stop(&second), Vec::<String>::new());
    }
}

/// And nothing is lost on the way there and back.
#[test]
fn an_operator_goes_back_by_a_signal_or_by_a_call() {
    for by_signal in [true, false] {
        let (mut service, first) = manual();
        let mut kept = Client::connect(first.address("http"));
        let load = Load::start(first.address("http"), MIX);
        load.wait_for(30);
        kept.ask("/upgrade");
        let second = service.serving();
        load.wait_for(100);
        if by_signal {
            first.signal(Signal::SIGHUP);
        } else {
            let (generation, answer, _) = kept.ask("/back");
            assert_eq!((generation, answer.as_str()), (1, "Ok(())"));
        }
        let line = service.says("failed went back: ");
        assert!(line.contains(&format!("process {}", second.pid)), "{line}");
        assert_eq!(service.leaves(&second), "Upgraded");
        load.wait_for(50);
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{tally:#?}");
        assert!(tally.by_version["1"] > 0 && tally.by_version["2"] > 0, "{tally:#?}");
        assert_eq!(ask(first.address("http"), "/").0, 1);
        // Up again, and this time to stay.
        kept.ask("/upgrade");
        let third = service.serving();
        first.signal(Signal::SIGQUIT);
        assert_eq!(service.leaves(&first), "Upgraded");
        assert_eq!(service.stop(&third), Vec::<String>::new());
    }
}

/// A script that is too quick ends nothing: before the successor is ready there is nothing to confirm, and going back is to
/// give it up.
#[test]
fn the_ladder_before_the_successor_is_ready() {
    let (mut service, first) = manual();
    service.script("hang");
    first.signal(Signal::SIGUSR2);
    eventually("a successor", || {
        (ask(first.address("http"), "/state").1 == "1 connections, 2 generations").then_some(())
    });
    first.signal(Signal::SIGQUIT);
    service.says("hotrun: SIGQUIT: the successor is not ready yet; ignored");
    first.signal(Signal::SIGHUP);
    service.says("failed went back: ");
    assert_eq!(ask(first.address("http"), "/").0, 1);
}

/// A successor that is told to stop before it is confirmed leaves the service to the one before, which does not wait for its
/// end.
#[test]
fn a_stop_of_the_successor_alone_is_a_way_back() {
    let (mut service, first) = manual();
    let http = first.address("http");
    ask(http, "/upgrade");
    let second = service.serving();
    let mut slow = Client::connect(http);
    slow.send("/slow?ms=1000");
    eventually("it is accepted", || {
        (ask(http, "/state") == (2, "2 connections, 1 generations".to_owned())).then_some(())
    });
    let load = Load::start(http, MIX);
    load.wait_for(20);
    second.signal(Signal::SIGTERM);
    service.says("failed went back: ");
    // While the other still has a connection.
    eventually("the old one accepts", || (ask(http, "/").0 == 1).then_some(()));
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(slow.receive().0, 2);
    service.leaves(&second);

    // It is nobody's successor any more, also when the one before has gone.
    ask(http, "/upgrade");
    let third = service.serving();
    assert_eq!(third.generation, 2);
    first.signal(Signal::SIGQUIT);
    assert_eq!(service.leaves(&first), "Upgraded");
    assert_eq!(ask(http, "/").0, 2);
}

/// As a terminal or a service manager does it: one request to each, and nothing is cut.
#[test]
fn a_stop_of_both_on_probation_is_graceful() {
    for _ in 0..10 {
        let (mut service, first) = manual();
        let http = first.address("http");
        let mut old = Client::connect(http);
        old.send("/slow?ms=500");
        eventually("it is accepted", || ask(http, "/state").1.starts_with("2 ").then_some(()));
        ask(http, "/upgrade");
        let second = service.serving();
        let mut new = Client::connect(http);
        new.send("/slow?ms=500");
        eventually("it is accepted", || ask(http, "/state").1.starts_with("2 ").then_some(()));
        let load = Load::start(http, MIX);
        load.wait_for(20);
        service.signal_all(Signal::SIGTERM);
        assert_eq!((old.receive().0, new.receive().0), (1, 2));
        let tally = load.stop();
        assert_eq!(tally.lost(), tally.refused, "{tally:#?}");
        for serving in [&first, &second] {
            let reason = service.leaves(serving);
            assert!(reason == "Stopped" || reason == "Upgraded", "{reason}");
        }
    }
}

/// Without a successor SIGQUIT stops, as in nginx, and SIGHUP does nothing.
#[test]
fn the_ladder_without_a_successor() {
    let (mut service, first) = manual();
    first.signal(Signal::SIGHUP);
    service.says("hotrun: SIGHUP: no successor is on probation; ignored");
    assert_eq!(ask(first.address("http"), "/").0, 1);
    first.signal(Signal::SIGQUIT);
    assert_eq!(service.leaves(&first), "Stopped");
}
