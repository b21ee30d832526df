//! The projects that are edited: made from this project's templates, copied for each contender, saved as editors do.

use crate::Result;
use crate::house::House;
use crate::kind::as_in_a_shell;
use crate::{realistic, sources};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Axum,
    Std,
    /// Without the library.
    Plain,
    /// Eight crates; the server is that of the axum template.
    Workspace,
    /// Of the size that people have, in one crate.
    Realistic,
    /// The same as a thin binary above eight libraries.
    Libraries,
}

impl Shape {
    fn template(self) -> &'static str {
        match self {
            Shape::Axum | Shape::Workspace | Shape::Realistic | Shape::Libraries => "axum",
            Shape::Std => "std",
            Shape::Plain => "plain",
        }
    }

    /// The files with a version constant, the binary's first.
    fn places(self) -> Vec<PathBuf> {
        match self {
            Shape::Axum | Shape::Std | Shape::Plain | Shape::Realistic => vec!["src/main.rs".into()],
            Shape::Workspace => {
                vec!["crates/server/src/main.rs".into(), Path::new("crates").join(sources::LEAF).join("src/lib.rs")]
            }
            Shape::Libraries => vec!["crates/server/src/main.rs".into(), realistic::LIBRARY.into()],
        }
    }

    pub fn title(self, place: usize) -> &'static str {
        match (self, place) {
            (Shape::Axum, _) => "axum template",
            (Shape::Std, _) => "std template",
            (Shape::Plain, _) => "plain template (std without the library)",
            (Shape::Workspace, 0) => "workspace of eight crates, edit in the binary's (root)",
            (Shape::Realistic, _) => "realistic server: 8 modules, 144 handlers, JSON, tracing",
            (Shape::Libraries, 0) => "realistic server as eight libraries, edit in the binary's",
            (Shape::Libraries, _) => "realistic server as eight libraries, edit in one of them",
            (Shape::Workspace, _) => "workspace of eight crates, edit in the library that all others need (leaf)",
        }
    }
}

const NAME: &str = "server";
const CONSTANT: &str = "const VERSION: &str = ";

pub struct Project {
    root: PathBuf,
    places: Vec<PathBuf>,
    /// The number that stands at each place.
    versions: Vec<u32>,
}

/// New content that is written, but not where the file is.
pub struct Ready {
    written: PathBuf,
    file: PathBuf,
}

impl Project {
    /// With everything compiled that the copies have in common.
    pub fn new(house: &House, shape: Shape, root: PathBuf) -> Result<Project> {
        let is_workspace = matches!(shape, Shape::Workspace | Shape::Libraries);
        let package = if is_workspace { root.join("crates").join(NAME) } else { root.clone() };
        if let Some(parent) = package.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut new = Command::new(env!("CARGO_BIN_EXE_cargo-hotrun"));
        new.args(["new", "--template", shape.template(), "--name", NAME]).arg(&package);
        house.run(&mut new)?;
        match shape {
            Shape::Workspace => sources::make_workspace(&root, &package)?,
            Shape::Realistic => realistic::in_one_crate(&package)?,
            Shape::Libraries => realistic::in_libraries(&root, &package)?,
            Shape::Axum | Shape::Std | Shape::Plain => {}
        }
        // The versions of dependencies that this project is tested with.
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"), root.join("Cargo.lock"))?;
        // As `cargo new` does it, so that everyone leaves the target folder alone.
        fs::write(root.join(".gitignore"), "/target\n")?;
        house.run(Command::new("git").args(["init", "--quiet"]).arg(&root))?;
        let mut build = Command::new("cargo");
        as_in_a_shell(&mut build);
        house.run(build.args(["build", "--quiet"]).current_dir(&root))?;
        let places = shape.places();
        Ok(Project { root, versions: vec![1; places.len()], places })
    }

    /// The same with its target folder, times included, since cargo goes by them.
    pub fn copy(&self, house: &House, root: PathBuf) -> Result<Project> {
        house.run(Command::new("cp").arg("-a").arg(&self.root).arg(&root))?;
        Ok(Project { root, places: self.places.clone(), versions: self.versions.clone() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn program(&self) -> PathBuf {
        self.root.join("target/debug").join(NAME)
    }

    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.root.join(path), text)?)
    }

    /// What a program of the sources as they are answers.
    pub fn version(&self) -> String {
        self.versions.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
    }

    /// The next version at that place.
    pub fn prepare(&mut self, place: usize) -> Result<Ready> {
        let file = self.root.join(&self.places[place]);
        let text = fs::read_to_string(&file)?;
        let line = text.lines().find(|line| line.starts_with(CONSTANT)).ok_or("no version constant in the sources")?;
        self.versions[place] += 1;
        // Outside of the project, so that no watcher sees more than one event.
        let written = self.root.with_extension("saved");
        fs::write(&written, text.replacen(line, &format!("{CONSTANT}\"{}\";", self.versions[place]), 1))?;
        Ok(Ready { written, file })
    }
}

impl Ready {
    pub fn save(&self) -> Result<()> {
        Ok(fs::rename(&self.written, &self.file)?)
    }
}

/// A loopback address that nobody has, none of those that the kernel gives to clients (ip(7), `ip_local_port_range`): while
/// nobody listens, one of these could be connected to itself.
pub fn free_address(taken: &[SocketAddr]) -> Result<SocketAddr> {
    let first = u16::try_from(std::process::id() % 10_000)? + 12_000;
    let mut addresses = (first..30_000).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free = addresses.find(|address| !taken.contains(address) && TcpListener::bind(address).is_ok());
    free.ok_or_else(|| "no free port".into())
}
