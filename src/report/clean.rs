//! What a stranger wrote (a compiler, a build script, a file's name) on its way to the user's terminal: text, colours and
//! links pass, everything else a terminal would obey is dropped. Never lives here: what hotrun itself draws.

/// Keeps text, line ends, tabs, colours and links to `http`, `https` and `file`. A colour or a link left open is closed
/// at the end. Cleaning twice is the same as cleaning once.
pub fn clean(input: &str) -> String {
    Filter::new(Mode::Coloured).run(input)
}

/// Keeps text, line ends and tabs only: for `NO_COLOR`, for files, and for words set into a line of our own.
pub fn plain(input: &str) -> String {
    Filter::new(Mode::Plain).run(input)
}

/// With the ends of lines as they are written in a program: for names and sentences, which would look like two of them, the second of any
/// kind.
pub fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
}

/// JSON, in which every character stands as an escape that a terminal may obey: its own rules leave some of them as they are.
pub fn json(text: &str) -> String {
    let obeyed = |c: char| c.is_control() || reorders(c);
    // Outside of strings there are none; an escape has four digits, and all of these have no more.
    let each = |c: char| if obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    if text.chars().any(obeyed) { text.chars().map(each).collect() } else { text.to_owned() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Coloured,
    Plain,
}

/// Where in a sequence the filter stands; the names are those of ECMA-48.
#[derive(Debug)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and at least one intermediate: a final character is due.
    EscapeIntermediate,
    /// After CSI; what came since then.
    Control(String),
    /// In OSC; what came since then.
    Command(String),
    /// In OSC, after an ESC that may begin the terminator.
    CommandEscape(String),
    /// In DCS, SOS, PM or APC: nothing of them is ever kept.
    Skip,
    /// The same, after an ESC that may begin the terminator.
    SkipEscape,
}

struct Filter {
    mode: Mode,
    state: State,
    out: String,
    coloured: bool,
    linked: bool,
}

impl Filter {
    fn new(mode: Mode) -> Self {
        Filter { mode, state: State::Text, out: String::new(), coloured: false, linked: false }
    }

    fn run(mut self, input: &str) -> String {
        self.out.reserve(input.len());
        for c in input.chars() {
            self.take(c);
        }
        // A sequence that is not finished yet is dropped with the state.
        if self.linked {
            self.out.push_str("\x1b]8;;\x1b\\");
        }
        if self.coloured {
            self.out.push_str("\x1b[0m");
        }
        self.out
    }

    fn take(&mut self, c: char) {
        self.state = match (std::mem::replace(&mut self.state, State::Text), c) {
            (State::Text, c) => self.text(c),

            (State::Escape, '[') => State::Control(String::new()),
            (State::Escape, ']') => State::Command(String::new()),
            (State::Escape, 'P' | 'X' | '^' | '_') => State::Skip,
            (State::Escape | State::EscapeIntermediate, ' '..='/') => State::EscapeIntermediate,
            (State::Escape | State::EscapeIntermediate, '0'..='~') => State::Text,
            (State::Escape | State::EscapeIntermediate, c) => self.text(c),

            (State::Control(mut parameters), ' '..='?') => {
                parameters.push(c);
                State::Control(parameters)
            }
            (State::Control(parameters), 'm') => {
                self.colour(&parameters);
                State::Text
            }
            (State::Control(_), '@'..='~') => State::Text,
            (State::Control(_), c) => self.text(c),

            (State::Command(body), '\x07' | '\u{9c}') => {
                self.command(&body);
                State::Text
            }
            (State::Command(body), '\x1b') => State::CommandEscape(body),
            // The end of a line ends every string: a sequence left open must not swallow the errors that follow it.
            (State::Command(_) | State::Skip, '\n') => self.text('\n'),
            (State::Command(mut body), c) => {
                body.push(c);
                State::Command(body)
            }
            (State::CommandEscape(body), '\\') => {
                self.command(&body);
                State::Text
            }

            (State::Skip, '\x07' | '\u{9c}') => State::Text,
            (State::Skip, '\x1b') => State::SkipEscape,
            (State::Skip, _) => State::Skip,
            (State::SkipEscape, '\\') => State::Text,

            // Not a terminator after all: the string is abandoned and this ESC begins something new.
            (State::CommandEscape(_) | State::SkipEscape, c) => {
                self.state = State::Escape;
                return self.take(c);
            }
        };
    }

