//! The files that a failed build asks for, or complains of, in its messages: the compiler's and those of macros and build scripts,
//! who each say it in words of their own. A build that has failed tells in no other way what it has read.
//! Never lives here: whether such a file matters (`sources`).

use super::places;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is looked for in one failed build; a thousand errors are of a few files.
const MOST: usize = 512;
/// From as many folders a name is looked for that is nowhere.
const MOST_FOLDERS: usize = 8;

/// Every path that the texts name, from one of these folders where it is relative: where something is, and where nothing is but
/// could come.
pub fn paths<'t>(texts: impl IntoIterator<Item = &'t str>, folders: &[PathBuf]) -> BTreeSet<PathBuf> {
    let words = texts.into_iter().flat_map(str::lines).flat_map(words);
    let words: BTreeSet<&str> = words.filter(|word| is_path(word)).collect();
    // A macro may say which file it misses, and in which folders it has looked for it.
    let named = words.iter().map(Path::new).filter(|path| path.is_absolute() && path.is_dir());
    let folders: Vec<PathBuf> = folders.iter().cloned().chain(named.map(Path::to_path_buf)).collect();
    let mut paths = BTreeSet::new();
    // What has folders in it first: a word with a dot may be anything.
    let (with_folders, others): (Vec<&str>, Vec<&str>) = words.into_iter().partition(|word| word.contains('/'));
    for word in with_folders.into_iter().chain(others) {
        if paths.len() >= MOST {
            break;
        }
        let found = folders.iter().map(|folder| without_dots(folder.join(word)));
        let found: BTreeSet<PathBuf> = found.collect();
        match found.iter().find(|path| path.exists()) {
            Some(there) => drop(paths.insert(there.clone())),
            None => paths.extend(found.into_iter().filter(|path| !is_temporary(path, &folders)).take(MOST_FOLDERS)),
        }
    }
    paths
}

/// Compilers and linkers name files there that are gone already. A project may be there, too.
fn is_temporary(path: &Path, folders: &[PathBuf]) -> bool {
    path.starts_with(std::env::temp_dir()) && !folders.iter().any(|folder| path.starts_with(folder))
}

/// Of a path that does not exist the kernel says nothing: `..` takes back the name before it.
fn without_dots(path: PathBuf) -> PathBuf {
    if path.exists() { places::plain(path) } else { places::lexical(&path) }
}

/// Of a line: what stands between quotes, as it may have blanks in it, and what stands between blanks.
fn words(line: &str) -> Vec<&str> {
    let quoted = ['"', '`', '\''].into_iter().flat_map(|quote| line.split(quote).skip(1).step_by(2));
    let blank = line.split(|c: char| c.is_whitespace() || "\"'`<>()[]{},;=|".contains(c));
    quoted.chain(blank).map(bare).collect()
}

/// Without the line and column that may stand behind it, and without the end of a sentence.
fn bare(word: &str) -> &str {
    let mut word = word.trim_end_matches(['.', ':', ',', '!', '?']);
    while let Some((path, number)) = word.rsplit_once(':') {
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        word = path;
    }
    word
}

/// It has folders in it, or an extension; and it is no address, module or option.
fn is_path(word: &str) -> bool {
    let extension = Path::new(word).extension().is_some_and(|extension| {
        extension.len() <= 12
            && extension.to_str().is_some_and(|extension| extension.bytes().all(|b| b.is_ascii_alphanumeric()))
    });
    let has_name = word.chars().any(char::is_alphanumeric);
    let is_other = ["://", "::", "\0", "\n"].iter().any(|sign| word.contains(sign)) || word.starts_with(['-', '*']);
    word.len() < 4096 && has_name && (word.contains('/') || extension) && !is_other
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn paths_are_found_in_the_words_of_compilers_macros_and_scripts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("src")).unwrap();
        fs::create_dir_all(root.join("templates")).unwrap();
        fs::write(root.join("src/main.rs"), "").unwrap();
        let templates = format!("template \"page.html\" not found in directories [{:?}]", root.join("templates"));
        let absolute = format!("{:?} is not a directory", root.join("web/dist"));
        let cases: [(&str, &[&str]); 8] = [
            (
                "error: couldn't read `src/../static/out.css`: No such file or directory (os error 2)",
                &["static/out.css"],
            ),
            (
                "  = help: to create the module `schema`, create file \"src/schema.rs\" or \"src/schema/mod.rs\"",
                &["src/schema.rs", "src/schema/mod.rs"],
            ),
            (" --> src/main.rs:3:5", &["src/main.rs"]),
            (&templates, &["templates", "templates/page.html", "page.html"]),
            (&absolute, &["web/dist"]),
            ("  protos/x.proto: No such file or directory.", &["protos/x.proto"]),
            ("error: could not open 'my files/a b.txt'!", &["my files/a b.txt", "files/a", "b.txt"]),
            ("see https://doc.rust-lang.org/error, std::fs::read, --cfg or `1.5`", &["1.5"]),
        ];
        for (text, expected) in cases {
            let found = paths([text], std::slice::from_ref(&root));
            for path in expected {
                assert!(found.contains(&root.join(path)), "{path} in {text}: {found:?}");
            }
            assert!(found.len() <= expected.len() + 1, "{text}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let found = paths([text.as_str()], &[PathBuf::from("/nowhere")]);
            prop_assert!(found.len() <= MOST + MOST_FOLDERS);
        }
    }
}
