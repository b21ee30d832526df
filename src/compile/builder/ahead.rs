//! What is done before it is needed, while nobody waits: compilers are started that wait for the next save, and the dependencies become one
//! object for the next link.
//! Never lives here: the build that somebody waits for (`builder`), and how each is done (`replay`).

use crate::compile::replay::Replay;
use crate::process::Leaving;
use std::time::{Duration, Instant};

/// The new program starts within this time, most of the times; what is not urgent waits as long.
const BREATHER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Ahead {
    /// When compilers are started that wait for the next save, and for which crate besides the program.
    ready_at: Option<(Instant, Option<usize>)>,
    /// Whether the last link has asked for an object of the dependencies.
    pub wants_merged: bool,
    /// What makes one.
    merging: Option<Leaving>,
}

impl Ahead {
    pub fn deadline(&self) -> Option<Instant> {
        self.ready_at.as_ref().map(|(at, _)| *at)
    }

    /// What the user has just saved comes before what might be needed later.
    pub fn build_begins(&mut self) {
        self.ready_at = None;
        // One that has come to nothing is made when there is time again.
        self.wants_merged |= self.merging.take().is_some_and(|merging| !merging.has_ended());
    }

    /// The program of the last replay is about to be another one.
    pub fn cargo_begins(&mut self) {
        self.ready_at = None;
        self.wants_merged = false;
    }

    /// There is time from that moment on, and most likely the next save is in that crate, as the last one was.
    pub fn schedule(&mut self, now: Instant, edited: Option<usize>) {
        self.ready_at = Some((now + BREATHER, edited));
    }

    pub fn let_go(&mut self) {
        *self = Ahead::default();
    }

    pub fn go_on(&mut self, now: Instant, replay: &mut Replay) {
        if let Some((_, edited)) = self.ready_at.take_if(|(at, _)| *at <= now) {
            replay.ready(edited);
            if std::mem::take(&mut self.wants_merged) {
                self.merging = replay.merge();
            }
        }
    }
}
