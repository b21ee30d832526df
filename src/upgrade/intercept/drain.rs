//! What becomes of the connections of a program that is to leave and knows nothing of it: the pure core of draining.
//! Never lives here: a socket, a clock. What the kernel tells of a connection comes in; what should be done comes out.

use super::kernel::ConnectionState;
use super::queue::Lies;
use super::readers::Reader;

/// How long both sides must have been silent for an answer to count as finished, where the client is not waited for.
const QUIET_MS: u32 = 1000;

/// So often may be held back what is no request: most of one that comes in parts is none, and what is answered within a tick of the kernel's
/// clock cannot be told from what is not.
const STRANGE: u32 = 20;

/// After so long without a byte from the client the program is at work on what came, and does not wait for the rest of it. Two ticks of the
/// kernel's clock.
const STILL_MS: u32 = 8;

/// A body of which nothing has come for so long comes no more, for now: more than a round trip to most clients.
const STILL_COMES_MS: u32 = 200;

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
    /// From now on hold back from the program whatever comes.
    Hold,
    /// What was kept from the program is no new request, or is not surely one: give it all. What is remembered then.
    LetIn(Past),
    /// End it: it is between two answers.
    End,
    /// It has been ended, and the program has yet to notice.
    Over,
}

/// What was done with a connection before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing.
    Untouched,
    /// Requests of its client are kept out; how it was at the last look, and whether one has been.
    Watched { last: ConnectionState, asked: bool },
    /// It was watched, and is not any more.
    Trusted,
    /// No filter may be attached to it. How often what was held back was no request.
    Unfiltered { strange: u32 },
    /// What comes lies in its queue, and wakes nobody.
    HeldBack(HeldBack),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack {
    /// When that began, and nothing lay there.
    pub at: ConnectionState,
    /// What lies there now.
    pub lies: Lies,
    /// Where the program waits in calls.
    pub sleeper: Option<Reader>,
    pub strange: u32,
}

/// A client of HTTP/1 asks for more only when it has the whole answer (RFC 9112, 9.3). So the request that was kept out is the proof that
/// the connection is between two answers, which nothing else is: a stream may be silent for any time. What never asks again
/// (streams, WebSockets, the frames of HTTP/2 and of TLS) is never ended here.
///
/// Where no filter may be attached, whatever comes is held back in the queue of the socket instead, and looked at there: the same proof, if
/// the program has read nothing of it and had answered what was before it.
pub fn judge(facts: &ConnectionState, past: Past, patience: Patience) -> Verdict {
    if !facts.open {
        return Verdict::Over;
    }
    match (patience, past) {
        (Patience::Short, _) if is_answered(facts) && facts.delivered && is_quiet(facts) => Verdict::End,
        // Its first request is still to come, and will be answered.
        (Patience::Short, _) if facts.received == 0 && facts.received_ago >= QUIET_MS => Verdict::End,
        // The acknowledgement of the answer was kept out with the request.
        (_, Past::Watched { asked: true, .. }) if is_answered(facts) => Verdict::End,
        // A part of a body that looks like one, or a client that does not wait for answers.
        (_, Past::Watched { asked: true, .. }) => Verdict::LetIn(Past::Trusted),
        (_, Past::Untouched) if facts.received > 0 => Verdict::Watch,
        (_, Past::Unfiltered { .. }) if may_be_held(facts) => Verdict::Hold,
        (_, Past::HeldBack(held)) => judge_held(facts, &held),
        (_, Past::Untouched | Past::Watched { .. } | Past::Trusted | Past::Unfiltered { .. }) => Verdict::Wait,
    }
}

fn judge_held(facts: &ConnectionState, HeldBack { at, lies, strange, .. }: &HeldBack) -> Verdict {
    let again = |strange| Verdict::LetIn(if strange < STRANGE { Past::Unfiltered { strange } } else { Past::Trusted });
    let was_answered = facts.sent != at.sent || is_answered(at);
    if facts.received - facts.unread.min(facts.received) != at.received {
        // The program was awake, and has read something.
        return again(*strange);
    }
    match lies {
        Lies::Nothing => Verdict::Wait,
        Lies::Strange => again(strange + 1),
        // Its body is still on its way: what came after the end would be answered by a reset.
        Lies::Begun if facts.received_ago < STILL_COMES_MS => Verdict::Wait,
        Lies::Begun | Lies::Whole if was_answered => Verdict::End,
        Lies::Begun | Lies::Whole => again(strange + 1),
    }
}

