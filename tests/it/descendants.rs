//! What a program starts and what leaves its group, or goes into the background, ends with its generation; what is left is named.

use crate::gate::{SERVER, pid, start_with};
use crate::harness::plain::{Plain, project};
use crate::harness::refuse::with_rights;
use crate::harness::server::{change, who};
use crate::harness::{
    Project, Session, children, free_address, get, hotrun_dependency, is_alive, is_busy, leavings, send, until,
    wait_for_end,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The processes that have that word on their command line.
fn with_word(word: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let has_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|window| window == word.as_bytes()) && is_alive(*pid)
    };
    pids.filter(has_it).collect()
}

/// A word that no other test has on its command lines, as the seconds of a sleep.
fn word() -> String {
    format!("9{}", free_address().port())
}

/// A function of the server that runs that script.
fn runs(function: &str, script: &str) -> String {
    format!("fn {function}() {{ process::Command::new(\"sh\").args([\"-c\", {script:?}]).spawn().unwrap(); }}")
}

#[test]
fn what_has_left_the_group_ends_with_its_generation() {
    for (kind, script) in [
        ("session", "exec setsid sleep WORD"),
        ("orphan", "setsid sleep WORD & exit 0"),
        ("orphan-below", "setsid sh -c 'setsid sh -c \"sleep WORD; :\"; :' & exit 0"),
        ("no-environment", "exec env -i setsid sh -c 'sleep WORD; :'"),
        ("stubborn", "exec setsid sh -c 'trap \"\" TERM; while :; do sleep WORD; done'"),
    ] {
        let word = word();
        let line = runs("before_accept", &script.replace("WORD", &word));
        let args = ["--kill-timeout", "300ms", "--drain-timeout", "1s"];
        let mut it = start_with(&format!("descendants-{kind}"), "", &args, &[&line], |_| {});
        until("the helper", || !with_word(&word).is_empty());
        for _ in 0..3 {
            let before = with_word(&word);
            assert_eq!(it.swap(&[&line])["by"], "bind", "{kind}");
            it.gone(it.generation - 1);
            until("the next helper", || with_word(&word).iter().any(|pid| !before.contains(pid)));
            assert!(before.iter().all(|pid| !is_alive(*pid)), "{kind}: {before:?}");
        }
        let zombies = || children(it.session.pid()).iter().filter(|(_, state)| *state == 'Z').count();
        until("the reaping of orphans", || zombies() == 0);
        // It crashes: that is its end, too, and the next one has one of its own.
        let before = with_word(&word);
        send(it.pid, Signal::SIGKILL);
        it.generation += 1;
        it.pid = pid(&it.session.wait_serving(it.generation));
        assert!(before.iter().all(|pid| !is_alive(*pid)), "{kind}: {before:?}");
        let notes = it.notes();
        assert!(notes.len() == 1 && notes[0].contains("has left behind, is ended with it"), "{kind}: {notes:?}");
        let (_, log) = it.session.stop();
        assert_eq!(with_word(&word), [0; 0], "{kind}");
        assert_eq!(log.last().unwrap()["left"], Value::Array(Vec::new()), "{kind}");
    }
}

#[test]
fn what_has_left_the_group_ends_when_the_command_is_killed() {
    for (kind, script) in [
        ("session", "exec setsid sleep WORD"),
        ("orphan", "setsid sleep WORD & exit 0"),
        ("no-environment", "exec env -i setsid sh -c 'sleep WORD; :'"),
        ("stubborn", "setsid sh -c 'trap \"\" TERM; while :; do sleep WORD; done' & exit 0"),
    ] {
        let (word, temporary) = (word(), tempfile::tempdir().unwrap());
        let line = runs("before_accept", &script.replace("WORD", &word));
        let name = format!("descendants-killed-{kind}");
        let mut it = start_with(&name, "", &["--kill-timeout", "300ms"], &[&line], |command| {
            command.env("TMPDIR", temporary.path());
        });
        until("the helper", || !with_word(&word).is_empty());
        it.session.signal(Signal::SIGKILL);
        it.session.finish();
        until(&format!("the end of all of it: {kind}"), || {
            with_word(&word).is_empty() && leavings(temporary.path()).is_empty()
        });
    }
}

/// As daemon(3) does, twice.
const DAEMON: &str = "unsafe { if fork() > 0 { process::exit(0) } setsid(); if fork() > 0 { process::exit(0) } }";
const CALLS: &str = "unsafe extern \"C\" { fn fork() -> i32; fn setsid() -> i32; }";

#[test]
fn a_program_that_goes_into_the_background_is_told_so_and_is_not_left() {
    for (nth, (function, args)) in [
        ("before_bind", &[][..]),
        ("before_accept", &[]),
        ("before_bind", &["--handoff", "none", "--ready", "delay:1s"]),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("fn {function}() {{ {DAEMON} }} {CALLS}");
        let temporary = tempfile::tempdir().unwrap();
        let mut it = start_with(&format!("descendants-daemon-{nth}"), "", args, &[], |command| {
            command.env("TMPDIR", temporary.path());
        });
        it.save("2", &[&line]);
        let failed = it.session.wait("its end", |event| {
            event["event"] == "start-failed" || event["event"] == "finished" && event["generation"] == 2
        });
        assert!(
            failed["end"].as_str().unwrap().starts_with("exit status 0: it has gone into the background"),
            "{failed}"
        );
        let advice = |event: &Value| event["event"] == "note" && event.to_string().contains("--foreground");
        it.session.see("what to do", advice);
        if args.is_empty() {
            assert_eq!(it.answers(), ("1".to_owned(), it.pid));
        }
        // Everything that runs the program is of the generation that serves.
        let exe = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let named = format!("/2/descendants-daemon-{nth}");
        let left = crate::harness::processes(temporary.path());
        let left: Vec<u32> = left.into_iter().filter(|pid| exe(pid).to_string_lossy().contains(&named)).collect();
        assert_eq!(left, [0; 0]);
        // And it is the next save that comes next.
        it.save("3", &[]);
        // Where the one before had to be stopped first, that has come back meanwhile.
        until("its answer", || get(it.address, "/").is_ok_and(|answer| answer.contains("version: 3\n")));
        let (_, log) = it.session.stop();
        assert_eq!(log.last().unwrap()["left"], Value::Array(Vec::new()));
        assert_eq!(leavings(temporary.path()), [""; 0]);
    }
}

