//! What cargo and the compilers print: how it is read, when it is over, and what of it is told already.
//! Never lives here: what it means for a build.

use crate::error::Result;
use crate::process::{Printed, Running, refused};
use cargo_metadata::diagnostic::Diagnostic;
use cargo_metadata::{PackageId, Target};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::thread;

/// What the user is told: as the compiler rendered it, and the object that it was in, as cargo passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    pub rendered: String,
    pub message: Option<Value>,
}

impl Words {
    /// Of a line that is no message.
    pub fn text(rendered: String) -> Words {
        Words { rendered, message: None }
    }

    /// Nothing where the compiler has rendered nothing.
    pub fn of(diagnostic: &Diagnostic) -> Option<Words> {
        let rendered = diagnostic.rendered.clone()?;
        // Made from JSON, it becomes JSON again.
        Some(Words { rendered, message: serde_json::to_value(diagnostic).ok() })
    }
}

/// A message for the user, and the package and target that it is about; cargo's own are about none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub about: Option<(PackageId, Target)>,
    pub words: Words,
}

/// Has a thread of its own read what that process prints into a pipe of it.
pub fn listen<P: Read + AsFd + Send + 'static>(
    whose: &str,
    running: &Running,
    pipe: Option<P>,
    read: impl FnOnce(Printed<P>) + Send + 'static,
) -> Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let listening = running.end().and_then(|end| thread::Builder::new().spawn(move || read(Printed::new(pipe, end))));
    listening.map(drop).map_err(|error| refused(format_args!("listen to {whose}"), &error))
}

impl Told {
    pub fn text(rendered: String) -> Told {
        Told { about: None, words: Words::text(rendered) }
    }
}

/// No message of a compiler is longer; what a macro prints may have no end.
const MOST_OF_A_LINE: usize = 4 << 20;

/// A line that somebody has printed. Bytes that are no UTF-8, a build script's or a macro's, are replaced: they must not end a build.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Whole(String),
    /// Its beginning, and how long it was.
    Cut {
        begin: String,
        bytes: u64,
    },
}

/// Its lines, until it is closed.
pub fn lines(output: impl Read) -> impl Iterator<Item = Line> {
    let mut output = BufReader::with_capacity(64 << 10, output);
    std::iter::from_fn(move || next_line(&mut output))
}

fn next_line(output: &mut impl BufRead) -> Option<Line> {
    let (mut line, mut bytes, mut has_begun) = (Vec::new(), 0, false);
    loop {
        let there = match output.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            there => there.unwrap_or_default(),
        };
        let end = memchr::memchr(b'\n', there);
        let part = &there[..end.unwrap_or(there.len())];
        has_begun |= !there.is_empty();
        let is_over = end.is_some() || there.is_empty();
        line.extend(&part[..part.len().min(MOST_OF_A_LINE - line.len())]);
        bytes += part.len() as u64;
        let read = part.len() + usize::from(end.is_some());
        output.consume(read);
        if is_over {
            let text = String::from_utf8_lossy(&line).into_owned();
            let is_whole = bytes == line.len() as u64;
            return has_begun.then_some(if is_whole { Line::Whole(text) } else { Line::Cut { begin: text, bytes } });
        }
    }
}

/// rustc counts the errors and warnings that the user has just read; cargo passes that over, too.
pub fn is_sum(message: &str) -> bool {
    message.starts_with("aborting due to ")
        || message.ends_with(" warning emitted")
        || message.ends_with(" warnings emitted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_do_and_none_is_longer_than_can_be_kept() {
        let long = "x".repeat(MOST_OF_A_LINE + 70_000);
        let text = format!("a\n\n{long}\nb\r\nlast");
        let lines: Vec<Line> = lines(text.as_bytes()).collect();
        let whole = |text: &str| Line::Whole(text.to_owned());
        let cut = Line::Cut { begin: "x".repeat(MOST_OF_A_LINE), bytes: long.len() as u64 };
        assert!(lines == [whole("a"), whole(""), cut, whole("b\r"), whole("last")], "{}", lines.len());
        assert_eq!(super::lines(&b"\xff\n"[..]).collect::<Vec<_>>(), [whole("\u{fffd}")]);
        assert_eq!(super::lines(&b""[..]).count(), 0);
    }

    #[test]
    fn a_message_keeps_the_structure_that_the_compiler_gave_it() {
        let given = r#"{"message":"mismatched types","code":{"code":"E0308","explanation":null},"level":"error","spans":[
            {"file_name":"src/main.rs","byte_start":3,"byte_end":4,"line_start":2,"line_end":2,"column_start":5,
            "column_end":6,"is_primary":true,"text":[{"text":"    1","highlight_start":5,"highlight_end":6}],"label":"expected",
            "suggested_replacement":null,"suggestion_applicability":null,"expansion":null}],"children":[],
            "rendered":"error[E0308]"}"#;
        let words = Words::of(&serde_json::from_str(given).unwrap()).unwrap();
        assert_eq!(words.rendered, "error[E0308]");
        assert_eq!(words.message, Some(serde_json::from_str(given).unwrap()), "nothing is lost, nothing added");
    }
}
