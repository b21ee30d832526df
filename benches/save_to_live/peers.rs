//! What a user would pick instead: where it is found, how it is installed, which version it is.

use crate::Result;
use crate::house::House;
use crate::kind::{Kind, as_in_a_shell};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the package, and of its program.
const PEERS: [(&str, &str); 4] =
    [("cargo-watch", "cargo-watch"), ("watchexec-cli", "watchexec"), ("bacon", "bacon"), ("systemfd", "systemfd")];

pub struct Peers {
    found: Vec<Peer>,
    /// The search path with the folder of this project's command and the one of the peers in front.
    pub path: OsString,
}

struct Peer {
    program: &'static str,
    version: String,
}

impl Peers {
    pub fn have(&self, kind: Kind) -> bool {
        kind.programs().iter().all(|program| self.found.iter().any(|peer| peer.program == *program))
    }

    pub fn versions(&self) -> Vec<String> {
        self.found.iter().map(|peer| format!("{} {}", peer.program, peer.version)).collect()
    }
}

/// Those on the search path, and those that were installed for this project.
pub fn find(house: &House, install: bool) -> Result<Peers> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers-bin");
    let own = Path::new(env!("CARGO_BIN_EXE_cargo-hotrun")).parent().map(Path::to_owned);
    let before = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        own.into_iter().chain(std::env::split_paths(&before)).chain([root.join("bin")]).collect();
    let mut missing: Vec<&str> = Vec::new();
    for (package, program) in PEERS {
        if !folders.iter().any(|folder| folder.join(program).is_file()) {
            missing.push(package);
        }
    }
    if install && !missing.is_empty() {
        let mut cargo = Command::new("cargo");
        as_in_a_shell(&mut cargo);
        house.run(cargo.args(["install", "--locked", "--root"]).arg(&root).args(&missing))?;
    } else if !missing.is_empty() {
        println!("Without {}. To have them, for this project alone:", missing.join(", "));
        println!("    cargo install --locked --root {} {}", relative(&root).display(), missing.join(" "));
        println!("or the same by    cargo bench --bench save_to_live -- --install\n");
    }
    let mut peers = Peers { found: Vec::new(), path: std::env::join_paths(&folders)? };
    for (_, program) in PEERS {
        let Some(file) = folders.iter().map(|folder| folder.join(program)).find(|file| file.is_file()) else {
            continue;
        };
        let said = house.run(Command::new(&file).arg("--version"))?;
        let version = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        peers.found.push(Peer { program, version: version.unwrap_or("of an unknown version").to_owned() });
    }
    Ok(peers)
}

/// As it would be typed in the folder of this project.
fn relative(path: &Path) -> &Path {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path)
}
