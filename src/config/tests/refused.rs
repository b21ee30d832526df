//! Everything a manifest or a flag can say that is refused, and that none of it panics.

use std::path::Path;

use proptest::prelude::{Strategy as _, any, prop, proptest};

use super::super::layer::Layer;
use super::super::metadata::{KEYS, Section, layer};
use super::DEFAULTS;
use super::{Project, table};
use crate::error::Exit;

#[test]
fn refused_in_its_line() {
    let long = format!("listen = {{ {} = '1' }}", "x".repeat(256));
    for (text, place, part) in [
        // Keys.
        ("lisen = '1'", "2:1", "unknown key `lisen` in [package.metadata.hotrun]; did you mean `listen`?"),
        ("overlap = true\n\nready_timeout = '5s'", "4:1", "did you mean `ready-timeout`?"),
        ("xyzzy = 1", "2:1", "unknown key `xyzzy` in [package.metadata.hotrun]; the keys are `bin`, `example`,"),
        ("'' = 1", "2:1", "unknown key ``"),
        ("[package.metadata.hotrun.lissten]\na = '1'", "2:26", "did you mean `listen`?"),
        ("bin = 'a'\nexample = 'b'", "3:11", "`example` in [package.metadata.hotrun]: found both"),
        // Types.
        ("bin = 1", "2:7", "`bin` in [package.metadata.hotrun]: found the number 1, expected a string"),
        ("bin = ['a']", "2:7", "found a list, expected a string"),
        ("bin = { a = 1 }", "2:7", "found a table, expected a string"),
        ("bin = 1979-05-27", "2:7", "found the date 1979-05-27"),
        ("[[package.metadata.hotrun.bin]]", "2:1", "found an array of tables"),
        ("features = 'dev'", "2:12", "found the string \"dev\", expected a list"),
        ("features = ['a',\n  1.5]", "3:3", "`features` in [package.metadata.hotrun]: found the number 1.5"),
        ("args = [['a']]", "2:9", "found a list"),
        ("args = [{}]", "2:9", "found a table"),
        ("env = 'A=1'", "2:7", "found the string \"A=1\", expected a table"),
        ("env = { A = 1 }", "2:13", "`env.A` in [package.metadata.hotrun]: found the number 1, expected a string"),
        ("overlap = 'true'", "2:11", "found the string \"true\", expected true or false"),
        ("replay = 1", "2:10", "found the number 1, expected true or false"),
        ("debug = true", "2:9", "found true, expected a string"),
        ("watch = 'a'", "2:9", "expected a list"),
        ("ignore = true", "2:10", "found true, expected a list"),
        ("data = []", "2:8", "found a list, expected a table"),
        ("listen = 3000", "2:10", "write it as a string, \"3000\""),
        ("listen = true", "2:10", "expected an address"),
        ("listen = [3000]", "2:11", "found the number 3000, expected a string"),
        ("strategy = 1", "2:12", "expected a string"),
        // Times.
        ("ready-timeout = 5", "2:17", "write \"5s\" or \"5ms\""),
        ("drain-timeout = '5'", "2:17", "write \"5s\" or \"5ms\""),
        ("drain-limit = '5'", "2:15", "write \"5s\" or \"5ms\""),
        ("drain-timeout = -5", "2:17", "without a unit"),
        ("drain-timeout = 5.0", "2:17", "expected a time"),
        ("drain-timeout = nan", "2:17", "expected a time"),
        ("probation = '-5s'", "2:13", "negative"),
        ("kill-timeout = '99999999999999999999h'", "2:16", "longer than a year"),
        ("kill-timeout = ''", "2:16", "empty"),
        ("ready-timeout = '0s'", "2:17", "no program can be ready"),
        // Addresses and their names.
        ("listen = 'nonsense'", "2:10", "`listen` in [package.metadata.hotrun]: found \"nonsense\""),
        ("listen = ''", "2:10", "empty"),
        ("listen = ['1', '70000']", "2:16", "not a port"),
        ("listen = { 'a:b' = '1' }", "2:20", "':' cannot stand in one"),
        ("listen = { '' = '1' }", "2:17", "empty name"),
        ("listen = { \"a\\tb\" = '1' }", "2:21", "cannot stand in one"),
        (&long, "2:271", "256 bytes"),
        ("listen = ['1', 'localhost:1']", "2:16", "found 127.0.0.1:1 under both \"http\" and \"listen-2\""),
        ("listen = { a = 'unix:x', b = 'unix:./x' }", "2:30", "under both"),
        ("listen = 'unix:@x'", "2:10", "name a file"),
        // Words.
        ("strategy = 'restrat'", "2:12", "did you mean `restart`?"),
        ("debug = 'line-table'", "2:9", "did you mean `line-tables`?"),
        ("debug = 'none'", "2:9", "it can be `line-tables`, `full`"),
        ("handoff = 'libary'", "2:11", "did you mean `library`?"),
        ("handoff = 'listen-fds'", "", ""),
        ("ready = 'http:healthz'", "2:9", "path alone"),
        ("data = { 'a' = 'signal:HUPP' }", "2:16", "`data.a` in [package.metadata.hotrun]: found \"signal:HUPP\""),
        ("data = { 'a[' = 'none' }", "2:17", "not a glob"),
        ("ignore = ['a', '!b']", "2:16", "cannot take back"),
        ("ignore = ['{a']", "2:11", "not a glob"),
        // Empty, or what no program can be given.
        ("bin = ''", "2:7", "empty"),
        ("profile = ''", "2:11", "empty"),
        ("features = ['']", "2:13", "empty"),
        ("watch = ['']", "2:10", "empty"),
        ("env-file = ''", "2:12", "empty"),
        ("args = [\"a\\u0000\"]", "2:9", "NUL"),
        ("env = { A = \"a\\u0000\" }", "2:13", "NUL"),
        ("env = { 'A=B' = 'x' }", "2:17", "cannot hold `=`"),
        ("env = { '' = 'x' }", "2:14", "without a name"),
    ] {
        if place.is_empty() {
            assert!(table(text).is_ok(), "{text}");
            continue;
        }
        let error = table(text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("/shop/Cargo.toml:{place}: ")), "{text}\n{shown}");
        assert!(shown.contains(part), "{text}\n{shown}");
        assert_eq!(error.exit(), Exit::Usage, "{text}");
    }
}

