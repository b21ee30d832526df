//! The control socket, both ends: what editors and scripts ask of a running session, and the commands that ask.
//! Never lives here: answering; the session does.

use crate::cli;
use crate::compile::{self, MetadataFlags};
use crate::error::{Error, Result, Tried};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The longest request, and how long it may take to come: whoever connects has one thing to say.
const LONGEST: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// In the session's folder; it holds the path of the socket, which may not be as long as that folder's.
const POINTER: &str = "control";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Status,
    Wait,
    Rebuild,
    Upgrade,
    Rollback,
    Stop,
}

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    pub package: String,
    /// The generation that serves, if one does.
    pub generation: Option<u64>,
    pub pid: Option<u32>,
    pub addresses: Vec<String>,
    /// A build runs, or a program is being started.
    pub busy: bool,
    /// Why the newest sources do not serve, where they were tried and do not.
    pub trouble: Option<String>,
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub struct Reply(UnixStream);

impl Reply {
    pub fn send(mut self, state: &State) {
        let line = serde_json::to_string(state).unwrap_or_default() + "\n";
        // Whoever asked has gone: nobody misses the answer.
        self.0.write_all(line.as_bytes()).ok();
    }
}

/// Listens in the private folder, and leaves word of it in the session's.
pub fn listen(private: &Path, session: &Path, tell: impl Fn(Request, Reply) + Send + 'static) -> io::Result<()> {
    let path = private.join("control");
    let listener = UnixListener::bind(&path)?;
    std::fs::write(session.join(POINTER), path.as_os_str().as_encoded_bytes())?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            // One who connects and says nothing is waited for; the folder is this user's alone.
            if let Ok(request) = read(&stream) {
                tell(request, Reply(stream));
            }
        }
    });
    Ok(())
}

fn read(stream: &UnixStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(line.trim())?)
}

/// Asks the session of this project, prints what it says, and returns the exit code: 1 where the newest sources do not serve.
pub fn ask(args: &cli::Control, request: Request) -> Result<i32> {
    let state = exchange(&find(args)?, request)?;
    if args.message_format == Some(cli::Format::Json) {
        println!("{}", serde_json::to_string(&state).tried("write the answer")?);
    } else {
        println!("{}", sentence(&state));
    }
    Ok(i32::from(state.trouble.is_some() || (state.generation.is_none() && request != Request::Stop)))
}

fn exchange(socket: &Path, request: Request) -> Result<State> {
    let asking = format!("ask the session at {}", socket.display());
    let mut stream = UnixStream::connect(socket).tried(&asking)?;
    let line = serde_json::to_string(&request).tried(&asking)? + "\n";
    stream.write_all(line.as_bytes()).tried(&asking)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).tried(&asking)?;
    serde_json::from_str(answer.trim()).map_err(|_| Error::failure(format!("{asking}: it ended without an answer")))
}

/// The sockets of the sessions that run on this project's target folder.
fn find(args: &cli::Control) -> Result<PathBuf> {
    let target = match &args.target_dir {
        Some(folder) => folder.clone(),
        None => compile::metadata(args.manifest_path.as_deref(), &NoFlags)?.target_directory.into_std_path_buf(),
    };
    let folder = target.join("hotrun/run");
    let sessions = std::fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| entry.ok());
    let mut found: Vec<(String, PathBuf)> = sessions
        .filter_map(|session| {
            let pid = session.file_name().into_string().ok()?;
            let socket = PathBuf::from(std::fs::read_to_string(session.path().join(POINTER)).ok()?);
            let wanted = args.pid.is_none_or(|wanted| pid == wanted.to_string());
            (wanted && UnixStream::connect(&socket).is_ok()).then_some((pid, socket))
        })
        .collect();
    match (found.pop(), found.pop()) {
        (Some((_, socket)), None) => Ok(socket),
        (None, _) => {
            Err(Error::failure(format!("no session of this project runs (none is known in {})", folder.display()))
                .help("start one with `cargo hotrun`, or name the project with --manifest-path"))
        }
        (Some((one, _)), Some((other, _))) => {
            Err(Error::usage(format!("several sessions of this project run, {one} and {other} among them"))
                .help("choose one by its process id with --pid"))
        }
    }
}

fn sentence(state: &State) -> String {
    let serving = match (state.generation, state.pid) {
        (Some(generation), Some(pid)) => {
            let at =
                if state.addresses.is_empty() { String::new() } else { format!(", {}", state.addresses.join(", ")) };
            format!("{}: generation {generation} serves, pid {pid}{at}", state.package)
        }
        _ => format!("{}: nothing serves", state.package),
    };
    let busy = if state.busy { "; something newer is on its way" } else { "" };
    match &state.trouble {
        Some(trouble) => format!("{serving}{busy}; {trouble}"),
        None => format!("{serving}{busy}"),
    }
}

struct NoFlags;

impl MetadataFlags for NoFlags {
    fn flags(&self) -> Vec<String> {
        vec!["--no-deps".to_owned()]
    }
}
