//! Who is compared.

/// One way to bring a new program to a server.
#[derive(Debug)]
pub struct Contender {
    pub name: &'static str,
    /// A binary of `benches/peers`.
    pub program: &'static str,
    pub means: Means,
    pub socket: Socket,
    /// shellflip's example has a socket by which a restart can be asked for. Its presence also decides how it starts a
    /// process: by fork(2), or as the standard library likes.
    pub coordination: bool,
    /// What a reader of the table has to know.
    pub note: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// SIGUSR2, and the process starts its own successor.
    Signal,
    /// SIGTERM, and another one once it is gone: what the numbers would be without any library.
    KillAndStart,
    /// No upgrade at all: what the numbers are when nothing happens.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// The server binds it.
    Own,
    /// The server is given it as systemd would.
    FromSystemd,
}

pub const ALL: &[Contender] = &[
    Contender {
        name: "hotrun",
        program: "hotrun",
        means: Means::Signal,
        socket: Socket::Own,
        coordination: false,
        note: "no probation, as the peers have none (BENCH_PROBATION_MS sets one)",
    },
    Contender {
        name: "ecdysis",
        program: "ecdysis",
        means: Means::Signal,
        socket: Socket::Own,
        coordination: false,
        note: "after its examples/tokio_echo.rs; looks every 500 ms whether a successor that is ready still lives, and accepts until then",
    },
    Contender {
        name: "shellflip",
        program: "shellflip",
        means: Means::Signal,
        socket: Socket::FromSystemd,
        coordination: true,
        note: "the socket from systemd (LISTEN_FDS), a restart coordination socket as in its examples/restarter.rs: it forks",
    },
    Contender {
        name: "shellflip, own socket",
        program: "shellflip",
        means: Means::Signal,
        socket: Socket::Own,
        coordination: false,
        note: "each process binds its own socket with SO_REUSEPORT; signals only, so that it need not fork",
    },
    Contender {
        name: "kill and start",
        program: "plain",
        means: Means::KillAndStart,
        socket: Socket::Own,
        coordination: false,
        note: "no library: SIGTERM, and another process once it is gone; for scale, and to see that the clients notice what is lost",
    },
    Contender {
        name: "left alone",
        program: "plain",
        means: Means::Nothing,
        socket: Socket::Own,
        coordination: false,
        note: "no upgrade at all: what the machine does to an answer by itself",
    },
];

impl Contender {
    /// Whether it has a library that upgrades it.
    pub fn is_upgraded(&self) -> bool {
        self.means == Means::Signal
    }
}
