//! Notices as lines for a person: a marker word, then cause and state. The progress of the first build is one line drawn in
//! place and wiped before anything else is written. Never lives here: deciding what is said, and the server's own output.

use super::formats::span;
use super::{HandOver, Notice, Reporter, SUCCESS, ServiceId, Timing, Vintage, clean, still, urls, waterfall};
use console::Style;
use std::io::Write;
use std::time::Duration;

/// How wide a marker word is set, and how far its text stands from the left.
const MARKER: usize = 9;
const INDENT: usize = MARKER + 2;
/// How long an old generation may take to leave, in milliseconds, before its end is worth a line.
const LONG_LEAVE: u64 = 2_000;
/// How wide lines may be where no terminal says so.
const COLUMNS: usize = 80;

/// Empties a screen, with the cursor in its corner.
pub(super) const CLEAR: &str = "\r\x1b[2J\r\x1b[H";

/// How lines are drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    pub colour: bool,
    /// Only trouble is told.
    pub quiet: bool,
    /// Asks for the width in columns. Only an interactive terminal has one, and only there progress is drawn.
    pub width: Option<fn() -> usize>,
}

pub struct Text {
    out: Box<dyn Write + Send>,
    look: Look,
    /// The package of the build that runs, for its progress line.
    package: String,
    /// A progress line stands where the cursor is.
    drawn: bool,
    /// A program was started: it writes where the cursor is, and the end of a longer progress line would stay there.
    shared: bool,
}

impl Text {
    pub fn new(out: Box<dyn Write + Send>, look: Look) -> Self {
        Text { out, look, package: String::new(), drawn: false, shared: false }
    }

    /// On the standard error stream.
    pub fn stderr(quiet: bool, colour: bool) -> Self {
        let can_wipe = console::Term::stderr().is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let width: fn() -> usize = || usize::from(console::Term::stderr().size().1);
        let look = Look { colour, quiet, width: can_wipe.then_some(width) };
        Text::new(Box::new(std::io::stderr()), look)
    }

