//! Everything the user is told, as values: a `Notice` is a fact with its cause, and the renderers turn it into a
//! line of text (`text`) or a JSON object (`json`). Never lives here: deciding what happens.

mod background;
pub mod clean;
mod formats;
mod json;
mod note;
pub mod say;
mod still;
mod text;
mod url;
mod waterfall;

use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

pub use background::Background;
pub use clean::one_line;
pub use formats::size;
pub use json::Json;
pub use note::Note;
pub use text::Text;
pub use url::urls;

/// Counter of generations in one session, from 1.
pub type Generation = u64;

/// A service of a session, by its name: one program, and the generations that run it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceId(Arc<str>);

impl ServiceId {
    pub fn new(name: &str) -> ServiceId {
        ServiceId(name.into())
    }

    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A fact the user is told. In JSON the variant's name is the `event` field, its fields stand beside it.
/// Durations are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Notice {
    /// What is watched from now on; said once, and again when the set of packages changes.
    Watching {
        files: usize,
        package: String,
        path_dependencies: usize,
    },
    /// A socket held for the whole session.
    Listening {
        name: String,
        address: String,
    },
    /// A build began. `cause` is a sentence part: `src/routes.rs changed`, `first build`, `asked for`.
    Building {
        package: String,
        cause: String,
    },
    /// Crates finished in the running build, and what cargo does, or waits for.
    Progress {
        done: usize,
        total: usize,
        doing: Option<String>,
        waiting: Option<String>,
    },
    /// A build that takes its time: said now and then, with who holds what it waits for, where that can be seen.
    StillBuilding {
        done: usize,
        total: usize,
        took: u64,
        doing: Option<String>,
        waiting: Option<String>,
        waited: Option<u64>,
        holder: Option<Holder>,
    },
    /// What the running build waited for is there.
    WaitOver {
        waiting: String,
        waited: u64,
    },
    /// A rendered message of the compiler or of cargo. `message` is the compiler's own object, as cargo gives it; cargo's
    /// own lines have none.
    Diagnostic {
        rendered: String,
        message: Option<serde_json::Value>,
    },
    /// The running build was ended for a newer change.
    Superseded {
        cause: String,
    },
    /// The next save is compiled by replay, unless it changes how the program is built. For programs; people see it by the time.
    ReplayReady {
        crates: usize,
    },
    BuildFailed {
        errors: usize,
        cause: String,
        /// Why it went through cargo, if it did.
        why_cargo: Option<String>,
        serving: Option<Generation>,
    },
    /// The build gave the bytes that already serve.
    Unchanged {
        serving: Generation,
    },
    /// The program that was built cannot be kept, and so not be started.
    NotKept {
        why: String,
        serving: Option<Generation>,
    },
    /// A generation was started and is not ready yet.
    Starting {
        generation: Generation,
        pid: u32,
    },
    /// It is still not ready. `given_up` is how long after its start it is given up.
    NotReady {
        generation: Generation,
        after: u64,
        given_up: u64,
    },
    /// From now on every new connection is answered by this generation.
    Serving {
        generation: Generation,
        pid: u32,
        addresses: Vec<String>,
        by: HandOver,
        program: Vintage,
        timing: Option<Timing>,
    },
    /// Where the time from a save to its generation went; said where it was asked for.
    Timings(Timings),
    /// It ended, hung or could not be run before it was ready.
    StartFailed {
        generation: Generation,
        end: String,
        program: Vintage,
        serving: Option<Generation>,
    },
    /// It died in the probation window, and the one before accepts again.
    RolledBack {
        from: Generation,
        to: Generation,
        end: String,
    },
    /// The current one died; `again_in` is when it is started again, or, where it keeps dying, the program before it.
    Died {
        generation: Generation,
        end: String,
        again_in: Option<u64>,
        falls_back: bool,
        /// Nothing is started before something changes.
        given_up: bool,
    },
    /// A program without held sockets came to its end.
    Finished {
        generation: Generation,
        end: String,
    },
    /// An old generation is still busy with `live` connections: said when it begins to leave, and again if it takes long. Where it goes on
    /// answering past its time, `limit` is how long after its beginning it is ended at the latest.
    Draining {
        generation: Generation,
        live: usize,
        after: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
    },
    /// An old generation has left. `cut` counts connections that were ended by force, where the program tells of them.
    Drained {
        generation: Generation,
        cut: Option<usize>,
        end: String,
        /// How long it has taken to leave.
        took: u64,
    },
    /// Beside the steps: advice, a limit that was met, an address that was let go.
    Note(Note),
    /// Something that was asked for cannot be done now.
    Refused {
        asked: String,
        why: String,
    },
    Stopping {
        cause: String,
    },
    /// What still runs, as the session was not allowed to end it or has not been told to.
    Stopped {
        left: Vec<String>,
    },
}

impl From<Note> for Notice {
    fn from(note: Note) -> Notice {
        Notice::Note(note)
    }
}

/// Which program a generation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vintage {
    /// What the newest sources were built into.
    Newest,
    /// One from before, to which the user went back.
    RolledBack,
    /// One from before, as the newest does not stay up.
    FallenBack,
}

/// Another process, and how it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    pub pid: u32,
    /// Empty where that cannot be seen.
    pub command: String,
}

/// How the generation got its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandOver {
    /// Through the library's control channel.
    Library,
    /// Through `LISTEN_FDS`.
    ListenFds,
    /// At its own bind(2), with nothing changed in it.
    Bind,
    /// Not at all: the old program is stopped before the new one starts.
    StopAndStart,
}

/// Where the time from the save to the switch went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Timing {
    /// Whether a file was saved; otherwise it counts from when the build was asked for.
    pub saved: bool,
    pub saved_to_live: f64,
    pub compile: f64,
    pub start: f64,
    pub ready: f64,
    pub switch: f64,
}

/// The steps from a save to the new program, in milliseconds. They follow one another without a gap.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Timings {
    pub generation: Generation,
    pub built_by: BuiltBy,
    /// Why no replay would do.
    pub why_cargo: Option<String>,
    /// Whether a file was saved; otherwise all counts from when the build was asked for.
    pub saved: bool,
    /// From there to the switch.
    pub total: f64,
    /// From the file system's event to the loop.
    pub detect: f64,
    pub decide: f64,
    /// From the start of the first compiler to the end of the last; the link is its last part.
    pub compile: f64,
    pub link: Option<f64>,
    pub linker: Option<String>,
    /// From the end of the last compiler until the program ran.
    pub start: f64,
    /// From there on until it was ready.
    pub ready: f64,
    /// Until the one before had stopped accepting.
    pub switch: f64,
    pub crates: Vec<CrateTiming>,
}

/// When one crate was compiled, in milliseconds since the save.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CrateTiming {
    pub name: String,
    pub began: f64,
    pub ended: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltBy {
    /// Captured calls of rustc, run again.
    Replay,
    Cargo,
}

/// How the end of a program is told that has not failed.
pub const SUCCESS: &str = "exit status 0";

/// Where notices go. `at` is the time since the session began, and `service` what the notice is of: none for one of the whole session.
pub trait Reporter {
    fn tell(&mut self, at: std::time::Duration, service: Option<&ServiceId>, notice: &Notice);

    /// Empties the screen, where there is one.
    fn clear(&mut self);
}

/// A path as the user would write it, on one line: relative to the working directory where it is below it.
pub fn short(path: &std::path::Path) -> String {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::new());
    one_line(&path.strip_prefix(&cwd).unwrap_or(path).to_string_lossy())
}
