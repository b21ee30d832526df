//! Point 8 of the plan: process numbers that follow or stay, in a shell, under a sub-reaper, as process 1 of a namespace, and the
//! file they stand in.

use crate::harness::{Client, Service, ask, command, eventually};
use crate::load::{Load, Mix};
use hotrun::Signal;
use nix::sys::wait::WaitStatus;
use std::process::Command;

fn read(path: &std::path::Path) -> u32 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn the_pid_file_names_whoever_serves() {
    let (mut service, first) = Service::start(|command, folder| {
        command.env("PID_FILE", folder.join("server.pid")).env("PROBATION_MS", "300");
    });
    let path = service.path("server.pid");
    eventually("it is written", || path.exists().then_some(()));
    assert_eq!(read(&path), first.pid);
    // One that fails, also on probation, has never stood there.
    service.script("crash");
    first.signal(Signal::SIGUSR2);
    service.serving();
    service.says("failed ");
    assert_eq!(read(&path), first.pid);
    service.script("");
    let second = service.upgrade(&first);
    eventually("it names the new one", || (read(&path) == second.pid).then_some(()));
    service.stop(&second);
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_written_is_an_error_at_the_start() {
    let output = command().env("LISTEN", "http=127.0.0.1:0").env("PID_FILE", "/nowhere/server.pid").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("write the pid file /nowhere/server.pid"), "{text}");
}

/// goagain's Double: the process number stays, and so does the parent that waits for it.
#[test]
fn the_number_stays_where_it_must() {
    let (mut service, first) = Service::start(|command, folder| {
        command.env("KEEP_PID", "1").env("PID_FILE", folder.join("server.pid"));
    });
    let mut serving = first.clone();
    for _ in 0..3 {
        serving.signal(Signal::SIGUSR2);
        let interim = service.serving();
        serving = service.serving();
        assert_eq!((serving.pid, serving.generation), (first.pid, interim.generation + 1));
        assert_eq!(service.leaves(&interim), "Upgraded");
        assert_eq!(read(&service.path("server.pid")), first.pid);
    }
    serving.signal(Signal::SIGTERM);
    assert_eq!(service.leaves(&serving), "Stopped");
    assert!(matches!(service.first_ends(), WaitStatus::Exited(_, 0)));
}

/// The interim process serves as long as the old one has connections; a stop in that time is for both.
#[test]
fn a_stop_while_the_interim_process_serves_ends_both() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("KEEP_PID", "1").env("PROBATION_MS", "0");
    });
    let mut busy = Client::connect(first.address("http"));
    busy.send("/slow?ms=2000");
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    let interim = service.serving();
    eventually("the interim process serves", || (ask(first.address("http"), "/").0 == 2).then_some(()));
    let load = Load::start(first.address("http"), Mix { fresh: 2, ..Mix::default() });
    load.wait_for(20);
    first.signal(Signal::SIGTERM);
    assert_eq!(service.leaves(&interim), "Stopped");
    let tally = load.stop();
    assert_eq!(tally.lost(), tally.refused, "{tally:#?}");
    assert_eq!(busy.receive().0, 1, "what the old one had begun is finished");
    assert_eq!(service.leaves(&first), "Upgraded");
    assert!(matches!(service.first_ends(), WaitStatus::Exited(_, 0)));
}

/// The program has gone when this process was to become it: the interim one serves, and the number stays for it.
#[test]
fn a_program_that_has_gone_leaves_the_interim_process_serving() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let (mut service, first) = Service::start(|command, _| {
        // So many that their numbers would come to stand where this process has its own descriptors.
        let many: String = (0..40).map(|n| format!(",s{n}=127.0.0.1:0")).collect();
        command.env("LISTEN", format!("http=127.0.0.1:0{many}"));
        command.env("KEEP_PID", "1").env("PROBATION_MS", "0").env("PROGRAM", &program);
    });
    let mut busy = Client::connect(first.address("http"));
    busy.send("/slow?ms=500");
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    let interim = service.serving();
    std::fs::remove_file(&program).unwrap();
    assert_eq!(busy.receive().0, 1);
    drop(busy);
    let line = service.says("hotrun: cannot start ");
    assert!(line.ends_with(&format!("process {} serves", interim.pid)), "{line}");
    assert_eq!(ask(first.address("http"), "/").0, 2);
    first.signal(Signal::SIGTERM);
    assert_eq!((service.leaves(&interim).as_str(), service.leaves(&first).as_str()), ("Stopped", "Upgraded"));
}

/// A stop that reaches both at once, as from a terminal or a service manager, is one request to each.
#[test]
fn a_stop_of_the_whole_group_while_the_interim_process_serves_is_graceful() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("KEEP_PID", "1").env("PROBATION_MS", "0");
    });
    let mut busy = Client::connect(first.address("http"));
    busy.send("/slow?ms=1000");
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    let interim = service.serving();
    eventually("the interim process serves", || (ask(first.address("http"), "/").0 == 2).then_some(()));
    let mut slow = Client::connect(first.address("http"));
    slow.send("/slow?ms=500");
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    service.signal_all(Signal::SIGTERM);
    assert_eq!((slow.receive().0, busy.receive().0), (2, 1));
    assert_eq!((service.leaves(&interim).as_str(), service.leaves(&first).as_str()), ("Stopped", "Upgraded"));
    assert!(matches!(service.first_ends(), WaitStatus::Exited(_, 0)));
}

