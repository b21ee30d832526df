//! The arguments that rustc gives the C driver, read into pieces: what changes from link to link is apart from what stays.
//! Never lives here: what the driver makes of them.

use std::ffi::OsString;
use std::fs;
use std::iter::Peekable;
use std::path::Path;

/// A response file that names itself would never end.
const DEEPEST: usize = 8;

/// Some of the driver's arguments, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Plain(String),
    /// Objects and archives in a row. The driver hands them on in their order, so that one can stand for all of them.
    Inputs(Vec<String>),
    /// A search folder that rustc makes for this link alone.
    Folder(String),
    Output(String),
}

/// The pieces, or why these arguments are left to the driver.
pub fn read(args: &[OsString]) -> Result<Vec<Piece>, String> {
    let mut words = Vec::new();
    for arg in args {
        let arg = arg.to_str().ok_or("an argument is not UTF-8")?;
        expand(arg, 0, &mut words)?;
    }
    let mut pieces = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let piece = read_piece(word, &mut words)?;
        match (pieces.last_mut(), piece) {
            (Some(Piece::Inputs(row)), Piece::Inputs(more)) => row.extend(more),
            (_, piece) => pieces.push(piece),
        }
    }
    match pieces.iter().filter(|piece| matches!(piece, Piece::Output(_))).count() {
        1 => Ok(pieces),
        0 => Err("there is no output".to_owned()),
        _ => Err("there are several outputs".to_owned()),
    }
}

pub fn output(pieces: &[Piece]) -> Option<&str> {
    pieces.iter().find_map(|piece| match piece {
        Piece::Output(path) => Some(path.as_str()),
        Piece::Plain(_) | Piece::Inputs(_) | Piece::Folder(_) => None,
    })
}

fn read_piece(word: String, rest: &mut Peekable<impl Iterator<Item = String>>) -> Result<Piece, String> {
    if !word.starts_with('-') {
        return if is_input(&word) {
            Ok(Piece::Inputs(vec![word]))
        } else if is_shared(&word) {
            Ok(Piece::Plain(word))
        } else {
            Err(unknown(&word))
        };
    }
    match word.as_str() {
        "-o" => rest.next().map(Piece::Output).ok_or_else(|| unknown(&word)),
        "-L" => rest.next().map(folder).ok_or_else(|| unknown(&word)),
        "-l" => rest.next().map(|name| Piece::Plain(format!("-l{name}"))).ok_or_else(|| unknown(&word)),
        _ => match word.strip_prefix("-L") {
            Some(path) => Ok(folder(path.to_owned())),
            None if is_known(&word) => Ok(Piece::Plain(word)),
            None => Err(unknown(&word)),
        },
    }
}

/// rustc makes a folder `rustcXXXXXX/raw-dylibs` for each link.
fn folder(path: String) -> Piece {
    let mut parts = path.rsplit('/');
    if parts.next() == Some("raw-dylibs") && parts.next().is_some_and(|parent| parent.starts_with("rustc")) {
        Piece::Folder(path)
    } else {
        Piece::Plain(format!("-L{path}"))
    }
}

fn unknown(word: &str) -> String {
    format!("the argument {word} is left to the C driver")
}

/// Arguments of the driver with no effect but on what it tells the linker, which is looked at by itself (`known`).
fn is_known(word: &str) -> bool {
    const WHOLE: [&str; 11] = [
        "-m64",
        "-pie",
        "-no-pie",
        "-static",
        "-static-pie",
        "-nodefaultlibs",
        "-nostartfiles",
        "-nostdlib",
        "-rdynamic",
        "-pthread",
        // rustc's own choice; any other is somebody's.
        "-fuse-ld=lld",
    ];
    if let Some(folder) = word.strip_prefix("-B") {
        // rustc's own again: where the toolchain keeps its lld, or its start files.
        return folder.ends_with("/bin/gcc-ld") || folder.ends_with("/lib/self-contained");
    }
    let more = |prefix: &str| word.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    WHOLE.contains(&word) || more("-Wl,") || more("-l")
}

pub fn is_input(word: &str) -> bool {
    [".o", ".rlib", ".a"].iter().any(|ending| word.ends_with(ending))
}

/// The name of a shared library, with or without a version.
pub fn is_shared(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.ends_with(".so") || name.contains(".so.")
}

