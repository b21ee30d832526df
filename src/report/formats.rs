//! Numbers as a person reads them.
//! Never lives here: what is said of them.

/// Milliseconds as they are below ten seconds, seconds from there on.
pub fn span(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// A number of bytes as a person reads it: `512 bytes`, `20.5 kB`, `60.1 MB`.
pub fn size(bytes: u64) -> String {
    let of = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", of(1_000)),
        1_000_000..1_000_000_000 => format!("{} MB", of(1_000_000)),
        _ => format!("{} GB", of(1_000_000_000)),
    }
}
