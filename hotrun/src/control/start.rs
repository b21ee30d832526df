//! How the new program is started: as a process of its own, and in the place of this one.
//! Never lives here: when (`succession`), and what a new process is made of (`inherit`).

use crate::control::peer::Peer;
use crate::holder::Holder;
use crate::inherit::given::Inheritance;
use crate::inherit::program::Program;
use crate::inherit::spawn::{self, Parent};
use crate::serving::Serving;
use crate::settings::Environment;
use crate::wire::{HOTRUN_HELD, HOTRUN_INTERIM, HOTRUN_PREDECESSOR, LISTEN_PID, NOTIFY_SOCKET, WATCHDOG_USEC};
use crate::{PidMode, UpgradeError};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

/// Starts a successor, with everything that is served here.
pub(crate) fn successor(
    program: &Program,
    environment: &Environment,
    pid_mode: PidMode,
    serving: &Serving,
) -> Result<Peer, UpgradeError> {
    let named = |source| UpgradeError::Spawn { program: program.name.clone(), source };
    let found = program.find().map_err(named)?;
    let generation = serving.generation + 1;
    let (holder, theirs) = Holder::new().map_err(named)?;
    let inheritance = Inheritance::gather(serving).map_err(named)?;
    let (name, value) = holder.control_variable(inheritance.handed().len());
    let mut variables = vec![(name, value.into())];
    let own = std::process::id();
    match pid_mode {
        PidMode::Handoff => {
            variables.push((HOTRUN_PREDECESSOR, own.to_string().into()));
            variables.extend(manager_variables(environment));
        }
        // It is the service only for a while, and never the main process to a manager.
        PidMode::KeepPid => variables.push((HOTRUN_PREDECESSOR, format!("{own}:returns").into())),
    }
    if environment.held {
        variables.push((HOTRUN_HELD, "1".into()));
    }
    let image = inheritance.image(program, &found, generation, variables).map_err(named)?;
    // A service manager hears the end of its own children at once, and of no others; the kernel has none for process 1.
    let managed = environment.notify_socket.is_some() && pid_mode == PidMode::Handoff;
    let parent = if managed && own != 1 { Parent::Parents } else { Parent::This };
    let started = spawn::process(&image, &inheritance.descriptors(theirs.as_fd()), parent);
    let (pid, pidfd) = started.map_err(|source| UpgradeError::Spawn { program: found, source })?;
    Ok(Peer::new(holder, pidfd, pid, generation))
}

/// Makes this process the new program, which relieves the interim one when it serves. Returns only where that is not possible.
pub(crate) fn in_place(
    program: &Program,
    environment: &Environment,
    interim: &Peer,
    serving: &Serving,
) -> io::Result<Infallible> {
    let found = program.find()?;
    let mut inheritance = Inheritance::gather(serving)?;
    for (name, socket) in &interim.offered {
        inheritance.add(name.clone(), socket.try_clone()?);
    }
    let channel = format!("{}:{}", inheritance.channel_number(), interim.pid);
    let mut variables =
        vec![(HOTRUN_INTERIM, OsString::from(channel)), (LISTEN_PID, std::process::id().to_string().into())];
    variables.extend(manager_variables(environment));
    let image = inheritance.image(program, &found, interim.generation + 1, variables)?;
    let descriptors = inheritance.descriptors(interim.holder.as_fd());
    // A thread can have a table of descriptors of its own: where exec fails, the other threads find theirs as it was.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || spawn::in_place(&image, &descriptors))?;
        let panicked = |_| Err(io::Error::other("the thread that was to do it has panicked"));
        thread.join().unwrap_or_else(panicked)
    })
}

fn manager_variables(environment: &Environment) -> Vec<(&'static str, OsString)> {
    let manager = environment.notify_socket.iter().map(|address| (NOTIFY_SOCKET, address.clone()));
    let watchdog = environment.watchdog.iter().map(|every| (WATCHDOG_USEC, every.as_micros().to_string().into()));
    manager.chain(watchdog).collect()
}
