//! The small languages inside values: strategies, readiness, globs, variables, and what to suggest for a misspelt word.
//! Never lives here: where a value stood. Each error is the end of a sentence that `Origin` begins.

use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use nix::sys::signal::Signal;

use super::{DataAction, Ready, duration};

/// The candidate that was probably meant, as the end of a sentence; nothing if none is near.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = |candidate: &&str| strsim::damerau_levenshtein(word, candidate) <= word.len().max(candidate.len()) / 3;
    let best = candidates.into_iter().filter(near).min_by_key(|c| strsim::damerau_levenshtein(word, c));
    best.map(|best| format!("; did you mean `{best}`?")).unwrap_or_default()
}

/// `a`, `b`, `c`
pub(super) fn listed<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    words.into_iter().map(|word| format!("`{}`", word.as_ref())).collect::<Vec<_>>().join(", ")
}

/// One of the words that the flag of the same name takes.
pub(super) fn word<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let known: Vec<_> = T::value_variants().iter().filter_map(T::to_possible_value).collect();
        unknown(text, &known.iter().map(|value| value.get_name()).collect::<Vec<_>>())
    })
}

pub(super) fn ready(text: &str) -> Result<Ready, String> {
    match text.split_once(':') {
        None => match text {
            "auto" => Ok(Ready::Auto),
            "notify" => Ok(Ready::Notify),
            "accept" => Ok(Ready::Accept),
            "http" => Err("found \"http\" without a path; write \"http:/\" or \"http:/healthz\"".to_owned()),
            "delay" => Err("found \"delay\" without a time; write \"delay:500ms\"".to_owned()),
            _ => Err(unknown(text, &READY)),
        },
        Some(("delay", time)) => duration::parse(time).map(Ready::Delay),
        Some(("http", path)) => http_path(text, path).map(Ready::Http),
        Some((word, _)) => Err(unknown(word, &READY)),
    }
}

const READY: [&str; 5] = ["auto", "notify", "accept", "http:/PATH", "delay:TIME"];

/// It becomes part of a request line, so nothing may stand in it that could end one.
fn http_path(text: &str, path: &str) -> Result<String, String> {
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(format!("found {text:?}; write the path alone, as in \"http:/healthz\""));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(bad) => Err(format!("found {text:?}, and {bad:?} cannot stand in a request's path; percent-encode it")),
        None => Ok(path.to_owned()),
    }
}

pub(super) fn data_action(text: &str) -> Result<DataAction, String> {
    if text == "none" {
        return Ok(DataAction::None);
    }
    let Some(name) = text.strip_prefix("signal:") else {
        return Err(format!("found {text:?}; write \"none\" or a signal, as in \"signal:HUP\""));
    };
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    match Signal::from_str(&format!("SIG{bare}")) {
        Ok(Signal::SIGKILL | Signal::SIGSTOP) => {
            Err(format!("found {text:?}, which no program can act upon; write \"signal:HUP\""))
        }
        Ok(signal) => Ok(DataAction::Signal(signal)),
        Err(_) => {
            let known = Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"));
            Err(format!("found {text:?}, and there is no signal {name:?}{}", did_you_mean(bare, known)))
        }
    }
}

/// What neither an argument nor a variable can hold: the system ends them at the first NUL.
pub(super) fn no_nul(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("found {text:?}, and a NUL cannot be passed to a program")) } else { Ok(()) }
}

pub(super) fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err("found an empty string; write something or leave it out".to_owned())
    } else {
        no_nul(text)
    }
}

pub(super) fn variable(key: &str, value: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("found a variable without a name".to_owned());
    }
    if key.contains('=') {
        return Err(format!("found {key:?}, and the name of a variable cannot hold `=`"));
    }
    no_nul(key)?;
    // The value may be a secret, so it is not repeated.
    no_nul(value).map_err(|_| format!("found a NUL in the value of {key:?}, which cannot be passed to a program"))
}

/// Makes a pattern absolute. As in gitignore, one without a slash is meant at any depth below.
pub(super) fn glob(pattern: &str, directory: &Path) -> Result<String, String> {
    not_empty(pattern)?;
    if pattern.starts_with('!') {
        return Err(format!("found {pattern:?}; a pattern cannot take back what another one matched"));
    }
    let inner = pattern.trim_start_matches("./").trim_end_matches('/');
    if inner.is_empty() {
        return Err(format!("found {pattern:?}, which would match everything; name the files"));
    }
    if inner.split('/').any(|part| part == "..") {
        return Err(format!("found {pattern:?}, and `..` matches nothing; write an absolute pattern"));
    }
    let root = globset::escape(&directory.to_string_lossy());
    let root = root.trim_end_matches('/');
    let absolute = match (inner.starts_with('/'), inner.contains('/')) {
        (true, _) => inner.to_owned(),
        (false, true) => format!("{root}/{inner}"),
        (false, false) => format!("{root}/**/{inner}"),
    };
    // Checked as written first, so that the complaint is about what the user can see.
    compiled(inner).and_then(|_| compiled(&absolute)).map_err(|error| {
        format!("found {pattern:?}, which is not a glob: {}; write one as in \"*.snap\" or \"docs/**\"", error.kind())
    })?;
    Ok(absolute)
}

