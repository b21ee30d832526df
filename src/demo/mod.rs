//! `cargo hotrun demo`: the promise put to the test where the user can watch. A real session of a real project, ten edits,
//! clients that never stop asking, and a count of what they lost. Never lives here: anything a session needs to work.

mod edits;
pub mod load;
#[cfg(test)]
mod load_tests;
mod session;

use crate::error::{Error, Result, Tried};
use crate::process::private;
use crate::report::say;
use crate::scaffold::{self, Template};
use edits::{Change, EDITS, FIRST_VERSION};
use load::{Load, Mix, Tally};
use serde_json::Value;
use session::ChildSession;
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs the demo; an error when a request was lost or a swap is missing. With `keep` the project stays. With `zero_change` its server
/// knows nothing of this command.
pub fn run(keep: bool, zero_change: bool) -> Result<()> {
    let dir = private::temporary_folder("hotrun-demo-").tried("make a folder for the demo")?;
    let template = if zero_change { Template::Plain } else { Template::Std };
    let project = scaffold::new(&dir.path().join("demo-server"), template, None)?.path;
    // Kept from here on, so that a failure leaves something to look at.
    let _dir = if keep {
        say::line(format_args!("The project is kept in {}", dir.keep().join("demo-server").display()));
        None
    } else {
        Some(dir)
    };
    let mut demo = Demo::start(&project, zero_change)?;
    let (tally, outcome) = demo.watch_edits();
    let Demo { session, swaps, cut, live, .. } = demo;
    say::part(format_args!("\n{}", table(&tally, swaps, &live)));
    for lost in &tally.first_losses {
        say::line(format_args!(
            "  lost after {:.1} s ({}): {:?}, {}",
            lost.at.as_secs_f64(),
            lost.client,
            lost.loss,
            lost.what
        ));
    }
    outcome?;
    let verdict = verdict(&tally, swaps, cut)?;
    session.end()?;
    say::line(format_args!("\n{verdict}"));
    Ok(())
}

/// The first build compiles the dependencies too, on whatever machine this is.
const FIRST_BUILD: Duration = Duration::from_secs(600);
const EACH_EDIT: Duration = Duration::from_secs(120);

struct Demo {
    file: PathBuf,
    addr: SocketAddr,
    session: ChildSession,
    serving: u64,
    swaps: usize,
    /// Connections that old programs ended by force.
    cut: u64,
    /// Generations that have left.
    gone: BTreeSet<u64>,
    /// From the save to the switch, in milliseconds.
    live: Vec<f64>,
}

impl Demo {
    fn start(project: &Path, zero_change: bool) -> Result<Demo> {
        let addr = free_address()?;
        if zero_change {
            say::line("A new server that knows nothing of hot upgrade, built and run by a session of its own.");
        } else {
            say::line("A new server, built and run by a session of its own. The first build takes a while.");
        }
        let mut session = ChildSession::start(&project.join("Cargo.toml"), addr)?;
        let progress = Progress::new();
        let serving = session.wait("the first program to serve", FIRST_BUILD, |event| {
            progress.show(event);
            match event["event"].as_str() {
                // It said why.
                Some("note") if zero_change => {
                    say::line(format_args!("  {}", event["text"].as_str().unwrap_or_default()));
                    Ok(None)
                }
                Some("serving") if zero_change && event["by"] != "bind" => {
                    Err(Error::failure("this system allows no zero-change hand-over, so there is nothing to show"))
                }
                Some("serving") => Ok(Some(event["generation"].as_u64().unwrap_or(0))),
                Some("build-failed" | "start-failed") => Err(Error::failure("the first program could not be run")),
                _ => Ok(None),
            }
        })?;
        progress.wipe();
        say::line(format_args!("It serves on {}.\n", crate::report::urls(&[addr.to_string()])));
        let file = project.join("src/main.rs");
        let (gone, live) = (BTreeSet::new(), Vec::new());
        Ok(Demo { file, addr, session, serving, swaps: 0, cut: 0, gone, live })
    }

    /// All edits under load. The count is worth showing even where an edit went wrong.
    fn watch_edits(&mut self) -> (Tally, Result<()>) {
        // Long enough for an answer to be still under way when its program is replaced.
        let load = Load::start(self.addr, Mix { fresh: 3, keep_alive: 3, slow: 2, slow_ms: 800 });
        load.switched(FIRST_VERSION);
        let outcome = self.each_edit(&load).and_then(|()| self.last_ones_leave());
        // The last program has requests of every kind to answer, too.
        load.wait_for(50);
        (load.stop(), outcome)
    }

    fn each_edit(&mut self, load: &Load) -> Result<()> {
        let original = fs::read_to_string(&self.file).tried(format!("read {}", self.file.display()))?;
        for (n, edit) in EDITS.iter().enumerate() {
            say::part(format_args!("  edit {:>2}  {:<38}", n + 1, edit.describe()));
            edit.save(&self.file, &edit.apply(&original))?;
            let came = match edit.change {
                Change::Version(version) => {
                    let live = self.swap()?;
                    load.switched(version);
                    let live = live.map_or(String::new(), |ms| format!(", {ms:.0} ms after the save"));
                    format!("generation {} serves{live}", self.serving)
                }
                Change::Broken => self.fails("build-failed")?,
                Change::Panics => self.fails("start-failed")?,
            };
            say::line(format_args!("{came}; {} lost of {} requests", load.tally().lost(), load.tally().requests));
        }
        Ok(())
    }

