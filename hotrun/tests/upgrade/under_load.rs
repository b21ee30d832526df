//! Points 1 and 5 of the plan: a hundred generations under load, in both process-number modes. Nothing is refused, reset, cut or
//! late; the socket is the same one throughout; descriptors, memory and zombies do not grow.

use crate::harness::{Service, Serving, ask, eventually, zombies};
use crate::load::{Load, Mix};
use hotrun::Signal;

const GENERATIONS: u32 = 100;
/// Eight threads; the kept connections send 16 KiB with every fourth request.
const MIX: Mix = Mix { fresh: 4, keep_alive: 4, slow: 0, slow_ms: 0 };

/// What the kernel keeps for a process when nobody is connected to it.
#[derive(Debug, PartialEq)]
struct Holdings {
    descriptors: Vec<i32>,
    threads: usize,
}

fn holdings(serving: &Serving) -> Holdings {
    eventually("nobody else", || {
        // A connection of its own asks, and so one is always there.
        (ask(serving.address("http"), "/state").1 == "1 connections, 1 generations").then_some(())
    });
    eventually("a quiet process", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", serving.pid)).unwrap().count();
        let names = std::fs::read_dir(format!("/proc/{}/fd", serving.pid)).unwrap();
        let mut descriptors: Vec<i32> =
            names.map(|name| name.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        descriptors.sort_unstable();
        // Two of the test binary, the control thread, and the one that accepts.
        (threads == 4).then_some(Holdings { descriptors, threads })
    })
}

/// In KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The socket on which that generation listens. The one before may answer whom it has accepted last.
fn cookie_of(serving: &Serving) -> String {
    let asked = || Some(ask(serving.address("http"), "/cookie"));
    eventually("it answers", || asked().filter(|(generation, _)| *generation == serving.generation)).1
}

/// How many generations have served when `upgrades` were asked for, one after the other.
fn upgrade_under_load(
    change: impl FnOnce(&mut std::process::Command),
    next: impl Fn(&mut Service, &Serving) -> Serving,
) {
    let (mut service, mut serving) = Service::start(|command, _| {
        command.env("PROBATION_MS", "10");
        change(command);
    });
    let http = serving.address("http");
    serving = next(&mut service, &serving);
    let (cookie, memory) = (cookie_of(&serving), resident(serving.pid));
    let before = holdings(&serving);
    let load = Load::start(http, MIX);
    let first = serving.generation;
    let began = crate::load_now();
    for _ in 0..GENERATIONS {
        serving = next(&mut service, &serving);
        assert_eq!(cookie_of(&serving), cookie, "another socket listens");
        // As long as it takes to have answered some of each kind.
        load.wait_for(100);
    }
    let took = began.elapsed();
    load.wait_for(100);
    let tally = load.stop();
    println!("{tally:?} in {took:?}");
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let served = tally.by_version.keys().filter(|version| version.parse::<u32>().unwrap() > first).count();
    assert!(served >= GENERATIONS as usize, "{served} generations have answered");
    assert_eq!(holdings(&serving), before);
    assert!(resident(serving.pid) < memory * 3 / 2, "{} KiB after {memory}", resident(serving.pid));
    assert_eq!(zombies(service.pid()) + zombies(serving.pid), 0);
    let rest = service.stop(&serving);
    assert!(!rest.iter().any(|line| line.starts_with("failed ") || line.contains("reason=Forced")), "{rest:#?}");
}

#[test]
fn a_hundred_generations_lose_nothing() {
    upgrade_under_load(
        |_| {},
        |service, serving| {
            serving.signal(Signal::SIGUSR2);
            service.serving()
        },
    );
}

/// Each upgrade is two: to a process in between, and back to the number that stays.
#[test]
fn a_hundred_generations_that_keep_their_process_number_lose_nothing() {
    upgrade_under_load(
        |command| {
            command.env("KEEP_PID", "1");
        },
        |service, serving| {
            serving.signal(Signal::SIGUSR2);
            let interim = service.serving();
            assert!(interim.pid != service.pid());
            let next = service.serving();
            assert_eq!(next.pid, service.pid());
            assert_eq!(service.leaves(&interim), "Upgraded");
            next
        },
    );
}

/// The same load, and a process that ends instead of finishing what it has begun: it is noticed.
#[test]
fn a_hand_over_that_cuts_is_noticed() {
    let (mut service, first) = Service::start(|_, _| {});
    let load = Load::start(first.address("http"), Mix { slow: 4, slow_ms: 300, ..MIX });
    load.wait_for(50);
    first.signal(Signal::SIGUSR2);
    service.serving();
    first.signal(Signal::SIGKILL);
    load.wait_for(50);
    let tally = load.stop();
    assert!(tally.cut + tally.reset > 0, "{tally:#?}");
}

/// The same load, and a service that is killed and started again: it is noticed.
#[test]
fn without_the_hand_over_the_same_load_notices() {
    let (mut service, first) = Service::start(|_, _| {});
    let http = first.address("http");
    let load = Load::start(http, MIX);
    load.wait_for(50);
    first.signal(Signal::SIGKILL);
    service.first_ends();
    load.wait_for(50);
    let (_again, _) = Service::start(|command, _| {
        command.env("LISTEN", format!("http={http}"));
    });
    load.wait_for(50);
    let tally = load.stop();
    assert!(tally.refused > 0, "{tally:#?}");
}
