//! What is said of a build that goes on: as a line that is drawn in place, and as one that stays, where a server writes too.
//! Never lives here: when it is said.

use super::{Holder, Notice, one_line};

/// After the package's name. Only of a notice that is about a build that goes on.
pub fn line(notice: &Notice) -> String {
    match notice {
        Notice::StillBuilding { waiting: Some(what), waited, holder, .. } => waits(what, *waited, holder.as_ref()),
        Notice::StillBuilding { done, total, took, doing, .. } => {
            let doing = doing.as_ref().map(|doing| format!(": {doing}")).unwrap_or_default();
            format!("{}, {} so far{doing}", units(*done, *total), seconds(*took))
        }
        Notice::WaitOver { waiting, waited } => format!("{waiting} is free after {}", seconds(*waited)),
        _ => String::new(),
    }
}

/// The same, and more often, where it may be drawn over.
pub fn drawn(notice: &Notice) -> Option<String> {
    let (done, total, doing) = match notice {
        Notice::Progress { done, total, doing, .. } | Notice::StillBuilding { done, total, doing, .. } => {
            (done, total, doing)
        }
        // What comes next is drawn at once.
        Notice::WaitOver { .. } => return Some(String::new()),
        _ => return None,
    };
    let waits = match notice {
        Notice::Progress { waiting: Some(what), .. } => Some(waits(what, None, None)),
        Notice::StillBuilding { waiting: Some(what), waited, holder, .. } => {
            Some(waits(what, *waited, holder.as_ref()))
        }
        _ => None,
    };
    let more = waits.or_else(|| doing.clone()).map(|text| format!(", {text}")).unwrap_or_default();
    Some(format!("{done}/{total}{more}"))
}

fn waits(what: &str, waited: Option<u64>, holder: Option<&Holder>) -> String {
    let waited = waited.map(|waited| format!(", {} so far", seconds(waited))).unwrap_or_default();
    let holder = match holder {
        Some(Holder { pid, command }) if command.is_empty() => format!(", held by process {pid}"),
        Some(Holder { pid, command }) => format!(", held by `{}` (pid {pid})", one_line(command)),
        None => String::new(),
    };
    format!("waiting for {what}{waited}{holder}")
}

/// How many there are in the end is a guess, until they are more.
fn units(done: usize, total: usize) -> String {
    match done {
        0 => "under way".to_owned(),
        _ if done < total => format!("{done}/{total}"),
        _ => format!("{done} done"),
    }
}

fn seconds(millis: u64) -> String {
    format!("{} s", millis / 1000)
}
