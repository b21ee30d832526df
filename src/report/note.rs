//! What the user is told beside the steps of a session: advice, a limit that was met, an address that was let go. They are values with what
//! they are about; here are their words, and how often they are said.
//! Never lives here: when there is cause for one.

use super::{Generation, HandOver, ServiceId, Text, size};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::mem::{Discriminant, discriminant};

/// In JSON the variant's name is the `kind` field, its fields stand beside it. An `error` or a `why` is what somebody else says of it,
/// and `every` and `within` are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Note {
    // Of the session.
    Keys,
    Unread { notices: usize },
    Unlisted { error: String },

    // Of what is watched.
    Signalled { path: String, signal: String },
    DotenvCompiled { file: String, path: String, by: String },
    DotenvUnwatched { file: String, by: String, watch: String, manifest: String },
    WatchingFails { error: String },
    LooksInstead { why: String, every: u64 },
    CannotSurvey { error: String },
    TooMuchBelow { origin: String, path: String, files: usize, folders: usize },
    WrittenByScript { path: String, package: String },
    InputsUnreadable { file: String, error: String },
    PackagesUnknown { error: String },
    SettingsChanged,
    // What is to be built. `as_before`: no build has failed for it, and what was built until now still is.
    NotFound { error: String, as_before: bool },

    // Of how it is built.
    NoSetting { why: String },
    NoReplay { why: String },
    LinkerFails { why: String },
    LinkerUnused { why: String },
    CacheDamaged { crates: String },
    OutputLeftOut { lines: u64, bytes: u64, errors: usize },

    // Of the sockets.
    NoProbation,
    Reachable { address: String, name: String },
    Unasked { address: String, name: String },
    Occupied { address: String, generation: Generation, by: Option<String> },
    Closed { address: String },
    Unwanted { address: String, name: String },

    // Of the programs, and how they are handed over.
    BindsItself { address: String },
    BindsInstead,
    NoGate { way: HandOver, error: String },
    // Without an error, as it uses io_uring.
    Blind { error: Option<String> },
    Tied,
    NoDescriptor { error: String },
    CannotLook { error: String },
    NoSockets { generation: Generation, within: u64 },
    LeftBehind { generation: Generation, name: String },
    Background,
    EnvFileGone { file: String },
    CannotProbe { generation: Generation, error: String },
    Foreign { generation: Generation, why: String },
    SocketRefused { generation: Generation, name: String, error: String },
    GivenUp { starts: u32 },
    RunsOnlyOnce { generation: Generation },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Keys => f.write_str(Text::help_keys()),
            Note::Unread { notices } => write!(f, "{notices} notices were left out, as nobody read them"),
            Note::Unlisted { error } => {
                write!(f, "`status`, `stop` and their like will not find this session: {error}")
            }
            Note::Signalled { path, signal } => write!(f, "{path} changed: {signal} to the running program"),
            Note::DotenvCompiled { file, path, by } => write!(
                f,
                "{file} is read by {by} while the program is compiled, and a change of it compiles nothing: write \
                 `println!(\"cargo::rerun-if-changed={path}\");` in the package's build.rs"
            ),
            Note::DotenvUnwatched { file, by, watch, manifest } => write!(
                f,
                "{file} is not watched, and the program seems to read it, as it depends on {by}: with `watch = \
                 [{watch:?}]` under [package.metadata.hotrun] in {manifest} a change of it starts the program again"
            ),
            Note::WatchingFails { error } => write!(f, "watching files: {error}"),
            Note::LooksInstead { why, every } => {
                write!(f, "{why}. Until then the files are looked at every {every} ms")
            }
            Note::CannotSurvey { error } => {
                write!(f, "what is named by `watch` and `data` cannot be looked at: start a thread: {error}")
            }
            Note::TooMuchBelow { origin, path, files, folders } => write!(
                f,
                "{origin}: {path} is not watched, as over {files} files in {folders} folders were met there; name \
                 what the program reads, or pass over the rest with `ignore`"
            ),
            Note::WrittenByScript { path, package } => write!(
                f,
                "{path} is written anew by every build, by the build script of {package}: that is no change from \
                 now on, until somebody else writes it. Have the script write to OUT_DIR, or name its inputs with \
                 cargo::rerun-if-changed"
            ),
            Note::InputsUnreadable { file, error } => write!(
                f,
                "cargo's list of inputs cannot be read ({file}: {error}); every file of the packages counts as one"
            ),
            Note::PackagesUnknown { error } => write!(f, "{error}; the packages watched are those from before"),
            Note::SettingsChanged => {
                f.write_str("the settings of hotrun in Cargo.toml have changed: start it again to use them")
            }
            Note::NotFound { error, as_before: false } => f.write_str(error),
            Note::NotFound { error, as_before: true } => write!(f, "{error}; what is built is the same as before"),
            Note::NoSetting { why } => write!(
                f,
                "what cargo sets for a program cannot be found out here ({why}): it runs without a configured \
                 runner, `[env]`, what build scripts set, and most of CARGO_*"
            ),
            Note::NoReplay { why } => write!(f, "saves go through cargo, as replay is not possible here: {why}"),
            Note::LinkerFails { why } => {
                write!(f, "the fast linker fails here ({why}): saves are linked as cargo does it")
            }
            Note::LinkerUnused { why } => write!(f, "the fast linker was not used: {why}"),
            Note::CacheDamaged { crates } => write!(
                f,
                "{crates} cannot be compiled with its incremental data, which is removed: it is built once more"
            ),
            Note::OutputLeftOut { lines, bytes, errors } => {
                let lines = match lines {
                    0 => "the rest of long lines".to_owned(),
                    1 => "1 line".to_owned(),
                    lines => format!("{lines} lines"),
                };
                let errors = if *errors > 0 { format!(", {errors} errors among them") } else { String::new() };
                let bytes = size(*bytes);
                write!(
                    f,
                    "{bytes} of what this build printed are left out ({lines}{errors}): `cargo build` shows all of it"
                )
            }
            Note::NoProbation => {
                f.write_str("probation needs a program that can be told to pause, which this one cannot")
            }
            Note::Reachable { address, name } => write!(f, "{address} ({name}) can be reached from other machines"),
            Note::Unasked { address, name } => write!(
                f,
                "{address} is held for {name:?}, but the program did not ask for that name: clients wait there \
                 unanswered"
            ),
            Note::Occupied { address, generation, by } => {
                let by = by.as_deref().unwrap_or("another process");
                write!(
                    f,
                    "{address}, which generation {generation} asks for, is taken by {by}: stop that first, or choose \
                     another address"
                )
            }
            Note::Closed { address } => write!(f, "{address} was closed by the program: let go"),
            Note::Unwanted { address, name } if name == address => {
                write!(f, "{address} is no longer wanted by the program: let go")
            }
            Note::Unwanted { address, name } => {
                write!(f, "{address} ({name}) is no longer wanted by the program: let go")
            }
            Note::BindsItself { address } => write!(
                f,
                "this program binds {address} itself, so it is stopped before the new one starts, and clients are \
                 refused meanwhile. Use the hotrun library (four lines), or take LISTEN_FDS and set `listen`, and \
                 none will be"
            ),
            Note::BindsInstead => f.write_str(
                "this program binds for itself and takes none of the sockets of `listen` (LISTEN_FDS): it is given \
                 the held ones when it binds, and `listen` can be left out",
            ),
            Note::NoGate { way, error } => {
                let lost = match way {
                    HandOver::Bind => {
                        "the program is stopped before the new one starts, and clients are refused meanwhile"
                    }
                    HandOver::Library | HandOver::ListenFds | HandOver::StopAndStart => {
                        "answers that the old program has begun are its own to finish after SIGTERM"
                    }
                };
                write!(
                    f,
                    "this system refuses what the zero-change hand-over needs (seccomp user notification, Linux 5.14: \
                     {error}), so {lost}. Allow seccomp(2), or use the hotrun library"
                )
            }
            Note::Blind { error } => {
                match error {
                    None => f.write_str("the program takes its connections by io_uring, where no gate can be closed"),
                    Some(error) => {
                        write!(f, "the program does not let its memory and descriptors be looked at ({error})")
                    }
                }?;
                f.write_str(
                    ": it is stopped before the new one starts. Use the hotrun library, and it will serve meanwhile",
                )
            }
            Note::Tied => f.write_str(
                "the program has given its socket to another process, or to an event loop that cannot be reached, \
                 before it binds it, so that the held one cannot take its place: bind it first, or use `handoff = \
                 \"none\"`",
            ),
            Note::NoDescriptor { error } => write!(
                f,
                "the connections of the program cannot be looked at, as this command has no descriptor left \
                 ({error}): kept ones last until `drain-timeout`, and an answer may be cut then. Raise its limit of \
                 open files (ulimit -n)"
            ),
            Note::CannotLook { error } => write!(
                f,
                "the connections of the program cannot be looked at ({error}), so kept ones last until \
                 `drain-timeout` and an answer may be cut then. Allow pidfd_getfd(2), in a container by the \
                 capability SYS_PTRACE"
            ),
            Note::NoSockets { generation, within } => write!(
                f,
                "generation {generation} has bound nothing within {} s (half of `ready-timeout`), though it could: \
                 it is taken for a program without sockets",
                *within as f64 / 1000.0
            ),
            Note::LeftBehind { generation, name } => {
                write!(f, "{name}, which generation {generation} has left behind, is ended with it")
            }
            Note::Background => f.write_str(
                "a program that goes into the background cannot be followed, and is ended. Start it with the flag \
                 that such programs have for staying in the foreground (`--foreground`, `--no-daemon`, `-F`, or \
                 `daemon off` in its configuration): `args` passes it on",
            ),
            Note::EnvFileGone { file } => {
                write!(f, "{file} is gone: the program has the variables that stood in it before")
            }
            Note::CannotProbe { generation, error } => {
                write!(f, "generation {generation} is ended, as it cannot be asked whether it is ready: {error}")
            }
            Note::Foreign { generation, why } => write!(f, "generation {generation}: {why}"),
            Note::SocketRefused { generation, name, error } => {
                write!(f, "generation {generation}: its socket {name:?}: {error}")
            }
            Note::GivenUp { starts } => write!(
                f,
                "{starts} starts in a row have failed, so nothing is started before the next save, or before it is \
                 asked for. A program that looks first whether its own address answers finds the socket that is \
                 held for it: that one needs `handoff = \"none\"`"
            ),
            Note::RunsOnlyOnce { generation } => write!(
                f,
                "generation {generation} did not get ready beside the one that serves, and not for the first time: \
                 a program that cannot run twice (it takes a lock, a pid file or a database for itself, or looks \
                 whether it runs already) needs `--no-overlap`, or `overlap = false` in its metadata"
            ),
        }
    }
}

