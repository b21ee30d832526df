//! Watches folders and says which paths were touched, at once, and again when it has become quiet.
//! Never lives here: what a path means (`sources`).

use super::progress::millis;
use super::survey::Survey;
use crate::report::Note;
use notify_debouncer_full::notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify_debouncer_full::notify::{
    self, ErrorKind, Event, EventHandler, RecommendedWatcher, RecursiveMode, WatcherKind,
};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Long, as it is only the second look; each tick wakes the process. The first look is the leading edge.
const QUIET: Duration = Duration::from_millis(250);

/// Something happened to files.
#[derive(Debug)]
pub enum FileEvent {
    /// A save is complete, or a name came or went. With the moment it was seen.
    Touched(Vec<PathBuf>, Instant),
    /// All that happened to these paths is over for now.
    Quiet(Vec<PathBuf>),
    /// Events were lost: look at everything again.
    Lost,
    /// What the user has named beside the packages was looked at.
    Surveyed(Box<Survey>),
    /// Watching fails somewhere.
    Trouble(String),
}

/// Where what is seen goes.
pub type FileSink = Arc<dyn Fn(FileEvent) + Send + Sync>;

/// How often to look at the files where watching cannot be had.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What is seen of files, and when they have to be looked at as that is not everything.
pub struct Lookout {
    watcher: Option<FolderWatcher>,
    look_at: Option<Instant>,
    /// Why there is no watcher, until it is told.
    trouble: Option<String>,
}

impl Lookout {
    pub fn open(sink: &FileSink) -> Lookout {
        match FolderWatcher::open(sink) {
            Ok(watcher) => Lookout { watcher: Some(watcher), look_at: None, trouble: None },
            Err(error) => Lookout { watcher: None, look_at: None, trouble: Some(describe(&error)) },
        }
    }

    /// Watches exactly these folders from now on. What there is to tell, where that cannot be had: the first time.
    pub fn watch(&mut self, now: Instant, wanted: &BTreeSet<PathBuf>) -> Option<Note> {
        let troubles = self.watcher.as_mut().map(|watcher| watcher.watch(wanted)).unwrap_or_default();
        let why = self.trouble.take().or(troubles.into_iter().next_back())?;
        if self.look_at.is_some() {
            return None;
        }
        self.look_at = Some(now + LOOK_INTERVAL);
        Some(Note::LooksInstead { why, every: millis(LOOK_INTERVAL) })
    }

    /// A folder came or went at that path: what was watched there or below is watched no more.
    pub fn forget(&mut self, path: &Path) {
        if let Some(watcher) = &mut self.watcher {
            watcher.unwatch(|folder| folder.starts_with(path));
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether everything is to be looked at now.
    pub fn is_time(&mut self, now: Instant) -> bool {
        let is_time = self.look_at.is_some_and(|at| at <= now);
        if is_time {
            self.look_at = Some(now + LOOK_INTERVAL);
        }
        is_time
    }

    pub fn close(&mut self) {
        (self.watcher, self.look_at) = (None, None);
    }
}

/// Watches folders, one by one: a recursive watch would take in `target`.
struct FolderWatcher {
    debouncer: Debouncer<Tee, NoCache>,
    folders: BTreeSet<PathBuf>,
}

impl FolderWatcher {
    /// # Errors
    /// When the system has no more watches to give; the caller looks from time to time instead.
    fn open(sink: &FileSink) -> notify::Result<FolderWatcher> {
        let quiet = {
            let sink = Arc::clone(sink);
            move |result: DebounceEventResult| match result {
                Ok(events) => {
                    if events.iter().any(|event| event.need_rescan()) {
                        sink(FileEvent::Lost);
                    }
                    let changes = events.into_iter().filter(|event| !event.kind.is_access());
                    let paths: BTreeSet<PathBuf> = changes.flat_map(|event| event.event.paths).collect();
                    if !paths.is_empty() {
                        sink(FileEvent::Quiet(paths.into_iter().collect()));
                    }
                }
                Err(errors) => errors.iter().for_each(|error| sink(FileEvent::Trouble(error.to_string()))),
            }
        };
        // The debouncer makes its watcher itself, by a function without arguments: what the watcher needs waits here.
        let mut waiting = FOR_NEXT_TEE.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Some(Arc::clone(sink));
        drop(waiting);
        let config = notify::Config::default();
        let debouncer = new_debouncer_opt::<_, Tee, _>(QUIET, Some(QUIET), quiet, NoCache, config)?;
        Ok(FolderWatcher { debouncer, folders: BTreeSet::new() })
    }

    /// Watches exactly these folders from now on. Folders that are not there are passed over: their parents tell when they
    /// come. Says what cannot be watched.
    fn watch(&mut self, wanted: &BTreeSet<PathBuf>) -> Vec<String> {
        self.unwatch(|folder| !wanted.contains(folder));
        let mut troubles = Vec::new();
        for folder in wanted {
            if self.folders.contains(folder) || !folder.is_dir() {
                continue;
            }
            match self.debouncer.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(folder.clone());
                }
                // What may not be looked into cannot be compiled either.
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) || is_denied(&error) => {}
                Err(error) => troubles.push(describe(&error)),
            }
        }
        troubles
    }

    fn unwatch(&mut self, is_stale: impl Fn(&Path) -> bool) {
        for folder in self.folders.extract_if(.., |folder| is_stale(folder)) {
            // It may be gone from the disk too, and its watch with it.
            self.debouncer.unwatch(&folder).ok();
        }
    }
}

fn describe(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "no inotify watches are left: raise fs.inotify.max_user_watches (sysctl), or close what uses them"
                .to_owned()
        }
        ErrorKind::Io(io) if io.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32) => {
            "no inotify instances are left: raise fs.inotify.max_user_instances (sysctl), or close what uses them"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn is_denied(error: &notify::Error) -> bool {
    matches!(&error.kind, ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::PermissionDenied)
}

static FOR_NEXT_TEE: Mutex<Option<FileSink>> = Mutex::new(None);

/// The system's watcher, heard twice: by the debouncer, and by us without delay.
struct Tee(RecommendedWatcher);

impl notify::Watcher for Tee {
    fn new<F: EventHandler>(mut debouncer: F, config: notify::Config) -> notify::Result<Self> {
        let sink = FOR_NEXT_TEE.lock().unwrap_or_else(PoisonError::into_inner).take();
        let watcher = RecommendedWatcher::new(
            move |result: notify::Result<Event>| {
                if let (Ok(event), Some(sink)) = (&result, &sink) {
                    if event.need_rescan() {
                        sink(FileEvent::Lost);
                    } else if is_edge(&event.kind) {
                        sink(FileEvent::Touched(event.paths.clone(), now()));
                    }
                }
                // Reading is not changing, and the compiler reads a lot.
                if !matches!(&result, Ok(event) if event.kind.is_access()) {
                    debouncer.handle_event(result);
                }
            },
            config,
        )?;
        Ok(Tee(watcher))
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        self.0.watch(path, mode)
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        self.0.unwatch(path)
    }

    fn kind() -> WatcherKind {
        RecommendedWatcher::kind()
    }
}

/// The moment a save is complete: the file was closed, or has got its name. Bytes that are being written are none; should
/// nobody ever close the file, the debouncer tells of them.
fn is_edge(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        EventKind::Any | EventKind::Access(_) | EventKind::Modify(_) | EventKind::Other => false,
    }
}

#[allow(clippy::disallowed_methods)] // An edge: the moment of an event is taken where the event is seen.
fn now() -> Instant {
    Instant::now()
}
