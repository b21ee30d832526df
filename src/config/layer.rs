//! What one place says (the flags, or one manifest), checked value by value, and the order in which places count.
//! Never lives here: how a place is read; `flags` and `metadata` do that.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Data, Debug, HandOff, Listen, Ready, Strategy, Target};
use crate::error::Error;

/// Where a value was written, as the beginning of a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin(String);

impl Origin {
    pub(super) fn flag(name: &str) -> Origin {
        Origin(format!("`{name}`"))
    }

    /// `place` is `file:line:column`.
    pub(super) fn key(place: &str, key: &str, section: &str) -> Origin {
        Origin(format!("{place}: `{key}` in [{section}]"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn refuse(&self, why: impl fmt::Display) -> Error {
        Error::usage(format!("{}: {why}", self.0))
    }
}

/// A file or folder, and where it was named: whether it is there only matters where no nearer place names another.
pub(super) type Named = (PathBuf, Origin);

/// `None` is "not said here". What is said is valid by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Layer {
    /// Whether it exists is only known once the package is chosen, so the refusal may come later.
    pub(super) target: Option<(Target, Origin)>,
    pub(super) features: Option<Vec<String>>,
    pub(super) profile: Option<String>,
    pub(super) replay: Option<bool>,
    pub(super) debug: Option<Debug>,
    pub(super) args: Option<Vec<OsString>>,
    pub(super) env: Vec<(String, String)>,
    pub(super) env_file: Option<Named>,
    pub(super) listen: Option<Vec<Listen>>,
    pub(super) watch: Option<Vec<Named>>,
    pub(super) ignore: Option<Vec<String>>,
    pub(super) data: Option<Vec<Data>>,
    pub(super) strategy: Option<Strategy>,
    /// Whether it fits depends on `listen`, which another place may have said.
    pub(super) handoff: Option<(HandOff, Origin)>,
    pub(super) ready: Option<Ready>,
    pub(super) overlap: Option<bool>,
    pub(super) ready_timeout: Option<Duration>,
    pub(super) probation: Option<Duration>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) drain_limit: Option<Duration>,
    pub(super) kill_timeout: Option<Duration>,
}

impl Layer {
    /// `self` replaces `farther` key by key. Only variables are put together, name by name: nobody who adds one with a
    /// flag means to lose those of the manifest.
    pub(super) fn over(self, farther: Layer) -> Layer {
        let mut env = farther.env;
        for (key, value) in self.env {
            env.retain(|(known, _)| *known != key);
            env.push((key, value));
        }
        Layer {
            target: self.target.or(farther.target),
            features: self.features.or(farther.features),
            profile: self.profile.or(farther.profile),
            replay: self.replay.or(farther.replay),
            debug: self.debug.or(farther.debug),
            args: self.args.or(farther.args),
            env,
            env_file: self.env_file.or(farther.env_file),
            listen: self.listen.or(farther.listen),
            watch: self.watch.or(farther.watch),
            ignore: self.ignore.or(farther.ignore),
            data: self.data.or(farther.data),
            strategy: self.strategy.or(farther.strategy),
            handoff: self.handoff.or(farther.handoff),
            ready: self.ready.or(farther.ready),
            overlap: self.overlap.or(farther.overlap),
            ready_timeout: self.ready_timeout.or(farther.ready_timeout),
            probation: self.probation.or(farther.probation),
            drain_timeout: self.drain_timeout.or(farther.drain_timeout),
            drain_limit: self.drain_limit.or(farther.drain_limit),
            kill_timeout: self.kill_timeout.or(farther.kill_timeout),
        }
    }
}

/// A generation given no time at all could never be ready.
pub(super) fn some_time(time: Duration) -> Result<Duration, String> {
    if time.is_zero() { Err("found a time of zero, in which no program can be ready".to_owned()) } else { Ok(time) }
}
