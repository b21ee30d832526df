//! What every notice looks like. The samples also serve the tests of `json`.

use super::super::{BuiltBy, CrateTiming, Holder, Note, Timings, Vintage};
use super::*;
use std::sync::{Arc, Mutex};

/// A writer whose bytes the test can look at while the reporter owns it.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// At least one of each.
pub fn every_notice() -> Vec<Notice> {
    let timing = Timing { saved: true, saved_to_live: 412.4, compile: 371.0, start: 3.2, ready: 38.1, switch: 1.6 };
    let slow = Timing { saved: true, saved_to_live: 12_340.0, compile: 12_300.0, start: 3.0, ready: 37.0, switch: 0.4 };
    let first = Timing { saved: false, saved_to_live: 7_140.0, compile: 7_100.0, ..slow };
    let asked = Timing { saved: false, saved_to_live: 470.0, compile: 430.0, ..slow };
    let panic = "exit status: 101; its last lines:\nthread 'main' panicked at src/main.rs:3:5:\nno database";
    vec![
        Notice::Watching { files: 14, package: "api".into(), path_dependencies: 2 },
        Notice::Watching { files: 1, package: "api".into(), path_dependencies: 0 },
        Notice::Listening { name: "http".into(), address: "127.0.0.1:3000".into() },
        Notice::Building { package: "api".into(), cause: "src/routes.rs changed".into() },
        Notice::Progress { done: 12, total: 87, doing: None, waiting: Some("syn".into()) },
        still_building(12, Some("Compiling syn v2.0.1"), None),
        still_building(90, None, None),
        still_building(0, Some("Updating index"), None),
        still_building(0, None, Some(Holder { pid: 4711, command: "cargo check".into() })),
        Notice::WaitOver { waiting: "file lock on build directory".into(), waited: 13_400 },
        Notice::Diagnostic {
            rendered: "\x1b[1;31merror\x1b[0m: no\x1b]52;c;eA==\x07".into(),
            message: Some(serde_json::json!({ "level": "error", "message": "no" })),
        },
        Notice::Superseded { cause: "src/main.rs changed".into() },
        Notice::BuildFailed { errors: 1, cause: "src/routes.rs changed".into(), why_cargo: None, serving: Some(4) },
        Notice::BuildFailed { errors: 0, cause: "first build".into(), why_cargo: None, serving: None },
        Notice::ReplayReady { crates: 2 },
        Notice::Unchanged { serving: 4 },
        Notice::NotKept { why: "keep a as b: no space".into(), serving: Some(4) },
        Notice::Starting { generation: 4, pid: 4711 },
        Notice::NotReady { generation: 4, after: 2_001, given_up: 60_000 },
        Notice::Serving {
            generation: 4,
            pid: 4711,
            addresses: vec!["127.0.0.1:3000".into()],
            by: HandOver::Library,
            program: Vintage::Newest,
            timing: Some(timing),
        },
        stopped_and_started(Vintage::Newest, Some(slow)),
        stopped_and_started(Vintage::Newest, Some(first)),
        stopped_and_started(Vintage::Newest, Some(asked)),
        stopped_and_started(Vintage::RolledBack, None),
        stopped_and_started(Vintage::FallenBack, None),
        Notice::Serving {
            generation: 2,
            pid: 8,
            addresses: vec!["127.0.0.1:3000".into(), "unix:a.sock".into()],
            by: HandOver::ListenFds,
            program: Vintage::Newest,
            timing: None,
        },
        Notice::Timings(timings()),
        Notice::StartFailed { generation: 5, end: panic.into(), program: Vintage::Newest, serving: Some(4) },
        Notice::RolledBack { from: 5, to: 4, end: "signal: 11 (SIGSEGV)".into() },
        died("signal: 6 (SIGABRT)", Some(1000), false),
        died("exit status: 0", Some(0), false),
        died("exit status: 0", None, false),
        died("exit status: 0", Some(1000), true),
        Notice::Died { generation: 4, end: "exit status: 1".into(), again_in: None, falls_back: false, given_up: true },
        Notice::Finished { generation: 1, end: "exit status 0".into() },
        Notice::Finished { generation: 1, end: "exit status 101".into() },
        Notice::Draining { generation: 3, live: 1, after: 0, limit: None },
        Notice::Draining { generation: 3, live: 1, after: 2_000, limit: None },
        Notice::Draining { generation: 3, live: 12, after: 5_000, limit: Some(60_000) },
        drained(None, "signal 15 (SIGTERM)", 10),
        drained(Some(0), "exit status 0", 10),
        drained(Some(0), "exit status 143", 10),
        drained(None, "exit status 101", 10),
        drained(Some(0), "signal 9 (SIGKILL)", 10),
        drained(None, "signal 15 (SIGTERM)", 2_000),
        drained(Some(0), "exit status 0", 4_200),
        drained(Some(2), "signal 9 (SIGKILL)", 10),
        Note::Foreign { generation: 1, why: "one\ntwo".into() }.into(),
        Notice::Refused { asked: "rollback".into(), why: "generation 1 has nothing before it".into() },
        Notice::Stopping { cause: "SIGTERM".into() },
        Notice::Stopped { left: Vec::new() },
    ]
}

