//! What follows where files are gone that nobody meant to change: the project's folder, and what was built.
//! Never lives here: which files have changed (`sources`).

use super::Room;
use super::outbox::Outbox;
use super::replay;
use crate::process::Ground;
use crate::report::short;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Instant;

impl Room {
    /// What a program that is started again may need where it was built: its file, and what its build script has made.
    pub(super) fn remember_built(
        &mut self,
        executable: PathBuf,
        env: &[(std::ffi::OsString, Option<std::ffi::OsString>)],
    ) {
        let made = env.iter().filter(|(name, _)| name == OsStr::new("OUT_DIR")).filter_map(|(_, value)| value.clone());
        self.built = std::iter::once(executable).chain(made.map(PathBuf::from)).collect();
    }

    /// The program has died, or cannot be started. Where what was built is gone, as after `cargo clean`, it is built again at once; and
    /// only once, should that not be possible.
    pub fn died(&mut self, now: Instant) -> Vec<Outbox> {
        let is_gone = self.is_gone().is_none() && self.built.iter().any(|path| !path.exists());
        if is_gone {
            self.built.clear();
            // A build that is under way makes it, too.
            if self.cycle.is_idle() {
                (self.saved, self.was_saved) = (Some(now), false);
                self.ask_cargo(now, "what was built is gone".to_owned());
            }
        }
        self.take()
    }

    /// Folders have come or gone. Where the project's is not there, what is done before it is needed would make another one in its place.
    pub(super) fn mind_the_root(&mut self) {
        let root = self.sources.root();
        if root.join("Cargo.toml").exists() {
            return;
        }
        self.builder.let_go("the project was gone");
        Ground::new(root).sweep(self.sources.target_dir(), replay::OURS);
    }

    /// Why nothing can be built now, where the folder of the project is gone.
    pub(super) fn is_gone(&self) -> Option<String> {
        let root = self.sources.root();
        let gone =
            || format!("error: the project's folder {} is gone: nothing is built until it is there again", short(root));
        (!root.is_dir()).then(gone)
    }
}