/// A set of patterns as they stand in a `Config`. It wants absolute paths; what lies below a match matches too.
pub fn glob_set<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(compiled(pattern)?);
        set.add(compiled(&format!("{pattern}/**"))?);
    }
    set.build()
}

fn compiled(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

fn unknown(text: &str, known: &[&str]) -> String {
    format!("found {text:?}; it can be {}{}", listed(known), did_you_mean(text, known.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::super::HandOff;
    use super::*;
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    #[test]
    fn suggestions() {
        let keys = ["listen", "ready", "ready-timeout", "env", "env-file"];
        for (word, meant) in [
            ("lisen", "; did you mean `listen`?"),
            ("ready_timeout", "; did you mean `ready-timeout`?"),
            ("ready-timout", "; did you mean `ready-timeout`?"),
            ("envfile", "; did you mean `env-file`?"),
            ("xyzzy", ""),
            ("", ""),
        ] {
            assert_eq!(did_you_mean(word, keys), meant, "{word}");
        }
    }

    #[test]
    fn readiness() {
        for (text, meant) in [
            ("auto", Ready::Auto),
            ("notify", Ready::Notify),
            ("accept", Ready::Accept),
            ("http:/", Ready::Http("/".to_owned())),
            ("http:/healthz?deep=1", Ready::Http("/healthz?deep=1".to_owned())),
            ("delay:500ms", Ready::Delay(Duration::from_millis(500))),
        ] {
            assert_eq!(ready(text), Ok(meant));
        }
        for (text, part) in [
            ("", "it can be"),
            ("notfy", "did you mean `notify`?"),
            ("http", "\"http:/healthz\""),
            ("http:", "path alone"),
            ("http:admin/healthz", "path alone"),
            ("http://localhost/", "path alone"),
            ("http:/a b", "percent-encode"),
            ("http:/a\r\nHost: x", "percent-encode"),
            ("http:/ä", "percent-encode"),
            ("delay", "\"delay:500ms\""),
            ("delay:5", "without a unit"),
            ("htp:/x", "it can be"),
        ] {
            let error = ready(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn actions() {
        for (text, meant) in [
            ("none", DataAction::None),
            ("signal:HUP", DataAction::Signal(Signal::SIGHUP)),
            ("signal:SIGUSR1", DataAction::Signal(Signal::SIGUSR1)),
        ] {
            assert_eq!(data_action(text), Ok(meant));
        }
        for (text, part) in [
            ("", "\"none\" or a signal"),
            ("HUP", "\"none\" or a signal"),
            ("signal:", "no signal"),
            ("signal:hup", "no signal"),
            ("signal:USR3", "did you mean `USR"),
            ("signal:KILL", "no program can act upon"),
            ("signal:STOP", "no program can act upon"),
        ] {
            let error = data_action(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn globs_are_absolute_and_match_below() {
        let root = Path::new("/srv/[odd] shop");
        for (pattern, path, hit) in [
            ("*.snap", "/srv/[odd] shop/a.snap", true),
            ("*.snap", "/srv/[odd] shop/deep/down/a.snap", true),
            ("*.snap", "/srv/o shop/a.snap", false),
            ("node_modules", "/srv/[odd] shop/web/node_modules/x/y.js", true),
            ("docs/", "/srv/[odd] shop/docs/a.md", true),
            ("./docs/*.md", "/srv/[odd] shop/docs/a.md", true),
            ("docs/*.md", "/srv/[odd] shop/docs/deep/a.md", false),
            ("config/**", "/srv/[odd] shop/config/a/b", true),
            ("config/**", "/srv/[odd] shop/web/config/a", false),
            ("/var/data", "/var/data/x", true),
            ("*.{css,js}", "/srv/[odd] shop/a.js", true),
        ] {
            let absolute = glob(pattern, root).unwrap();
            let set = glob_set([absolute.as_str()]).unwrap();
            assert_eq!(set.is_match(path), hit, "{pattern} as {absolute} on {path}");
        }
        for pattern in ["", "!a", "/", "./", "../a", "a/../b", "a[", "{a", "a}", "[z-a]", "\0"] {
            assert!(glob(pattern, root).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(variable("A", ""), Ok(()));
        for (key, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            assert!(variable(key, value).is_err(), "{key:?}={value:?}");
        }
        assert!(!variable("KEY", "secret\0").unwrap_err().contains("secret"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (ready(&text), data_action(&text), word::<HandOff>(&text));
            if let Ok(absolute) = glob(&text, Path::new("/srv/shop")) {
                assert!(glob_set([absolute.as_str()]).is_ok(), "{absolute:?}");
            }
        }
    }
}
