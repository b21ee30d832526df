//! A reporter that never makes its caller wait: a terminal that is stopped (Ctrl-S) or a reader that does not read must not
//! hold up a build or a switch.
//! What is said once in a session stops here, too, when there is cause for it again.
//! Never lives here: what is said.

use super::note::Once;
use super::{Note, Notice, Reporter, ServiceId};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What may wait to be written. Beyond it, what is new is left out, and that is said.
const MOST_WAITING: usize = 4096;
/// How long the end of a session waits for the rest to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Message {
    Notice(Duration, Option<ServiceId>, Notice),
    Clear,
}

/// Hands everything on to a thread that writes it.
pub struct Background {
    /// Closed to end the thread.
    queue: Option<SyncSender<Message>>,
    written: Arc<(Mutex<bool>, Condvar)>,
    left_out: usize,
    once: Once,
}

impl Background {
    pub fn new(reporter: impl Reporter + Send + 'static) -> io::Result<Background> {
        let (queue, told) = sync_channel(MOST_WAITING);
        let written = Arc::new((Mutex::new(false), Condvar::new()));
        let done = Arc::clone(&written);
        thread::Builder::new().spawn(move || {
            write(reporter, &told);
            *done.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            done.1.notify_all();
        })?;
        Ok(Background { queue: Some(queue), written, left_out: 0, once: Once::default() })
    }

    fn hand_on(&mut self, told: Message) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(told) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.left_out += 1,
            // It has panicked, and that was seen.
            Err(TrySendError::Disconnected(_)) => self.queue = None,
        }
    }
}

impl Reporter for Background {
    fn tell(&mut self, at: Duration, service: Option<&ServiceId>, notice: &Notice) {
        if let Notice::Note(note) = notice
            && !self.once.is_news(service, note)
        {
            return;
        }
        if self.left_out > 0 {
            let notices = std::mem::take(&mut self.left_out);
            self.hand_on(Message::Notice(at, None, Note::Unread { notices }.into()));
        }
        self.hand_on(Message::Notice(at, service.cloned(), notice.clone()));
    }

    fn clear(&mut self) {
        self.hand_on(Message::Clear);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.queue = None;
        let (written, done) = &*self.written;
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever does not read does not miss it.
        drop(done.wait_timeout_while(written, LAST_WORDS, |written| !*written));
    }
}

fn write(mut reporter: impl Reporter, told: &Receiver<Message>) {
    for told in told {
        match told {
            Message::Notice(at, service, notice) => reporter.tell(at, service.as_ref(), &notice),
            Message::Clear => reporter.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    fn stopped() -> Notice {
        Notice::Stopped { left: Vec::new() }
    }

    struct Stuck {
        go_on: Receiver<()>,
        said: Sender<Notice>,
    }

    impl Reporter for Stuck {
        fn tell(&mut self, _: Duration, _: Option<&ServiceId>, notice: &Notice) {
            // An error is the go-ahead for all the rest.
            self.go_on.recv().ok();
            self.said.send(notice.clone()).unwrap();
        }

        fn clear(&mut self) {
            self.tell(Duration::ZERO, None, &Note::Keys.into());
        }
    }

    #[test]
    fn a_screen_is_cleared_in_its_turn_and_by_nobody_who_waits() {
        let (let_go, go_on) = channel();
        let (said, heard) = channel();
        let mut background = Background::new(Stuck { go_on, said }).unwrap();
        background.tell(Duration::ZERO, None, &Notice::Stopped { left: Vec::new() });
        background.clear();
        assert!(heard.try_recv().is_err(), "this thread has gone on, and the writer has not");
        drop(let_go);
        drop(background);
        assert_eq!(heard.iter().collect::<Vec<_>>(), [stopped(), Note::Keys.into()], "as this writer clears");
    }

    #[test]
    fn nobody_waits_for_a_writer_that_is_stuck_and_what_is_left_out_is_said() {
        let (let_go, go_on) = channel();
        let (said, heard) = channel();
        let mut background = Background::new(Stuck { go_on, said }).unwrap();
        for _ in 0..MOST_WAITING + 10 {
            background.tell(Duration::ZERO, None, &stopped());
        }
        let_go.send(()).unwrap();
        assert_eq!(heard.recv().unwrap(), stopped());
        // It takes the next one as soon as it has written the first: there is room again.
        drop(let_go);
        while heard.recv().unwrap() != stopped() {}
        loop {
            background.tell(Duration::ZERO, None, &stopped());
            if background.left_out == 0 {
                break;
            }
        }
        drop(background);
        let notes = heard.iter().filter(|notice| matches!(notice, Notice::Note(Note::Unread { .. })));
        assert!(notes.count() >= 1);
    }

    #[test]
    fn the_last_words_are_written_before_the_end() {
        let (_, go_on) = channel();
        let (said, heard) = channel();
        let mut background = Background::new(Stuck { go_on, said }).unwrap();
        background.tell(Duration::ZERO, None, &stopped());
        drop(background);
        assert_eq!(heard.try_recv(), Ok(stopped()));
    }
}
