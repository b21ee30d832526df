//! Point 4 of the plan: requests that come at the wrong moment, each with its stated outcome.

use crate::harness::{Client, Service, ask, eventually};
use hotrun::Signal;
use std::os::unix::process::ExitStatusExt;

/// Waits until a successor runs, which may not have said a word yet, and returns its process number.
fn successor(pid: u32) -> i32 {
    eventually("a child", || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let of_another_thread = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
            children.map(Result::unwrap_or_default).collect::<String>()
        };
        let children = if children.is_empty() { of_another_thread() } else { children };
        let child = children.split_whitespace().next()?.parse().ok()?;
        // Between its birth and its program it still is this one.
        let became = std::fs::read_to_string(format!("/proc/{child}/environ")).ok()?.contains("HOTRUN_CTL");
        became.then_some(child)
    })
}

/// One is done, and the other, if it was not merged with it by the kernel, is done by the successor.
#[test]
fn two_at_once_are_one_or_two_upgrades() {
    for _ in 0..5 {
        let (mut service, first) = Service::start(|_, _| {});
        first.signal(Signal::SIGUSR2);
        first.signal(Signal::SIGUSR2);
        let second = service.serving();
        assert_eq!(second.generation, 2);
        assert_eq!(service.leaves(&first), "Upgraded");
        second.signal(Signal::SIGTERM);
        let rest = service.rest();
        let last = rest.iter().filter(|line| line.starts_with("serving ")).count();
        assert!(last <= 1, "{rest:#?}");
    }
}

/// However many there were: they are one upgrade, and one more for what came while it was on its way.
#[test]
fn a_storm_of_a_hundred_is_two_upgrades_at_most() {
    let (mut service, first) = Service::start(|_, _| {});
    for _ in 0..100 {
        first.signal(Signal::SIGUSR2);
        std::thread::yield_now();
    }
    service.serving();
    assert_eq!(service.leaves(&first), "Upgraded");
    let last = eventually("a quiet service", || {
        let (generation, state) = ask(first.address("http"), "/state");
        (state == "1 connections, 1 generations").then_some(generation)
    });
    assert!(last == 2 || last == 3, "generation {last}");
}

/// Signals are remembered, calls are answered.
#[test]
fn a_call_during_an_upgrade_is_told_of_it() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("PROBATION_MS", "60000");
    });
    let mut kept = Client::connect(first.address("http"));
    assert_eq!(kept.ask("/state").0, 1);
    let (_, answer) = ask(first.address("http"), "/upgrade");
    let second = service.serving();
    assert_eq!(answer, format!("Successor {{ pid: {}, generation: 2 }}", second.pid));
    // A connection that is there is served on both sides.
    let (generation, answer, _) = kept.ask("/upgrade");
    assert_eq!((generation, answer), (1, format!("error InProgress {{ pid: Some({}) }}", second.pid)));
    assert_eq!(ask(first.address("http"), "/upgrade"), (2, "error OnProbation".to_owned()));
}

/// What was asked of a successor before it was confirmed, or of the old one during its probation, is done after it.
#[test]
fn a_signal_during_a_probation_is_remembered() {
    for ask_the_old_one in [true, false] {
        let (mut service, first) = Service::start(|command, _| {
            command.env("PROBATION_MS", "300");
        });
        first.signal(Signal::SIGUSR2);
        let second = service.serving();
        // In its start or on probation: it makes no difference.
        let asked = if ask_the_old_one { &first } else { &second };
        asked.signal(Signal::SIGUSR2);
        service.says("hotrun: an upgrade is on its way; one more will follow it");
        let third = service.serving();
        assert_eq!(third.generation, 3);
        assert_eq!((service.leaves(&first).as_str(), service.leaves(&second).as_str()), ("Upgraded", "Upgraded"));
        assert_eq!(service.stop(&third), Vec::<String>::new());
    }
}

#[test]
fn a_process_that_drains_names_its_successor() {
    let (mut service, first) = Service::start(|_, _| {});
    let mut busy = Client::connect(first.address("http"));
    busy.send("/wait-then-upgrade");
    let mut other = Client::connect(first.address("http"));
    assert_eq!(other.ask("/state").1, "2 connections, 1 generations");
    first.signal(Signal::SIGUSR2);
    let second = service.serving();
    // Its idle connection ends when it drains.
    other.ends();
    first.signal(Signal::SIGUSR2);
    let line = service.says("hotrun: no upgrade: ");
    assert!(line.contains(&format!("process {}", second.pid)), "{line}");
    first.signal(Signal::SIGTERM);
    service.says("hotrun: connections are being finished");
    assert_eq!(ask(second.address("http"), "/state").0, 2);
    first.signal(Signal::SIGTERM);
    assert_eq!(service.leaves(&first), "Forced { live: 1 }", "the second signal is in a hurry");
}

#[test]
fn a_stop_while_a_successor_starts_ends_both() {
    let (mut service, first) = Service::start(|_, _| {});
    service.script("hang");
    first.signal(Signal::SIGUSR2);
    successor(first.pid);
    first.signal(Signal::SIGTERM);
    assert_eq!(service.leaves(&first), "Stopped");
    // It returns when nobody has the stream any more.
    assert_eq!(service.rest(), Vec::<String>::new());
}

#[test]
fn a_stop_during_a_probation_is_for_the_service() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("PROBATION_MS", "60000");
    });
    ask(first.address("http"), "/upgrade");
    let second = service.serving();
    first.signal(Signal::SIGTERM);
    assert_eq!((service.leaves(&first).as_str(), service.leaves(&second).as_str()), ("Stopped", "Stopped"));
    assert_eq!(service.rest(), Vec::<String>::new());
}

/// Before `init` a signal does what it does to any program. That ends the successor, and the one before says so and serves on.
#[test]
fn a_signal_before_the_handler_is_up_ends_the_successor_alone() {
    let (mut service, first) = Service::start(|_, _| {});
    service.script("hang early");
    first.signal(Signal::SIGUSR2);
    let early = successor(first.pid);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(early), Signal::SIGUSR2).unwrap();
    let line = service.says("failed ");
    let status = std::process::ExitStatus::from_raw(Signal::SIGUSR2 as i32);
    assert_eq!(line, format!("failed the successor, process {early}, ended with {status} before it was ready"));
    eventually("it is alone", || {
        (ask(first.address("http"), "/state") == (1, "1 connections, 1 generations".to_owned())).then_some(())
    });
}