    /// Waits for the next generation. An edit seen half written may fail to build before; only what comes of it counts.
    fn swap(&mut self) -> Result<Option<f64>> {
        let before = self.serving;
        let (generation, live) = self.wait("the new version to serve", |event, _| {
            let generation = event["generation"].as_u64().unwrap_or(0);
            let is_new = event["event"] == "serving" && generation > before;
            Ok(is_new.then(|| (generation, event["timing"]["saved-to-live"].as_f64())))
        })?;
        self.serving = generation;
        self.swaps += 1;
        self.live.extend(live);
        Ok(live)
    }

    /// Waits for the failure that the edit was made for.
    fn fails(&mut self, wanted: &str) -> Result<String> {
        let serving = self.serving;
        self.wait(&format!("`{wanted}`"), |event, _| match event["event"].as_str() {
            Some("serving") => Err(Error::failure("an edit that had to fail was put into service")),
            Some(name) if name == wanted && event["serving"].as_u64() != Some(serving) => {
                Err(Error::failure(format!("after the failed edit generation {serving} should serve on: {event}")))
            }
            Some(name) => Ok((name == wanted).then_some(())),
            None => Ok(None),
        })?;
        Ok(format!("refused, generation {serving} serves on"))
    }

    /// The load goes on until every earlier program has left: the last answers are the ones at risk.
    fn last_ones_leave(&mut self) -> Result<()> {
        let (serving, expected) = (self.serving, self.swaps);
        let have_left = |gone: &BTreeSet<u64>| gone.range(..serving).count() >= expected;
        if have_left(&self.gone) {
            return Ok(());
        }
        self.wait("the old programs to leave", |_, gone| Ok(have_left(gone).then_some(())))
    }

    /// Waits for what is looked for in an event, or in those generations that have left by then.
    fn wait<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Value, &BTreeSet<u64>) -> Result<Option<T>>,
    ) -> Result<T> {
        self.session.wait(what, EACH_EDIT, |event| {
            if event["event"] == "drained" {
                self.gone.extend(event["generation"].as_u64());
                self.cut += event["cut"].as_u64().unwrap_or(0);
            }
            wanted(event, &self.gone)
        })
    }
}

/// A port that was free a moment ago: the server itself must bind it.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).tried("find a free port")
}

/// What the first build is at, in one line of the terminal; nothing where there is none.
struct Progress {
    term: Option<console::Term>,
}

impl Progress {
    fn new() -> Self {
        let term = console::Term::stdout();
        Progress { term: term.is_term().then_some(term) }
    }

    fn show(&self, event: &Value) {
        if let (Some(term), Some("progress")) = (&self.term, event["event"].as_str()) {
            let _ = term.clear_line();
            let _ = term.write_str(&format!("  {} of {} crates compiled", event["done"], event["total"]));
        }
    }

    fn wipe(&self) {
        if let Some(term) = &self.term {
            let _ = term.clear_line();
        }
    }
}

fn table(tally: &Tally, swaps: usize, live: &[f64]) -> String {
    let mut live = live.to_vec();
    live.sort_by(f64::total_cmp);
    let ms = |value: Option<&f64>| value.map_or("unknown".to_owned(), |ms| format!("{ms:.0} ms"));
    let latency = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let rows = [
        ("edits", EDITS.len().to_string()),
        ("swaps", swaps.to_string()),
        ("requests", tally.requests.to_string()),
        ("refused", tally.refused.to_string()),
        ("reset", tally.reset.to_string()),
        ("cut", tally.cut.to_string()),
        ("timed out", tally.timed_out.to_string()),
        ("malformed", tally.malformed.to_string()),
        ("wrong version after the switch", tally.wrong_version.to_string()),
        ("retried (idle connection ended)", tally.retried.to_string()),
        ("latency, median", latency(tally.latency_median)),
        ("latency, worst", latency(tally.latency_worst)),
        ("save to live, median", ms(live.get(live.len() / 2))),
        ("save to live, worst", ms(live.last())),
    ];
    rows.iter().map(|(name, value)| format!("  {name:<32} {value:>10}\n")).collect()
}

fn verdict(tally: &Tally, swaps: usize, cut: u64) -> Result<String> {
    let expected = EDITS.iter().filter(|edit| matches!(edit.change, Change::Version(_))).count();
    if tally.lost() > 0 {
        return Err(Error::failure(format!("{} of {} requests were lost", tally.lost(), tally.requests)));
    }
    if swaps != expected {
        return Err(Error::failure(format!("{swaps} swaps where {expected} were due")));
    }
    if cut > 0 {
        return Err(Error::failure(format!("{cut} connections were ended by force")));
    }
    if tally.requests == 0 {
        return Err(Error::failure("no request was made, so nothing is proven"));
    }
    let requests = tally.requests;
    Ok(format!("{swaps} times a new program took over while it served: {requests} requests, none of them lost."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_run_is_a_success() {
        let good = Tally { requests: 10, retried: 3, ..Tally::default() };
        assert!(verdict(&good, 8, 0).unwrap().contains("10 requests, none"));
        assert!(verdict(&good, 7, 0).is_err());
        assert!(verdict(&good, 8, 1).is_err());
        assert!(verdict(&Tally::default(), 8, 0).is_err());
        assert!(verdict(&Tally { cut: 1, ..good }, 8, 0).is_err());
    }

    #[test]
    fn the_table_has_median_and_worst() {
        let tally = Tally { requests: 12, retried: 1, ..Tally::default() };
        let table = table(&tally, 8, &[500.0, 300.0, 400.0]);
        assert!(table.contains("save to live, median                 400 ms\n"), "{table}");
        assert!(table.contains("save to live, worst                  500 ms\n"), "{table}");
        assert!(self::table(&tally, 0, &[]).contains("unknown"));
    }
}