/// How often a note is said in a session of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Often {
    Once,
    /// As often as it says something else.
    OncePerText,
    Always,
}

impl Note {
    fn often(&self) -> Often {
        use Note::*;
        match self {
            BindsItself { .. } | BindsInstead | NoGate { .. } | Blind { .. } | Tied | NoDescriptor { .. } => {
                Often::Once
            }
            CannotLook { .. } | NoSockets { .. } | LeftBehind { .. } | Background | RunsOnlyOnce { .. } => Often::Once,
            NoSetting { .. } | NoReplay { .. } | LinkerFails { .. } | LinkerUnused { .. } => Often::OncePerText,
            _ => Often::Always,
        }
    }
}

/// What was said in a session of what is not said again, however often there is cause for it.
#[derive(Debug, Default)]
pub struct Once(HashSet<(Option<ServiceId>, Discriminant<Note>, String)>);

impl Once {
    /// Whether it is to be said now.
    pub fn is_news(&mut self, service: Option<&ServiceId>, note: &Note) -> bool {
        let text = match note.often() {
            Often::Once => String::new(),
            Often::OncePerText => note.to_string(),
            Often::Always => return true,
        };
        self.0.insert((service.cloned(), discriminant(note), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_once_a_reason_once_and_what_happens_each_time() {
        let mut once = Once::default();
        let mut said = |note: Note| [(); 2].map(|()| once.is_news(None, &note));
        assert_eq!(said(Note::LeftBehind { generation: 1, name: "a".into() }), [true, false]);
        assert_eq!(said(Note::LeftBehind { generation: 2, name: "b".into() }), [false, false]);
        assert_eq!(said(Note::NoReplay { why: "a".into() }), [true, false]);
        assert_eq!(said(Note::NoReplay { why: "b".into() }), [true, false]);
        assert_eq!(said(Note::Closed { address: "a".into() }), [true, true]);
        let of_another = ServiceId::new("worker");
        assert!(once.is_news(Some(&of_another), &Note::LeftBehind { generation: 1, name: "a".into() }));
    }

    #[test]
    fn of_what_a_build_printed_too_much_the_errors_are_counted() {
        let text = Note::OutputLeftOut { lines: 2, bytes: 39_400_000, errors: 1 }.to_string();
        assert!(text.contains("39.4 MB") && text.contains("1 errors") && text.contains("`cargo build`"), "{text}");
    }
}