/// rustc puts long command lines in a file.
fn expand(arg: &str, depth: usize, words: &mut Vec<String>) -> Result<(), String> {
    let Some(file) = arg.strip_prefix('@') else {
        words.push(arg.to_owned());
        return Ok(());
    };
    let text = fs::read_to_string(Path::new(file)).map_err(|error| format!("read {arg}: {error}"))?;
    if depth == DEEPEST {
        return Err(format!("{arg} is too deep"));
    }
    split(&text).iter().try_for_each(|word| expand(word, depth + 1, words))
}

/// As gcc and clang read a response file: words between white space, quotes of both kinds, and a backslash before anything.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(rest.next()),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(words: &[&str]) -> Result<Vec<Piece>, String> {
        read(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn plain(words: &[&str]) -> Vec<Piece> {
        words.iter().map(|word| Piece::Plain((*word).to_owned())).collect()
    }

    fn inputs(words: &[&str]) -> Piece {
        Piece::Inputs(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn what_changes_is_apart_from_what_stays() {
        let read = pieces(&[
            "-m64",
            "/o/rustcAb/symbols.o",
            "a.o",
            "-Wl,-Bstatic",
            "/d/libx.rlib",
            "-lc",
            "-L",
            "/o/rustcAb/raw-dylibs",
            "-L",
            "/t/lib",
            "-B/t/bin/gcc-ld",
            "-fuse-ld=lld",
            "-o",
            "/o/app",
            "-Wl,--gc-sections",
            "-pie",
        ]);
        let mut wanted = plain(&["-m64"]);
        wanted.push(inputs(&["/o/rustcAb/symbols.o", "a.o"]));
        wanted.extend(plain(&["-Wl,-Bstatic"]));
        wanted.push(inputs(&["/d/libx.rlib"]));
        wanted.extend(plain(&["-lc"]));
        wanted.push(Piece::Folder("/o/rustcAb/raw-dylibs".to_owned()));
        wanted.extend(plain(&["-L/t/lib", "-B/t/bin/gcc-ld", "-fuse-ld=lld"]));
        wanted.push(Piece::Output("/o/app".to_owned()));
        wanted.extend(plain(&["-Wl,--gc-sections", "-pie"]));
        assert_eq!(read, Ok(wanted));
    }

    #[test]
    fn what_somebody_chose_is_left_to_the_driver() {
        let others = [
            "-fuse-ld=mold",
            "-fuse-ld=gold",
            "-fuse-ld=bfd",
            "--ld-path=/usr/bin/mold",
            "-B/usr/libexec/mold",
            "-shared",
            "-flto",
            "-fsanitize=address",
            "-T",
            "script.ld",
            "-specs=my.specs",
            "-Xlinker",
            "-m32",
            "-r",
            "-c",
            "-x",
            "code.c",
            "code.s",
            "--sysroot=/x",
            "--target=aarch64-linux-gnu",
            "-Wl,",
            "-",
            "",
            "-l",
            "-static-libasan",
        ];
        for other in others {
            assert!(pieces(&["-o", "out", other]).is_err(), "{other}");
        }
        for several in [&["a.o"][..], &["-o"], &["-o", "a", "-o", "b"]] {
            assert!(pieces(several).is_err(), "{several:?}");
        }
        use std::os::unix::ffi::OsStringExt;
        assert!(read(&["-o".into(), OsString::from_vec(vec![b'o', 0xff])]).is_err());
    }

    #[test]
    fn long_command_lines_come_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("inner"), "-lc\n").unwrap();
        fs::write(path("outer"), format!("a\\ b.o\n\"c d.o\"\n'e\"f.o'\n@{}\n-o\nout\n", path("inner"))).unwrap();
        let mut wanted = vec![inputs(&["a b.o", "c d.o", "e\"f.o"])];
        wanted.extend(plain(&["-lc"]));
        wanted.push(Piece::Output("out".to_owned()));
        assert_eq!(pieces(&[&format!("@{}", path("outer"))]), Ok(wanted));
        fs::write(path("ring"), format!("@{}", path("ring"))).unwrap();
        assert!(pieces(&["-o", "out", &format!("@{}", path("ring"))]).is_err());
        assert!(pieces(&["-o", "out", "@/nowhere/at-all"]).is_err());
    }

    proptest! {
        /// rustc writes a backslash before each space and backslash, and a line for each argument.
        #[test]
        fn what_rustc_writes_into_the_file_is_what_is_read(words in prop::collection::vec("[^\\s\"']+([ \\\\][^\\s\"']*)?", 0..8)) {
            let text = words.iter().map(|word| word.replace('\\', r"\\").replace(' ', r"\ ") + "\n").collect::<String>();
            prop_assert_eq!(split(&text), words);
        }
    }
}
