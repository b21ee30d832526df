//! Why the newest program does not serve, where it was tried and does not: part of the pure core of hot upgrade.
//! Never lives here: what becomes of its generations (`handover`), and whether there is a newer build.

use crate::report::{SUCCESS, Vintage};

#[derive(Debug, Default)]
pub struct Standing {
    /// Why what the newest sources were built into does not serve.
    fault: Option<String>,
    /// Why the last rollback has come to nothing after it had begun.
    failed_rollback: Option<String>,
}

impl Standing {
    pub fn did_not_stay_up(&mut self, end: &str) {
        self.fault = Some(format!("the newest program did not stay up: {end}"));
    }

    /// A program without held sockets has come to its end.
    pub fn finished(&mut self, end: &str) {
        if end != SUCCESS {
            self.fault = Some(format!("the newest program has ended: {end}"));
        }
    }

    pub fn cannot_be_started(&mut self, why: &str) {
        self.fault = Some(format!("the newest program cannot be started: {why}"));
    }

    pub fn start_failed(&mut self, program: Vintage, end: &str) {
        match program {
            Vintage::RolledBack => {
                self.failed_rollback = Some(format!("rollback has failed: the program before did not stay up: {end}"));
            }
            Vintage::Newest | Vintage::FallenBack => self.did_not_stay_up(end),
        }
    }

    /// The newest program serves, or something newer is being built: the fault of what was the newest until now is nobody's question any
    /// more.
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
