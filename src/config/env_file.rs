//! Reading the file of variables that is given to the program.
//! Never lives here: setting a variable. The pairs are for the child; this process's environment stays as it is.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;

use super::values;
use crate::error::{Error, Result, Tried};

type Pairs = Vec<(String, String)>;

/// The pairs in the order of the file; of two with one name, the later counts. `$NAME` in a value is replaced, from this
/// process's environment or from above in the file.
pub fn env_file(path: &Path) -> Result<Vec<(String, String)>> {
    let reading = || format!("reading the env file {}", path.display());
    let is = std::fs::metadata(path).tried(reading())?;
    if !is.is_file() && !is.is_dir() && path != Path::new("/dev/null") {
        // A pipe or a terminal has no end, or gives what it has once.
        return Err(Error::usage(format!("{}: it is no file, and is read anew at each start", reading())));
    }
    let text = std::fs::read_to_string(path).tried(reading())?;
    parse(&text).map_err(|(line, why)| Error::usage(format!("{}:{line}: {why}", path.display())))
}

/// The error is a line and what is wrong with it. Values are never repeated: they may be secrets.
fn parse(text: &str) -> Result<Pairs, (usize, String)> {
    // dotenvy takes neither a byte order mark nor blanks at the very end.
    let text = format!("{}\n", text.strip_prefix('\u{feff}').unwrap_or(text).trim_end());
    let read = Cell::new(0);
    let mut pairs = Vec::new();
    let mut done = 0;
    // The first error ends it: behind one, dotenvy may go on in the middle of a value.
    for pair in dotenvy::from_read_iter(Lines { rest: text.as_bytes(), read: &read }) {
        // Not where a quoted value ran to, but where it began.
        let says_nothing = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
        let line = done + text.lines().skip(done).take_while(says_nothing).count() + 1;
        let (key, value) = pair.map_err(|error| match error {
            dotenvy::Error::LineParse(..) => {
                (line, "not understood; write KEY=value, with quotes around blanks".to_owned())
            }
            other => (line, other.to_string()),
        })?;
        values::variable(&key, &value).map_err(|why| (line, why))?;
        pairs.push((key, value));
        done = read.get();
    }
    Ok(pairs)
}

/// Hands out one line at a time and counts them: dotenvy does not say where it is, but it never asks ahead of need.
struct Lines<'a> {
    rest: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |newline| newline + 1);
        let (line, rest) = self.rest.split_at(end.min(buffer.len()));
        buffer[..line.len()].copy_from_slice(line);
        self.rest = rest;
        self.read.set(self.read.get() + usize::from(line.ends_with(b"\n")));
        Ok(line.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn read() {
        let text = "\u{feff}# a comment\nA=1\n\nexport B='two words'\nC=\"a\\nb\"\nD=${A}x # why\nE=  ";
        let meant = pairs(&[("A", "1"), ("B", "two words"), ("C", "a\nb"), ("D", "1x"), ("E", "")]);
        assert_eq!(parse(text), Ok(meant));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn refused_in_its_line_and_without_its_value() {
        for (text, line) in [
            ("A=1\nsecret words\n", 2),
            ("A=1\r\n\r\nB=secret words x\r\n", 3),
            ("A=1\n# x\nB='secret\nC=2\n", 3),
            ("1=secret", 1),
            ("A='x\ny'\n\n  # x\nB=\"secret\n\n", 5),
            ("A='x\ny'\nB=secret z\nB=ok", 3),
        ] {
            let (at, why) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text:?}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
        assert!(parse("A=se\0cret").unwrap_err().1.contains("NUL"));
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        assert!(env_file(&path).unwrap_err().to_string().contains(&path.display().to_string()));
        std::fs::write(&path, "A=1\nB C\n").unwrap();
        assert!(env_file(&path).unwrap_err().to_string().starts_with(&format!("{}:2: ", path.display())));
        std::fs::write(&path, "A=1\n").unwrap();
        assert_eq!(env_file(&path).unwrap(), pairs(&[("A", "1")]));
        assert_eq!(env_file(Path::new("/dev/null")).unwrap(), pairs(&[]));
    }

    /// It would be waited for without an end.
    #[test]
    fn a_pipe_is_no_env_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(env_file(&path).unwrap_err().to_string().contains("no file"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_near_miss_panics(text in "([A-C]=?|[\"'\\\\#$ {}\n]|é){0,20}") {
            let _ = parse(&text);
        }
    }
}
