//! The working directory, by its name: where the folder is removed or moved and made again, the processes of this session are started in
//! the one that is there now.
//! Never lives here: which one that is.

use super::file_id;
use std::path::{Path, PathBuf};

/// Where this process was started.
#[derive(Debug)]
pub struct Here(Option<PathBuf>);

impl Here {
    pub fn now() -> Here {
        Here(std::env::current_dir().ok())
    }

    /// Goes to the folder of that name, or to the nearest one above that is there. Cargo looks for its configuration from there up.
    pub fn regain(&self) {
        let Some(named) = &self.0 else { return };
        let there = named.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
        if file_id(there) != file_id(Path::new(".")) {
            // One that may not be entered is not entered by children either; they say so.
            std::env::set_current_dir(there).ok();
        }
    }
}
