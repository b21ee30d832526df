//! What is printed: the machine, and a table for each place of an edit.

use crate::Result;
use crate::events::Parts;
use crate::house::House;
use crate::kind::Kind;
use crate::peers::Peers;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// One line of a table.
pub struct Row {
    pub kind: Kind,
    /// Milliseconds from the save, one for each counted edit.
    pub times: Vec<f64>,
    pub cpu: Duration,
    pub requests: u64,
    pub lost: u64,
    pub slowest: Duration,
    /// Of `cargo hotrun`: what it said of each save.
    pub parts: Vec<Parts>,
    /// Why it was left out after some rounds.
    pub fault: Option<String>,
}

/// Of the command alone, without its server.
pub struct Idle {
    /// Of one core.
    pub percent: f64,
    pub rss_kb: u64,
    pub anon_kb: u64,
}

impl Row {
    pub fn new(kind: Kind) -> Row {
        let (times, parts) = (Vec::new(), Vec::new());
        Row { kind, times, cpu: Duration::ZERO, requests: 0, lost: 0, slowest: Duration::ZERO, parts, fault: None }
    }
}

/// What the figures depend on, and nothing that says whose machine it is.
pub fn machine(house: &House, peers: &Peers) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("a processor of unknown model", |(_, model)| model);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // What follows the numbers may name the place.
    let kernel = release.trim().split('-').next().unwrap_or_default();
    let rustc = house.run(Command::new("rustc").arg("--version"))?;
    let date = house.run(Command::new("date").arg("+%F"))?;
    let mut text = format!("{cores} cores ({model}), Linux {kernel}, {}, {}\n", rustc.trim(), date.trim());
    if !peers.versions().is_empty() {
        writeln!(text, "{}", peers.versions().join(", "))?;
    }
    Ok(text)
}

/// Times are milliseconds from the save to the first answer of the new code.
pub fn table(title: &str, rows: &[Row]) -> String {
    let measured: Vec<&Row> = rows.iter().filter(|row| !row.times.is_empty()).collect();
    let medians = |wanted: fn(Kind) -> bool| {
        measured.iter().filter(move |row| wanted(row.kind)).map(|row| median(&row.times)).min_by(f64::total_cmp)
    };
    let (peer, floor) = (medians(Kind::is_peer), medians(|kind| kind == Kind::CargoBuild));
    let mut text = format!("\n### {title}\n\n");
    text += "| | median ms | min | max | of the best peer | of `cargo build` | lost of requests | slowest answer ms | \
             CPU s an edit | edits |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for row in &measured {
        let middle = median(&row.times);
        let ratio = |of: Option<f64>| of.map_or("-".to_owned(), |of| format!("{:.2}", middle / of));
        let Span { min, max } = span(&row.times);
        let serves = row.kind != Kind::CargoBuild;
        let lost = if serves { format!("{} of {}", row.lost, row.requests) } else { "-".into() };
        let slowest = if serves { format!("{:.0}", row.slowest.as_secs_f64() * 1000.0) } else { "-".into() };
        let cpu = row.cpu.as_secs_f64() / row.times.len() as f64;
        text += &format!(
            "| {} | {middle:.0} | {min:.0} | {max:.0} | {} | {} | {lost} | {slowest} | {cpu:.2} | {} |\n",
            row.kind.name(),
            ratio(peer),
            ratio(floor),
            row.times.len(),
        );
    }
    for row in rows {
        if let Some(fault) = &row.fault {
            let first = fault.lines().next().unwrap_or_default();
            text += &format!("\nLeft out after {} edits: {first}\n", row.times.len());
        }
    }
    text + &own(&measured)
}

pub fn idling(idle: &Idle) -> String {
    let mb = |kb: u64| kb as f64 / 1024.0;
    format!(
        "\nThe command when nothing happens (ten seconds, with its guard, without its server): {:.3} % of one core, \
         {:.1} MB resident, {:.1} MB of it its own (RssAnon).\n",
        idle.percent,
        mb(idle.rss_kb),
        mb(idle.anon_kb)
    )
}

/// The command's own part of it, by what it says itself.
fn own(rows: &[&Row]) -> String {
    let Some(row) = rows.iter().find(|row| row.kind == Kind::Hotrun) else { return String::new() };
    let compiler = |nth: usize| row.parts.get(nth)?.compiler();
    let own: Vec<f64> = row.times.iter().enumerate().filter_map(|(nth, time)| Some(time - compiler(nth)?)).collect();
    if own.is_empty() {
        return String::new();
    }
    let Span { min, max } = span(&own);
    let mut text = format!(
        "\n`cargo hotrun`, from the save to the first answer without what it counts as compiling: median {:.1} ms, {min:.1} to \
         {max:.1}. By its own account, medians in ms:",
        median(&own)
    );
    let names = row.parts.first().map(|parts| parts.0.iter().map(|(name, _)| *name)).into_iter().flatten();
    for name in names {
        let figures: Vec<f64> =
            row.parts.iter().flat_map(|parts| &parts.0).filter(|(part, _)| *part == name).map(|(_, ms)| *ms).collect();
        text += &format!(" {name} {:.1}", median(&figures));
    }
    text + "\n"
}

struct Span {
    min: f64,
    max: f64,
}

fn span(figures: &[f64]) -> Span {
    let ends = figures.iter().fold((f64::INFINITY, 0.0_f64), |(min, max), time| (min.min(*time), max.max(*time)));
    Span { min: ends.0, max: ends.1 }
}

/// Of at least one.
fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[half] } else { (figures[half - 1] + figures[half]) / 2.0 }
}
