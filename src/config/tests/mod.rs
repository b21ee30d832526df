//! What manifests and flags come to together; `choose` and `refused` hold the other halves. Never lives here: building
//! or serving anything; the projects are only read by `cargo metadata`.

mod again;
mod choose;
mod refused;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cargo_metadata::{Metadata, MetadataCommand};
use nix::sys::signal::Signal;

use super::layer::Layer;
use super::metadata::{KEYS, Section, layer};
use super::{Color, Config, DataAction, Debug, Format, HandOff, Ready, Strategy};
use crate::cli::{SessionArgs, try_parse_from};
use crate::error::Exit;

const DEFAULTS: &str = include_str!("../defaults.toml");

/// A workspace in a directory of its own; files are written as given.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Project {
        let project = Project { dir: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(name, text)| project.write(name, text));
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// One package `shop` with one binary of that name, and this table.
    fn package(table: &str) -> Project {
        let manifest = format!("{}[package.metadata.hotrun]\n{table}", manifest("shop"));
        Project::new(&[("Cargo.toml", &manifest), ("src/main.rs", MAIN)])
    }

    fn make(&self, files: &[&str]) {
        files.iter().for_each(|name| self.write(name, ""));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn metadata(&self) -> Metadata {
        let mut command = MetadataCommand::new();
        command.current_dir(self.path("")).no_deps().other_options(["--offline".to_owned()]);
        command.exec().unwrap()
    }

    fn load_in(&self, directory: &str, flags: &[&str]) -> crate::error::Result<Config> {
        super::load_from(&session(flags), &self.metadata(), &self.path(directory))
    }

    fn load(&self, flags: &[&str]) -> Config {
        self.load_in("", flags).unwrap()
    }

    fn refusal(&self, directory: &str, flags: &[&str]) -> String {
        let error = self.load_in(directory, flags).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        error.to_string().replace(&self.path("").display().to_string(), "/")
    }
}

const MAIN: &str = "fn main() {}\n";

/// Five lines.
fn manifest(name: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n")
}

fn session(flags: &[&str]) -> SessionArgs {
    try_parse_from(["cargo-hotrun"].iter().chain(flags)).unwrap().session
}

fn table(text: &str) -> crate::error::Result<Layer> {
    layer(&format!("[package.metadata.hotrun]\n{text}"), Path::new("/shop/Cargo.toml"), Section::Package)
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let silent = Project::package("");
    let loud = Project::new(&[("Cargo.toml", &format!("{}{DEFAULTS}", manifest("shop"))), ("src/main.rs", MAIN)]);
    let mut silent_config = silent.load(&[]);
    let loud_config = loud.load(&[]);
    silent_config.build.manifest_path = loud_config.build.manifest_path.clone();
    silent_config.build.package_id = loud_config.build.package_id.clone();
    silent_config.choice = loud_config.choice.clone();
    assert_eq!(silent_config, loud_config);
    // And every key stands there, as a value or as a comment.
    for key in KEYS {
        let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(DEFAULTS.lines().any(stands), "{key}");
    }
    let commented = DEFAULTS.replace("\n# ", "\n").replace("example = \"NAME\"", "");
    assert!(layer(&commented, Path::new("/Cargo.toml"), Section::Package).unwrap().target.is_some());
}