/// Whether what the client sends next is no part of what the program is reading.
pub fn may_be_held(facts: &ConnectionState) -> bool {
    facts.unread == 0 && (is_answered(facts) || facts.received_ago >= STILL_MS)
}

/// Whether a request was kept out between two looks: more was dropped than came past the filter. A probe of the other side's (TCP
/// keep-alive) and what comes twice are dropped, too, but after they have come past it.
pub fn has_asked(before: &ConnectionState, now: &ConnectionState) -> bool {
    now.dropped.wrapping_sub(before.dropped) > now.segments.wrapping_sub(before.segments)
}

/// Whether an end would cut what is on its way, as far as can be told: an answer in parts, or a stream, with its last part of a moment ago
/// is counted, one in a longer pause is not.
pub fn is_cut(facts: &ConnectionState) -> bool {
    facts.open && facts.received > 0 && !(is_answered(facts) && facts.delivered && is_quiet(facts))
}

/// Whether it may be ended now, once it has been found to be between two answers: nothing has come in since.
pub fn is_still_between(facts: &ConnectionState) -> bool {
    facts.open && facts.unread == 0 && (facts.received == 0 || is_answered(facts))
}

/// Everything that came was read, and the last word was the program's. The kernel's clock ticks every few milliseconds: what came and
/// went within one tick counts as answered, as it nearly always was.
fn is_answered(facts: &ConnectionState) -> bool {
    facts.received > 0 && facts.unread == 0 && facts.sent > 0 && facts.sent_ago <= facts.received_ago
}