#[test]
fn the_table_itself() {
    let read = |text: &str, section| layer(text, Path::new("/shop/Cargo.toml"), section);
    for text in ["", "[package]\nname = 'x'", "[package.metadata]\nother = 1", "package = 1", "[workspace]"] {
        assert_eq!(read(text, Section::Package).unwrap(), Layer::default(), "{text}");
    }
    let of_another = "[workspace.metadata.hotrun]\nbin = 'a'";
    assert_eq!(read(of_another, Section::Package).unwrap(), Layer::default());
    assert!(read(of_another, Section::Workspace).unwrap().target.is_some());
    for (text, shown) in [
        ("package.metadata.hotrun = 3", "/shop/Cargo.toml:1:27: [package.metadata.hotrun]: found the number 3"),
        ("[[package.metadata.hotrun]]", "/shop/Cargo.toml:1:1: [package.metadata.hotrun]: found an array of tables"),
        ("[package]\nname = \"é\" x\n", "/shop/Cargo.toml:2:12: "),
        ("[workspace.metadata.hotrun]\n ré = 1", "/shop/Cargo.toml:2:3: "),
    ] {
        let error = read(text, Section::Package).unwrap_err().to_string();
        assert!(error.starts_with(shown), "{text}\n{error}");
    }
}

#[test]
fn refused_flags() {
    let project = Project::package("");
    for (flags, part) in [
        (&["--listen", "nonsense"][..], "`--listen`: found \"nonsense\""),
        (&["--listen", "=3000"], "`--listen`: found an empty name"),
        (&["--listen", "1", "--listen", "localhost:1"], "`--listen`: found 127.0.0.1:1 under both"),
        (&["--listen", "a=1", "--listen", "a=2"], "`--listen`: found the name \"a\" twice"),
        (&["--listen", "é=1"], "`--listen`: found the name"),
        (&["--listen", ""], "`--listen`: found \"\""),
        (&["--env", "A"], "`--env`: found \"A\" without a value; write \"A=VALUE\""),
        (&["--env", "=1"], "`--env`: found a variable without a name"),
        (&["--env", "A=\0"], "`--env`: found a NUL"),
        (&["--ready", "http"], "`--ready`: found \"http\""),
        (&["--handoff", "none", "--listen", "3000"], "`--handoff`: found \"none\" and addresses to listen on"),
        (&["--handoff", "listen-fds"], "`--handoff`: found \"listen-fds\" and no address"),
        (&["--ready-timeout", "5"], "`--ready-timeout`: found \"5\""),
        (&["--ready-timeout", "0s"], "`--ready-timeout`: found a time of zero"),
        (&["--probation=-1s"], "`--probation`: found \"-1s\""),
        (&["--drain-timeout", "x"], "`--drain-timeout`"),
        (&["--drain-limit", "x"], "`--drain-limit`"),
        (&["--kill-timeout", ""], "`--kill-timeout`"),
        (&["--ignore", "[a"], "`--ignore`: found \"[a\""),
        (&["--data", "a"], "`--data`: found \"a\" without an action"),
        (&["--data", "a=HUP"], "`--data`: found \"HUP\""),
        (&["--features", " "], "`--features`: found no name"),
        (&["--profile", ""], "`--profile`"),
        (&["--target", ""], "`--target`"),
        (&["--config", ""], "`--config`"),
        (&["--jobs", "many"], "`--jobs`: found \"many\""),
        (&["--jobs", "0"], "`--jobs`: found \"0\""),
        (&["--bin", ""], "`--bin`: found an empty string"),
        (&["--bin", "shpo"], "`--bin`: found \"shpo\"; package `shop` has no bin of that name; did you mean `shop`?"),
        (&["--example", "x"], "`--example`: found \"x\"; package `shop` has no example of that name"),
        (&["-p", "shpo"], "`--package`: found \"shpo\"; the packages of this workspace are `shop`; did you mean"),
        (&["--", "\0"], "`-- ARGS`: found \"\\0\""),
    ] {
        let shown = project.refusal("", flags);
        assert!(shown.starts_with('`') && shown.contains(part), "{flags:?}\n{shown}");
    }
}