#[test]
fn every_key_is_read() {
    let project = Project::package(
        r#"
        bin = "shop"
        features = ["dev", "log"]
        profile = "fast"
        replay = false
        debug = "full"
        args = ["--port", ""]
        env = { A = "1", B = "" }
        env-file = ".env"
        listen = { http = "3000", admin = "unix:target/admin.sock", dns = "udp:0.0.0.0:5353" }
        watch = ["migrations", "/etc"]
        ignore = ["*.snap"]
        data = { "config/**" = "signal:HUP", "templates/**" = "none" }
        strategy = "restart"
        handoff = "listen-fds"
        ready = "http:/healthz"
        overlap = false
        ready-timeout = "1m"
        probation = "10s"
        drain-timeout = "1.5s"
        drain-limit = "10s"
        kill-timeout = "500ms"
        "#,
    );
    project.make(&[".env", "migrations"]);
    let config = project.load(&[]);
    assert_eq!(config.build.features, ["dev", "log"]);
    assert_eq!(config.build.profile.as_deref(), Some("fast"));
    assert_eq!((config.build.replay, config.build.debug), (false, Debug::Full));
    assert_eq!(config.program.args, ["--port", ""]);
    assert_eq!(config.program.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())]);
    assert_eq!(config.program.env_file, Some(project.path(".env")));
    let listen: Vec<_> = config.listen.iter().map(|one| (one.name.as_str(), one.address.to_string())).collect();
    let socket = format!("unix:{}", project.path("target/admin.sock").display());
    let udp = "udp:0.0.0.0:5353".to_owned();
    assert_eq!(listen, [("http", "127.0.0.1:3000".to_owned()), ("admin", socket), ("dns", udp)]);
    assert_eq!(config.watch.extra, [project.path("migrations"), PathBuf::from("/etc")]);
    assert!(
        super::glob_set(config.watch.ignore.iter().map(String::as_str)).unwrap().is_match(project.path("a/b.snap"))
    );
    let data = super::glob_set(config.watch.data.iter().map(|data| data.glob.as_str())).unwrap();
    assert!(data.is_match(project.path("config/a.toml")));
    let actions: Vec<_> = config.watch.data.iter().map(|data| data.action).collect();
    assert_eq!(actions, [DataAction::Signal(Signal::SIGHUP), DataAction::None]);
    let upgrade = config.upgrade;
    assert_eq!((upgrade.strategy, upgrade.handoff), (Strategy::Restart, HandOff::ListenFds));
    assert_eq!((upgrade.ready, upgrade.overlap), (Ready::Http("/healthz".to_owned()), false));
    assert_eq!((upgrade.ready_timeout, upgrade.probation), (Duration::from_secs(60), Duration::from_secs(10)));
    assert_eq!(
        (upgrade.drain_timeout, upgrade.drain_limit, upgrade.kill_timeout),
        (Duration::from_millis(1500), Duration::from_secs(10), Duration::from_millis(500))
    );
}

