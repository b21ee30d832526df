//! What becomes of the connections of a program that is to leave and knows nothing of it: the pure core of draining.
//! Never lives here: a socket, a clock. What the kernel tells of a connection comes in; what should be done comes out.

use super::kernel::Facts;

/// How long both sides must have been silent for an answer to count as finished, where the client is not waited for.
const QUIET_MS: u32 = 1000;

/// How much time the connections have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Somebody else takes the new connections: each of these may go on until its client asks for more.
    Whole,
    /// Nobody does, or all is to end: what is silent is over.
    Short,
}

/// What is done with one connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it alone.
    Wait,
    /// From now on keep the next request of its client out.
    Watch,
    /// End it: it is between two answers.
    End,
    /// It has been ended, and the program has yet to notice.
    Over,
}

/// `watched_since` is how many segments had been dropped when its requests were begun to be kept out.
///
/// A client of HTTP/1 asks for more only when it has the whole answer (RFC 9112, 9.3; one that does not wait is told by bytes on their
/// way). So the request that was kept out is the proof that the connection is between two answers, which nothing else is: a stream
/// may be silent for any time. What never asks again (streams, WebSockets, the frames of HTTP/2 and of TLS) is never ended here.
pub fn judge(facts: &Facts, watched_since: Option<u32>, patience: Patience) -> Verdict {
    if !facts.open {
        return Verdict::Over;
    }
    match (patience, watched_since) {
        // The acknowledgement of the answer was kept out with the request.
        (Patience::Whole | Patience::Short, Some(dropped)) if facts.dropped != dropped && is_answered(facts) => {
            Verdict::End
        }
        (Patience::Short, _) if is_answered(facts) && facts.delivered && is_quiet(facts) => Verdict::End,
        // Its first request is still to come, and will be answered.
        (Patience::Short, _) if facts.received == 0 && facts.received_ago >= QUIET_MS => Verdict::End,
        (Patience::Whole | Patience::Short, None) if facts.received > 0 => Verdict::Watch,
        (Patience::Whole | Patience::Short, Some(_) | None) => Verdict::Wait,
    }
}

/// Whether an end would cut what is on its way.
pub fn is_cut(facts: &Facts) -> bool {
    facts.open && facts.received > 0 && !(is_answered(facts) && facts.delivered)
}

/// Whether it may be ended now, once it has been found to be between two answers: nothing has come in since.
pub fn is_still_between(facts: &Facts) -> bool {
    facts.open && facts.unread == 0 && (facts.received == 0 || is_answered(facts))
}

/// Everything that came was read, and the last word was the program's. The kernel's clock ticks every few milliseconds: what came and
/// went within one tick counts as answered, as it nearly always was.
fn is_answered(facts: &Facts) -> bool {
    facts.received > 0 && facts.unread == 0 && facts.sent > 0 && facts.sent_ago <= facts.received_ago
}

fn is_quiet(facts: &Facts) -> bool {
    facts.sent_ago >= QUIET_MS && facts.received_ago >= QUIET_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED: Facts = Facts {
        open: true,
        received: 90,
        sent: 900,
        unread: 0,
        delivered: true,
        sent_ago: 5,
        received_ago: 9,
        dropped: 0,
    };

    #[test]
    fn only_a_request_that_was_kept_out_proves_that_an_answer_is_over() {
        use Patience::{Short, Whole};
        let asked = Facts { sent: 0, sent_ago: 40, received_ago: 5, ..ANSWERED };
        let dropped = Facts { dropped: 1, ..ANSWERED };
        let fresh = Facts { received: 0, sent: 0, received_ago: 50, sent_ago: 50, ..ANSWERED };
        let silent = Facts { sent_ago: 3000, received_ago: 9000, ..ANSWERED };
        let table = [
            ("fresh: its first request is answered", fresh, None, Whole, Verdict::Wait),
            ("asked, not answered", asked, None, Whole, Verdict::Watch),
            ("answered", ANSWERED, None, Whole, Verdict::Watch),
            ("answered, nothing more asked", ANSWERED, Some(0), Whole, Verdict::Wait),
            ("a stream is silent", silent, Some(0), Whole, Verdict::Wait),
            ("asked for more", dropped, Some(0), Whole, Verdict::End),
            ("dropped before it was watched", dropped, Some(1), Whole, Verdict::Wait),
            ("asked for more before the answer", Facts { sent_ago: 50, ..dropped }, Some(0), Whole, Verdict::Wait),
            (
                "it told that it has the answer with that",
                Facts { delivered: false, ..dropped },
                Some(0),
                Whole,
                Verdict::End,
            ),
            ("it reads slowly", Facts { delivered: false, ..silent }, None, Short, Verdict::Watch),
            ("part of a request is unread", Facts { unread: 3, ..dropped }, Some(0), Whole, Verdict::Wait),
            ("the client is not waited for", silent, None, Short, Verdict::End),
            ("an answer of a moment ago", ANSWERED, Some(0), Short, Verdict::Wait),
            ("asked, and slow", Facts { received_ago: 4000, sent_ago: 5000, ..asked }, Some(0), Short, Verdict::Wait),
            ("opened in advance and never used", Facts { received_ago: 2000, ..fresh }, None, Short, Verdict::End),
            ("ended by either side", Facts { open: false, ..ANSWERED }, Some(0), Whole, Verdict::Over),
        ];
        for (what, facts, watched, patience, expected) in table {
            assert_eq!(judge(&facts, watched, patience), expected, "{what}");
        }
    }

    #[test]
    fn what_is_cut_was_on_its_way() {
        assert!(!is_cut(&ANSWERED));
        assert!(!is_cut(&Facts { received: 0, sent: 0, ..ANSWERED }), "nothing was asked");
        assert!(is_cut(&Facts { sent: 0, sent_ago: 10, ..ANSWERED }));
        assert!(is_cut(&Facts { delivered: false, ..ANSWERED }));
        assert!(!is_cut(&Facts { open: false, delivered: false, ..ANSWERED }));
    }
}
