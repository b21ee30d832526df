//! Point 9 of the plan: what a service manager hears, in which order and from whom. It believes its main process alone, as
//! systemd does by default (`NotifyAccess=main`). The real one is asked in `tests/systemd`.

use crate::harness::{Client, LONG, Service, Serving, ask};
use hotrun::Signal;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

struct Manager {
    socket: UnixDatagram,
    main: u32,
}

impl Manager {
    fn open(folder: &Path) -> Manager {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        Manager { socket, main: 0 }
    }

    fn watches(command: &mut Command, folder: &Path) {
        command.env("NOTIFY_SOCKET", folder.join("notify"));
    }

    /// The assignments of the next message, which must be the main process's: others are dropped. A barrier is lifted.
    fn hears(&mut self) -> Vec<String> {
        let mut bytes = [0; 512];
        let mut space = cmsg_space!([RawFd; 4], UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let mut sender = 0;
        for part in message.cmsgs().unwrap() {
            match part {
                ControlMessageOwned::ScmCredentials(credentials) => sender = credentials.pid() as u32,
                ControlMessageOwned::ScmRights(fds) => {
                    // SAFETY: the kernel has just made them for this process.
                    fds.into_iter().for_each(|fd| drop(unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                _ => {}
            }
        }
        let length = message.bytes;
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        assert!(sender == self.main || self.main == 0, "{text:?} of {sender}, which is dropped, as it is not main");
        text.lines().map(str::to_owned).collect()
    }

    /// The next message is one assignment of that name, and whatever extends the time.
    fn hears_that(&mut self, assignment: &str) {
        let heard = self.hears();
        let rest: Vec<&String> = heard.iter().filter(|line| !line.starts_with("EXTEND_TIMEOUT_USEC=")).collect();
        assert_eq!(rest, [assignment]);
    }

    fn hears_of_a_reload(&mut self) {
        let heard = self.hears();
        assert_eq!(heard[0], "RELOADING=1");
        assert!(heard[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0);
        assert!(heard[2].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse::<u64>().unwrap() > 1_000_000);
    }
}

fn start(change: impl FnOnce(&mut Command)) -> (Service, Serving, Manager) {
    let mut manager = None;
    let (service, serving) = Service::start(|command, folder| {
        manager = Some(Manager::open(folder));
        Manager::watches(command, folder);
        change(command);
    });
    let mut manager = manager.unwrap();
    manager.hears_that("READY=1");
    manager.main = serving.pid;
    (service, serving, manager)
}

#[test]
fn an_upgrade_is_told_in_the_order_that_a_manager_believes() {
    let (mut service, mut serving, mut manager) = start(|_| {});
    for _ in 0..3 {
        serving.signal(Signal::SIGUSR2);
        let next = service.serving();
        manager.hears_of_a_reload();
        manager.hears_that(&format!("MAINPID={}", next.pid));
        manager.hears_that("BARRIER=1");
        manager.main = next.pid;
        manager.hears_that("READY=1");
        assert_eq!(service.leaves(&serving), "Upgraded");
        serving = next;
    }
    serving.signal(Signal::SIGTERM);
    manager.hears_that("STOPPING=1");
    assert_eq!(service.leaves(&serving), "Stopped");
}

#[test]
fn an_upgrade_that_fails_ends_the_reload() {
    for script in ["fail", "crash"] {
        let (mut service, first, mut manager) = start(|command| {
            command.env("PROBATION_MS", "60000");
        });
        service.script(script);
        first.signal(Signal::SIGUSR2);
        manager.hears_of_a_reload();
        service.says("failed ");
        manager.hears_that("READY=1");
        first.signal(Signal::SIGTERM);
        manager.hears_that("STOPPING=1");
        assert_eq!(service.leaves(&first), "Stopped");
    }
}

/// An operator may take his time: the manager does not wait for him.
#[test]
fn a_manual_probation_is_not_part_of_the_reload() {
    let (mut service, first, mut manager) = start(|command| {
        command.env("MANUAL", "1");
    });
    let mut kept = Client::connect(first.address("http"));
    kept.ask("/upgrade");
    let second = service.serving();
    manager.hears_of_a_reload();
    manager.hears_that("READY=1");
    first.signal(Signal::SIGQUIT);
    manager.hears_that(&format!("MAINPID={}", second.pid));
    manager.hears_that("BARRIER=1");
    manager.main = second.pid;
    manager.hears_that("READY=1");
    assert_eq!(service.leaves(&first), "Upgraded");
}

#[test]
fn new_configuration_is_a_reload_without_a_new_process() {
    let (mut service, first, mut manager) = start(|command| {
        command.env("RELOAD", "1");
    });
    for _ in 0..3 {
        first.signal(Signal::SIGHUP);
        manager.hears_of_a_reload();
        assert_eq!(service.says("reloaded "), format!("reloaded pid={}", first.pid));
        manager.hears_that("READY=1");
    }
    assert_eq!(ask(first.address("http"), "/").0, 1);
    service.stop(&first);
}

/// The number stays, and so does the main process: it alone speaks.
#[test]
fn a_process_that_keeps_its_number_stays_the_main_one() {
    let (mut service, first, mut manager) = start(|command| {
        command.env("KEEP_PID", "1");
    });
    let mut serving = first;
    for _ in 0..3 {
        serving.signal(Signal::SIGUSR2);
        service.serving();
        manager.hears_of_a_reload();
        serving = service.serving();
        manager.hears_that("READY=1");
    }
    serving.signal(Signal::SIGTERM);
    manager.hears_that("STOPPING=1");
}

/// A manager that wants to hear from its main process does, and from the next one after an upgrade.
#[test]
fn a_watchdog_is_fed_by_whoever_serves() {
    let (mut service, first, mut manager) = start(|command| {
        command.env("WATCHDOG_USEC", "20000");
    });
    for _ in 0..3 {
        manager.hears_that("WATCHDOG=1");
    }
    first.signal(Signal::SIGUSR2);
    let second = service.serving();
    let next = |manager: &mut Manager| {
        let heard = manager.hears();
        (heard != ["WATCHDOG=1"]).then_some(heard)
    };
    let mut others = std::iter::from_fn(|| Some(next(&mut manager))).flatten();
    assert_eq!(others.next().unwrap()[0], "RELOADING=1");
    assert_eq!(others.next().unwrap(), [format!("MAINPID={}", second.pid)]);
    drop(others);
    manager.hears_that("BARRIER=1");
    manager.main = second.pid;
    manager.hears_that("READY=1");
    for _ in 0..3 {
        manager.hears_that("WATCHDOG=1");
    }
    second.signal(Signal::SIGTERM);
    assert_eq!((service.leaves(&first).as_str(), service.leaves(&second).as_str()), ("Upgraded", "Stopped"));
}

/// A server that is not well keeps silent, and the manager does what it does about that.
#[test]
fn a_watchdog_is_not_fed_by_a_server_that_is_not_well() {
    let (mut service, first, mut manager) = start(|command| {
        command.env("WATCHDOG_USEC", "20000").env("SICK_AFTER", "3");
    });
    for _ in 0..3 {
        manager.hears_that("WATCHDOG=1");
    }
    service.says("sick");
    service.says("sick");
    first.signal(Signal::SIGTERM);
    manager.hears_that("STOPPING=1");
}
