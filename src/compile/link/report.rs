//! What the last link did, as a file that the linker writes and the session reads.
//! Never lives here: linking.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "report.json";
/// More than any report needs.
const MOST: u64 = 16 * 1024;
const LONGEST_REASON: usize = 400;

/// Who linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linker {
    /// The one in this program.
    Wild,
    /// The C driver, called as rustc would have called it.
    Driver,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub linker: Linker,
    /// From the start of the linker process; for the driver, until it was called.
    pub took: Duration,
    /// Why it was not wild.
    pub reason: Option<String>,
    /// With the dependencies as one object.
    pub merged: bool,
    /// Such an object is asked for.
    pub wants_merged: bool,
}

impl Report {
    /// For the user.
    pub fn linker_name(&self) -> &'static str {
        match self.linker {
            Linker::Wild if self.merged => "wild, merged",
            Linker::Wild => "wild",
            Linker::Driver => "cc",
        }
    }
}

/// What the last link did. `None` where there is none, or what is there was not written by this program.
pub fn read(folder: &Path) -> Option<Report> {
    // Neither a link nor something that would make the reader wait.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(folder.join(NAME)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > MOST {
        return None;
    }
    let report: Report = serde_json::from_slice(&text).ok()?;
    Some(Report { reason: report.reason.as_deref().map(one_line), ..report })
}

pub fn write(folder: &Path, report: &Report) {
    let report = Report { reason: report.reason.as_deref().map(one_line), ..report.clone() };
    // Without a report the link is as good.
    if let Ok(text) = serde_json::to_vec(&report) {
        let _ = replace(folder, NAME, &text);
    }
}

/// The one of the link before must not be taken for this one's.
pub fn forget(folder: &Path) {
    let _ = fs::remove_file(folder.join(NAME));
}

/// Puts a whole file at a name, or leaves what is there.
pub fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    // Two links at once must not write one file.
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    let put = fs::write(&new, content).and_then(|()| fs::rename(&new, folder.join(name)));
    if put.is_err() {
        let _ = fs::remove_file(&new);
    }
    put
}

/// It is shown in a terminal.
fn one_line(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(LONGEST_REASON).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        let mut report = Report {
            linker: Linker::Wild,
            took: Duration::from_micros(1234),
            reason: None,
            merged: true,
            wants_merged: false,
        };
        write(folder.path(), &report);
        assert_eq!(read(folder.path()), Some(report.clone()));
        report.linker = Linker::Driver;
        report.reason = Some("because\n\u{1b}[31mof that".to_owned());
        write(folder.path(), &report);
        let found = read(folder.path()).unwrap();
        assert_eq!(found.reason.as_deref(), Some("because  [31mof that"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        forget(folder.path());
        assert_eq!(read(folder.path()), None);
    }

    #[test]
    fn what_this_program_did_not_write_is_no_report() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!(
            r#"{{"linker":"wild","took":{{"secs":0,"nanos":1}},"reason":"{}","merged":false,"wants_merged":false}}"#,
            "x".repeat(MOST as usize)
        );
        let hostile = [
            "",
            "{}",
            "null",
            "[]",
            r#"{"linker":"gold","took":{"secs":0,"nanos":1},"reason":null,"merged":false,"wants_merged":false}"#,
            r#"{"linker":"wild","took":{"secs":-1,"nanos":0},"reason":null,"merged":false,"wants_merged":false}"#,
            r#"{"linker":"wild","took":{"secs":1e99,"nanos":0},"reason":null,"merged":false,"wants_merged":false}"#,
            r#"{"linker":"wild","took":{"secs":0,"nanos":1},"reason":7,"merged":false,"wants_merged":false}"#,
            r#"{"linker":"wild","took":{"secs":0,"nanos":1},"reason":null,"merged":false,"wants_merged":false,"more":1}"#,
            r#"{"linker":"wild","took":{"secs":1"#,
            &long,
        ];
        for text in hostile {
            fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(read(folder.path()), None, "{}", &text[..text.len().min(80)]);
        }
        fs::remove_file(folder.path().join(NAME)).unwrap();
        fs::write(
            folder.path().join("other"),
            r#"{"linker":"wild","took":{"secs":0,"nanos":1},"reason":null,"merged":false,"wants_merged":false}"#,
        )
        .unwrap();
        std::os::unix::fs::symlink("other", folder.path().join(NAME)).unwrap();
        assert_eq!(read(folder.path()), None);
        fs::remove_file(folder.path().join(NAME)).unwrap();
        nix::unistd::mkfifo(&folder.path().join(NAME), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(folder.path()), None);
    }
}
