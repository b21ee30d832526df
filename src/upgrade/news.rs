//! What there is to tell the user, until the session takes it.
//! Never lives here: how it is told (`report`).

use super::advice::Advice;
use crate::report::Notice;
use std::mem::{Discriminant, discriminant};

#[derive(Debug, Default)]
pub struct News {
    waiting: Vec<Notice>,
    /// Advice that was given in this session.
    given: Vec<Discriminant<Advice>>,
    /// Whether there is nothing new to be said of a program that is stopped before the next one is started.
    pub said_stops_first: bool,
}

impl News {
    pub fn tell(&mut self, notice: Notice) {
        self.waiting.push(notice);
    }

    pub fn note(&mut self, text: String) {
        self.tell(Notice::Note { text });
    }

    /// Given once a session, however often there is cause for it.
    pub fn advise(&mut self, advice: &Advice) {
        if !self.given.contains(&discriminant(advice)) {
            self.given.push(discriminant(advice));
            self.note(advice.to_string());
        }
    }

    pub fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.waiting)
    }
}