#[test]
fn listen_in_its_three_forms() {
    let names = |text: &str| -> Vec<String> {
        table(text).unwrap().listen.unwrap().iter().map(|one| format!("{}={}", one.name, one.address)).collect()
    };
    assert_eq!(names(r#"listen = "127.0.0.1:3000""#), ["http=127.0.0.1:3000"]);
    let three = ["http=127.0.0.1:1", "listen-2=127.0.0.1:2", "listen-3=unix:/shop/x"];
    assert_eq!(names(r#"listen = ["1", "2", "unix:x"]"#), three);
    let two = ["b=127.0.0.1:1", "a=127.0.0.1:2"];
    assert_eq!(names(r#"listen = { b = "1", a = "2" }"#), two);
    assert_eq!(names("listen.b = '1'\nlisten.a = '2'"), two);
    assert_eq!(names("[package.metadata.hotrun.listen]\nb = '1'\na = '2'"), two);
}

#[test]
fn flags_go_to_cargo_and_paths_are_meant_from_here() {
    let project = Project::package("");
    let flags = ["-F", "a b", "--features", "c,d", "--all-features", "--no-default-features", "-r", "-j", "-1"];
    let more = ["--target", "x86_64-unknown-linux-musl", "--target-dir", "t", "--locked", "--offline", "--frozen"];
    let last =
        ["--config", "a=1", "--config", "b=2", "-w", "w", "--env-file", "e", "--listen", "a=unix:s=:t", "-i", "x/y"];
    project.make(&["src/w", "src/e"]);
    let config = project.load_in("src", &[&flags[..], &more, &last].concat()).unwrap();
    let build = config.build;
    assert_eq!(build.features, ["a", "b", "c", "d"]);
    assert!(build.all_features && build.no_default_features && build.locked && build.offline && build.frozen);
    assert_eq!((build.profile.as_deref(), build.jobs.as_deref()), (Some("release"), Some("-1")));
    assert_eq!(build.triple.as_deref(), Some("x86_64-unknown-linux-musl"));
    assert_eq!(build.target_dir, Some(project.path("src/t")));
    assert_eq!(build.cargo_config, ["a=1", "b=2"]);
    assert_eq!(config.watch.extra, [project.path("src/w")]);
    assert_eq!(config.watch.ignore, [project.path("src/x/y").display().to_string()]);
    assert_eq!(config.program.env_file, Some(project.path("src/e")));
    assert_eq!(config.listen[0].name, "a");
    assert_eq!(config.listen[0].address.to_string(), format!("unix:{}", project.path("src/s=:t").display()));
    let shown = ["--message-format", "json", "--color", "never", "-q", "--clear", "--no-keys", "--no-overlap"];
    let config = project.load(&[&shown[..], &["--no-replay", "--debug", "full", "--timings"]].concat());
    assert_eq!((config.output.format, config.output.color), (Format::Json, Color::Never));
    assert!(config.output.quiet && config.output.clear && !config.output.keys && !config.upgrade.overlap);
    assert_eq!((config.build.replay, config.build.debug, config.output.timings), (false, Debug::Full, true));
}

#[test]
fn cargos_colour_setting_counts_where_the_flag_is_silent() {
    for (setting, color) in
        [(None, Color::Auto), (Some("always"), Color::Always), (Some("never"), Color::Never), (Some("?"), Color::Auto)]
    {
        assert_eq!(super::color_of_cargo(setting), color);
    }
}

/// A virtual workspace: `api` and `worker` can be run, `api` has two binaries, `core` is a library.
fn workspace(root: &str, api: &str) -> Project {
    Project::new(&[
        ("Cargo.toml", &format!("[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"\n{root}")),
        ("crates/api/Cargo.toml", &format!("{}{api}", manifest("api"))),
        ("crates/api/src/main.rs", MAIN),
        ("crates/api/src/bin/admin.rs", MAIN),
        ("crates/api/examples/tiny.rs", MAIN),
        ("crates/worker/Cargo.toml", &manifest("worker")),
        ("crates/worker/src/main.rs", MAIN),
        ("crates/core/Cargo.toml", &manifest("core-lib")),
        ("crates/core/src/lib.rs", ""),
        ("crates/core/examples/show.rs", MAIN),
    ])
}

#[test]
fn nearer_places_win_key_by_key() {
    let root = "[workspace.metadata.hotrun]\nlisten = 'unix:all.sock'\ndrain-timeout = '1s'\nkill-timeout = '1s'\n\
                probation = '1s'\nreplay = false\ndebug = 'full'\nenv = { A = 'root', B = 'root' }\nargs = ['root']\nenv-file = '.env'\n";
    let api = "[package.metadata.hotrun]\nbin = 'api'\nkill-timeout = '2s'\nprobation = '2s'\ndebug = 'line-tables'\n\
               env = { B = 'api', C = 'api' }\nwatch = ['w']\n";
    let project = workspace(root, api);
    let flags = ["--probation", "3s", "--env", "C=flag", "--env", "D=a=b", "-w", "v"];
    project.make(&[".env", "crates/api/v", "crates/api/w"]);
    let config = project.load_in("crates/api", &flags).unwrap();
    let seconds = |n| Duration::from_secs(n);
    assert_eq!(config.upgrade.drain_timeout, seconds(1));
    assert_eq!(config.upgrade.kill_timeout, seconds(2));
    assert_eq!(config.upgrade.probation, seconds(3));
    assert_eq!((config.build.replay, config.build.debug), (false, Debug::LineTables));
    let env: Vec<_> = config.program.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(env, ["A=root", "B=api", "C=flag", "D=a=b"]);
    assert_eq!(config.program.args, ["root"]);
    // Paths are meant from where they were written.
    assert_eq!(config.program.env_file, Some(project.path(".env")));
    assert_eq!(config.listen[0].address.to_string(), format!("unix:{}", project.path("all.sock").display()));
    assert_eq!(config.watch.extra, [project.path("crates/api/v")]);

    let flags = ["--listen", "1", "--listen", "x=2", "--replay", "true", "--debug", "full", "--", "a", "b"];
    let config = project.load_in("crates/api", &flags).unwrap();
    assert_eq!((config.build.replay, config.build.debug), (true, Debug::Full));
    let listen: Vec<_> = config.listen.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((listen, config.program.args), (vec!["http", "x"], vec!["a".into(), "b".into()]));
}
