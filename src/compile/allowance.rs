//! How much is kept of what cargo, compilers, macros and build scripts print: the rest is read, so that nobody waits for a full pipe,
//! and counted. It is asked by the threads that read, so that nothing piles up between them and the loop.
//! Never lives here: reading, and what the words mean.

use super::output::Line;
use crate::report::{Note, size};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Shown of a line that is longer than any that a person reads, or a compiler writes.
const CUT: usize = 4 << 10;
/// What is kept of the end of an output, the rest of which is left out before it: there it says how it came to its end.
const TAIL: usize = 64 << 10;
const TAIL_LINES: usize = 200;

/// What is said, of which each has its own allowance: a macro that prints without end must not cost an error its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// What macros and build scripts print.
    Text,
    /// Cargo's own words.
    Cargo,
    /// Those of them that begin as an error, as a macro's may.
    Reason,
    /// What cargo is about to do.
    Status,
    Warning,
    Error,
    /// What is made, for programs.
    Fact,
}

/// Lines and bytes. All lines that are shown at once are fewer than may wait to be written, as what comes after them must not be lost.
fn most(kind: OutputKind) -> (usize, usize) {
    match kind {
        OutputKind::Text => (500, 512 << 10),
        OutputKind::Cargo => (1_000, 512 << 10),
        OutputKind::Reason => (200, 512 << 10),
        // In the compiler's JSON, which is several times what is shown.
        OutputKind::Warning | OutputKind::Error => (1_000, 4 << 20),
        OutputKind::Status => (50_000, 8 << 20),
        OutputKind::Fact => (100_000, 32 << 20),
    }
}

/// That of one build, for all who read what it prints.
#[derive(Debug, Default)]
pub struct Allowance(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    used: [(usize, usize); 7],
    left_out: LeftOut,
}

/// What nobody is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub lines: u64,
    pub bytes: u64,
    /// How many of the lines were errors.
    pub errors: usize,
}

impl Allowance {
    /// Whether a line may be passed on; one that may not is counted.
    pub fn admits(&self, kind: OutputKind, bytes: usize) -> bool {
        let is_admitted = self.has_room(kind, bytes);
        if !is_admitted {
            self.leave_out(1, bytes as u64, usize::from(kind == OutputKind::Error));
        }
        is_admitted
    }

    /// As `admits`, without a count of those that may not.
    pub fn has_room(&self, kind: OutputKind, bytes: usize) -> bool {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, most) = (&mut ledger.used[kind as usize], most(kind));
        // The last one may be longer than what is left: one alone, of any length that is read, is passed on.
        let has_room = used.0 < most.0 && used.1 < most.1;
        if has_room {
            *used = (used.0 + 1, used.1 + bytes);
        }
        has_room
    }

    fn leave_out(&self, lines: u64, bytes: u64, errors: usize) {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = &mut ledger.left_out;
        left_out.lines += lines;
        left_out.bytes += bytes;
        left_out.errors += errors;
    }

    /// The line, or as much of it as is shown.
    pub fn text(&self, line: Line) -> String {
        let (begin, bytes) = match line {
            Line::Whole(text) => return text,
            Line::Cut { begin, bytes } => (begin, bytes),
        };
        // The compiler's own message, which is of no use in parts: its first words.
        let told = begin.starts_with('{').then(|| begin.split_once("\"message\":\"")).flatten();
        let begin = told.map_or(begin.as_str(), |(_, words)| words);
        let shown = &begin[..begin.floor_char_boundary(CUT)];
        let rest = bytes.saturating_sub(shown.len() as u64);
        self.leave_out(0, rest, 0);
        format!("{shown} … ({} more in this line, left out)", size(rest))
    }

    pub fn left_out(&self) -> LeftOut {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).left_out
    }
}

impl LeftOut {
    /// For the user, where there is anything to tell.
    pub fn note(self) -> Option<Note> {
        let LeftOut { lines, bytes, errors } = self;
        (bytes > 0 || lines > 0).then_some(Note::OutputLeftOut { lines, bytes, errors })
    }
}

/// The end of an output that has become too long.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: (u64, u64),
}

impl Tail {
    pub fn push(&mut self, line: String, allowance: &Allowance) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > TAIL_LINES || self.bytes > TAIL && self.lines.len() > 1 {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= line.len();
            self.dropped = (self.dropped.0 + 1, self.dropped.1 + line.len() as u64);
            allowance.leave_out(1, line.len() as u64, 0);
        }
    }

    /// With a word in the place of what is not there.
    pub fn into_lines(self) -> impl Iterator<Item = String> {
        let (lines, bytes) = self.dropped;
        let gap = (lines > 0).then(|| format!("… ({lines} lines, {}, left out)", size(bytes)));
        gap.into_iter().chain(self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_and_what_is_not_passed_on_is_counted() {
        let allowance = Allowance::default();
        let passed = (0..20_000).filter(|_| allowance.admits(OutputKind::Text, 2_000)).count();
        assert_eq!(passed, (512 << 10) / 2_000 + 1);
        assert!(allowance.admits(OutputKind::Error, 3 << 20) && allowance.admits(OutputKind::Error, 3 << 20));
        assert!(!allowance.admits(OutputKind::Error, 1));
        assert!(
            (0..1_000).all(|_| allowance.admits(OutputKind::Cargo, 0)) && !allowance.admits(OutputKind::Cargo, 0),
            "lines"
        );
        let left_out = allowance.left_out();
        assert_eq!((left_out.lines, left_out.errors), (20_000 - passed as u64 + 2, 1));
        assert_eq!(left_out.bytes / 100_000, 394);
        assert_eq!(Allowance::default().left_out().note(), None);
    }

    #[test]
    fn of_a_line_without_end_the_beginning_is_shown() {
        let allowance = Allowance::default();
        let cut = |begin: &str| Line::Cut { begin: begin.to_owned(), bytes: 20_000_000 };
        let text = allowance.text(cut(&"é".repeat(10_000)));
        assert!(text.starts_with('é') && text.contains("19.9 MB more") && text.len() < 2 * CUT, "{}", text.len());
        let text = allowance.text(cut(r#"{"reason":"compiler-message","message":{"message":"too long a"#));
        assert!(text.starts_with("too long a …"), "{text}");
        assert!(allowance.left_out().bytes > 39_000_000);
    }

    #[test]
    fn the_end_of_what_is_too_long_is_kept() {
        let (allowance, mut tail) = (Allowance::default(), Tail::default());
        (0..1_000).for_each(|number| tail.push(number.to_string(), &allowance));
        tail.push("x".repeat(2 * TAIL), &allowance);
        tail.push("last".to_owned(), &allowance);
        let lines: Vec<String> = tail.into_lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("1001 lines") && lines[1] == "last", "{}", lines.len());
        assert_eq!(allowance.left_out().lines, 1_001);
        let mut tail = Tail::default();
        tail.push("only".to_owned(), &allowance);
        assert_eq!(tail.into_lines().collect::<Vec<_>>(), ["only"]);
    }
}
