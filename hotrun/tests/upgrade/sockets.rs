//! Points 6 and 10 of the plan: everything with a descriptor, by name, and the paths of Unix sockets.

use crate::harness::{LONG, Service, Serving, ask, command, eventually, refused};
use hotrun::Signal;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// The generation that answers on a path.
fn ask_unix(path: &Path) -> u32 {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"who\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}

fn ask_udp(address: SocketAddr) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send_to(b"who", address).unwrap();
    let mut bytes = [0; 16];
    let (length, _) = socket.recv_from(&mut bytes).unwrap();
    std::str::from_utf8(&bytes[..length]).unwrap().parse().unwrap()
}

fn has_v6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn every_kind_of_socket_and_file_and_state_goes_from_generation_to_generation() {
    let v6 = if has_v6() { ",six=[::1]:0,wild=[::]:0" } else { "" };
    let (mut service, mut serving) = Service::start(|command, folder| {
        let path = folder.join("one.sock");
        let listen = format!("http=127.0.0.1:0,admin=0.0.0.0:0,unix=unix:{},dns=udp:127.0.0.1:0{v6}", path.display());
        command.env("LISTEN", listen).env("LOG", folder.join("log")).env("STATE", "1").env("PROBATION_MS", "0");
    });
    let path = service.path("one.sock");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.symlink_metadata().unwrap());
    let (first, born) = (serving.clone(), inode(&path));
    let names =
        ["http", "admin", "unix", "dns"].into_iter().chain(if v6.is_empty() { vec![] } else { vec!["six", "wild"] });
    let names: Vec<&str> = names.collect();
    for generation in 1..=4 {
        // The one before has stopped reading as well.
        for name in &names {
            assert_eq!(serving.field(name), first.field(name), "{name} of generation {generation}");
        }
        assert_eq!(ask(serving.address("http"), "/").0, generation);
        let port = serving.address("admin").port();
        assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], port)), "/").0, generation);
        assert_eq!(ask_unix(&path), generation);
        assert_eq!(ask_udp(serving.address("dns")), generation);
        if !v6.is_empty() {
            assert_eq!(ask(serving.address("six"), "/").0, generation);
            let port = serving.address("wild").port();
            assert_eq!(ask(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), "/").0, generation);
        }
        assert_eq!(inode(&path), born, "the path is still the first one's");
        let trail: String = (1..=generation).map(|generation| format!("{generation};")).collect();
        assert_eq!(serving.field("trail"), trail);
        if generation < 4 {
            serving = service.upgrade(&serving);
        }
    }
    let log = std::fs::read_to_string(service.path("log")).unwrap();
    assert_eq!(log, "generation 1\ngeneration 2\ngeneration 3\ngeneration 4\n", "one open file, with one offset");
    service.stop(&serving);
    assert!(!path.exists(), "the last owner removes it");
}

/// Names that say nothing when they come from systemd are names when the program gives them.
#[test]
fn a_name_that_a_service_manager_uses_is_a_name() {
    let (mut service, first) = Service::start(|command, folder| {
        let path = folder.join("app.socket");
        command.env("LISTEN", format!("web.socket=127.0.0.1:0,stored=127.0.0.1:0,app.socket=unix:{}", path.display()));
    });
    let second = service.upgrade(&first);
    let third = service.upgrade(&second);
    for name in ["web.socket", "stored"] {
        assert_eq!(third.field(name), first.field(name));
        assert_eq!(ask(third.address(name), "/").0, 3);
    }
    assert_eq!(ask_unix(&service.path("app.socket")), 3);
    service.stop(&third);
}

/// More than a message can carry descriptors (253), and than half of the usual limit of open files.
#[test]
fn three_hundred_sockets() {
    // And where all but the first are asked for when the successor has said that it is ready, and the other has handed over.
    for eager in [false, true] {
        let (mut service, first) = Service::start(|command, _| {
            let listen: Vec<String> = (0..300).map(|n| format!("s{n}=127.0.0.1:0")).collect();
            command.env("LISTEN", listen.join(",")).env("PROBATION_MS", "0");
            if eager {
                command.env("EAGER", "1");
            }
        });
        let second = service.upgrade(&first);
        for n in 0..300 {
            let name = format!("s{n}");
            assert_eq!(second.field(&name), first.field(&name));
            assert_eq!(ask(second.address(&name), "/").0, 2);
        }
        service.stop(&second);
    }
}

