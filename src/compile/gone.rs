//! Files that are gone though nobody meant to change them: the project's folder, and what was built.
//! Never lives here: which files have changed (`sources`), and what follows from it (`hot_compile`).

use super::build::Built;
use crate::report::short;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why nothing can be built now, where the folder of the project is gone.
pub fn project(root: &Path) -> Option<String> {
    let gone =
        || format!("error: the project's folder {} is gone: nothing is built until it is there again", short(root));
    (!root.is_dir()).then(gone)
}

/// What there is of the program that was built last, until it is found to be gone.
#[derive(Debug, Default)]
pub struct LastBuilt(Vec<PathBuf>);

impl LastBuilt {
    /// What a program that is started again may need where it was built: its file, and what its build script has made.
    pub fn of(built: &Built) -> LastBuilt {
        let env = built.setting.env.iter();
        let made = env.filter(|(name, _)| name == OsStr::new("OUT_DIR")).filter_map(|(_, value)| value.clone());
        LastBuilt(std::iter::once(built.executable.clone()).chain(made.map(PathBuf::from)).collect())
    }

    /// Whether it is found to be gone: once.
    pub fn has_gone(&mut self) -> bool {
        let has_gone = self.0.iter().any(|path| !path.exists());
        if has_gone {
            self.0.clear();
        }
        has_gone
    }
}
