//! The ten edits of the demo, and how a file is saved. Never lives here: waiting for what they lead to.

use crate::error::{Result, Tried};
use std::fs;
use std::path::Path;

pub struct Edit {
    pub change: Change,
    pub save: Save,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another version constant: the new program must take over.
    Version(&'static str),
    /// Must not compile, and the old program serves on.
    Broken,
    /// Compiles, and must end before it is ready; the old program serves on.
    Panics,
}

/// Editors do it in these two ways, and a watcher sees different events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Save {
    InPlace,
    Renamed,
}

pub const FIRST_VERSION: &str = "1";

pub const EDITS: [Edit; 10] = [
    edit(Change::Version("2"), Save::Renamed),
    edit(Change::Version("3"), Save::InPlace),
    edit(Change::Version("4"), Save::Renamed),
    edit(Change::Broken, Save::InPlace),
    edit(Change::Version("5"), Save::Renamed),
    edit(Change::Version("6"), Save::InPlace),
    edit(Change::Panics, Save::Renamed),
    edit(Change::Version("7"), Save::InPlace),
    edit(Change::Version("8"), Save::Renamed),
    edit(Change::Version("9"), Save::InPlace),
];

const fn edit(change: Change, save: Save) -> Edit {
    Edit { change, save }
}

impl Edit {
    /// What is done, for the person who watches.
    pub fn describe(&self) -> String {
        let change = match self.change {
            Change::Version(version) => format!("version {version}"),
            Change::Broken => "does not compile".to_owned(),
            Change::Panics => "panics at start".to_owned(),
        };
        match self.save {
            Save::InPlace => format!("{change}, written in place"),
            Save::Renamed => format!("{change}, renamed over"),
        }
    }

    /// The file's new content, made of the template's.
    pub fn apply(&self, original: &str) -> String {
        match self.change {
            Change::Version(version) => original.replacen(
                &format!("const VERSION: &str = \"{FIRST_VERSION}\";"),
                &format!("const VERSION: &str = \"{version}\";"),
                1,
            ),
            Change::Broken => format!("{original}\nfn this_is_not_finished() -> u32 {{ \"yet\" }}\n"),
            Change::Panics => {
                // Under a condition that always holds: code that cannot be reached would be dropped, and compiling
                // all of it again would count against the next edit.
                let main = original.lines().find(|line| line.starts_with("fn main()")).unwrap_or("fn main() {");
                let main = &format!("{main}\n");
                let panic = "    if env::args().len() > 0 {\n        panic!(\"this edit was meant to fail\");\n    }\n";
                original.replacen(main, &format!("{main}{panic}"), 1)
            }
        }
    }

    pub fn save(&self, file: &Path, content: &str) -> Result<()> {
        match self.save {
            Save::InPlace => fs::write(file, content),
            Save::Renamed => {
                let beside = file.with_extension("rs.new");
                fs::write(&beside, content).and_then(|()| fs::rename(&beside, file))
            }
        }
        .tried(format!("save {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_edit_finds_its_place_in_the_template() {
        let templates =
            [include_str!("../../templates/std/src/main.rs"), include_str!("../../templates/plain/src/main.rs")];
        for original in templates {
            let mut seen = vec![original.to_owned()];
            for edit in &EDITS {
                let edited = edit.apply(original);
                assert!(!seen.contains(&edited), "{}", edit.describe());
                seen.push(edited);
            }
        }
    }

    #[test]
    fn both_ways_of_saving_leave_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.rs");
        for save in [Save::InPlace, Save::Renamed] {
            edit(Change::Broken, save).save(&file, "content").unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "content");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
