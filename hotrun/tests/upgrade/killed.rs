//! Successors that are killed, at any moment and under load. What is promised: nothing but the requests that the killed process itself
//! had accepted is lost. Nobody is refused, nobody in the queue waits in vain, the connections of the process before go on.

use crate::harness::{Client, Service, Serving, ask, eventually};
use crate::load::{Load, Mix};
use hotrun::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;

const MIX: Mix = Mix { fresh: 4, keep_alive: 2, slow: 1, slow_ms: 50 };

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Stops a process and waits until none of its threads runs.
fn freeze(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // Or it has ended by itself.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    };
    eventually("it is stopped", || {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        tasks.all(|task| task.is_ok_and(is_stopped)).then_some(())
    });
}

/// Until none of its threads is left, which is when others hear of it (pidfd_open(2)).
fn kill_and_see_it_end(pid: u32) {
    signal(pid, Signal::SIGKILL);
    eventually("it has ended", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ended = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count();
        (ended && threads <= 1).then_some(())
    });
}

/// The first child that is there.
fn child_of(pid: u32) -> u32 {
    eventually("a successor", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        children.collect::<String>().split_whitespace().next().map(|child| child.parse().unwrap())
    })
}

/// How many connections of that port the process has accepted and not closed.
fn accepted(pid: u32, address: SocketAddr) -> usize {
    // Until it has become the new program it has the name of the thread that has started it, and what the one before has.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim_end() == "hotrun-control" {
        return 0;
    }
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{:04X}", address.port());
    let lines =
        table.lines().filter(|line| line.contains(&local)).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // All but the listener (proc_pid_net(5)).
    let connections = lines.filter(|fields| fields[1].ends_with(&local) && fields[3] != "0A");
    let connections: Vec<String> = connections.map(|fields| format!("socket:[{}]", fields[9])).collect();
    let its = descriptors(pid);
    connections.iter().filter(|socket| its.contains(socket)).count()
}

fn descriptors(pid: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    fds.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.display().to_string())).collect()
}

fn on_long_probation() -> (Service, Serving) {
    Service::start(|command, _| {
        command.env("PROBATION_MS", "100000");
    })
}

#[test]
fn killed_at_any_moment_it_takes_along_only_what_it_had_accepted() {
    let (mut service, first) = on_long_probation();
    let http = first.address("http");
    let mut kept = Client::connect(http);
    let load = Load::start(http, MIX);
    load.wait_for(20);
    let (mut early, mut late, mut its_own) = (0, 0, 0);
    for round in 0..40_u32 {
        first.signal(Signal::SIGUSR2);
        let successor = child_of(first.pid);
        if round >= 30 {
            service.says(&format!("serving generation=2 pid={successor} "));
            load.wait_for(u64::from(round % 5) * 5);
        }
        // A little later each time: through its start, and through the moment in which it says that it is ready.
        for _ in 0..round * 30 {
            drop(fs::read(format!("/proc/{successor}/stat")));
        }
        freeze(successor);
        let accepted = accepted(successor, http);
        kill_and_see_it_end(successor);
        let said = service.says("failed ");
        assert!(said.contains(&successor.to_string()), "{said}");
        if said.contains("probation") {
            late += 1;
            its_own += accepted as u64;
        } else {
            early += 1;
            assert_eq!(accepted, 0, "it had not said that it is ready: {said}");
        }
        assert_eq!(kept.ask("/").0, 1, "a connection of the one before");
        load.wait_for(10);
    }
    let tally = load.stop();
    println!("{early} killed before they were ready, {late} after, which had {its_own} connections: {tally:?}");
    assert!(early > 0 && late > 0);
    assert!(tally.reset + tally.cut <= its_own, "{its_own} connections were those of the killed: {tally:#?}");
    assert_eq!(tally.lost(), tally.reset + tally.cut, "{tally:#?}");
}

/// Its end and the word of the operator are there at once: nothing is handed over to the dead.
#[test]
fn killed_when_the_operator_confirms_it_is_not_confirmed() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("MANUAL", "1");
    });
    let http = first.address("http");
    // Which of the two is heard first is a matter of threads.
    for _ in 0..10 {
        ask(http, "/upgrade");
        let second = service.serving();
        freeze(first.pid);
        first.signal(Signal::SIGQUIT);
        kill_and_see_it_end(second.pid);
        first.signal(Signal::SIGCONT);
        service.says("failed ");
        service.says("hotrun: SIGQUIT: the successor has just ended; ignored, and");
        assert_eq!(ask(http, "/").0, 1);
    }
}

/// The service is to stop, and the one that has just died cannot serve the queue to its end.
#[test]
fn killed_when_the_service_is_to_stop_it_leaves_nobody_in_the_queue() {
    for _ in 0..10 {
        let (mut service, first) = on_long_probation();
        let http = first.address("http");
        ask(http, "/upgrade");
        let second = service.serving();
        freeze(second.pid);
        freeze(first.pid);
        let mut waiting: Vec<Client> = (0..5).map(|_| Client::connect(http)).collect();
        waiting.iter_mut().for_each(|client| client.send("/"));
        first.signal(Signal::SIGTERM);
        kill_and_see_it_end(second.pid);
        first.signal(Signal::SIGCONT);
        for mut client in waiting {
            assert_eq!(client.receive().0, 1);
        }
        assert_eq!(service.leaves(&first), "Stopped");
    }
}
