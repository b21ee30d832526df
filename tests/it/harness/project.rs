//! A cargo project in a folder of its own. All but a few of them build into one target folder, so that dependencies are
//! compiled once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Project {
    folder: tempfile::TempDir,
    root: PathBuf,
    pub name: String,
    target: PathBuf,
}

impl Project {
    /// A package of that name, which must be no other test's, with dependencies as in Cargo.toml and a `src/main.rs`.
    pub fn new(name: &str, dependencies: &str, main: &str) -> Project {
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = folder.path().to_path_buf();
        let project = Project { folder, root, name: name.to_owned(), target: target_folder() };
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\n\
             [workspace]\n"
        );
        project.write("Cargo.toml", &manifest);
        project.write(".gitignore", "/target\n");
        project.write("src/main.rs", main);
        project.use_our_lock_file();
        project
    }

    /// As `cargo hotrun new` makes it.
    pub fn from_template(name: &str, template: &str) -> Project {
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let status = super::command()
            .args(["new", "--template", template, "--name", name])
            .arg(folder.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let root = folder.path().to_path_buf();
        let project = Project { folder, root, name: name.to_owned(), target: target_folder() };
        project.use_our_lock_file();
        project
    }

    /// The versions of dependencies that this workspace is tested with, where it has them.
    fn use_our_lock_file(&self) {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
        fs::copy(ours, self.path("Cargo.lock")).unwrap();
    }

    /// With another target folder than most: whoever compiles many dependencies keeps it locked for minutes, in which no other project
    /// could be built there.
    pub fn in_folder(self, name: &str) -> Project {
        let target = target_folder().with_file_name(name);
        Project { target, ..self }
    }

    /// Where it builds to.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A first build, which may take longer than any test waits for an event.
    pub fn build(&self) {
        let mut cargo = Command::new("cargo");
        cargo.arg("build").current_dir(self.root()).env("CARGO_TARGET_DIR", &self.target);
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same in a folder of that name inside of its own.
    pub fn moved_into(self, name: &str) -> Project {
        let (root, beside) = (self.folder.path().join(name), self.folder.path().with_extension("moving"));
        fs::rename(self.folder.path(), &beside).unwrap();
        fs::create_dir(self.folder.path()).unwrap();
        fs::rename(&beside, &root).unwrap();
        Project { root, ..self }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Writes in place: truncates and writes.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes beside it and renames over it, as vim, helix and the JetBrains editors do.
    pub fn write_by_rename(&self, path: &str, text: &str) {
        self.write("new.tmp", text);
        fs::rename(self.path("new.tmp"), self.path(path)).unwrap();
    }

    /// Replaces the one place where `from` stands.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {path}");
        self.write(path, &text.replace(from, to));
    }

    /// Sets `const VERSION` of `src/main.rs`, as a template has it.
    pub fn set_version(&self, version: &str) {
        let text = self.read("src/main.rs");
        let line = text.lines().find(|line| line.starts_with("const VERSION: &str = ")).unwrap();
        self.write("src/main.rs", &text.replace(line, &format!("const VERSION: &str = {version:?};")));
    }
}

/// The library of this repository, as a line under `[dependencies]`; `features` as in `["axum"]`.
pub fn hotrun_dependency(features: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hotrun");
    format!("hotrun = {{ path = {:?}, features = {features} }}", path.display().to_string())
}

/// Where all other projects build to.
pub fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects")
}