    /// A character outside every sequence, or one that no sequence may contain and that therefore ends it.
    fn text(&mut self, c: char) -> State {
        match c {
            '\x1b' => State::Escape,
            // The one-character forms of the openers; some terminals obey them in UTF-8 too.
            '\u{9b}' => State::Control(String::new()),
            '\u{9d}' => State::Command(String::new()),
            '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => State::Skip,
            _ => {
                if c == '\n' || c == '\t' || !(c.is_control() || reorders(c)) {
                    self.out.push(c);
                }
                State::Text
            }
        }
    }

    fn colour(&mut self, parameters: &str) {
        // A private prefix or an intermediate makes it another command: `ESC [ > 4 m` changes what the keys send.
        let is_colour = parameters.chars().all(|c| matches!(c, '0'..='9' | ';' | ':'));
        if self.mode == Mode::Coloured && is_colour {
            self.coloured = !parameters.chars().all(|c| c == '0');
            self.out.push_str("\x1b[");
            self.out.push_str(parameters);
            self.out.push('m');
        }
    }

    /// A finished OSC: a link, or something to drop (the title, the clipboard, a palette).
    fn command(&mut self, body: &str) {
        let Some((attributes, target)) = body.strip_prefix("8;").and_then(|rest| rest.split_once(';')) else {
            return;
        };
        let is_link = if target.is_empty() { self.linked } else { may_be_linked(target) };
        if self.mode == Mode::Coloured && is_link && body.chars().all(|c| matches!(c, ' '..='~')) {
            self.linked = !target.is_empty();
            self.out.push_str("\x1b]8;");
            self.out.push_str(attributes);
            self.out.push(';');
            self.out.push_str(target);
            self.out.push_str("\x1b\\");
        }
    }
}

fn may_be_linked(target: &str) -> bool {
    target
        .split_once(':')
        .is_some_and(|(scheme, _)| ["http", "https", "file"].iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed)))
}