#[test]
fn a_first_program_that_goes_into_the_background_is_not_started_again_and_again() {
    let line = format!("fn before_accept() {{ {DAEMON} }} {CALLS}");
    let project = Project::new("descendants-first", "", &crate::harness::server::server(SERVER, "1", &[&line]));
    let (address, temporary) = (free_address(), tempfile::tempdir().unwrap());
    let mut session = Session::start_with(&project, address, &[], |command| {
        command.env("TMPDIR", temporary.path());
    });
    let over = |event: &Value| ["start-failed", "finished", "died"].iter().any(|name| event["event"] == *name);
    let failed = session.wait("its end", over);
    assert!(failed["end"].as_str().unwrap().contains("into the background"), "{failed}");
    project.write_by_rename("src/main.rs", &crate::harness::server::server(SERVER, "2", &[]));
    session.wait_serving(2);
    assert_eq!(session.count("starting"), 2);
    let (_, log) = session.stop();
    assert_eq!(log.last().unwrap()["left"], Value::Array(Vec::new()));
    assert_eq!(leavings(temporary.path()), [""; 0]);
}

/// A daemon that a build script has started is not the program's: caches of compilers are such.
#[test]
fn what_a_build_has_started_to_stay_is_left_and_named() {
    let word = word();
    let project = project("descendants-build", "");
    let start = format!("setsid sleep {word} > /dev/null 2>&1 < /dev/null & setsid sh -c 'exit 3' & exit 0");
    let script =
        format!("fn main() {{ std::process::Command::new(\"sh\").args([\"-c\", {start:?}]).status().unwrap(); }}");
    project.write("build.rs", &script);
    let mut plain = Plain::begin(project, &[]);
    assert_eq!(plain.next(), "1");
    let daemon = with_word(&word);
    assert_eq!(daemon.len(), 1);
    let zombies = |session: u32| children(session).iter().filter(|(_, state)| *state == 'Z').count();
    until("the reaping of orphans", || zombies(plain.session.pid()) == 0);
    let (status, log) = plain.session.stop();
    assert!(!status.success());
    let left = log.last().unwrap()["left"].to_string();
    assert!(is_alive(daemon[0]) && left.contains(&format!("pid {} (sleep {word})", daemon[0])), "{left}");
    send(daemon[0], Signal::SIGKILL);
    wait_for_end(daemon[0]);
}

/// Of another user, which the command has no right to signal (capabilities(7), CAP_KILL).
#[test]
fn one_that_cannot_be_ended_is_named_and_its_gate_keeps_nobody_busy() {
    struct Helper(u32);
    impl Drop for Helper {
        fn drop(&mut self) {
            send(self.0, Signal::SIGKILL);
        }
    }
    let line = "fn before_accept() { unsafe { if libc::fork() == 0 { libc::setsid(); assert_eq!(libc::setuid(65534), 0); loop { libc::pause(); } } } }";
    let args = ["--kill-timeout", "300ms", "--drain-timeout", "1s"];
    let mut it = start_with("descendants-other", "libc = \"0.2\"", &args, &[line], |command| {
        with_rights(command, &["--bounding-set=-kill", "--inh-caps=-kill"]);
    });
    let is_other = |pid: u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|is| is.uid() == 65534);
    until("the helper", || children(it.pid).iter().any(|(pid, _)| is_other(*pid)));
    let helper = Helper(children(it.pid)[0].0);
    it.swap(&[]);
    it.gone(1);
    assert!(is_alive(helper.0));
    assert!(!is_busy(it.session.pid()));
    assert_eq!(it.answers(), ("2".to_owned(), it.pid));
    let (_, log) = it.session.stop();
    let left = log.last().unwrap()["left"].to_string();
    assert!(is_alive(helper.0) && left.contains(&format!("pid {}", helper.0)), "{left}");
}

/// By the library, which leaves that to the command where there is one.
#[test]
fn a_server_that_is_asked_to_upgrade_itself_stays_and_is_told_why() {
    let project = Project::new("descendants-usr2", &hotrun_dependency("[]"), crate::harness::server::SERVER);
    change(&project, "1", &[]);
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    let first = pid(&session.wait_serving(1));
    send(first, Signal::SIGUSR2);
    until("why not", || session.stderr().contains("no upgrade: "));
    assert_eq!(who(&get(address, "/").unwrap()), ("1".to_owned(), first));
    change(&project, "2", &[]);
    let second = pid(&session.wait_serving(2));
    assert_eq!(who(&get(address, "/").unwrap()), ("2".to_owned(), second));
    let (_, log) = session.stop();
    assert_eq!(log.last().unwrap()["left"], Value::Array(Vec::new()));
}
