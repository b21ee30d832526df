//! Why the newest program does not serve, where it was tried and does not.
//! Never lives here: whether there is a newer build, a clock, a process, and telling.

use crate::report::{Notice, SUCCESS, Vintage};

#[derive(Debug, Default)]
pub struct Standing {
    /// Why what the newest sources were built into does not serve.
    fault: Option<String>,
    /// Why the last rollback has come to nothing after it had begun.
    failed_rollback: Option<String>,
}

impl Standing {
    /// What this room is about to tell.
    pub fn hear(&mut self, notice: &Notice) {
        match notice {
            Notice::StartFailed { end, program: Vintage::RolledBack, .. } => {
                self.failed_rollback = Some(format!("rollback has failed: the program before did not stay up: {end}"));
            }
            Notice::StartFailed { end, .. } | Notice::RolledBack { end, .. } | Notice::Died { end, .. } => {
                self.fault = Some(format!("the newest program did not stay up: {end}"));
            }
            Notice::Finished { end, .. } if end != SUCCESS => {
                self.fault = Some(format!("the newest program has ended: {end}"));
            }
            Notice::NotKept { why, .. } => self.fault = Some(format!("the newest program cannot be started: {why}")),
            Notice::Unchanged { .. } | Notice::Serving { program: Vintage::Newest, .. } => self.fault = None,
            Notice::Watching { .. }
            | Notice::Listening { .. }
            | Notice::Building { .. }
            | Notice::Progress { .. }
            | Notice::StillBuilding { .. }
            | Notice::WaitOver { .. }
            | Notice::Diagnostic { .. }
            | Notice::Superseded { .. }
            | Notice::ReplayReady { .. }
            | Notice::BuildFailed { .. }
            | Notice::Starting { .. }
            | Notice::NotReady { .. }
            | Notice::Serving { .. }
            | Notice::Timings(_)
            | Notice::Finished { .. }
            | Notice::Draining { .. }
            | Notice::Drained { .. }
            | Notice::Note { .. }
            | Notice::Refused { .. }
            | Notice::Stopping { .. }
            | Notice::Stopped { .. } => {}
        }
    }

    /// Something newer is being built: the fault of what was the newest until now is nobody's question any more.
    pub fn outdated(&mut self) {
        self.fault = None;
    }

    /// Told once.
    pub fn take_failed_rollback(&mut self) -> Option<String> {
        self.failed_rollback.take()
    }

    /// `serving` is the program that serves.
    pub fn trouble(&self, serving: Option<Vintage>) -> Option<String> {
        match serving {
            Some(Vintage::Newest) => None,
            Some(Vintage::RolledBack) => {
                Some("rolled back to a program from before: the newest sources do not serve".to_owned())
            }
            Some(Vintage::FallenBack) => {
                Some(self.fault.clone().unwrap_or_else(|| "a program from before serves".to_owned()))
            }
            None => self.fault.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::HandOver;

    fn died() -> Notice {
        Notice::Died {
            generation: 2,
            end: "signal 6 (SIGABRT)".into(),
            again_in: Some(0),
            falls_back: false,
            given_up: false,
        }
    }

    fn failed(program: Vintage) -> Notice {
        Notice::StartFailed { generation: 3, end: "exit status 1".into(), program, serving: Some(2) }
    }

    fn serving(program: Vintage) -> Notice {
        let (addresses, by) = (Vec::new(), HandOver::Bind);
        Notice::Serving { generation: 3, pid: 1, addresses, by, program, timing: None }
    }

    #[test]
    fn what_was_rolled_back_to_is_not_the_newest_sources() {
        let mut standing = Standing::default();
        standing.hear(&serving(Vintage::RolledBack));
        let trouble = standing.trouble(Some(Vintage::RolledBack)).unwrap();
        assert!(trouble.contains("rolled back") && trouble.contains("newest sources do not serve"), "{trouble}");
        assert_eq!(standing.trouble(Some(Vintage::Newest)), None);
    }

    #[test]
    fn a_rollback_that_fails_says_nothing_of_the_newest_program() {
        let mut standing = Standing::default();
        standing.hear(&failed(Vintage::RolledBack));
        let why = standing.take_failed_rollback().unwrap();
        assert!(why.contains("rollback has failed"), "{why}");
        assert_eq!(standing.take_failed_rollback(), None, "told once");
        assert_eq!(standing.trouble(Some(Vintage::Newest)), None);
    }

    #[test]
    fn one_that_keeps_dying_is_trouble_until_it_serves() {
        let mut standing = Standing::default();
        standing.hear(&died());
        assert!(standing.trouble(None).unwrap().contains("did not stay up: signal 6"));
        standing.hear(&serving(Vintage::FallenBack));
        assert!(standing.trouble(Some(Vintage::FallenBack)).is_some());
        standing.hear(&serving(Vintage::Newest));
        assert_eq!(standing.trouble(Some(Vintage::Newest)), None);
    }

    #[test]
    fn a_program_without_sockets_that_fails_is_trouble_and_one_that_comes_to_its_end_is_not() {
        let mut standing = Standing::default();
        let finished = |end: &str| Notice::Finished { generation: 1, end: end.into() };
        standing.hear(&finished("exit status 0"));
        assert_eq!(standing.trouble(None), None);
        standing.hear(&finished("exit status 101"));
        assert!(standing.trouble(None).unwrap().contains("exit status 101"));
        standing.outdated();
        assert_eq!(standing.trouble(None), None);
    }

    #[test]
    fn one_that_reverted_to_the_same_program_is_no_trouble() {
        let mut standing = Standing::default();
        standing.hear(&Notice::RolledBack { from: 3, to: 2, end: "signal 9".into() });
        assert_eq!(standing.trouble(Some(Vintage::Newest)), None);
        assert!(standing.trouble(Some(Vintage::FallenBack)).is_some());
    }
}
