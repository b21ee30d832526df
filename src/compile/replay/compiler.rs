//! A compiler that is started before there is anything to compile: loading it, a third of all that is left of a small crate's time
//! before its sources are read, is over by then. It waits for its arguments, which it reads from its standard input (the rustc book, "Load
//! command-line flags from a path").
//! Never lives here: which arguments those are.

use super::Folder;
use super::call::Call;
use crate::compile::link;
use crate::error::{Result, Tried};
use crate::process::{Launcher, Running, Stdin, inherited};
use std::io::Write;
use std::process::Stdio;

/// Loads the arguments from the standard input.
const ARGUMENTS: &str = "@/dev/stdin";

/// For rustc's allocator, jemalloc (its manual, "Tuning"): one arena. By itself it gives each of the hundreds of threads that carry over
/// a unit of code an arena of its own, whose memory goes back to the kernel when the thread ends. A rustc with another
/// allocator does not look at it.
const MEMORY: (&str, &str) = ("MALLOC_CONF", "narenas:1");

/// A rustc that waits.
#[derive(Debug)]
pub struct Compiler {
    running: Running,
}

impl Compiler {
    /// In the folder and the environment of that call.
    pub fn start(call: &Call, folder: &Folder, own_linker: bool, launcher: &mut Launcher) -> Result<Compiler> {
        let mut command = call.command(ARGUMENTS);
        // What a compiler that is killed leaves behind is removed with the folder.
        command.env("TMPDIR", folder.temporary());
        // What the user has set counts.
        let memory = [Some(MEMORY), own_linker.then_some(link::MEMORY)];
        command.envs(memory.into_iter().flatten().filter(|(name, _)| inherited(name).is_none()));
        if own_linker {
            command.env(link::FOLDER, folder.link());
            if folder.line_tables {
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
        let told = input.map_or(Ok(()), |mut input| input.write_all(arguments.join("\n").as_bytes()));
        told.tried("give rustc its arguments")?;
        Ok(self.running)
    }
}
