//! Which contenders there are, and how each is called. Never lives here: one that runs (`contender`).

use std::net::SocketAddr;
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hotrun,
    /// The floor: it serves nothing.
    CargoBuild,
    CargoWatch,
    Watchexec,
    Bacon,
    Systemfd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hotrun => "cargo hotrun",
            Kind::CargoBuild => "cargo build alone",
            Kind::CargoWatch => "cargo-watch -x run",
            Kind::Watchexec => "watchexec -r --debounce 0",
            Kind::Bacon => "bacon, kill then restart",
            Kind::Systemfd => "systemfd and that watchexec",
        }
    }

    /// What must be installed for it.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Hotrun | Kind::CargoBuild => &[],
            Kind::CargoWatch => &["cargo-watch"],
            Kind::Watchexec => &["watchexec"],
            Kind::Bacon => &["bacon"],
            Kind::Systemfd => &["systemfd", "watchexec"],
        }
    }

    pub fn is_peer(self) -> bool {
        !self.programs().is_empty()
    }

    pub fn command(self, address: SocketAddr) -> Command {
        let socket = format!("http::{address}");
        let words: &[&str] = match self {
            Kind::Hotrun => &["cargo", "hotrun", "--message-format", "json", "--timings"],
            Kind::CargoBuild => &["cargo", "build"],
            Kind::CargoWatch => &["cargo", "watch", "-x", "run"],
            Kind::Watchexec => &["watchexec", "-r", "--debounce", "0ms", "--", "cargo", "run"],
            Kind::Bacon => &["bacon", "--headless", "--job", "run-long"],
            Kind::Systemfd => &[
                "systemfd",
                "--no-pid",
                // Of its own accord it lets one connection wait, and a client that finds the queue full waits for a second.
                "--backlog",
                "128",
                "-s",
                &socket,
                "--",
                "watchexec",
                "-r",
                "--debounce",
                "0ms",
                "--",
                "cargo",
                "run",
            ],
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Without what cargo has set for this benchmark: its program, its package, its target folder. What a user can set stays.
pub fn as_in_a_shell(command: &mut Command) {
    const BUILD: [&str; 9] = [
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_BUILD_BUILD_DIR",
        "CARGO_TARGET_TMPDIR",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_package =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"].iter().any(|start| text.starts_with(start));
        if of_package || BUILD.contains(&&*text) {
            command.env_remove(&name);
        }
    }
}
