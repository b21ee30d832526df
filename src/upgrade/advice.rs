//! What a user could do about a program that cannot be handed over as well as another, or not at all. Each is said once a session.
//! Never lives here: when (`generations`, `start`, `readiness`).

use super::Generation;
use super::intercept::Blind;
use crate::report::HandOver;
use nix::errno::Errno;
use std::fmt;
use std::time::Duration;

#[derive(Debug)]
pub enum Advice {
    BindsItself { address: String },
    BindsInstead,
    NoGate { way: HandOver, error: std::io::Error },
    Blind(Blind),
    Tied,
    NoDescriptor(Errno),
    CannotLook(Errno),
    NoSockets { generation: Generation, patience: Duration },
    LeftBehind { generation: Generation, name: String },
    Background,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::BindsItself { address } => write!(
                f,
                "this program binds {address} itself, so it is stopped before the new one starts, and clients are refused \
                 meanwhile. Use the hotrun library (four lines), or take LISTEN_FDS and set `listen`, and none will be"
            ),
            Advice::BindsInstead => f.write_str(
                "this program binds for itself and takes none of the sockets of `listen` (LISTEN_FDS): it is given the held ones \
                 when it binds, and `listen` can be left out",
            ),
            Advice::NoGate { way, error } => {
                let lost = match way {
                    HandOver::Bind => "the program is stopped before the new one starts, and clients are refused meanwhile",
                    HandOver::Library | HandOver::ListenFds | HandOver::StopAndStart => {
                        "answers that the old program has begun are its own to finish after SIGTERM"
                    }
                };
                write!(
                    f,
                    "this system refuses what the zero-change hand-over needs (seccomp user notification, Linux 5.14: {error}), so {lost}. \
                     Allow seccomp(2), or use the hotrun library"
                )
            }
            Advice::Blind(why) => {
                match why {
                    Blind::IoUring => {
                        f.write_str("the program takes its connections by io_uring, where no gate can be closed")
                    }
                    Blind::Memory(error) => {
                        write!(f, "the program does not let its memory and descriptors be looked at ({error})")
                    }
                }?;
                f.write_str(
                    ": it is stopped before the new one starts. Use the hotrun library, and it will serve meanwhile",
                )
            }
            Advice::Tied => f.write_str(
                "the program has given its socket to another process, or to an event loop that cannot be reached, before it binds it, so \
                 that the held one cannot take its place: bind it first, or use `handoff = \"none\"`",
            ),
            Advice::NoDescriptor(error) => write!(
                f,
                "the connections of the program cannot be looked at, as this command has no descriptor left ({error}): kept ones \
                 last until `drain-timeout`, and an answer may be cut then. Raise its limit of open files (ulimit -n)"
            ),
            Advice::CannotLook(error) => write!(
                f,
                "the connections of the program cannot be looked at ({error}), so kept ones last until `drain-timeout` and an \
                 answer may be cut then. Allow pidfd_getfd(2), in a container by the capability SYS_PTRACE"
            ),
            Advice::NoSockets { generation, patience } => write!(
                f,
                "generation {generation} has bound nothing within {} s (half of `ready-timeout`), though it could: it is taken \
                 for a program without sockets",
                patience.as_secs_f64()
            ),
            Advice::LeftBehind { generation, name } => {
                write!(f, "{name}, which generation {generation} has left behind, is ended with it")
            }
            Advice::Background => f.write_str(
                "a program that goes into the background cannot be followed, and is ended. Start it with the flag that such programs \
                 have for staying in the foreground (`--foreground`, `--no-daemon`, `-F`, or `daemon off` in its configuration): `args` \
                 passes it on",
            ),
        }
    }
}
