//! This program, started again by itself in another role: the first argument says which.
//! Never lives here: what is done in a role (`launch`, `guard`, `terminal`).

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Waits for its descriptors and becomes a program.
pub const LAUNCH: &str = "__launch";
/// Outlives this process.
pub const GUARD: &str = "__guard";
/// Hears what the terminal says to a program's group.
pub const EAR: &str = "__ear";

pub fn command(role: &str) -> Command {
    // Not by its path: that may have been replaced or removed since this process started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cargo-hotrun").arg(role);
    command
}
