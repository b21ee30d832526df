//! Which programs have served, in their order, which one the newest sources are, and to which ones the user went back: part of
//! the pure core of hot upgrade.
//! Never lives here: generations, which run programs (`handover`).

use crate::report::Vintage;

/// How many programs that have served are kept besides the one that serves.
pub const KEPT: usize = 5;

#[derive(Debug)]
pub struct History<P> {
    /// What the newest sources were built into.
    newest: Option<P>,
    /// The program that last became ready.
    served: Option<P>,
    /// Those that served before it, the last one last.
    before: Vec<P>,
    /// Those to which the user has gone back since the last build.
    asked: Vec<P>,
}

impl<P: Clone + PartialEq> History<P> {
    pub fn new() -> Self {
        History { newest: None, served: None, before: Vec::new(), asked: Vec::new() }
    }

    /// The newest sources are that program: whatever was gone back to is over.
    pub fn built(&mut self, program: P) {
        self.newest = Some(program);
        self.asked.clear();
    }

    /// What the newest sources were built into is none of those that are known.
    pub fn lost(&mut self) {
        self.newest = None;
        self.asked.clear();
    }

    pub fn vintage(&self, program: &P) -> Vintage {
        if self.newest.as_ref() == Some(program) {
            Vintage::Newest
        } else if self.asked.contains(program) {
            Vintage::RolledBack
        } else {
            Vintage::FallenBack
        }
    }

    pub fn served(&self) -> Option<&P> {
        self.served.as_ref()
    }

    /// The program before the one that last became ready.
    pub fn good(&self) -> Option<&P> {
        self.before.last()
    }

    /// To which the user would go back: one further than to where they are on the way already.
    pub fn earlier(&self, coming: Option<&P>) -> Option<&P> {
        let on_the_way = coming.filter(|coming| self.asked.contains(coming));
        let at = on_the_way.and_then(|coming| self.before.iter().position(|program| program == coming));
        self.before.get(at.unwrap_or(self.before.len()).checked_sub(1)?)
    }

    /// The user goes back.
    pub fn back(&mut self, coming: Option<&P>) -> Option<P> {
        let program = self.earlier(coming)?.clone();
        self.asked.push(program.clone());
        Some(program)
    }

    /// Those after a program that was gone back to are forgotten: the way on is a build.
    pub fn is_ready(&mut self, program: &P) {
        if self.served.as_ref() == Some(program) {
            return;
        }
        match self.before.iter().position(|earlier| earlier == program) {
            Some(at) => self.before.truncate(at),
            None => self.before.extend(self.served.take()),
        }
        if self.before.len() > KEPT {
            self.before.remove(0);
        }
        self.served = Some(program.clone());
    }

    /// The process of `program` serves again, as that of `dead` did not stay up.
    pub fn reverted(&mut self, program: &P, dead: P) {
        if dead == *program {
            return;
        }
        match self.before.iter().position(|earlier| earlier == program) {
            Some(at) => self.before.truncate(at),
            // It was gone back to that one, which is still the one before.
            None => self.before.push(dead),
        }
        self.served = Some(program.clone());
    }

    /// Those that may be started again.
    pub fn programs(&self) -> impl Iterator<Item = &P> {
        self.served.iter().chain(&self.before)
    }
}
