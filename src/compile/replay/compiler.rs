//! A compiler that is started before there is anything to compile: loading it, a third of all that is left of a small crate's time
//! before its sources are read, is over by then. It waits for its arguments, which it reads from its standard input (the rustc book, "Load
//! command-line flags from a path").
//! Never lives here: which arguments those are.

use super::call::Call;
use super::folder::Folder;
use crate::compile::link;
use crate::error::{Result, Tried};
use crate::process::{Launcher, Running, Stdin};
use nix::fcntl::{FcntlArg, fcntl};
use std::io::{self, PipeWriter, Write};
use std::process::Stdio;

/// Loads the arguments from the standard input.
const ARGUMENTS: &str = "@/dev/stdin";

/// For rustc's allocator, jemalloc (its manual, "Tuning"): one arena. By itself it gives each of the hundreds of threads that carry over
/// a unit of code one of several, whose memory goes back to the kernel when its last thread ends (a twelfth of an edit on two
/// processors). A rustc with another allocator does not look at it.
const MEMORY: (&str, &str) = ("MALLOC_CONF", "narenas:1");

/// Whether compilers may find another value of that variable than cargo's do.
pub fn sets(name: &str) -> bool {
    ["TMPDIR", MEMORY.0, link::MEMORY.0, link::FOLDER, link::OWN].contains(&name)
}

/// A rustc that waits.
#[derive(Debug)]
pub struct Compiler {
    running: Running,
}

impl Compiler {
    /// In the folder and the environment of that call.
    pub fn start(launcher: &Launcher, call: &Call, folder: &Folder, own_linker: bool) -> Result<Compiler> {
        let mut command = call.command(ARGUMENTS);
        // What a compiler that is killed leaves behind is removed with the folder.
        command.env("TMPDIR", folder.temporary());
        let memory = [Some(MEMORY), own_linker.then_some(link::MEMORY)];
        for (name, value) in memory.into_iter().flatten() {
            // What the user has set counts, also in cargo's configuration.
            let is_set = std::env::var_os(name).is_some() || command.get_envs().any(|(set, _)| set == name);
            if !is_set {
                command.env(name, value);
            }
        }
        if own_linker {
            command.env(link::FOLDER, folder.link());
            if folder.cache.line_tables {
                command.env(link::OWN, folder.deps());
            }
        }
        let running = launcher.start(&command, Stdio::null(), Stdio::piped(), Stdin::Pipe, &[], false)?;
        Ok(Compiler { running })
    }

    /// Lets it compile.
    pub fn go(mut self, arguments: &[String]) -> Result<Running> {
        let input = self.running.input();
        // Dropped with its last word, which is the end of the arguments.
        let told = input.map_or(Ok(()), |input| whole(input, arguments.join("\n").as_bytes()));
        told.tried("give rustc its arguments")?;
        Ok(self.running)
    }
}

/// All at once, without waiting for a compiler that may be stopped: into a pipe that is large enough.
fn whole(mut input: PipeWriter, arguments: &[u8]) -> io::Result<()> {
    // Where the system does not allow so large a one, and it is too small, that is an error below.
    let length = i32::try_from(arguments.len()).unwrap_or(i32::MAX);
    fcntl(&input, FcntlArg::F_SETPIPE_SZ(length)).ok();
    rustix::io::ioctl_fionbio(&input, true)?;
    input.write_all(arguments)
}
