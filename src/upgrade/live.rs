//! What is told of a generation from the moment when every new connection is its own.
//! Never lives here: when that is (`handover`).

use super::generation::Started;
use super::{Generation, Room};
use crate::report::{HandOver, Notice, Timing};
use std::time::Instant;

impl Room {
    pub(super) fn live(&mut self, now: Instant, generation: Generation) {
        // What it has started so far is known as its own from now on, however it ends.
        self.generations.get_mut(&generation).map(Started::look_at_kin);
        let Some(started) = self.generations.get(&generation) else { return };
        let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        let ready = started.ready_at.unwrap_or(now);
        let since = self.since.take_if(|(program, _)| *program == started.program);
        let timing = since.map(|(_, since)| Timing {
            saved: since.was_saved,
            saved_to_live: millis(since.saved, now),
            compile: millis(since.saved, since.built),
            start: millis(since.built, started.at),
            ready: millis(started.at, ready),
            switch: millis(ready, now),
        });
        let by = match started.by {
            // There was nothing to hand over.
            HandOver::Bind if started.listens.is_empty() => HandOver::StopAndStart,
            by => by,
        };
        let addresses = match by {
            HandOver::Library | HandOver::ListenFds | HandOver::Bind => self.addresses(),
            HandOver::StopAndStart => Vec::new(),
        };
        let (pid, program) = (started.running.pid(), self.handover.vintage(&started.program));
        self.out.push(Notice::Serving { generation, pid, addresses, by, program, timing });
    }
}
