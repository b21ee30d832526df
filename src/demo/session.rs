//! A real session of this very program as a child process: started, listened to, ended whatever happens. Never lives here:
//! what the demo asks of it.

use crate::error::{Error, Result, Tried};
use crate::process::lock;
use crate::report::clean;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Ended when dropped, with a signal first.
pub struct ChildSession {
    child: Child,
    /// One JSON object each; disconnected when the session has closed its output.
    events: Receiver<Value>,
    /// The last lines that were no events: what went wrong stands there.
    said: Arc<Mutex<VecDeque<String>>>,
    ended: bool,
}

impl ChildSession {
    /// A session for the project, whose server is told to listen on `addr`.
    pub fn start(manifest: &Path, addr: SocketAddr) -> Result<ChildSession> {
        // The link stays right when the file is replaced meanwhile, as when this program is itself being developed.
        let mut command = Command::new("/proc/self/exe");
        command.arg("--manifest-path").arg(manifest).args(["--message-format", "json", "--no-keys"]);
        command.env("ADDR", addr.to_string());
        ChildSession::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<ChildSession> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().tried("start a session")?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, events) = channel();
        if let Some(stdout) = child.stdout.take() {
            let said = Arc::clone(&said);
            lines(stdout, move |line| match serde_json::from_str::<Value>(&line) {
                Ok(event) if event["event"].is_string() => {
                    if let Some(rendered) = event["rendered"].as_str() {
                        rendered.lines().for_each(|line| keep(&said, line));
                    }
                    // Nobody listens any more when the demo is over.
                    let _ = tell.send(event);
                }
                // The server's own output comes the same way.
                _ => keep(&said, &line),
            });
        }
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            lines(stderr, move |line| keep(&said, &line));
        }
        Ok(ChildSession { child, events, said, ended: false })
    }

    /// Waits until `wanted` finds what it looks for in an event; `what` names it in the error.
    pub fn wait<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&Value) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = now() + patience;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(now())) {
                Ok(event) => {
                    if let Some(found) = wanted(&event).map_err(|error| self.explained(error))? {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let waited = format!("waited {} s for {what}, and it did not come", patience.as_secs());
                    return Err(self.explained(Error::failure(waited)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let gone = format!("the session ended while the demo waited for {what}");
                    return Err(self.explained(Error::failure(gone)));
                }
            }
        }
    }

    /// Asks the session to end, and reaps it.
    pub fn end(mut self) -> Result<ExitStatus> {
        self.terminate().tried("end the session")
    }

    /// The error with what the session said last.
    fn explained(&self, error: Error) -> Error {
        let said = lock(&self.said);
        if said.is_empty() {
            return error;
        }
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        let said = said.join("\n    ");
        Error::failure("run the demo").saying(&format!("{error}\nThe session said last:\n    {said}"))
    }

    fn terminate(&mut self) -> std::io::Result<ExitStatus> {
        self.ended = true;
        // Not reaped yet, so the number is still this child's. Pids fit; one that does not would signal nobody.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = now() + Duration::from_secs(20);
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(now())) {
                Ok(_) => {}
                // Its output is closed: all of it has ended, or is about to.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill()?;
                    break;
                }
            }
        }
        self.child.wait()
    }
}

impl Drop for ChildSession {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.terminate();
        }
    }
}

/// Feeds each line to `take` on a thread of its own, until the other side is closed.
fn lines(from: impl Read + Send + 'static, mut take: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            take(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
}

fn keep(said: &Mutex<VecDeque<String>>, line: &str) {
    let mut said = lock(said);
    if said.len() == 30 {
        said.pop_front();
    }
    said.push_back(clean::plain(line));
}

// A deadline over many events needs the clock; nothing is decided by it but when to give up.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> ChildSession {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ChildSession::spawn(command).unwrap()
    }

    fn named<'a>(name: &'a str) -> impl FnMut(&Value) -> Result<Option<u64>> + 'a {
        move |event| Ok((event["event"] == name).then(|| event["generation"].as_u64().unwrap_or(0)))
    }

    #[test]
    fn events_are_told_from_what_a_server_prints() {
        let mut session =
            shell(r#"echo '{"no": "event"}'; echo hi; echo '{"event":"serving","generation":3}'; exec sleep 60"#);
        assert_eq!(session.wait("it", SOON, named("serving")).unwrap(), 3);
        let error = session.wait("more", Duration::ZERO, named("serving")).unwrap_err().to_string();
        assert!(error.contains("0 s for more") && error.contains("hi"), "{error}");
        assert!(!session.end().unwrap().success());
    }

    #[test]
    fn an_early_end_shows_what_was_said() {
        let mut session = shell("echo 'no such option' >&2; exit 2");
        let error = session.wait("`serving`", SOON, named("serving")).unwrap_err().to_string();
        assert!(error.contains("ended while the demo waited for `serving`"), "{error}");
        assert_eq!(session.end().unwrap().code(), Some(2));
    }

    #[test]
    fn dropped_is_ended() {
        let session = shell("exec sleep 60");
        let pid = Pid::from_raw(session.child.id().try_into().unwrap());
        drop(session);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
