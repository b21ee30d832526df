//! Who may ask a session, and who keeps it from answering: other users, and clients that say nothing or leave.

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{command, is_alive, pause, until, version};
use nix::libc;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// Nobody, on every system.
const STRANGER: u32 = 65_534;

/// What comes of it when that user does it: in a thread of its own, as the kernel has users for threads.
fn as_stranger<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            // SAFETY: two calls that change numbers of this thread alone, which ends after `what`.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, STRANGER, STRANGER, STRANGER), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, STRANGER, STRANGER, STRANGER), 0);
            }
            what()
        });
        stranger.join().unwrap()
    })
}

/// What is answered there.
fn ask(socket: &Path, what: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    // Whoever is sent away may be so before it has said anything.
    stream.write_all(format!("\"{what}\"\n").as_bytes()).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionReset => Ok(0),
        _ => Err(error),
    })?;
    Ok(answer)
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            all.push(path);
        }
    }
    all
}

/// A session with that umask, whose folders are all in one that everybody can reach.
struct Open {
    it: Plain,
    home: tempfile::TempDir,
    temporary: tempfile::TempDir,
}

fn open(name: &str, umask: libc::mode_t, prepare: impl FnOnce(&Path)) -> Open {
    let folder = || {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        folder
    };
    let (home, temporary) = (folder(), folder());
    prepare(home.path());
    let it = Plain::begin_with(project(name, ""), &[], |command| {
        command.env("CARGO_HOME", home.path()).env("TMPDIR", temporary.path()).env("CARGO_NET_OFFLINE", "true");
        let set = move || {
            // SAFETY: sets a number of this process.
            unsafe { libc::umask(umask) };
            Ok(())
        };
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(set) };
    });
    Open { it, home, temporary }
}

impl Open {
    fn socket(&self) -> PathBuf {
        let sockets = below(self.temporary.path()).into_iter();
        sockets.filter(|path| path.ends_with("control")).find(|path| fs::metadata(path).is_ok()).unwrap()
    }

    fn said(&self, what: &str) -> (String, Option<i32>) {
        let mut command = command();
        command.arg(what).env("CARGO_HOME", self.home.path()).current_dir(self.it.project.root());
        let output = command.output().unwrap();
        (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.code())
    }

    fn serves(&self) {
        let (said, code) = self.said("status");
        assert!(code == Some(0) && said.contains("generation 1 serves"), "{said}");
        assert_eq!(version(self.it.address), "1");
    }
}

