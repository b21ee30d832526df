//! Replays that come to nothing while cargo builds the same sources: it is replay, or its linker, that does not fit the project.
//! Never lives here: why one came to nothing (`replay::run`).

use crate::compile::replay::NotReplayable;

/// One may be bad luck, as a compiler that somebody has ended.
const MOST_IN_A_ROW: u32 = 2;

#[derive(Debug, Default)]
pub struct Misfit {
    /// Until cargo has built the same; with whether our own linker has failed.
    newest: Option<(NotReplayable, bool)>,
    in_a_row: u32,
    /// Why replay is not tried any more.
    pub for_good: Option<NotReplayable>,
}

/// What builds do without from now on, and why.
#[derive(Debug, PartialEq, Eq)]
pub enum Without {
    Linker(NotReplayable),
    Replay(NotReplayable),
}

impl Misfit {
    pub fn replay_failed(&mut self, why: &NotReplayable, own_linker_failed: bool) {
        // What the machine had not to give says nothing of the project, and other reasons are looked at before each build.
        let tells = matches!(why, NotReplayable::Failed { passes: false, .. });
        self.newest = tells.then(|| (why.clone(), own_linker_failed));
    }

    pub fn replay_built(&mut self) {
        *self = Misfit::default();
    }

    pub fn cargo_failed(&mut self) {
        self.newest = None;
    }

    pub fn cargo_built(&mut self) -> Option<Without> {
        let (why, own_linker_failed) = self.newest.take()?;
        if own_linker_failed {
            return Some(Without::Linker(why));
        }
        self.in_a_row += 1;
        if self.in_a_row < MOST_IN_A_ROW {
            return None;
        }
        self.for_good = Some(why.clone());
        Some(Without::Replay(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(passes: bool) -> NotReplayable {
        NotReplayable::Failed { why: "x".into(), passes }
    }

    #[test]
    fn replay_is_given_up_when_cargo_builds_twice_in_a_row_what_it_cannot() {
        let mut misfit = Misfit::default();
        misfit.replay_failed(&failed(false), false);
        assert_eq!(misfit.cargo_built(), None, "it may have been bad luck");
        misfit.replay_built();
        misfit.replay_failed(&failed(false), false);
        assert_eq!(misfit.cargo_built(), None, "not in a row");
        for other in [failed(true), NotReplayable::Unfit("x".into())] {
            misfit.replay_failed(&other, false);
            assert_eq!(misfit.cargo_built(), None, "{other:?}");
        }
        misfit.replay_failed(&failed(false), false);
        misfit.cargo_failed();
        assert_eq!((misfit.cargo_built(), &misfit.for_good), (None, &None), "the sources are at fault");
        misfit.replay_failed(&failed(false), false);
        assert_eq!(misfit.cargo_built(), Some(Without::Replay(failed(false))));
        assert_eq!(misfit.for_good, Some(failed(false)));
    }

    #[test]
    fn a_linker_that_fails_where_cargos_does_not_is_given_up_at_once() {
        let mut misfit = Misfit::default();
        misfit.replay_failed(&failed(false), true);
        assert_eq!(misfit.cargo_built(), Some(Without::Linker(failed(false))));
        assert_eq!(misfit.for_good, None);
    }
}
