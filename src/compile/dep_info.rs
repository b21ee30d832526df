//! Dep-info, the Makefile rule in which cargo and rustc name the inputs of an output.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inputs that cargo has written beside an executable.
pub fn beside(executable: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(names_in(&std::fs::read_to_string(executable.with_extension("d"))?))
}

/// The inputs as rustc has named them, of a file that it has made, where what it wrote is found. Cargo gives that file a second
/// name, without the hash, as a hard link.
pub fn of_rustc(made: &Path) -> Option<Vec<PathBuf>> {
    let name = made.file_stem()?.to_str()?;
    let folder = made.parent()?;
    let own = folder.join(name.strip_prefix("lib").unwrap_or(name)).with_extension("d");
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Beside the second name stands what cargo has made of it.
    if name.rsplit_once('-').is_some_and(|(_, hash)| is_hash(hash)) && own.is_file() {
        return Some(inputs(&std::fs::read_to_string(own).ok()?));
    }
    let (made, prefix) = (std::fs::metadata(made).ok()?, format!("{}-", name.replace('-', "_")));
    let mut entries = [folder.join("deps"), folder.to_path_buf()].into_iter().flat_map(std::fs::read_dir).flatten();
    let hashed = entries.find_map(|entry| {
        let path = entry.ok()?.path();
        let is_of_crate = path.file_name()?.to_str()?.starts_with(&prefix);
        let is_same = |other: std::fs::Metadata| (other.dev(), other.ino()) == (made.dev(), made.ino());
        (is_of_crate && path.extension().is_none() && is_same(std::fs::metadata(&path).ok()?)).then_some(path)
    })?;
    Some(inputs(&std::fs::read_to_string(hashed.with_extension("d")).ok()?))
}

/// The inputs of rustc's first rule, after which an empty line stands; later ones only make each input a target of its own.
pub fn inputs(text: &str) -> Vec<PathBuf> {
    names_in(text.split("\n\n").next().unwrap_or_default())
}

/// The inputs of one rule, which is all that cargo writes: `output: input input`, with spaces in names escaped by a backslash, and
/// nothing else: a name may have any other character in it, line breaks among them.
fn names_in(rule: &str) -> Vec<PathBuf> {
    let rule = rule.strip_suffix('\n').unwrap_or(rule);
    // A rule's colon is followed by a space or the end; a colon in a name is not.
    let Some((_, rest)) = rule.split_once(": ") else { return Vec::new() };
    let mut inputs = Vec::new();
    let mut name = String::new();
    let mut characters = rest.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&' ') => {
                characters.next();
                name.push(' ');
            }
            ' ' => {
                if !name.is_empty() {
                    inputs.push(PathBuf::from(std::mem::take(&mut name)));
                }
            }
            other => name.push(other),
        }
    }
    if !name.is_empty() {
        inputs.push(PathBuf::from(name));
    }
    inputs
}

/// The variables that a compilation has read, with their values, which rustc adds in comments: `# env-dep:NAME=value`, without
/// a value where there was none, and with backslashes before line breaks and backslashes.
pub fn variables(text: &str) -> Vec<(String, Option<String>)> {
    let variables = text.lines().filter_map(|line| line.strip_prefix("# env-dep:"));
    let variables = variables.map(|variable| match variable.split_once('=') {
        Some((name, value)) => (unescaped(name), Some(unescaped(value))),
        None => (unescaped(variable), None),
    });
    variables.collect()
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next().map(|escaped| match escaped {
                'n' => '\n',
                'r' => '\r',
                other => other,
            })),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn inputs_are_read_with_their_spaces() {
        let cases: [(&str, &[&str]); 8] = [
            ("/t/api: /s/main.rs /s/a.rs\n", &["/s/main.rs", "/s/a.rs"]),
            ("/t/a\\ b: /my\\ project/main.rs\n\n/my\\ project/main.rs:\n", &["/my project/main.rs"]),
            ("/t/api:\n", &[]),
            ("", &[]),
            ("/t/api: /s/main.rs\n\n/s/main.rs:\n\n# env-dep:X=1\n# x: y\n", &["/s/main.rs"]),
            ("/t/api:  /s/back\\slash.rs ", &["/s/back\\slash.rs"]),
            ("/new\nline/t/api: /new\nline/a.rs /tab\tx/b.rs\n", &["/new\nline/a.rs", "/tab\tx/b.rs"]),
            ("/t/a.d: a: b\n\n/t/a: a:\n", &["a:", "b"]),
        ];
        for (text, expected) in cases {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(inputs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn variables_are_read_with_their_values() {
        let text = "/t/api: /s/main.rs\n\n# env-dep:HOME=/h\n# env-dep:NONE\n# env-dep:A=b=c\\\\d\\ne\n# env-dep:E=\n";
        let expected = [("HOME", Some("/h")), ("NONE", None), ("A", Some("b=c\\d\ne")), ("E", Some(""))];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(variables(text), expected);
    }

    proptest! {
        #[test]
        fn names_come_back_as_they_were_written(names in proptest::collection::vec("/[a-z. \t\n#$:]{0,8}[a-z]", 1..6)) {
            let written: Vec<String> = names.iter().map(|name| name.replace(' ', "\\ ")).collect();
            let text = format!("/t/out: {}\n", written.join(" "));
            let expected: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            prop_assert_eq!(names_in(&text), expected);
        }

        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let _ = (inputs(&text), variables(&text));
        }
    }
}
