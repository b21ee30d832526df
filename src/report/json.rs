//! Notices as NDJSON, for programs: one object a line, flushed at once. Never lives here: filtering. A program gets the
//! text as it came, and JSON leaves no control character unescaped.

use super::{Notice, Reporter, ServiceId, clean, text};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Writes each notice as one line: `v` is the version of this format, `seq` counts lines from 0, `t_us` is the time since
/// the session began, `service` what it is of, if it is of one; the notice's
/// own fields follow, and the words of a note.
pub struct Json {
    out: Box<dyn Write + Send>,
    seq: u64,
}

impl Json {
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Json { out, seq: 0 }
    }

    pub fn stdout() -> Self {
        Json::new(Box::new(std::io::stdout()))
    }
}

impl Reporter for Json {
    fn tell(&mut self, at: Duration, service: Option<&ServiceId>, notice: &Notice) {
        let (seq, t_us) = (self.seq, u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        let text = if let Notice::Note(note) = notice { Some(note.to_string()) } else { None };
        let line = Line { v: 1, seq, t_us, service: service.map(ServiceId::name), notice, text };
        self.seq += 1;
        // A reader that has gone away is no reason to stop serving, so a failed write is let go.
        if let Ok(text) = serde_json::to_string(&line) {
            let text = clean::json(&text) + "\n";
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }

    fn clear(&mut self) {
        // The screen is that of the server's lines.
        if console::Term::stderr().is_term() {
            let _ = std::io::stderr().write_all(text::CLEAR.as_bytes());
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    seq: u64,
    t_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(flatten)]
    notice: &'a Notice,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::super::Note;
    use super::super::text::tests::{Shared, every_notice, timings};
    use super::*;

    #[test]
    fn every_notice_is_one_object_on_one_line() {
        let out = Shared::default();
        let mut json = Json::new(Box::new(out.clone()));
        let notices = every_notice();
        for notice in &notices {
            json.tell(Duration::from_micros(1_500), None, notice);
        }
        let text = out.take();
        assert!(text.ends_with('\n') && !text.contains('\x1b'), "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), notices.len());
        for (seq, line) in lines.iter().enumerate() {
            assert_eq!((&line["v"], &line["seq"], &line["t_us"]), (&1.into(), &seq.into(), &1_500.into()));
            assert!(line["event"].is_string(), "{line}");
        }
    }

    #[test]
    fn the_fields_stand_beside_the_event() {
        let out = Shared::default();
        let mut json = Json::new(Box::new(out.clone()));
        json.tell(
            Duration::ZERO,
            Some(&ServiceId::new("api")),
            &Notice::BuildFailed { errors: 1, cause: "a changed".into(), why_cargo: None, serving: Some(4) },
        );
        let expected = r#"{"v":1,"seq":0,"t_us":0,"service":"api","event":"build-failed","errors":1,"cause":"a changed","why-cargo":null,"serving":4}"#;
        assert_eq!(out.take(), format!("{expected}\n"));
    }

    #[test]
    fn a_note_has_its_kind_and_its_words() {
        let out = Shared::default();
        let mut json = Json::new(Box::new(out.clone()));
        json.tell(Duration::ZERO, None, &Note::Closed { address: "127.0.0.1:3000".into() }.into());
        let expected = r#"{"v":1,"seq":0,"t_us":0,"event":"note","kind":"closed","address":"127.0.0.1:3000","text":"127.0.0.1:3000 was closed by the program: let go"}"#;
        assert_eq!(out.take(), format!("{expected}\n"));
        json.tell(Duration::ZERO, None, &Note::Tied.into());
        assert!(out.take().contains(r#""event":"note","kind":"tied","text":"the program has given its socket"#));
    }

    #[test]
    fn timings_stand_beside_their_event_too() {
        let out = Shared::default();
        let mut json = Json::new(Box::new(out.clone()));
        json.tell(Duration::ZERO, None, &Notice::Timings(timings()));
        let expected = concat!(
            r#"{"v":1,"seq":0,"t_us":0,"event":"timings","generation":4,"built-by":"replay","why-cargo":null,"#,
            r#""saved":true,"total":312.0,"detect":1.2,"decide":0.8,"compile":280.0,"link":70.0,"linker":"wild","start":0.4,"#,
            r#""ready":3.6,"switch":26.0,"crates":[{"name":"api","began":102.0,"ended":282.0},"#,
            r#"{"name":"core-lib","began":2.0,"ended":100.0}]}"#,
        );
        assert_eq!(out.take(), format!("{expected}\n"));
    }
}
