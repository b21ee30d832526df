//! Times as people write them: a number and a unit.
//! Never lives here: what a time is for; whoever asks says which values make no sense there.

use std::time::Duration;

/// Far beyond any use, and small enough that adding it to a clock reading cannot overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `500ms`, `5s`, `1.5s`, `2m`, `1h`. The error is the end of a sentence that began with where the text stands.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    if number.is_empty() {
        return Err(match text.strip_prefix('-') {
            Some(_) => format!("found {text:?}, and a time cannot be negative; {RIGHT}"),
            None => format!("found {text:?}, which is not a time; {RIGHT}"),
        });
    }
    let nanos_per_unit: u128 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 60 * 60 * 1_000_000_000,
        "" => {
            return Err(format!("found {text:?}, a number without a unit; write \"{text}s\" or \"{text}ms\""));
        }
        _ => return Err(format!("found {text:?}, and {unit:?} is not a unit of time; {RIGHT}")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(format!("found {text:?}, and {number:?} is not a number; {RIGHT}"));
    }
    if fraction.len() > 9 {
        return Err(format!("found {text:?}; nine decimals are as fine as it gets"));
    }
    let too_long = || format!("found {text:?}, which is longer than a year");
    let whole: u64 = whole.parse().map_err(|_| too_long())?;
    let fraction = format!("{fraction:0<9}").parse::<u128>().map_err(|_| too_long())?;
    // No overflow: u64 times an hour in nanoseconds, and a fraction below one of that, both fit in u128.
    let nanos = u128::from(whole) * nanos_per_unit + fraction * nanos_per_unit / 1_000_000_000;
    match u64::try_from(nanos).map(Duration::from_nanos) {
        Ok(time) if time <= LONGEST => Ok(time),
        _ => Err(too_long()),
    }
}

const RIGHT: &str = "write a number and one of ms, s, m, h, as in \"500ms\" or \"1.5s\"";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn read() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("0.25m", 15_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("0.000000001s"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn refused() {
        for (text, part) in [
            ("5", "write \"5s\" or \"5ms\""),
            ("1.5", "without a unit"),
            ("", "not a time"),
            ("s", "not a time"),
            ("-5s", "negative"),
            ("NaNs", "not a time"),
            ("inf", "not a time"),
            ("+5s", "not a time"),
            ("5 s", "\" s\" is not a unit"),
            ("5sec", "\"sec\" is not a unit"),
            ("5S", "\"S\" is not a unit"),
            ("1e3s", "\"e3s\" is not a unit"),
            (".5s", "\".5\" is not a number"),
            ("5.s", "\"5.\" is not a number"),
            ("1.2.3s", "\"1.2.3\" is not a number"),
            ("1.0000000001s", "nine decimals"),
            ("8761h", "longer than a year"),
            ("99999999999999999999999s", "longer than a year"),
            ("18446744073709551615h", "longer than a year"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_what_is_meant(ms in 0u64..1_000_000_000) {
            assert_eq!(parse(&format!("{ms}ms")), Ok(Duration::from_millis(ms)));
            assert_eq!(parse(&format!("{}.{:03}s", ms / 1000, ms % 1000)), Ok(Duration::from_millis(ms)));
        }
    }
}