/// The one before reads nothing for a while: what is asked for meanwhile is heard all the same.
#[test]
fn four_hundred_sockets_and_a_predecessor_that_sleeps() {
    let (mut service, first) = Service::start(|command, folder| {
        let listen: Vec<String> = (0..400).map(|n| format!("s{n}=127.0.0.1:0")).collect();
        command.env("LISTEN", listen.join(",")).env("PROBATION_MS", "0");
        let fifo = folder.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        command.env("FIFO", fifo);
    });
    service.script("wait early");
    first.signal(Signal::SIGUSR2);
    let begin = std::fs::File::options().write(true).open(service.path("fifo")).unwrap();
    first.signal(Signal::SIGSTOP);
    drop(begin);
    // It fills the channel, and waits.
    let pid = nix::unistd::Pid::from_raw(first.pid as i32);
    let successor = eventually("the successor", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
        children.map(Result::unwrap_or_default).collect::<String>().split_whitespace().next()?.parse::<i32>().ok()
    });
    eventually("it waits for room", || {
        std::fs::read_dir(format!("/proc/{successor}/task")).ok()?.find_map(|thread| {
            let thread = thread.ok()?.path();
            let read = |file: &str| std::fs::read_to_string(thread.join(file)).unwrap_or_default();
            // The thread that asks; the control thread waits in any case.
            (read("comm").starts_with("server") && read("wchan").contains("poll")).then_some(())
        })
    });
    first.signal(Signal::SIGCONT);
    let second = service.serving();
    assert_eq!(service.leaves(&first), "Upgraded");
    for n in 0..400 {
        assert_eq!(ask(second.address(&format!("s{n}")), "/").0, 2, "socket {n}");
    }
    service.stop(&second);
}

#[test]
fn a_path_survives_a_failed_successor_and_a_rollback() {
    let (mut service, first) = Service::start(|command, folder| {
        command.env("LISTEN", format!("http=127.0.0.1:0,unix=unix:{}", folder.join("one.sock").display()));
        command.env("PROBATION_MS", "60000");
    });
    let path = service.path("one.sock");
    for script in ["fail", "panic", "crash"] {
        service.script(script);
        first.signal(Signal::SIGUSR2);
        service.says("failed ");
        assert_eq!(ask_unix(&path), 1, "{script}");
    }
    // A successor that is stopped before it is confirmed is not the path's owner either.
    service.script("");
    first.signal(Signal::SIGUSR2);
    let second = service.serving().generation;
    eventually("the new one answers", || (ask_unix(&path) == second).then_some(()));
    assert!(path.exists());
}

#[test]
fn a_path_that_somebody_else_has_taken_is_left_to_him() {
    let (mut service, first) = Service::start(|command, folder| {
        command.env("LISTEN", format!("http=127.0.0.1:0,unix=unix:{}", folder.join("one.sock").display()));
    });
    let path = service.path("one.sock");
    let second = service.upgrade(&first);
    std::fs::remove_file(&path).unwrap();
    let _stranger = UnixListener::bind(&path).unwrap();
    service.stop(&second);
    assert!(path.exists());
}

/// The path of a dead server, and many that want to be the next: one has it, and the others know.
#[test]
fn of_several_cold_starts_one_has_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.sock");
    for _ in 0..5 {
        drop(UnixListener::bind(&path).unwrap());
        let listen = format!("unix=unix:{}", path.display());
        let start = || {
            let mut command = command();
            command.env("LISTEN", &listen).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut children: Vec<_> = (0..4).map(|_| start()).collect();
        let firsts: Vec<String> = children
            .iter_mut()
            .map(|child| {
                let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines().map(Result::unwrap);
                lines.find(|line| line.starts_with("serving ") || line.contains("AddrInUse")).unwrap()
            })
            .collect();
        assert_eq!(firsts.iter().filter(|line| line.starts_with("serving ")).count(), 1, "{firsts:#?}");
        assert_eq!(ask_unix(&path), 1, "and it is the one at the path");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// As a shell starts it: the socket stands at number 3, and as `sh` becomes the server, `$$` is its number.
fn with_inherited(socket: OwnedFd, listen: &str) -> Command {
    let own = command();
    let mut command = Command::new("sh");
    let script = "export LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&0 </dev/null";
    command.arg("-c").arg(script).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").env("LISTEN", listen).stdin(socket);
    command
}

#[test]
fn a_socket_of_another_kind_at_a_name_is_an_error_and_not_served() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = with_inherited(udp.into(), "http=127.0.0.1:0").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the inherited socket \\\"http\\\" is not a listening TCP socket"), "{text}");
    assert!(!output.status.success());
}