    /// What the keys do, for `h`.
    pub fn help_keys() -> &'static str {
        "keys\n\
         r  rebuild\n\
         u  upgrade without building\n\
         b  back to the one before\n\
         c  clear the screen\n\
         h  this help\n\
         q  quit"
    }

    fn line(&self, tone: Tone, marker: &str, text: &str) -> String {
        let style = match tone {
            Tone::Calm => Style::new().cyan(),
            Tone::Good => Style::new().green(),
            Tone::Warn => Style::new().yellow(),
            Tone::Bad => Style::new().red(),
        };
        let marker = style.bold().force_styling(self.look.colour).apply_to(format!("{marker:>MARKER$}"));
        // Names and reasons come from outside, so nothing in a line's text may steer the terminal.
        let text = clean::plain(text.trim_end()).replace('\n', &format!("\n{:INDENT$}", ""));
        format!("{marker}  {text}\n")
    }

    /// The lines for a notice; empty when it has nothing to say here.
    fn render(&mut self, notice: &Notice) -> String {
        let quiet = self.look.quiet;
        match notice {
            Notice::Watching { files, package, path_dependencies } => {
                let files = count(*files, "file");
                let text = match path_dependencies {
                    0 => format!("watching {files} of {package}"),
                    1 => format!("watching {files} of {package} and 1 path dependency"),
                    n => format!("watching {files} of {package} and {n} path dependencies"),
                };
                self.calm("hotrun", &text)
            }
            Notice::Listening { name, address } => {
                self.calm("listening", &format!("{name} on {}", urls(&address.split(", ").collect::<Vec<_>>())))
            }
            Notice::Building { package, cause } => {
                self.package = package.clone();
                self.calm("building", &format!("{package} ({cause})"))
            }
            Notice::Progress { .. } => String::new(),
            Notice::StillBuilding { .. } | Notice::WaitOver { .. } => {
                self.calm("building", &format!("{}, {}", self.package, still::line(notice)))
            }
            Notice::Diagnostic { rendered, message: _ } => {
                let mut text = if self.look.colour { clean::clean(rendered) } else { clean::plain(rendered) };
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text
            }
            Notice::Superseded { cause } => {
                self.calm("dropped", &format!("the build that ran, for a newer change ({cause})"))
            }
            Notice::BuildFailed { errors, cause, serving, why_cargo: _ } => {
                let errors = if *errors == 0 { "cargo gave up".to_owned() } else { count(*errors, "error") };
                self.line(Tone::Bad, "failed", &format!("build ({cause}): {errors}. {}", still_serving(*serving)))
            }
            Notice::ReplayReady { .. } => String::new(),
            Notice::Unchanged { serving } => {
                self.calm("unchanged", &format!("the build gave what generation {serving} serves already"))
            }
            Notice::NotKept { why, serving } => self.line(
                Tone::Bad,
                "failed",
                &ended("the new program cannot be started", why, &still_serving(*serving)),
            ),
            Notice::Starting { .. } => {
                self.shared = true;
                String::new()
            }
            Notice::NotReady { generation, after, given_up } => {
                let (after, given_up) = (span(*after as f64), span(*given_up as f64));
                let text = format!(
                    "generation {generation} is not ready, {after} after its start (given up after {given_up})"
                );
                self.calm("starting", &text)
            }
            Notice::Serving { generation, pid, addresses, by, program, timing } => {
                let mut text = format!("generation {generation}, pid {pid}");
                if !addresses.is_empty() {
                    text = format!("{text}, {}", urls(addresses));
                }
                text = format!("{text} ({})", hand_over(*by));
                match program {
                    Vintage::Newest => {}
                    Vintage::RolledBack => text.push_str(" · rolled back: the newest sources do not serve"),
                    Vintage::FallenBack => text.push_str(" · a program from before: the newest did not stay up"),
                }
                if let Some(timing) = timing {
                    text = format!("{text} · {}", took(timing));
                }
                if quiet { String::new() } else { self.line(Tone::Good, "serving", &text) }
            }
            // Shown to those who want quiet, too: only a flag brings it.
            Notice::Timings(timings) => {
                let columns = self.look.width.map_or(COLUMNS, |width| width());
                self.line(Tone::Calm, "timings", &waterfall::text(timings, columns.saturating_sub(INDENT)))
            }
            Notice::StartFailed { generation, end, program: _, serving } => {
                let text = ended(&format!("generation {generation} never became ready"), end, &still_serving(*serving));
                self.line(Tone::Bad, "failed", &text)
            }
            Notice::RolledBack { from, to, end } => {
                let cause = format!("generation {from} ended on probation");
                self.line(Tone::Bad, "reverted", &ended(&cause, end, &format!("Generation {to} accepts again")))
            }
            Notice::Died { generation, end, again_in, falls_back, given_up } => {
                let what =
                    if *falls_back { "It keeps dying: starting the program before" } else { "Starting it again" };
                let state = match again_in {
                    None if *given_up => "It keeps dying: nothing is started before the next save".to_owned(),
                    None => "Its successor is being started already".to_owned(),
                    Some(0) => format!("{what} now"),
                    Some(wait) => format!("{what} in {}", span(*wait as f64)),
                };
                self.line(Tone::Bad, "died", &ended(&format!("generation {generation}"), end, &state))
            }
            Notice::Finished { generation, end } if end == SUCCESS => {
                self.calm("finished", &format!("generation {generation}: {end}"))
            }
            Notice::Finished { generation, end } => {
                let text = ended(&format!("generation {generation}"), end, "A change starts it again");
                self.line(Tone::Bad, "died", &text)
            }
            // As nearly all do, for a moment.
            Notice::Draining { after: 0, .. } => String::new(),
            Notice::Draining { generation, live, after, limit } => {
                let (live, after) = (count(*live, "connection"), span(*after as f64));
                let mut text = format!("generation {generation}, {live} still live after {after}");
                if let Some(limit) = limit {
                    text = format!("{text}, and answering (ended after {} at the latest)", span(*limit as f64));
                }
                self.calm("draining", &text)
            }
            Notice::Drained { generation, cut: Some(cut @ 1..), end, took: _ } => {
                let text = format!("generation {generation}, {} cut ({end})", count(*cut, "connection"));
                self.line(Tone::Warn, "drained", &text)
            }
            Notice::Drained { end, took: 0..LONG_LEAVE, .. } if is_ordinary(end) => String::new(),
            // A program that does not tell of its connections.
            Notice::Drained { generation, cut: None, end, took } => {
                self.calm("ended", &format!("generation {generation}{} ({end})", after(*took)))
            }
            Notice::Drained { generation, cut: Some(_), end, took } => {
                self.calm("drained", &format!("generation {generation}{}, 0 cut ({end})", after(*took)))
            }
            Notice::Note(note) => self.calm("hotrun", &note.to_string()),
            Notice::Refused { asked, why } => self.line(Tone::Warn, "refused", &format!("{asked}: {why}")),
            Notice::Stopping { cause } => self.calm("stopping", cause),
            Notice::Stopped { left } if left.is_empty() => {
                self.calm("stopped", "nothing of this session runs any more")
            }
            Notice::Stopped { left } => self.calm("stopped", &format!("still running: {}", left.join(", "))),
        }
    }

    /// A line that is no trouble, and so the first to go when the user wants quiet.
    fn calm(&self, marker: &str, text: &str) -> String {
        if self.look.quiet { String::new() } else { self.line(Tone::Calm, marker, text) }
    }

    /// The progress line, never as wide as the terminal: a full line would wrap, and a wrapped one cannot be wiped.
    fn progress(&self, width: usize, text: &str) -> String {
        let line = self.line(Tone::Calm, "building", &format!("{}  {text}", self.package));
        let line = line.trim_end().replace('\n', " ");
        console::truncate_str(&line, width.saturating_sub(1), "…").into_owned()
    }
}

