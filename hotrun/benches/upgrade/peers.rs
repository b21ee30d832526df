//! Builds the servers: all of them in one package and one profile.

use crate::contender::Contender;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with their programs.
pub fn build(contenders: &[&Contender]) -> io::Result<PathBuf> {
    let package = package();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--manifest-path"]).arg(package.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target);
    if contenders.iter().all(|contender| contender.program != "hotrun") {
        // The peers can be looked at alone.
        cargo.arg("--no-default-features");
    }
    match cargo.status()? {
        status if status.success() => Ok(target.join("release")),
        status => Err(io::Error::other(format!("building {}: {status}", package.display()))),
    }
}

/// The name and version of each, as locked.
pub fn versions() -> Vec<String> {
    let lock = std::fs::read_to_string(package().join("Cargo.lock")).unwrap_or_default();
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split_once('"')?.0))
    };
    ["ecdysis", "shellflip", "tokio"].into_iter().filter_map(version).collect()
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers")
}
