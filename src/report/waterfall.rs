//! Where the time of one save went, as text: a line for each step, with a bar on the scale that all of them share.
//! Never lives here: taking the times, and the marker before the first line.

use super::formats::span;
use super::{BuiltBy, CrateTiming, Timings, clean};

/// Narrower than that, lines wrap; wider, a bar is no longer seen with its name.
const NARROWEST: usize = 30;
const WIDEST: usize = 110;
/// For the longest time, `9999 ms`, and the space before it.
const TIME: usize = 8;

struct Row {
    name: String,
    began: f64,
    ended: f64,
}

/// No line of it but the first is as wide as `columns`.
pub(super) fn text(timings: &Timings, columns: usize) -> String {
    let by = match (timings.built_by, &timings.why_cargo) {
        (BuiltBy::Replay, _) => "replay".to_owned(),
        (BuiltBy::Cargo, None) => "cargo".to_owned(),
        (BuiltBy::Cargo, Some(why)) => format!("cargo: {}", one_line(why)),
    };
    let total = known(timings.total);
    let from = if timings.saved { "from the save" } else { "from when the build was asked for" };
    let mut text = format!("generation {} · {} {from} · compiled by {by}", timings.generation, span(total));

    let rows = rows(timings);
    let end = rows.iter().map(|row| row.ended).fold(total, f64::max);
    let columns = columns.saturating_sub(1).clamp(NARROWEST, WIDEST);
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(columns / 3);
    // A space stands between a name and its bar.
    let cells = columns - names - 1 - TIME;
    for row in &rows {
        let name = console::truncate_str(&row.name, names, "…");
        let time = precise(row.ended - row.began);
        text.push_str(&format!("\n{name:names$} {:cells$}{time:>TIME$}", bar(row, end, cells)));
    }
    text
}

/// The steps in their order; within compiling, the crates as they began, and then the link.
fn rows(timings: &Timings) -> Vec<Row> {
    let mut at = 0.0;
    let mut step = |name: &str, ms: f64| {
        let began = at;
        at += known(ms);
        Row { name: name.to_owned(), began, ended: at }
    };
    let mut rows = vec![step("detect", timings.detect), step("decide", timings.decide)];
    let compile = step("compile", timings.compile);
    let link = timings.link.map(|ms| {
        let name = match &timings.linker {
            None => "  link".to_owned(),
            Some(linker) => format!("  link ({})", one_line(linker)),
        };
        Row { name, began: (compile.ended - known(ms)).max(compile.began), ended: compile.ended }
    });
    let mut crates: Vec<Row> = timings.crates.iter().map(crate_row).collect();
    crates.sort_by(|a, b| a.began.total_cmp(&b.began));
    rows.push(compile);
    rows.extend(crates);
    rows.extend(link);
    rows.extend([step("start", timings.start), step("ready", timings.ready), step("switch", timings.switch)]);
    rows
}

fn crate_row(timing: &CrateTiming) -> Row {
    let began = known(timing.began);
    Row { name: format!("  {}", one_line(&timing.name)), began, ended: known(timing.ended).max(began) }
}

/// From the cell in which it began to the eighth of a cell in which it ended, and never nothing.
fn bar(row: &Row, end: f64, cells: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let scale = if end > 0.0 { (cells * 8) as f64 / end } else { 0.0 };
    let first = ((row.began * scale).round() as usize / 8).min(cells - 1);
    let eighths = ((row.ended * scale).round() as usize).clamp(first * 8 + 1, cells * 8) - first * 8;
    format!("{:first$}{}{}", "", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

/// A name from outside gets one line: it cannot look like another step.
fn one_line(text: &str) -> String {
    clean::plain(text).replace(['\n', '\t'], " ")
}

/// A clock that was set back, or a division by nothing, must not break the picture; more than a day is not believed.
fn known(ms: f64) -> f64 {
    if ms.is_finite() { ms.clamp(0.0, 86_400_000.0) } else { 0.0 }
}

/// Our own steps take less than a millisecond or a few; of a quarter of an hour, no part of a second matters.
fn precise(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999_950.0 => span(ms),
        _ => format!("{:.0} s", ms / 1000.0),
    }
}

#[cfg(test)]
#[path = "waterfall_tests.rs"]
mod tests;