fn is_quiet(facts: &ConnectionState) -> bool {
    facts.sent_ago >= QUIET_MS && facts.received_ago >= QUIET_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED: ConnectionState = ConnectionState {
        open: true,
        received: 90,
        sent: 900,
        unread: 0,
        delivered: true,
        sent_ago: 5,
        received_ago: 9,
        dropped: 0,
        segments: 0,
    };

    #[test]
    fn only_a_request_that_was_kept_out_proves_that_an_answer_is_over() {
        use Patience::{Short, Whole};
        let past = |asked| Past::Watched { last: ANSWERED, asked };
        let (watched, asked_for_more, none) = (past(false), past(true), Past::Untouched);
        let asked = ConnectionState { sent: 0, sent_ago: 40, received_ago: 5, ..ANSWERED };
        let fresh = ConnectionState { received: 0, sent: 0, received_ago: 50, sent_ago: 50, ..ANSWERED };
        let silent = ConnectionState { sent_ago: 3000, received_ago: 9000, ..ANSWERED };
        let slow = ConnectionState { received_ago: 4000, sent_ago: 5000, ..asked };
        let undelivered = ConnectionState { delivered: false, ..ANSWERED };
        let unread = ConnectionState { unread: 3, ..ANSWERED };
        let unused = ConnectionState { received_ago: 2000, ..fresh };
        let table = [
            ("fresh: its first request is answered", fresh, none, Whole, Verdict::Wait),
            ("asked, not answered", asked, none, Whole, Verdict::Watch),
            ("answered", ANSWERED, none, Whole, Verdict::Watch),
            ("answered, nothing more asked", ANSWERED, watched, Whole, Verdict::Wait),
            ("a stream is silent", silent, watched, Whole, Verdict::Wait),
            ("asked for more", ANSWERED, asked_for_more, Whole, Verdict::End),
            ("and told with that that it has the answer", undelivered, asked_for_more, Whole, Verdict::End),
            ("a part of an upload looked like it", asked, asked_for_more, Whole, Verdict::LetIn(Past::Trusted)),
            ("part of a request is unread", unread, asked_for_more, Whole, Verdict::LetIn(Past::Trusted)),
            ("it is not watched twice", ANSWERED, Past::Trusted, Whole, Verdict::Wait),
            ("the client is not waited for", silent, none, Short, Verdict::End),
            ("it reads slowly", ConnectionState { delivered: false, ..silent }, none, Short, Verdict::Watch),
            ("an answer of a moment ago", ANSWERED, watched, Short, Verdict::Wait),
            ("asked, and slow", slow, watched, Short, Verdict::Wait),
            ("opened in advance and never used", unused, none, Short, Verdict::End),
            ("ended by either side", ConnectionState { open: false, ..ANSWERED }, watched, Whole, Verdict::Over),
        ];
        for (what, facts, past, patience, expected) in table {
            assert_eq!(judge(&facts, past, patience), expected, "{what}");
        }
    }

    #[test]
    fn where_no_filter_is_allowed_what_lies_in_the_queue_is_the_proof() {
        use Verdict::{End, Hold, LetIn, Wait};
        let held = |at, lies| Past::HeldBack(HeldBack { at, lies, sleeper: None, strange: 7 });
        let busy = ConnectionState { received: 180, sent_ago: 40, received_ago: 20, ..ANSWERED };
        // Ninety bytes more have come, and lie there.
        let more =
            |at: ConnectionState| ConnectionState { received: at.received + 90, unread: 90, received_ago: 1, ..at };
        let long_ago = ConnectionState { received_ago: 200, ..more(ANSWERED) };
        let none = Past::Unfiltered { strange: 0 };
        let [again, stranger] = [7, 8].map(|strange| LetIn(Past::Unfiltered { strange }));
        let last_time = Past::HeldBack(HeldBack { at: ANSWERED, lies: Lies::Strange, sleeper: None, strange: 19 });
        let answered = ConnectionState { sent: 1000, ..more(busy) };
        let read = ConnectionState { received: 180, ..ANSWERED };
        let table = [
            ("answered", ANSWERED, none, Hold),
            ("being read", ConnectionState { received_ago: 1, ..busy }, none, Wait),
            ("read, and at work", busy, none, Hold),
            ("still to be read", ConnectionState { unread: 9, ..busy }, none, Wait),
            ("nothing more asked, as in a stream", ANSWERED, held(ANSWERED, Lies::Nothing), Wait),
            ("a stream goes on", ConnectionState { sent: 1000, ..ANSWERED }, held(ANSWERED, Lies::Nothing), Wait),
            ("a frame of another protocol", more(ANSWERED), held(ANSWERED, Lies::Strange), stranger),
            ("as always", more(ANSWERED), last_time, LetIn(Past::Trusted)),
            ("a request has begun to come", more(ANSWERED), held(ANSWERED, Lies::Begun), Wait),
            ("no more of it comes", long_ago, held(ANSWERED, Lies::Begun), End),
            ("a request has come", more(ANSWERED), held(ANSWERED, Lies::Whole), End),
            ("it is answered, and the client asks for more", answered, held(busy, Lies::Whole), End),
            ("a client that does not wait for answers", more(busy), held(busy, Lies::Whole), stranger),
            ("the rest of what the program reads", more(busy), held(busy, Lies::Strange), stranger),
            ("read although it was held back", read, held(ANSWERED, Lies::Nothing), again),
            ("read in part", ConnectionState { unread: 30, ..more(ANSWERED) }, held(ANSWERED, Lies::Strange), again),
        ];
        for (what, facts, past, expected) in table {
            assert_eq!(judge(&facts, past, Patience::Whole), expected, "{what}");
        }
    }

    #[test]
    fn what_is_dropped_past_the_filter_is_no_request() {
        let later = |dropped, segments| ConnectionState { dropped, segments, ..ANSWERED };
        assert!(!has_asked(&ANSWERED, &ANSWERED));
        assert!(has_asked(&ANSWERED, &later(1, 0)), "kept out by the filter");
        assert!(!has_asked(&ANSWERED, &later(1, 1)), "a probe");
        assert!(has_asked(&later(u32::MAX, 7), &later(0, 7)), "the counter has gone round");
    }

    #[test]
    fn what_is_cut_was_on_its_way() {
        let quiet = ConnectionState { sent_ago: 2000, received_ago: 3000, ..ANSWERED };
        assert!(!is_cut(&quiet));
        assert!(is_cut(&ANSWERED), "a stream, in all likelihood: a request would have been kept out");
        assert!(!is_cut(&ConnectionState { received: 0, sent: 0, ..ANSWERED }), "nothing was asked");
        assert!(is_cut(&ConnectionState { sent: 0, sent_ago: 10, ..ANSWERED }));
        assert!(is_cut(&ConnectionState { delivered: false, ..quiet }));
        assert!(!is_cut(&ConnectionState { open: false, ..ANSWERED }));
    }
}
