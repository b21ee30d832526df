//! The numbers, and one table of them: a column for each contender, in brackets what hotrun's number is to theirs.

use crate::clients::{Loss, Request};
use crate::contender::{Contender, Means};
use crate::peers;
use crate::processes::Switch;
use std::process::Command;
use std::time::{Duration, Instant};

/// After the new process serves, and around the end of the old one, whose kept connections end before it does.
const NEAR: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Measured {
    pub contender: &'static Contender,
    /// It could not go on.
    pub failure: Option<String>,
    pub asked_again: usize,
    /// Some of them, in words.
    pub losses: Vec<String>,
    pub heavy: Heavy,
    light: Light,
}

/// With half a gigabyte in memory, for each switch.
#[derive(Debug, Default)]
pub struct Heavy {
    /// From the signal on.
    pub started: Vec<Duration>,
    /// The longest wait before the signal, and after it.
    pub calm: Vec<Duration>,
    pub stall: Vec<Duration>,
}

/// Under load.
#[derive(Debug, Default)]
struct Light {
    upgrades: usize,
    requests: usize,
    lost: Vec<Loss>,
    /// Of those that were answered.
    latencies: Vec<Duration>,
    /// For each switch the longest of the requests that were near to it.
    window_worst: Vec<Duration>,
    // For each switch, from the signal on.
    started: Vec<Duration>,
    serving: Vec<Duration>,
    answered: Vec<Duration>,
    last_of_old: Vec<Duration>,
    gone: Vec<Duration>,
}

impl Measured {
    pub fn new(contender: &'static Contender) -> Measured {
        let (heavy, light) = (Heavy::default(), Light::default());
        Measured { contender, failure: None, asked_again: 0, losses: Vec::new(), heavy, light }
    }

    /// Counts a round: its requests, in the light of its switches.
    pub fn count(&mut self, requests: &[Request], switches: &[Switch]) {
        let light = &mut self.light;
        light.lost.extend(requests.iter().filter_map(|request| request.outcome.err()));
        light.requests += requests.len();
        let answered = || requests.iter().filter(|request| request.outcome.is_ok());
        light.latencies.extend(answered().map(Request::took));
        for switch in switches {
            let near = answered().filter(|request| is_near(request, switch));
            light.window_worst.extend(near.map(Request::took).max());
            if self.contender.means == Means::Nothing {
                continue;
            }
            let since = |at: Instant| at.saturating_duration_since(switch.signalled);
            let by_new = requests.iter().filter(|request| request.outcome == Ok(switch.new));
            let by_old = requests.iter().filter(|request| request.fresh && request.outcome == Ok(switch.old));
            light.upgrades += 1;
            light.started.push(since(switch.started));
            light.serving.push(since(switch.serving));
            light.answered.extend(by_new.map(|request| since(request.ended)).min());
            light.last_of_old.extend(by_old.map(|request| since(request.begun)).max());
            light.gone.push(since(switch.gone));
        }
    }

    fn losses(&self) -> String {
        let count = |wanted: Loss| self.light.lost.iter().filter(|loss| **loss == wanted).count();
        let kinds = [
            (count(Loss::Refused), "refused"),
            (count(Loss::Reset), "reset"),
            (count(Loss::Cut), "cut"),
            (count(Loss::TimedOut), "timed out"),
            (count(Loss::Malformed), "malformed"),
        ];
        let named: Vec<String> =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        if named.is_empty() { "**0**".to_owned() } else { named.join(", ") }
    }
}

/// Under way while the new process came, or while the old one went. The time between, in which nothing happens, is half a
/// second with some and nothing with others: with it, who takes longer would meet more of the machine's own hiccups.
fn is_near(request: &Request, switch: &Switch) -> bool {
    let under_way = |from: Instant, to: Instant| request.ended >= from && request.begun <= to;
    under_way(switch.signalled, switch.serving + NEAR) || under_way(switch.gone - NEAR, switch.gone + NEAR)
}

type Time = fn(&Measured) -> Option<Duration>;

const TIMES: &[(&str, Time)] = &[
    ("latency: median of all answers", |m| median(&m.light.latencies)),
    ("latency at a switch: median of the worst", |m| median(&m.light.window_worst)),
    ("latency at a switch: the very worst", |m| worst(&m.light.window_worst)),
    ("signal to the new `main`: median", |m| median(&m.light.started)),
    ("signal to the new process serving: median", |m| median(&m.light.serving)),
    ("signal to the new process serving: worst", |m| worst(&m.light.serving)),
    ("signal to its first answer: median", |m| median(&m.light.answered)),
    ("signal to its first answer: worst", |m| worst(&m.light.answered)),
    ("signal to the last new client of the old process: median", |m| median(&m.light.last_of_old)),
    ("signal to the end of the old process: median", |m| median(&m.light.gone)),
    ("signal to the end of the old process: worst", |m| worst(&m.light.gone)),
    ("500 MB: signal to the new `main`: median", |m| median(&m.heavy.started)),
    ("500 MB: longest wait just before: median", |m| median(&m.heavy.calm)),
    ("500 MB: stall of the old process: median", |m| median(&m.heavy.stall)),
    ("500 MB: stall of the old process: worst", |m| worst(&m.heavy.stall)),
];

pub fn print(all: &[Measured]) {
    let ours = all.iter().find(|measured| measured.contender.name == "hotrun");
    let mut rows = vec![row("", all, |measured| measured.contender.name.to_owned())];
    rows.push(row("upgrades", all, |measured| measured.light.upgrades.to_string()));
    rows.push(row("requests", all, |measured| measured.light.requests.to_string()));
    rows.push(row("requests lost", all, Measured::losses));
    rows.push(row("connections closed while idle, asked again", all, |measured| measured.asked_again.to_string()));
    for (name, time) in TIMES {
        rows.push(row(name, all, |measured| cell(measured, ours, *time)));
    }
    println!("\n{}\n", machine());
    print_table(&rows);
    println!("\nIn brackets: hotrun's time divided by theirs, below 1 is for hotrun.\n");
    for measured in all {
        println!("- {}: {}", measured.contender.name, measured.contender.note);
        for loss in measured.losses.iter().take(3) {
            println!("  lost, for example: {loss}");
        }
        if let Some(failure) = &measured.failure {
            println!("  FAILED after {} upgrades: {failure}", measured.light.upgrades);
        }
    }
}

fn row(name: &str, all: &[Measured], cell: impl Fn(&Measured) -> String) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(all.iter().map(cell)).collect()
}

fn cell(measured: &Measured, ours: Option<&Measured>, time: Time) -> String {
    let Some(theirs) = time(measured) else { return "-".to_owned() };
    let shown = format!("{:.2} ms", theirs.as_secs_f64() * 1e3);
    match ours.filter(|ours| !std::ptr::eq(*ours, measured)).and_then(time) {
        Some(ours) if !theirs.is_zero() => {
            let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
            let digits = if ratio < 0.1 { 3 } else { 2 };
            format!("{shown} ({ratio:.digits$})")
        }
        _ => shown,
    }
}

fn print_table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (nth, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if nth == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("| {} |", rules.join(" | "));
        }
    }
}

fn machine() -> String {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, Linux {}, transparent huge pages {}, {}; {}",
        file("/proc/sys/kernel/osrelease"),
        file("/sys/kernel/mm/transparent_hugepage/enabled"),
        String::from_utf8_lossy(&rustc).trim(),
        peers::versions().join(", ")
    )
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn worst(times: &[Duration]) -> Option<Duration> {
    times.iter().max().copied()
}
