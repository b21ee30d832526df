//! Why the newest sources do not serve, known from what was told: what `status`, `wait` and their like answer.
//! Never lives here: a clock, a process, and telling.

use super::{Notice, SUCCESS, Vintage};

#[derive(Debug, Default)]
pub struct Standing {
    /// Why the newest sources were not built, and why what they were built into does not serve.
    build: Option<String>,
    start: Option<String>,
    /// What was asked for last and cannot be done, and why.
    refused: Option<(String, String)>,
}

impl Standing {
    pub fn hear(&mut self, notice: &Notice) {
        match notice {
            Notice::Building { .. } | Notice::Unchanged { .. } => (self.build, self.start) = (None, None),
            Notice::BuildFailed { .. } => {
                self.build = Some("the build of the newest sources has failed".to_owned());
            }
            Notice::StartFailed { end, program: Vintage::RolledBack, .. } => {
                let why = format!("rollback has failed: the program before did not stay up: {end}");
                self.refused = Some(("rollback".to_owned(), why));
            }
            Notice::StartFailed { end, .. } | Notice::RolledBack { end, .. } | Notice::Died { end, .. } => {
                self.start = Some(format!("the newest program did not stay up: {end}"));
            }
            Notice::Finished { end, .. } if end != SUCCESS => {
                self.start = Some(format!("the newest program has ended: {end}"));
            }
            Notice::NotKept { why, .. } => self.start = Some(format!("the newest program cannot be started: {why}")),
            Notice::Refused { asked, why } => {
                self.refused = Some((asked.clone(), format!("{asked} is not possible: {why}")));
            }
            Notice::Serving { program: Vintage::Newest, .. } => self.start = None,
            Notice::Serving { .. }
            | Notice::Timings(_)
            | Notice::Starting { .. }
            | Notice::NotReady { .. }
            | Notice::Watching { .. }
            | Notice::Listening { .. }
            | Notice::Progress { .. }
            | Notice::StillBuilding { .. }
            | Notice::WaitOver { .. }
            | Notice::Diagnostic { .. }
            | Notice::Superseded { .. }
            | Notice::ReplayReady { .. }
            | Notice::Finished { .. }
            | Notice::Draining { .. }
            | Notice::Drained { .. }
            | Notice::Note { .. }
            | Notice::Stopping { .. }
            | Notice::Stopped { .. } => {}
        }
    }

    /// What was asked for last and cannot be done, and why; told once.
    pub fn take_refused(&mut self) -> Option<(String, String)> {
        self.refused.take()
    }

    /// Why the newest sources do not serve, where they do not: `serving` is the program that does.
    pub fn trouble(&self, serving: Option<Vintage>) -> Option<String> {
        let back = "rolled back to a program from before: the newest sources do not serve".to_owned();
        let start = match serving {
            Some(Vintage::Newest) => None,
            Some(Vintage::RolledBack) => Some(back),
            Some(Vintage::FallenBack) => {
                Some(self.start.clone().unwrap_or_else(|| "a program from before serves".to_owned()))
            }
            None => self.start.clone(),
        };
        let all: Vec<String> = self.build.iter().cloned().chain(start).collect();
        (!all.is_empty()).then(|| all.join("; "))
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

    fn building() -> Notice {
        Notice::Building { package: "api".into(), cause: "a changed".into() }
    }

    #[test]
    fn what_was_rolled_back_to_is_not_the_newest_sources() {
        let mut standing = Standing::default();
        standing.hear(&serving(Vintage::RolledBack));
        let trouble = standing.trouble(Some(Vintage::RolledBack)).unwrap();
        assert!(trouble.contains("rolled back") && trouble.contains("newest sources do not serve"), "{trouble}");
        standing.hear(&building());
        standing.hear(&Notice::BuildFailed { errors: 1, cause: "x".into(), why_cargo: None, serving: Some(3) });
        let trouble = standing.trouble(Some(Vintage::RolledBack)).unwrap();
        assert!(trouble.contains("build") && trouble.contains("rolled back"), "{trouble}");
        standing.hear(&building());
        assert_eq!(standing.trouble(Some(Vintage::Newest)), None);
    }

    #[test]
    fn a_rollback_that_fails_says_nothing_of_the_newest_program() {
        let mut standing = Standing::default();
        standing.hear(&failed(Vintage::RolledBack));
        let (asked, why) = standing.take_refused().unwrap();
        assert!(asked == "rollback" && why.contains("rollback has failed"), "{why}");
        assert_eq!(standing.take_refused(), None, "told once");
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
        standing.hear(&building());
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
