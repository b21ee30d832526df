//! What `cargo hotrun` itself says of where the time of a save went.

use crate::Result;
use serde_json::Value;

/// Parts of one save in milliseconds, in the order in which they come.
#[derive(Debug, Clone, Default)]
pub struct Parts(pub Vec<(&'static str, f64)>);

/// Those of a `timings` event.
const WATERFALL: [&str; 8] = ["detect", "decide", "compile", "link", "start", "ready", "switch", "total"];
/// Those that every `serving` event has.
const SERVING: [&str; 5] = ["compile", "start", "ready", "switch", "saved-to-live"];

impl Parts {
    /// Of the last save in these lines. A `timings` event is the finer one, and is taken where there is one.
    pub fn of_last_save(lines: &str) -> Result<Parts> {
        let mut parts = Parts::default();
        for line in lines.lines() {
            let event: Value = serde_json::from_str(line)?;
            match event["event"].as_str() {
                Some("timings") => parts = Parts::named(&WATERFALL, &event),
                Some("serving") if !parts.has("total") => parts = Parts::named(&SERVING, &event["timing"]),
                _ => {}
            }
        }
        Ok(parts)
    }

    /// The time that the compiler and the linker had: all the rest of a save is the command's own, and the new program's.
    pub fn compiler(&self) -> Option<f64> {
        self.get("compile")
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(part, _)| *part == name).map(|(_, ms)| *ms)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn named(names: &[&'static str], from: &Value) -> Parts {
        Parts(names.iter().filter_map(|name| Some((*name, from[*name].as_f64()?))).collect())
    }
}