#[test]
fn with_no_umask_what_is_private_is_private_and_another_user_is_not_heard() {
    let mut open = open("strangers-umask", 0, |_| {});
    open.it.session.wait_serving(1);
    let socket = open.socket();
    let registry = open.home.path().join("hotrun");
    let private = socket.parent().unwrap();
    let mut kinds = 0;
    let own = [private.to_path_buf(), registry.clone()].into_iter();
    for path in own.chain(below(private)).chain(below(&registry)) {
        let is = path.symlink_metadata().unwrap();
        let expected = if is.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(is.mode() & 0o777, expected, "{}", path.display());
        kinds += usize::from(is.file_type().is_socket());
    }
    assert!(kinds >= 2, "that of the program, too");
    // Programs run from there, and rustc is given what stands there.
    for path in fs::read_dir(open.it.project.path("target/hotrun")).unwrap().map(|entry| entry.unwrap().path()) {
        let kept = below(&path).into_iter().filter(|below| below.is_dir() && below.parent() == Some(&path));
        let closed = |path: &Path| fs::metadata(path).unwrap().mode() & 0o077 == 0;
        assert!(closed(&path) || kept.into_iter().all(|path| closed(&path)), "{}", path.display());
    }
    let refused = as_stranger(|| ask(&socket, "status").unwrap_err().kind());
    assert_eq!(refused, io::ErrorKind::PermissionDenied);

    // Should the folder be opened by whatever means, the peer is looked at.
    for (path, mode) in [(private, 0o777), (&socket, 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    for what in ["status", "rebuild", "stop"] {
        assert_eq!(as_stranger(|| ask(&socket, what).unwrap()), "", "{what}");
    }
    open.serves();
    assert!(ask(&socket, "status").unwrap().contains("\"generation\":1"));
    assert!(is_alive(open.it.session.pid()));
    // And one of this user's commands does not believe a folder that others may write to.
    fs::set_permissions(&registry, Permissions::from_mode(0o777)).unwrap();
    let (said, code) = open.said("status");
    assert!(code == Some(1) && said.contains("others may write to the folder") && said.contains("chmod 700"), "{said}");
    fs::set_permissions(&registry, Permissions::from_mode(0o700)).unwrap();
    open.serves();
}

/// A umask that takes everything from everybody, too.
#[test]
fn a_umask_that_takes_from_the_owner_changes_nothing_of_what_is_private() {
    let open = open("strangers-none", 0o377, |_| {});
    // Whether cargo can work so is another matter.
    let mode = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o777;
    until("no socket that is its owner's alone", || {
        let found: Vec<PathBuf> = below(open.temporary.path());
        let socket = found.iter().find(|path| path.ends_with("control"));
        socket.is_some_and(|socket| (mode(socket.parent().unwrap()), mode(socket)) == (0o700, 0o600))
    });
}

#[test]
fn a_folder_of_sessions_that_is_another_users_or_a_link_is_refused_by_name() {
    let elsewhere = tempfile::tempdir().unwrap();
    for (name, why) in [("owner", "belongs to another user (uid 65534)"), ("link", "is a link")] {
        let mut open = open(&format!("strangers-{name}"), 0o022, |home| {
            let registry = home.join("hotrun");
            if name == "link" {
                std::os::unix::fs::symlink(elsewhere.path(), &registry).unwrap();
            } else {
                fs::create_dir(&registry).unwrap();
                std::os::unix::fs::chown(&registry, Some(STRANGER), Some(STRANGER)).unwrap();
            }
        });
        let note = open.it.session.wait("why", |event| {
            event["event"] == "note" && event["text"].as_str().unwrap().contains("will not find this session")
        });
        assert!(note["text"].as_str().unwrap().contains(why), "{note}");
        open.it.session.wait_serving(1);
        let (said, code) = open.said("status");
        assert!(code == Some(1) && said.contains(why), "{said}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing was put there");
    }
}

/// Where that session listens.
fn control(it: &Plain) -> PathBuf {
    let listed: Value = serde_json::from_slice(&fs::read(crate::harness::listed(it.session.pid())).unwrap()).unwrap();
    PathBuf::from(listed["socket"].as_str().unwrap())
}

/// How many sockets the session has open.
fn sockets(it: &Plain) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", it.session.pid())).unwrap();
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

fn is_open(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!((&mut &*stream).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn clients_that_say_nothing_or_too_little_keep_no_other_from_being_answered() {
    let it = Plain::start(project("strangers-silent", ""));
    let socket = control(&it);
    let silent = [(); 3].map(|()| UnixStream::connect(&socket).unwrap());
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.write_all(b"\"st").unwrap();
    for _ in 0..5 {
        assert!(ask(&socket, "status").unwrap().contains("\"generation\":1"));
    }
    assert!(silent.iter().all(is_open), "answered while they were waited for");
    // One byte now and then is not a way to stay.
    while slow.write_all(b" ").is_ok() {
        pause();
    }
    assert!(ask(&socket, "wait").unwrap().contains("\"generation\":1"));
}

#[test]
fn whoever_waits_and_leaves_leaves_nothing_open() {
    let mut it = Plain::start(project("strangers-leave", ""));
    let socket = control(&it);
    // Built, and not ready: whoever waits is kept waiting.
    it.project.write_by_rename(
        "src/main.rs",
        &plain("2", &["fn at_start() { let mut gate = std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap(); std::io::Read::read_exact(&mut gate, &mut [0]).unwrap(); }"]),
    );
    it.session.wait("a start", |event| event["event"] == "starting" && event["generation"] == 2);
    let starting = it.gate.arrival();
    assert!(ask(&socket, "status").unwrap().contains("\"busy\":true"));
    let before = sockets(&it);
    let wait = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"\"wait\"\n").unwrap();
        stream
    };
    let waiting: Vec<UnixStream> = (0..10).map(|_| wait()).collect();
    let has = |count: usize| until(&format!("not {count} sockets"), || sockets(&it) == count);
    has(before + 10);
    drop(waiting);
    has(before);
    let stays = wait();
    starting.let_go();
    let mut answer = String::new();
    (&stays).read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"generation\":2"), "{answer}");
}