fn stopped_and_started(program: Vintage, timing: Option<Timing>) -> Notice {
    Notice::Serving { generation: 1, pid: 7, addresses: vec![], by: HandOver::StopAndStart, program, timing }
}

fn died(end: &str, again_in: Option<u64>, falls_back: bool) -> Notice {
    Notice::Died { generation: 4, end: end.into(), again_in, falls_back, given_up: false }
}

fn drained(cut: Option<usize>, end: &str, took: u64) -> Notice {
    Notice::Drained { generation: 3, cut, end: end.into(), took }
}

pub fn still_building(done: usize, doing: Option<&str>, holder: Option<Holder>) -> Notice {
    let (waiting, waited) =
        (holder.is_some().then(|| "file lock on build directory".into()), holder.is_some().then_some(3000));
    Notice::StillBuilding { done, total: 87, took: 3012, doing: doing.map(str::to_owned), waiting, waited, holder }
}

/// As of a change in a library, with a program that depends on it.
pub fn timings() -> Timings {
    let crate_timing = |name: &str, began, ended| CrateTiming { name: name.into(), began, ended };
    Timings {
        generation: 4,
        built_by: BuiltBy::Replay,
        why_cargo: None,
        saved: true,
        total: 312.0,
        detect: 1.2,
        decide: 0.8,
        compile: 280.0,
        link: Some(70.0),
        linker: Some("wild".into()),
        start: 0.4,
        ready: 3.6,
        switch: 26.0,
        crates: vec![crate_timing("api", 102.0, 282.0), crate_timing("core-lib", 2.0, 100.0)],
    }
}

const EXPECTED: &str = "
   hotrun  watching 14 files of api and 2 path dependencies
   hotrun  watching 1 file of api
listening  http on http://127.0.0.1:3000
 building  api (src/routes.rs changed)
 building  api, 12/87, 3 s so far: Compiling syn v2.0.1
 building  api, 90 done, 3 s so far
 building  api, under way, 3 s so far: Updating index
 building  api, waiting for file lock on build directory, 3 s so far, held by `cargo check` (pid 4711)
 building  api, file lock on build directory is free after 13 s
error: no
  dropped  the build that ran, for a newer change (src/main.rs changed)
   failed  build (src/routes.rs changed): 1 error. Still serving generation 4
   failed  build (first build): cargo gave up. Nothing serves yet