/// Marks that make a terminal show text in another order than it stands in. rustc replaces them in what it quotes.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_passes() {
        for same in [
            "",
            "error[E0425]: cannot find `x`\n\t--> src/main.rs:3:5\n",
            "übergröße 漢字 👩‍💻",
            "\x1b[1m\x1b[38;5;9merror\x1b[0m: no",
            "\x1b[38:2::1:2:3mtrue colour\x1b[m",
            "\x1b]8;;https://doc.rust-lang.org/error_codes/E0425.html\x1b\\E0425\x1b]8;;\x1b\\",
            "\x1b]8;id=1;file:///tmp/a%20b\x1b\\a b\x1b]8;;\x1b\\",
        ] {
            assert_eq!(clean(same), same);
        }
    }

    #[test]
    fn what_is_dropped() {
        for (input, expected) in [
            ("a\r\nb", "a\nb"),
            ("failed\rok    ", "failedok    "),
            ("a\x08\x07\x00\x7f\x0b\x0cb", "ab"),
            ("\x1b[2J\x1b[H\x1b[1A\x1b[?1049h\x1b[6nx", "x"),
            ("\x1b[>4;2mx\x1b[?4mx\x1b[1 mx", "xxx"),
            ("\x1b]0;title\x07x\x1b]52;c;ZXZpbA==\x1b\\y", "xy"),
            ("\x1b]8;;javascript:alert(1)\x1b\\x\x1b]8;;\x1b\\", "x"),
            ("\x1b]8;;ssh://host\x07x\x1b]8;;\x07", "x"),
            ("\x1b]8;;http://a/\u{7}x\x1b]8;;\x07", "\x1b]8;;http://a/\x1b\\x\x1b]8;;\x1b\\"),
            ("\x1b]8;;http://a/\rb\x1b\\x", "x"),
            ("\x1b]8;;http://a/é\x1b\\x", "x"),
            ("\x1bP$qm\x1b\\x\x1b_apc\x1b\\y\x1b^pm\x1b\\z\x1bXsos\x1b\\", "xyz"),
            ("\x1bc\x1b(0\x1b#8\x1b7x", "x"),
            ("\u{9b}2Jx\u{9d}52;c;e\u{9c}y\u{90}q\u{9c}z\u{85}", "xyz"),
            ("\u{9b}31mx\u{9b}0m", "\x1b[31mx\x1b[0m"),
            ("\x1b[31", ""),
            ("x\x1b", "x"),
            ("\x1b[3\n1mx", "\n1mx"),
            ("\x1b]52;c;never ended\nerror: shown", "\nerror: shown"),
            ("\x1bPnever ended\nerror: shown", "\nerror: shown"),
            ("\x1b]0;a\x1b[31mred", "\x1b[31mred\x1b[0m"),
            ("\x1b]0;a\x1b]8;;http://x\x07y", "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\"),
            ("\x1b\x1b[31mx", "\x1b[31mx\x1b[0m"),
            ("\x1b[1mopen", "\x1b[1mopen\x1b[0m"),
            ("abc\u{202e}cba", "abccba"),
        ] {
            assert_eq!(clean(input), expected, "{input:?}");
        }
    }

    #[test]
    fn plain_keeps_the_words_only() {
        let coloured = "\x1b[1;31merror\x1b[0m \x1b]8;;https://a/\x07link\x1b]8;;\x07\x1b]52;c;e\x07\r\n\tend";
        assert_eq!(plain(coloured), "error link\n\tend");
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(one_line("a\nerror: b\r\n\tc"), "a\\nerror: b\\r\\n\tc");
        assert_eq!(one_line("naïve name"), "naïve name");
    }

    #[test]
    fn bytes_are_read_lossily() {
        assert_eq!(clean(&String::from_utf8_lossy(b"a\xff\x9bb\x1b[2J")), "a\u{fffd}\u{fffd}b");
    }

    /// Written apart from the filter: takes the two allowed forms away and gives what is left.
    fn without_allowed(mut text: &str) -> String {
        let mut rest = String::new();
        while let Some(at) = text.find('\x1b') {
            rest.push_str(&text[..at]);
            let sequence = &text[at + 1..];
            let parameters = sequence.strip_prefix('[').and_then(|s| s.split_once('m'));
            let link = sequence.strip_prefix("]8;").and_then(|s| s.split_once("\x1b\\"));
            text = match (parameters, link) {
                (Some((p, after)), _) if p.bytes().all(|b| b.is_ascii_digit() || b == b';' || b == b':') => after,
                (_, Some((body, after)))
                    if body.bytes().all(|b| (b' '..=b'~').contains(&b))
                        && body.split_once(';').is_some_and(|(_, to)| to.is_empty() || may_be_linked(to)) =>
                {
                    after
                }
                _ => panic!("a sequence that is not allowed: {text:?}"),
            };
        }
        rest + text
    }

    /// Written out, as the filter's own words for it may be wrong.
    fn is_harmless(c: char) -> bool {
        let control = matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}') && c != '\n' && c != '\t';
        let order =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !control && !order
    }

    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<char>().prop_map(String::from),
            "[\\x00-\\x1f\\x7f-\\u{9f}]",
            "[\\u{61c}\\u{200e}\\u{200f}\\u{202a}-\\u{202e}\\u{2066}-\\u{2069}]",
            "[ -~]{0,4}",
            prop::sample::select(vec![
                "\x1b",
                "\x1b[",
                "\x1b]",
                "\x1b]8;;",
                "\x1b]8;;http://a",
                "\x1b]8;;x",
                "\x1bP",
                "\x1b\\",
                "\x07",
                "m",
                ";",
                "0",
                "31m",
                "\u{9b}",
                "\u{9c}",
                "\u{9d}",
                "\n",
                "\r",
            ])
            .prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_else_gets_through(input in hostile()) {
            let output = clean(&input);
            let left = without_allowed(&output);
            prop_assert!(left.chars().all(is_harmless), "{output:?}");
            prop_assert_eq!(clean(&output), &output[..]);
            prop_assert_eq!(plain(&output), plain(&input));
        }

        #[test]
        fn plain_has_no_controls_at_all(input in hostile()) {
            let output = plain(&input);
            prop_assert!(output.chars().all(is_harmless), "{output:?}");
            prop_assert_eq!(plain(&output), &output[..]);
        }

        #[test]
        fn json_has_none_and_means_the_same(input in hostile()) {
            let text = json(&serde_json::to_string(&[&input]).unwrap());
            prop_assert!(text.chars().all(|c| is_harmless(c) && !matches!(c, '\n' | '\t')), "{text:?}");
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [input]);
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            without_allowed(&clean(&String::from_utf8_lossy(&input)));
        }
    }
}
