//! What a successor inherits: descriptors in their order, and the variables that tell of them. Its mirror image is
//! `received`.
//! Never lives here: starting the successor (`spawn`), and what the descriptors are (`register`).

use crate::holder::{Handed, socket_variables};
use crate::inherit::program::Program;
use crate::inherit::spawn::{Image, c_string};
use crate::serving::Serving;
use crate::serving::unclaimed::Socket;
use crate::wire::{FIRST_FD, HOTRUN_FILES, HOTRUN_GENERATION, HOTRUN_STATE, UNNAMED, VARIABLES};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

pub(crate) struct Inheritance {
    sockets: Vec<(String, bool, Arc<dyn AsFd + Send + Sync>)>,
    files: Vec<(String, OwnedFd)>,
    state: Vec<(String, OwnedFd)>,
}

impl Inheritance {
    /// Everything of this moment. Sockets that a service manager gave and nobody asked for go on as well: a later program may
    /// want them.
    pub(crate) fn gather(serving: &Serving) -> io::Result<Self> {
        let register = &serving.register;
        let served = register.entries().into_iter().map(|entry| (entry.name, entry.bound_by_program, entry.socket));
        let mut sockets: Vec<_> = served.collect();
        for Socket { name, fd, bound_by_program } in serving.unclaimed.to_pass_on()? {
            sockets.push((name.unwrap_or_else(|| UNNAMED.to_owned()), bound_by_program, Arc::new(fd)));
        }
        Ok(Inheritance { sockets, files: register.files()?, state: register.state()? })
    }

    /// A socket that somebody else has bound for the successor.
    pub(crate) fn add(&mut self, name: String, socket: OwnedFd) {
        self.sockets.push((name, true, Arc::new(socket)));
    }

    pub(crate) fn handed(&self) -> Vec<Handed<'_>> {
        self.sockets
            .iter()
            .map(|(name, bound_by_program, _)| Handed { name, bound_by_program: *bound_by_program })
            .collect()
    }

    /// The number at which the channel stands, right after the sockets.
    pub(crate) fn channel_number(&self) -> i32 {
        FIRST_FD.saturating_add(i32::try_from(self.sockets.len()).unwrap_or(i32::MAX))
    }

    /// From number 3 on: sockets, the channel, files, state.
    pub(crate) fn descriptors<'a>(&'a self, channel: BorrowedFd<'a>) -> Vec<BorrowedFd<'a>> {
        let sockets = self.sockets.iter().map(|(_, _, socket)| socket.as_fd());
        let files = self.files.iter().chain(&self.state).map(|(_, file)| file.as_fd());
        sockets.chain([channel]).chain(files).collect()
    }

    /// The program with its arguments, and the environment of this process without what was meant for this process alone.
    pub(crate) fn image(
        &self,
        program: &Program,
        found: &Path,
        generation: u32,
        variables: Vec<(&str, OsString)>,
    ) -> io::Result<Image> {
        let names = |list: &[(String, OwnedFd)]| {
            let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
            OsString::from(names.join(":"))
        };
        let mut environment: Vec<CString> = std::env::vars_os()
            .filter(|(name, _)| !VARIABLES.iter().any(|ours| name == ours))
            .map(|(name, value)| assignment(&name, &value))
            .collect::<io::Result<_>>()?;
        let mut ours = variables;
        ours.push((HOTRUN_GENERATION, generation.to_string().into()));
        ours.push((HOTRUN_FILES, names(&self.files)));
        ours.push((HOTRUN_STATE, names(&self.state)));
        ours.extend(socket_variables(&self.handed()).into_iter().map(|(name, value)| (name, value.into())));
        for (name, value) in ours {
            environment.push(assignment(OsStr::new(name), &value)?);
        }
        let first = c_string(program.name.as_os_str().as_bytes())?;
        let rest = program.args.iter().map(|arg| c_string(arg.as_bytes()));
        Ok(Image {
            program: c_string(found.as_os_str().as_bytes())?,
            args: [Ok(first)].into_iter().chain(rest).collect::<io::Result<_>>()?,
            environment,
            directory: c_string(program.directory.as_os_str().as_bytes())?,
        })
    }
}

fn assignment(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    c_string(text.into_vec())
}
