//! The C driver: which one it is, and how it would call the linker.
//! Never lives here: whether that can be done without it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The driver that rustc would have called.
pub const NAME: &str = "cc";
/// What a driver looks at when it says how the linker is called, beside its arguments.
const LOOKED_AT: [&str; 4] = ["PATH", "COMPILER_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX"];
const LOOKED_AT_BY_CLANG: [&str; 2] = ["CCC_", "CLANG_"];

/// All that decides, beside the arguments, what the driver says. It changes when another driver is installed.
pub fn identity() -> Result<Vec<String>, String> {
    let found = find().ok_or_else(|| format!("{NAME} is not found"))?;
    let file = fs::metadata(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    let folder = std::env::current_dir().map_err(|error| format!("the current directory: {error}"))?;
    let mut identity = vec![
        format!("{found:?}"),
        format!("{} {}.{} {}", file.size(), file.mtime(), file.mtime_nsec(), file.ino()),
        format!("{folder:?}"),
    ];
    let mut environment: Vec<String> = std::env::vars_os()
        .filter(|(name, _)| {
            name.to_str().is_some_and(|name| {
                LOOKED_AT.contains(&name) || LOOKED_AT_BY_CLANG.iter().any(|prefix| name.starts_with(prefix))
            })
        })
        .map(|(name, value)| format!("{name:?}={value:?}"))
        .collect();
    environment.sort();
    identity.extend(environment);
    Ok(identity)
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(NAME)).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

/// The arguments with which the driver would call the linker.
pub fn ask(args: &[String]) -> Result<Vec<String>, String> {
    let told = Command::new(NAME)
        .arg("-###")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{NAME}: {error}"))?;
    if !told.status.success() {
        return Err(format!("{NAME} does not say how it links: {}", told.status));
    }
    let text = String::from_utf8(told.stderr).map_err(|_| "what the C driver says is not UTF-8")?;
    linker_call(&text).ok_or_else(|| format!("what {NAME} says of how it links is not understood"))
}

/// The one command in what `-###` prints (the lines that begin with a space), without its program.
fn linker_call(text: &str) -> Option<Vec<String>> {
    let mut commands = text.lines().filter_map(|line| line.strip_prefix(' ')).filter(|line| *line != "(in-process)");
    let mut words = words(commands.next()?)?;
    if commands.next().is_some() || words.is_empty() {
        return None;
    }
    let program = words.remove(0);
    let program = Path::new(&program).file_name()?.to_str()?;
    let is_linker = program == "collect2"
        || program.split('.').next()?.rsplit('-').next()? == "ld"
        || ["lld", "mold", "gold"].contains(&program);
    is_linker.then_some(words)
}

/// gcc and clang put a word in double quotes where it needs them, with a backslash before `"`, `\` and `$`.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if_eq(&' ').is_some() {}
        let Some(first) = rest.next() else { return Some(words) };
        let mut word = String::new();
        if first == '"' {
            loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => word.push(rest.next()?),
                    c => word.push(c),
                }
            }
            if rest.peek().is_some_and(|c| *c != ' ') {
                return None;
            }
        } else {
            word.push(first);
            while let Some(c) = rest.next_if(|c| *c != ' ') {
                if matches!(c, '"' | '\\') {
                    return None;
                }
                word.push(c);
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_gcc_says_is_understood() {
        let text = concat!(
            "Using built-in specs.\nCOLLECT_GCC=cc\nTarget: x86_64-linux-gnu\nThread model: posix\n",
            "COMPILER_PATH=/usr/lib/gcc/x86_64-linux-gnu/12/\nCOLLECT_GCC_OPTIONS='-m64' '-o' 'a b'\n",
            " /usr/lib/gcc/x86_64-linux-gnu/12/collect2 -plugin /l.so \"--hash-style=gnu\" -o \"a b\" \"\" \"q\\\"\\\\\\$\" x.o\n",
            "COLLECT_GCC_OPTIONS='-m64'\n"
        );
        let words = ["-plugin", "/l.so", "--hash-style=gnu", "-o", "a b", "", "q\"\\$", "x.o"];
        assert_eq!(linker_call(text).unwrap(), words);
    }

    #[test]
    fn what_clang_says_is_understood() {
        let text = concat!(
            "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\nThread model: posix\nInstalledDir: /usr/bin\n",
            " \"/usr/bin/ld\" \"-pie\" \"-o\" \"a.out\" \"x.o\"\n"
        );
        assert_eq!(linker_call(text).unwrap(), ["-pie", "-o", "a.out", "x.o"]);
        assert!(linker_call(&text.replace("/usr/bin/ld", "/usr/bin/x86_64-linux-gnu-ld.bfd")).is_some());
        assert!(linker_call(&text.replace("/usr/bin/ld", "/opt/ld.lld")).is_some());
    }

    #[test]
    fn anything_else_is_not() {
        let others = [
            "",
            "cc: fatal error: no input files\n",
            " \"/usr/bin/cc1\" \"-o\" \"x\"\n",
            " \"/usr/bin/ld\" \"-o\n",
            " /usr/bin/ld a\"b\n",
            " \"/usr/bin/ld\"x -o y\n",
            " /usr/bin/as x\n /usr/bin/ld y\n",
            " \n",
        ];
        for text in others {
            assert_eq!(linker_call(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn quoting_is_undone(args in prop::collection::vec("[^\\r\\n]{0,12}", 0..8)) {
            let quoted = |word: &String| {
                let escaped: String = word.chars().flat_map(|c| ['\\'].into_iter().filter(move |_| "\"\\$".contains(c)).chain([c])).collect();
                let plain = |c: char| c.is_ascii_alphanumeric() || "_/-.".contains(c);
                if !word.is_empty() && word.chars().all(plain) { format!(" {word}") } else { format!(" \"{escaped}\"") }
            };
            let line: String = args.iter().map(quoted).collect();
            prop_assert_eq!(words(&line), Some(args));
        }

        #[test]
        fn no_text_is_a_crash(text in any::<String>()) {
            let _ = linker_call(&text);
        }
    }
}
