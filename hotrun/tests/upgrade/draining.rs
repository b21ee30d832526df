//! Points 2 and 7 of the plan: how connections end, and a full stop that resets nobody.

use crate::harness::{Client, Service, ask, eventually, refused};
use crate::load::{Load, Loss, Mix};
use hotrun::Signal;
use std::net::{Shutdown, TcpStream};

/// Nobody but this process holds the listener: what is in its queue at the end would be reset. Whoever comes too late is refused,
/// or served by the next start.
#[test]
fn a_full_stop_under_load_resets_nobody() {
    for _ in 0..20 {
        let (mut service, first) = Service::start(|_, _| {});
        let load = Load::start(first.address("http"), Mix { fresh: 6, keep_alive: 2, slow: 0, slow_ms: 0 });
        load.wait_for(200);
        service.stop(&first);
        let tally = load.stop();
        let other = tally.first_losses.iter().find(|lost| lost.loss != Loss::Refused);
        assert!(tally.lost() == tally.refused, "{other:#?}");
        assert!(refused(first.address("http")));
    }
}

/// Those who wait in the queue when the stop comes are served, however few threads accept.
#[test]
fn a_full_stop_serves_whoever_is_in_the_queue() {
    let (mut service, first) = Service::start(|_, _| {});
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(first.address("http"))).collect();
    clients.iter_mut().for_each(|client| client.send("/"));
    first.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.receive().0, 1);
    }
    assert_eq!(service.leaves(&first), "Stopped");
}

#[test]
fn a_slow_answer_is_finished_by_the_old_generation() {
    let (mut service, first) = Service::start(|_, _| {});
    let mut slow = Client::connect(first.address("http"));
    slow.send("/slow?ms=1000");
    let mut busy = Client::connect(first.address("http"));
    busy.send("/wait");
    eventually("two requests in flight", || ask(first.address("http"), "/state").1.starts_with("3 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    let second = service.serving();
    assert_eq!(slow.receive().0, 1);
    // Everything else is over there, and this one still counts.
    eventually("the new one alone accepts", || (ask(second.address("http"), "/").0 == 2).then_some(()));
    first.signal(Signal::SIGTERM);
    // Signals that come at once may be one (signal(7)).
    service.says("hotrun: connections are being finished");
    first.signal(Signal::SIGTERM);
    assert!(service.leaves(&first).starts_with("Forced { live: "));
}

#[test]
fn an_idle_connection_ends_between_two_answers() {
    let (mut service, first) = Service::start(|_, _| {});
    let mut idle = Client::connect(first.address("http"));
    let (generation, _, close) = idle.ask("/");
    assert_eq!((generation, close), (1, false));
    first.signal(Signal::SIGUSR2);
    service.serving();
    idle.ends();
    assert_eq!(service.leaves(&first), "Upgraded");
}

/// It did everything right, and its request is only a little later than the end of accepting.
#[test]
fn a_client_that_was_just_accepted_may_still_send_its_request() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("LINGER_MS", "2000").env("PROBATION_MS", "0");
    });
    let mut silent = Client::connect(first.address("http"));
    let mut talking = Client::connect(first.address("http"));
    talking.ask("/");
    eventually("both are accepted", || ask(first.address("http"), "/state").1.starts_with("3 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    service.serving();
    // The new one answers a moment before the old one learns that it need not come back.
    eventually("the old one lets its clients go", || talking.ask("/").2.then_some(()));
    let (generation, _, close) = silent.ask("/");
    assert_eq!((generation, close), (1, true), "answered by the process that accepted it, and told to go");
    silent.ends();
    assert_eq!(service.leaves(&first), "Upgraded");
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_answer() {
    let (mut service, first) = Service::start(|_, _| {});
    let mut half = Client::connect(first.address("http"));
    half.send("/slow?ms=300");
    half.shut_down(Shutdown::Write);
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    service.serving();
    assert_eq!(half.receive().0, 1);
    half.ends();
    assert_eq!(service.leaves(&first), "Upgraded");
}

#[test]
fn what_does_not_end_is_ended_at_the_deadline_and_counted() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("DRAIN_MS", "300");
    });
    let mut busy = Client::connect(first.address("http"));
    busy.send("/wait");
    let mut half = Client::connect(first.address("http"));
    half.raw(b"GET / HTT");
    eventually("both are accepted", || ask(first.address("http"), "/state").1.starts_with("3 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    service.serving();
    half.ends();
    assert_eq!(service.leaves(&first), "DeadlineExceeded { live: 2 }");
}

#[test]
fn for_ever_is_a_time_as_any_other() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("DRAIN_MS", u64::MAX.to_string()).env("READY_MS", u64::MAX.to_string());
    });
    let second = service.upgrade(&first);
    service.stop(&second);
}

/// Each has a connection that does not end: there may be three at once, and the oldest has had its time.
#[test]
fn the_oldest_generation_hurries_when_there_are_too_many() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("MAX_GENERATIONS", "3").env("PROBATION_MS", "0");
    });
    let mut serving = vec![first];
    let mut clients = Vec::new();
    for generation in 1..=5 {
        let current = serving.last().unwrap().clone();
        // The one before may accept until this one is ready.
        let mut busy = eventually("a connection", || {
            let mut client = Client::connect(current.address("http"));
            (client.ask("/state").0 == generation).then_some(client)
        });
        busy.send("/wait");
        busy.is_read();
        clients.push(busy);
        current.signal(Signal::SIGUSR2);
        serving.push(service.serving());
        if generation >= 3 {
            let oldest = &serving[generation as usize - 3];
            // Whoever asked above may be among them.
            let reason = service.leaves(oldest);
            assert!(reason.starts_with("Forced { live: "), "generation {}: {reason}", oldest.generation);
        }
    }
    let last = serving.last().unwrap();
    eventually("they are counted", || {
        (ask(last.address("http"), "/state").1 == "1 connections, 3 generations").then_some(())
    });
    assert!(TcpStream::connect(last.address("http")).is_ok());
}
