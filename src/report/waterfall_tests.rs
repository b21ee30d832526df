//! The picture in several widths, and with names and times that are not to be trusted.

use super::super::Notice;
use super::super::text::Look;
use super::super::text::tests::{rendered, timings};
use super::*;

fn drawn(timings: Timings) -> String {
    format!("\n{}", rendered(Look::default(), &[Notice::Timings(timings)]))
}

/// Nothing but the sum is known.
fn bare(built_by: BuiltBy, why_cargo: Option<&str>) -> Timings {
    Timings {
        generation: 2,
        built_by,
        why_cargo: why_cargo.map(str::to_owned),
        saved: true,
        total: 12_000.0,
        detect: 0.0,
        decide: 0.0,
        compile: 11_000.0,
        link: None,
        linker: None,
        start: 0.0,
        ready: 0.0,
        switch: 1_000.0,
        crates: Vec::new(),
    }
}

#[test]
fn a_build_by_cargo_says_why() {
    let expected = "
  timings  generation 2 · 12.0 s from the save · compiled by cargo: Cargo.toml changed
           detect  ▏                                                     0.0 ms
           decide  ▏                                                     0.0 ms
           compile ███████████████████████████████████████████████▋      11.0 s
           start                                                  ▋      0.0 ms
           ready                                                  ▋      0.0 ms
           switch                                                 █████ 1000 ms
";
    assert_eq!(drawn(bare(BuiltBy::Cargo, Some("Cargo.toml changed"))), expected);
    for (by, why, end) in [
        (BuiltBy::Cargo, None, "compiled by cargo"),
        (BuiltBy::Cargo, Some("a\nb"), "compiled by cargo: a b"),
        (BuiltBy::Replay, None, "compiled by replay"),
        (BuiltBy::Replay, Some("no matter"), "compiled by replay"),
    ] {
        let first = format!("generation 2 · 12.0 s from the save · {end}");
        assert_eq!(text(&bare(by, why), 69).lines().next(), Some(first.as_str()));
    }
}

#[test]
fn it_fits_the_terminal() {
    let narrow = "
  timings  generation 4 · 312 ms from the save · compiled by replay
           detect       ▏                  1.2 ms
           decide       ▏                  0.8 ms
           compile      ███████████████▍   280 ms
             core-lib   █████▌              98 ms
             api             ██████████▍   180 ms
             link (wil…            ████▍    70 ms
           start                       ▍   0.4 ms
           ready                       ▋   3.6 ms
           switch                      ██   26 ms
";
    let look = Look { width: Some(|| 50), ..Look::default() };
    assert_eq!(format!("\n{}", rendered(look, &[Notice::Timings(timings())])), narrow);
    for columns in 0..300 {
        for line in text(&timings(), columns).lines().skip(1) {
            let width = line.chars().count();
            assert!(width < columns.clamp(NARROWEST + 1, WIDEST + 1), "{columns}: {line}");
        }
    }
}

#[test]
fn names_cannot_steer_the_terminal_nor_look_like_another_step() {
    let mut hostile = timings();
    hostile.built_by = BuiltBy::Cargo;
    hostile.why_cargo = Some("src/\x1b[2J\rx.rs\n  serving  generation 9".into());
    hostile.linker = Some("\x1b]0;owned\x07wild".into());
    hostile.crates[0].name = "a\x1b[31mp\u{202e}i\n  serving\tgeneration 9, which is much longer than a name is".into();
    let expected = "
  timings  generation 4 · 312 ms from the save · compiled by cargo: src/x.rs   serving  generation 9
           detect                 ▏                                      1.2 ms
           decide                 ▎                                      0.8 ms
           compile                █████████████████████████████████▌     280 ms
             core-lib             ███████████▉                            98 ms
             api   serving gener…             █████████████████████▌     180 ms
             link (wild)                                   ████████▌      70 ms
           start                                                   ▌     0.4 ms
           ready                                                   ▉     3.6 ms
           switch                                                  ████   26 ms
";
    assert_eq!(drawn(hostile), expected);
}

#[test]
fn no_time_breaks_the_picture() {
    for odd in [0.0, -5.0, 1e-300, 1e15, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut broken = timings();
        (broken.total, broken.detect, broken.compile, broken.link) = (odd, odd, odd, Some(odd));
        (broken.crates[0].began, broken.crates[1].ended) = (odd, odd);
        let text = text(&broken, 69);
        assert_eq!(text.lines().count(), 10, "{odd}:\n{text}");
        assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("-5"), "{odd}:\n{text}");
        let nothing = Timings { total: odd, ready: odd, compile: odd, ..bare(BuiltBy::Replay, None) };
        let nothing = super::text(&nothing, 69);
        assert_eq!(nothing.lines().count(), 7, "{odd}:\n{nothing}");
        for line in text.lines().chain(nothing.lines()).filter(|line| !line.starts_with("generation")) {
            assert!(line.chars().count() < 69, "{odd}: {line}");
        }
    }
}
