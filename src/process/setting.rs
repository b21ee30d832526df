//! What is put before a program and around it when it is started, beside its own arguments.
//! Never lives here: how that is found out, and starting anything.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Where the dynamic linker looks first (ld.so(8)).
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// The command that is given the program and its arguments; empty: the program is run itself.
    pub runner: Vec<OsString>,
    /// What is different in its environment; `None` takes a variable out.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Folders with dynamic libraries that are built with the program, and again with the next one.
    pub libraries: Vec<PathBuf>,
}

impl Setting {
    /// Folders in front of what is there already. One with a colon in its name cannot be said, and is left out.
    pub fn library_path(folders: impl IntoIterator<Item = PathBuf>, before: &OsStr) -> OsString {
        let mut path = OsString::new();
        let folders = folders.into_iter().map(PathBuf::into_os_string);
        let sayable = folders.filter(|folder| !folder.as_encoded_bytes().contains(&b':'));
        for part in sayable.chain((!before.is_empty()).then(|| before.to_owned())) {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(part);
        }
        path
    }
}