/// A service manager goes on holding what it gave: also what this generation does not want goes on to the next, and at a stop
/// the queue stays.
#[test]
fn sockets_of_a_service_manager_stay_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let held = listener.try_clone().unwrap();
    let mut start = with_inherited(listener.into(), "http=127.0.0.1:0");
    start.stdout(Stdio::null()).stderr(Stdio::piped());
    let folder = tempfile::tempdir().unwrap();
    start.env("SCRIPT", folder.path().join("script")).env("PROBATION_MS", "0");
    std::fs::write(folder.path().join("script"), "without:http").unwrap();
    let mut child = start.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut says = |start: &str| lines.find(|line| line.starts_with(start)).unwrap();
    // The first does not want it, the second does.
    says("serving generation=1 ");
    std::fs::write(folder.path().join("script"), "").unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGUSR2).unwrap();
    let line = says("serving generation=2 ");
    assert!(line.contains(&format!("http={address}")), "{line}");
    assert_eq!(ask(address, "/").0, 2);
    child.wait().unwrap();
    let second: i32 = line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second), Signal::SIGTERM).unwrap();
    says("leaving generation=2 ");
    let _waiting = std::net::TcpStream::connect(address).unwrap();
    assert!(held.accept().is_ok(), "the next start's");
}

/// The edit took it out of the code: its queue is served to the end by the generation that has it, then it is closed.
#[test]
fn a_listener_that_the_new_program_does_not_want_is_let_go_without_a_loss() {
    for _ in 0..10 {
        let (mut service, first) = Service::start(|command, folder| {
            let path = folder.join("one.sock");
            let listen = format!("http=127.0.0.1:0,extra=127.0.0.1:0,unix=unix:{}", path.display());
            command.env("LISTEN", listen);
        });
        let (extra, path) = (first.address("extra"), service.path("one.sock"));
        service.script("without:extra without:unix");
        let load = crate::load::Load::start(extra, crate::load::Mix { fresh: 4, ..Default::default() });
        load.wait_for(50);
        let second = service.upgrade(&first);
        let tally = load.stop();
        assert_eq!(tally.lost(), tally.refused, "{tally:#?}");
        assert!(refused(extra) && !path.exists());
        assert_eq!(ask(second.address("http"), "/").0, 2);

        // And it may come again.
        service.script("");
        let third = service.upgrade(&second);
        assert_eq!(ask(third.address("extra"), "/").0, 3);
        assert_eq!(ask_unix(&path), 3);
        service.stop(&third);
        assert!(!path.exists());
    }
}

/// One that only the successor has bound is gone with it when it fails.
#[test]
fn a_listener_that_only_the_new_program_has_goes_and_comes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "without:extra").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut service, first) = Service::start(|command, _| {
        command.env("LISTEN", format!("http=127.0.0.1:0,extra={free}")).env("SCRIPT", &script);
        command.env("PROBATION_MS", "500");
    });
    std::fs::write(&script, "crash").unwrap();
    first.signal(Signal::SIGUSR2);
    service.says("failed ");
    eventually("it is closed", || refused(free).then_some(()));
    std::fs::write(&script, "").unwrap();
    let second: Serving = {
        first.signal(Signal::SIGUSR2);
        service.serving();
        service.serving()
    };
    assert_eq!(ask(free, "/").0, 2);
    let third = service.upgrade(&second);
    assert_eq!(ask(free, "/").0, 3);
    service.stop(&third);
}
