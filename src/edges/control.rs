//! The control socket, both ends: what editors and scripts ask of a running session, and the commands that ask.
//! Never lives here: answering; the session does.

use super::find;
use super::message::{Request, Status};
use super::registry::Listed;
use super::visitors::{LIMITS, Visitors};
use crate::cli;
use crate::error::{Error, Result, Tried};
use crate::process::private;
use crate::report::{say, urls};
use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use super::visitors::Reply;

/// How long a session may take to be gone once nothing of it runs any more.
const ENDING: Duration = Duration::from_secs(10);

/// Somebody listens at that path until this is dropped.
#[derive(Debug)]
pub struct Listening {
    pub path: PathBuf,
    _over: PipeWriter,
}

/// Listens in the private folder.
pub fn listen(private: &Path, tell: impl Fn(Request, Reply) + Send + 'static) -> io::Result<Listening> {
    let path = private.join("control");
    let visitors = Visitors::new(private::listener(&path)?, LIMITS)?;
    let (ended, over) = io::pipe()?;
    let hear = move || visitors.hear(&ended, tell);
    // Where there is no thread to be had, it can be tried again.
    thread::Builder::new().spawn(hear).inspect_err(|_| drop(fs::remove_file(&path)))?;
    Ok(Listening { path, _over: over })
}

/// Asks the session that is meant, prints what it says, and returns the exit code: 1 where what was asked for did not come about.
pub fn ask(args: &cli::ControlArgs, request: Request) -> Result<i32> {
    let session = find::session(args)?;
    let status = exchange(&session, request)?;
    if args.message_format == Some(cli::Format::Json) {
        say::json(&serde_json::to_string(&status).tried("write the answer")?);
    } else {
        say::line(sentence(&status, request));
    }
    Ok(code(&status, request))
}

fn code(status: &Status, request: Request) -> i32 {
    let newest_serves = status.generation.is_some() && status.trouble.is_none();
    let done = match request {
        // It has answered.
        Request::Status => true,
        Request::Wait => newest_serves,
        Request::Rebuild | Request::Upgrade => newest_serves && status.refused.is_none(),
        Request::Rollback => status.rolled_back && status.generation.is_some() && status.refused.is_none(),
        Request::Stop => status.stopped,
    };
    i32::from(!done)
}

fn exchange(session: &Listed, request: Request) -> Result<Status> {
    let asking = format!("ask the session of {} (pid {})", session.package, session.pid);
    let mut stream = UnixStream::connect(&session.socket)
        .map_err(|error| Error::failure(format!("{asking} at {}: {error}", session.socket.display())))
        .map_err(|error| error.help(format!("its socket is gone; `kill {}` ends it all the same", session.pid)))?;
    if !private::is_ours(&stream) {
        return Err(Error::failure(format!("{asking} at {}: another user listens there", session.socket.display())));
    }
    let line = serde_json::to_string(&request).tried(&asking)? + "\n";
    stream.write_all(line.as_bytes()).tried(&asking)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).tried(&asking)?;
    let status: Option<Status> = serde_json::from_str(answer.trim()).ok();
    // Nothing of it is left when this command ends; one that was stopping already may have had no time to answer.
    let ended = request == Request::Stop && session.has_ended(ENDING);
    match status {
        None if ended => Ok(Status { package: session.package.clone(), stopped: true, ..Status::default() }),
        Some(status) if request == Request::Stop => Ok(Status { stopped: status.stopped && ended, ..status }),
        status => status.ok_or_else(|| Error::failure(format!("{asking}: it ended without an answer"))),
    }
}

fn sentence(status: &Status, request: Request) -> String {
    if status.stopped {
        return format!("{}: stopped", status.package);
    }
    let serving = match (status.generation, status.pid) {
        (Some(generation), Some(pid)) => {
            let at = if status.addresses.is_empty() { String::new() } else { format!(", {}", urls(&status.addresses)) };
            format!("{}: generation {generation} serves, pid {pid}{at}", status.package)
        }
        _ => format!("{}: nothing serves", status.package),
    };
    let overtaken = request == Request::Rollback && !status.rolled_back && status.refused.is_none();
    let parts = [
        status.busy.then(|| "something newer is on its way".to_owned()),
        status.refused.clone(),
        overtaken.then(|| "the program before does not serve: a newer one has come meanwhile".to_owned()),
        status.trouble.clone(),
    ];
    parts.into_iter().flatten().fold(serving, |text, part| format!("{text}; {part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            package: "api".into(),
            service: "api".into(),
            generation: Some(4),
            pid: Some(7),
            addresses: vec!["0.0.0.0:3000".into(), "unix:a".into()],
            busy: false,
            trouble: None,
            rolled_back: false,
            refused: None,
            stopped: false,
        }
    }

    const ALL: [Request; 6] =
        [Request::Status, Request::Wait, Request::Rebuild, Request::Upgrade, Request::Rollback, Request::Stop];

    fn codes(status: &Status) -> [i32; 6] {
        ALL.map(|request| code(status, request))
    }

    #[test]
    fn the_code_is_about_what_was_asked_for() {
        assert_eq!(codes(&status()), [0, 0, 0, 0, 1, 1]);
        let trouble = Some("the build has failed".to_owned());
        assert_eq!(codes(&Status { trouble: trouble.clone(), ..status() }), [0, 1, 1, 1, 1, 1]);
        let back = Status { rolled_back: true, trouble: Some("rolled back".into()), ..status() };
        assert_eq!(codes(&back), [0, 1, 1, 1, 0, 1]);
        let refused = Status { refused: Some("no".into()), ..back.clone() };
        assert_eq!(codes(&refused), [0, 1, 1, 1, 1, 1]);
        let nothing = Status { generation: None, pid: None, ..status() };
        assert_eq!(codes(&nothing), [0, 1, 1, 1, 1, 1]);
        assert_eq!(codes(&Status { stopped: true, ..nothing }), [0, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn the_sentence_says_what_serves_and_what_does_not() {
        let serves = "api: generation 4 serves, pid 7, http://127.0.0.1:3000, unix:a";
        assert_eq!(sentence(&status(), Request::Wait), serves);
        let back = Status { rolled_back: true, trouble: Some("rolled back".into()), ..status() };
        assert_eq!(sentence(&back, Request::Rollback), format!("{serves}; rolled back"));
        let refused = Status { refused: Some("rollback is not possible".into()), ..status() };
        assert_eq!(sentence(&refused, Request::Rollback), format!("{serves}; rollback is not possible"));
        assert!(sentence(&status(), Request::Rollback).contains("a newer one has come"));
        let stopped = Status { generation: None, pid: None, stopped: true, ..status() };
        assert_eq!(sentence(&stopped, Request::Stop), "api: stopped");
    }

    #[test]
    fn an_answer_of_an_older_session_is_understood() {
        let older = r#"{"package":"api","generation":4,"pid":7,"addresses":["0.0.0.0:3000","unix:a"],"busy":false,"trouble":null}"#;
        assert_eq!(serde_json::from_str::<Status>(older).unwrap(), Status { service: String::new(), ..status() });
    }
}
