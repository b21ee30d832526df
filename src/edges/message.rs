//! What is said over the control socket: a request is a word on a line, the answer is what the session says of itself.
//! Never lives here: who says it to whom (`control`).

use serde::{Deserialize, Serialize};

/// What a session can be asked for.
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

impl Request {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Request::Status => "status",
            Request::Wait => "wait",
            Request::Rebuild => "rebuild",
            Request::Upgrade => "upgrade",
            Request::Rollback => "rollback",
            Request::Stop => "stop",
        }
    }
}

/// What a session says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    pub package: String,
    /// Whose program serves; a session of before has not said it.
    #[serde(default)]
    pub service: String,
    /// The generation that serves, if one does.
    pub generation: Option<u64>,
    pub pid: Option<u32>,
    pub addresses: Vec<String>,
    /// A build runs, or a program is being started.
    pub busy: bool,
    /// Why the newest sources do not serve, where they were tried and do not.
    pub trouble: Option<String>,
    /// The program that serves is one from before, by the user's wish.
    #[serde(default)]
    pub rolled_back: bool,
    /// Why what was asked for cannot be done.
    #[serde(default)]
    pub refused: Option<String>,
    /// The session has ended.
    #[serde(default)]
    pub stopped: bool,
}