impl Reporter for Text {
    /// There is one service: its name is in no line.
    fn tell(&mut self, _at: Duration, _service: Option<&ServiceId>, notice: &Notice) {
        const WIPE: &str = "\r\x1b[K";
        let progress = match (still::drawn(notice), self.look.width) {
            (Some(text), Some(width)) if !self.look.quiet && !self.shared => {
                // The cursor goes back to the left, so that a server's line written now begins where lines begin.
                Some(format!("{WIPE}{}\r", self.progress(width(), &text)))
            }
            _ => None,
        };
        let (text, drawn) = match progress {
            Some(line) => (line, true),
            None => {
                let lines = self.render(notice);
                if lines.is_empty() {
                    return;
                }
                (if self.drawn { format!("{WIPE}{lines}") } else { lines }, false)
            }
        };
        self.drawn = drawn;
        // One write, so that another process's lines do not come between; a terminal that is gone cannot be told.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn clear(&mut self) {
        if self.look.width.is_some() {
            self.drawn = false;
            let _ = self.out.write_all(CLEAR.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if self.drawn {
            let _ = self.out.write_all(b"\r\x1b[K").and_then(|()| self.out.flush());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Calm,
    Good,
    Warn,
    Bad,
}

fn hand_over(by: HandOver) -> &'static str {
    match by {
        HandOver::Library => "handed over by the library",
        HandOver::ListenFds => "handed over through LISTEN_FDS",
        HandOver::Bind => "zero-change hand-over",
        HandOver::StopAndStart => "stopped and started",
    }
}

fn still_serving(serving: Option<super::Generation>) -> String {
    serving.map_or("Nothing serves yet".to_owned(), |generation| format!("Still serving generation {generation}"))
}

/// An end may bring the program's last lines with it: the state stands before them, where it is seen.
fn ended(what: &str, end: &str, state: &str) -> String {
    match end.split_once('\n') {
        None => format!("{what}: {end}. {state}"),
        Some((first, rest)) => format!("{what}: {}. {state}\n{rest}", first.trim_end_matches([':', '.', ' '])),
    }
}

fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// How an old program ends that was asked to: by itself, or by SIGTERM, which some make an exit status.
fn is_ordinary(end: &str) -> bool {
    ["exit status 0", "signal 15 (SIGTERM)", "exit status 143"].contains(&end)
}

fn after(took: u64) -> String {
    if took < LONG_LEAVE { String::new() } else { format!(", after {}", span(took as f64)) }
}

/// Where nothing was saved, there is no time from a save.
fn took(timing: &Timing) -> String {
    let Timing { saved, saved_to_live, compile, start, ready, switch } = *timing;
    // Bare numbers are milliseconds, like the total before them; a long one gives every part its unit.
    let bare = [compile, start, ready, switch].iter().all(|ms| *ms < 10_000.0);
    let show = |ms: f64| if bare { format!("{ms:.0}") } else { span(ms) };
    let (parts, start, ready, switch) = (show(compile), show(start), show(ready), show(switch));
    if saved {
        let total = span(saved_to_live);
        format!("saved to live {total}\n(compile {parts}, start {start}, ready {ready}, switch {switch})")
    } else {
        let built = if compile < 1_000.0 { span(compile) } else { format!("{:.1} s", compile / 1_000.0) };
        format!("built in {built}\n(start {start}, ready {ready}, switch {switch})")
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
pub(super) mod tests;
