//! How a process says where it is in its life: a line on the Unix stream socket at `BENCH_TELL`, and the end of that
//! stream when it is gone, however it went.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process;

pub struct Tell(Option<UnixStream>);

impl Tell {
    /// The first statement of `main`.
    pub fn started() -> io::Result<Tell> {
        let tell = match std::env::var_os("BENCH_TELL") {
            Some(path) => Tell(Some(UnixStream::connect(path)?)),
            None => Tell(None),
        };
        tell.say("started")?;
        Ok(tell)
    }

    /// A client that connects now may be answered by this process.
    pub fn serving(&self) -> io::Result<()> {
        self.say("serving")?;
        // Only now, as some libraries want `main` to have one thread when they begin.
        if let Some(stream) = &self.0 {
            let stream = stream.try_clone()?;
            std::thread::spawn(move || leave_with_the_harness(stream));
        }
        Ok(())
    }

    fn say(&self, what: &str) -> io::Result<()> {
        let line = format!("{what} {}\n", process::id());
        match &self.0 {
            Some(stream) => (&*stream).write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        }
    }
}

/// Nobody has to look for servers that a broken run has left behind.
#[allow(clippy::disallowed_methods)] // There is nobody left for whom to do it gracefully.
fn leave_with_the_harness(mut stream: UnixStream) {
    let _ = stream.read(&mut [0]);
    process::exit(0);
}