unchanged  the build gave what generation 4 serves already
   failed  the new program cannot be started: keep a as b: no space. Still serving generation 4
 starting  generation 4 is not ready, 2001 ms after its start (given up after 60.0 s)
  serving  generation 4, pid 4711, http://127.0.0.1:3000 (handed over by the library) · saved to live 412 ms
           (compile 371, start 3, ready 38, switch 2)
  serving  generation 1, pid 7 (stopped and started) · saved to live 12.3 s
           (compile 12.3 s, start 3 ms, ready 37 ms, switch 0 ms)
  serving  generation 1, pid 7 (stopped and started) · built in 7.1 s
           (start 3, ready 37, switch 0)
  serving  generation 1, pid 7 (stopped and started) · built in 430 ms
           (start 3, ready 37, switch 0)
  serving  generation 1, pid 7 (stopped and started) · rolled back: the newest sources do not serve
  serving  generation 1, pid 7 (stopped and started) · a program from before: the newest did not stay up
  serving  generation 2, pid 8, http://127.0.0.1:3000, unix:a.sock (handed over through LISTEN_FDS)
  timings  generation 4 · 312 ms from the save · compiled by replay
           detect        ▏                                               1.2 ms
           decide        ▎                                               0.8 ms
           compile       █████████████████████████████████████████▋      280 ms
             core-lib    ██████████████▊                                  98 ms
             api                        ██████████████████████████▋      180 ms
             link (wild)                                ██████████▋       70 ms
           start                                                  ▋      0.4 ms
           ready                                                  █▏     3.6 ms
           switch                                                  ████   26 ms
   failed  generation 5 never became ready: exit status: 101; its last lines. Still serving generation 4
           thread 'main' panicked at src/main.rs:3:5:
           no database
 reverted  generation 5 ended on probation: signal: 11 (SIGSEGV). Generation 4 accepts again
     died  generation 4: signal: 6 (SIGABRT). Starting it again in 1000 ms
     died  generation 4: exit status: 0. Starting it again now
     died  generation 4: exit status: 0. Its successor is being started already
     died  generation 4: exit status: 0. It keeps dying: starting the program before in 1000 ms
     died  generation 4: exit status: 1. It keeps dying: nothing is started before the next save
 finished  generation 1: exit status 0
     died  generation 1: exit status 101. A change starts it again
 draining  generation 3, 1 connection still live after 2000 ms
 draining  generation 3, 12 connections still live after 5000 ms, and answering (ended after 60.0 s at the latest)
    ended  generation 3 (exit status 101)
  drained  generation 3, 0 cut (signal 9 (SIGKILL))
    ended  generation 3, after 2000 ms (signal 15 (SIGTERM))
  drained  generation 3, after 4200 ms, 0 cut (exit status 0)
  drained  generation 3, 2 connections cut (signal 9 (SIGKILL))
   hotrun  generation 1: one
           two
  refused  rollback: generation 1 has nothing before it
 stopping  SIGTERM
  stopped  nothing of this session runs any more
";

pub fn rendered(look: Look, notices: &[Notice]) -> String {
    let out = Shared::default();
    let mut text = Text::new(Box::new(out.clone()), look);
    for notice in notices {
        text.tell(Duration::ZERO, None, notice);
    }
    drop(text);
    out.take()
}

/// Without a wildcard: a new variant does not compile before it has a sample, and then a line.
fn index(notice: &Notice) -> usize {
    match notice {
        Notice::Watching { .. } => 0,
        Notice::Listening { .. } => 1,
        Notice::Building { .. } => 2,
        Notice::Progress { .. } => 3,
        Notice::Diagnostic { .. } => 4,
        Notice::Superseded { .. } => 5,
        Notice::BuildFailed { .. } => 6,
        Notice::ReplayReady { .. } => 7,
        Notice::Unchanged { .. } => 8,
        Notice::NotKept { .. } => 9,
        Notice::Starting { .. } => 10,
        Notice::NotReady { .. } => 11,
        Notice::Serving { .. } => 12,
        Notice::Timings(_) => 13,
        Notice::StartFailed { .. } => 14,
        Notice::RolledBack { .. } => 15,
        Notice::Died { .. } => 16,
        Notice::Finished { .. } => 17,
        Notice::Draining { .. } => 18,
        Notice::Drained { .. } => 19,
        Notice::Note(_) => 20,
        Notice::Refused { .. } => 21,
        Notice::Stopping { .. } => 22,
        Notice::Stopped { .. } => 23,
        Notice::StillBuilding { .. } => 24,
        Notice::WaitOver { .. } => 25,
    }
}

