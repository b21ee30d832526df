//! What cargo and the compilers print: how it is read, when it is over, and what of it is told already.
//! Never lives here: what it means for a build.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

/// How long output may lag behind the end of whoever prints it. A daemon that a build script or a macro has left behind may keep the
/// pipe open for ever.
const LAG: Duration = Duration::from_millis(200);

/// When output is over for certain, of what ended then.
pub fn over_at(exited: Instant) -> Instant {
    exited + LAG
}

/// Its lines, until it is closed. Bytes that are no UTF-8, a build script's or a macro's, are replaced: they must not end a build.
pub fn lines(output: impl Read) -> impl Iterator<Item = String> {
    let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
    lines.map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// rustc counts the errors and warnings that the user has just read; cargo passes that over, too.
pub fn is_sum(message: &str) -> bool {
    message.starts_with("aborting due to ")
        || message.ends_with(" warning emitted")
        || message.ends_with(" warnings emitted")
}