#[test]
fn a_stop_of_the_whole_group_on_probation_serves_the_queue_to_its_end() {
    for _ in 0..5 {
        let (mut service, first) = Service::start(|command, _| {
            command.env("KEEP_PID", "1").env("MANUAL", "1");
        });
        let http = first.address("http");
        ask(http, "/upgrade");
        let interim = service.serving();
        let load = Load::start(http, Mix { fresh: 6, keep_alive: 2, ..Mix::default() });
        load.wait_for(100);
        service.signal_all(Signal::SIGTERM);
        let left = [service.leaves(&interim), service.leaves(&first)];
        assert!(left.iter().all(|reason| reason == "Stopped" || reason == "Upgraded"), "{left:?}");
        let tally = load.stop();
        assert_eq!(tally.lost(), tally.refused, "{tally:#?}");
    }
}

/// Whoever started the service sees it end, and starts it again: the interim process must not be in the way.
#[test]
fn the_interim_process_does_not_outlive_the_one_that_returns() {
    let (mut service, first) = Service::start(|command, _| {
        command.env("KEEP_PID", "1").env("PROBATION_MS", "0");
    });
    let mut busy = Client::connect(first.address("http"));
    busy.send("/slow?ms=60000");
    eventually("it is accepted", || ask(first.address("http"), "/state").1.starts_with("2 ").then_some(()));
    first.signal(Signal::SIGUSR2);
    let interim = service.serving();
    eventually("the interim process serves", || (ask(first.address("http"), "/").0 == 2).then_some(()));
    first.signal(Signal::SIGKILL);
    assert_eq!(service.leaves(&interim), "Stopped");
    assert!(crate::harness::refused(first.address("http")));
}

/// Orphans go to a sub-reaper here and not to process 1: who tests for `getppid() == 1` never hears that its parent has gone.
#[test]
fn under_a_sub_reaper_it_goes_on_when_the_one_before_is_killed() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    for before_it_is_confirmed in [true, false] {
        let (mut service, first) = Service::start(|command, _| {
            command.env("PROBATION_MS", if before_it_is_confirmed { "60000" } else { "0" });
        });
        ask(first.address("http"), "/upgrade");
        let second = service.serving();
        first.signal(Signal::SIGKILL);
        service.first_ends();
        // It is the one that serves, and the next upgrade is its own.
        let third = eventually("it is confirmed", || {
            let (_, answer) = ask(first.address("http"), "/upgrade");
            answer.starts_with("Successor ").then(|| service.serving())
        });
        assert_eq!(third.generation, second.generation + 1);
        third.signal(Signal::SIGKILL);
        second.signal(Signal::SIGKILL);
    }
}

/// The one before has gone when the new one begins: it goes on alone, with what it has inherited.
#[test]
fn one_whose_predecessor_was_killed_before_it_has_begun_serves() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let (mut service, first) = Service::start(|command, folder| {
        let fifo = folder.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        command.env("FIFO", fifo);
    });
    service.script("wait early");
    first.signal(Signal::SIGUSR2);
    // Opening it waits for the other side.
    let begin = std::fs::File::options().write(true).open(service.path("fifo")).unwrap();
    service.script("");
    first.signal(Signal::SIGKILL);
    service.first_ends();
    let waiting = std::net::TcpStream::connect(first.address("http")).unwrap();
    drop(begin);
    let second = service.serving();
    assert_eq!(second.address("http"), first.address("http"));
    drop(waiting);
    assert_eq!(ask(second.address("http"), "/").0, 2);
    second.signal(Signal::SIGTERM);
    assert_eq!(service.leaves(&second), "Stopped");
}

/// In a container: the first process of a namespace may not end, and the default is to keep its number.
#[test]
fn as_process_one() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a pid namespace needs root");
        return;
    }
    let own = command();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let (mut service, first) = Service::start_as(command, |command, _| {
        command.env("PROBATION_MS", "20");
    });
    assert_eq!(first.pid, 1);
    let http = first.address("http");
    let load = Load::start(http, Mix { fresh: 2, keep_alive: 2, slow: 1, slow_ms: 200 });
    // Its number outside: the only child of unshare.
    let outside = eventually("a child", || {
        let pid = service.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse::<i32>().ok()
    });
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(outside), signal).unwrap();
    for upgrade in 1..=10 {
        signal(Signal::SIGUSR2);
        let interim = service.serving();
        let serving = service.serving();
        assert_eq!((serving.pid, serving.generation), (1, 1 + 2 * upgrade));
        assert_eq!(service.leaves(&interim), "Upgraded");
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(crate::harness::zombies(outside as u32), 0);
    signal(Signal::SIGTERM);
    assert!(matches!(service.first_ends(), WaitStatus::Exited(_, 0)));
}