#[test]
fn every_variant_has_a_sample() {
    let seen: std::collections::BTreeSet<usize> = every_notice().iter().map(index).collect();
    assert!(seen.into_iter().eq(0..26));
}

#[test]
fn every_line() {
    let text = rendered(Look::default(), &every_notice());
    assert_eq!(format!("\n{text}"), EXPECTED);
}

#[test]
fn colour_changes_nothing_but_colour() {
    let text = rendered(Look { colour: true, ..Look::default() }, &every_notice());
    assert!(text.contains("\x1b[32m\x1b[1m  serving\x1b[0m  generation 4"), "{text:?}");
    assert!(text.contains("\x1b[1;31merror\x1b[0m: no\n"), "{text:?}");
    assert_eq!(format!("\n{}", clean::plain(&text)), EXPECTED);
    assert_eq!(clean::clean(&text), text);
}

#[test]
fn quiet_tells_trouble_and_what_was_asked_for() {
    let text = rendered(Look { quiet: true, ..Look::default() }, &every_notice());
    let markers: Vec<&str> = text.lines().filter_map(|line| line.get(..MARKER)).map(str::trim).collect();
    let before = ["error: no", "failed", "failed", "failed", "timings"];
    let after = ["failed", "", "", "reverted", "died", "died", "died", "died", "died", "died", "drained", "refused"];
    assert_eq!(markers, [&before[..], &[""; 9], &after].concat());
}

#[test]
fn progress_is_drawn_in_place_and_wiped() {
    let building = Notice::Building { package: "api".into(), cause: "first build".into() };
    let waiting = || Some("a-crate-with-a-long-name".into());
    let progress = |done| Notice::Progress { done, total: 87, doing: Some("Compiling x".into()), waiting: waiting() };
    let look = Look { width: Some(|| 40), ..Look::default() };
    let text =
        rendered(look, &[building, progress(12), progress(13), Notice::Stopped { left: Vec::new() }, progress(14)]);
    let wiped: Vec<&str> = text.split("\r\x1b[K").collect();
    assert_eq!(
        wiped,
        [
            " building  api (first build)\n",
            " building  api  12/87, waiting for a-c…\r",
            " building  api  13/87, waiting for a-c…\r",
            "  stopped  nothing of this session runs any more\n",
            " building  api  14/87, waiting for a-c…\r",
            "",
        ]
    );
    assert!(wiped[1].chars().count() <= 40);
}

#[test]
fn no_progress_is_drawn_where_a_program_writes() {
    let building = Notice::Building { package: "api".into(), cause: "asked for".into() };
    let progress = |waiting: Option<&str>| Notice::Progress {
        done: 1,
        total: 9,
        doing: None,
        waiting: waiting.map(str::to_owned),
    };
    let look = Look { width: Some(|| 80), ..Look::default() };
    let starting = Notice::Starting { generation: 1, pid: 7 };
    let still = still_building(1, None, None);
    let text = rendered(look, &[starting, building, progress(None), progress(Some("the lock")), still, progress(None)]);
    assert_eq!(text, " building  api (asked for)\n building  api, 1/87, 3 s so far\n");
}

#[test]
fn names_cannot_steer_the_terminal() {
    let notice = Notice::Building { package: "api".into(), cause: "src/\x1b]0;owned\x07\x1b[2J\rx.rs changed".into() };
    assert_eq!(rendered(Look::default(), &[notice]), " building  api (src/x.rs changed)\n");
}

#[test]
fn help_names_every_key() {
    let keys: String = Text::help_keys().lines().skip(1).filter_map(|line| line.chars().next()).collect();
    assert_eq!(keys, "rubchq");
}