proptest! {
    #[test]
    fn no_manifest_panics(text in any::<String>()) {
        let _ = layer(&text, Path::new("/shop/Cargo.toml"), Section::Package);
        let _ = table(&text);
    }

    #[test]
    fn no_garbled_manifest_panics(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[^a-z]{0,3}|é|\u{0}"), 1..6),
    ) {
        let mut text: Vec<char> = DEFAULTS.replace("\n# ", "\n").chars().collect();
        for (at, len, instead) in cuts {
            let at = at.index(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, instead.chars());
        }
        let _ = layer(&text.into_iter().collect::<String>(), Path::new("/Cargo.toml"), Section::Package);
    }

    #[test]
    fn no_value_panics(
        key in prop::sample::select(KEYS.to_vec()),
        value in "[0-9a-z\\[\\]{}=,.'\" :/-]{0,24}".prop_map(|text| text.replace('\n', "")),
    ) {
        let _ = table(&format!("{key} = {value}"));
        let _ = table(&format!("{key} = '{value}'"));
        let _ = table(&format!("{key} = ['{value}']"));
        let _ = table(&format!("{key}.'{value}' = '{value}'"));
    }
}

/// One that the nearest place does not name is nobody's concern.
#[test]
fn files_that_are_named_and_not_there() {
    let shop = Project::package("env-file = 'none.env'\nwatch = ['there', 'gone']\n");
    shop.make(&["there"]);
    for (flags, parts) in [
        (
            &[][..],
            ["Cargo.toml:7:12: `env-file` in [package.metadata.hotrun]", "none.env, which is not there", "create it"],
        ),
        (
            &["--env-file", "there"],
            ["Cargo.toml:8:19: `watch` in [package.metadata.hotrun]", "gone, which is not there", "correct it"],
        ),
        (
            &["--env-file", "there", "-w", "there", "-w", "nowhere"],
            ["`--watch`", "nowhere, which is not there", "correct it"],
        ),
        (&["--env-file", "other.env"], ["`--env-file`", "other.env, which is not there", "create it"]),
        (&["--env-file", "src"], ["`--env-file`", "src, which is no file", "create it"]),
    ] {
        let shown = shop.refusal("", flags);
        assert!(parts.iter().all(|part| shown.contains(part)), "{flags:?}: {shown}");
    }
    shop.load(&["--env-file", "there", "-w", "src"]);
}
