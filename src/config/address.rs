//! Addresses to listen on, and the names they are handed over under.
//! Never lives here: sockets. Whether an address can be had is only known once it is bound.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One socket to hold: what it is called and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub name: String,
    pub address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// Absolute once it stands in a `Config`.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(at) | Address::Udp(at) => at.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// A relative path is meant from where it was written.
    pub(super) fn resolved(self, directory: &Path) -> Result<Address, String> {
        match self {
            Address::Unix(path) => {
                let path = directory.join(path);
                let len = path.as_os_str().len();
                if len > LONGEST_PATH {
                    let shown = path.display();
                    return Err(format!(
                        "the path {shown} has {len} bytes, and the system takes at most {LONGEST_PATH} for a socket"
                    ));
                }
                Ok(Address::Unix(path))
            }
            Address::Tcp(_) | Address::Udp(_) => Ok(self),
        }
    }

    /// Two sockets on it would be one too many. Port 0 is another port every time.
    pub(super) fn collides(&self, other: &Address) -> bool {
        match self {
            Address::Tcp(at) | Address::Udp(at) if at.port() == 0 => false,
            _ => self == other,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(at) => write!(f, "{at}"),
            Address::Udp(at) => write!(f, "udp:{at}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    /// The end of a sentence that began with where the text stands.
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("found \"unix:\" without a path; write \"unix:target/app.sock\"".to_owned()),
                _ if path.contains('\0') => Err(format!("found {text:?}, and no path can hold a NUL")),
                _ if path.starts_with('@') => {
                    Err(format!("found {text:?}; sockets without a file are not supported, name a file"))
                }
                _ => Ok(Address::Unix(PathBuf::from(path))),
            };
        }
        if let Some(rest) = text.strip_prefix("udp:") {
            return socket_addr(text, rest).map(Address::Udp);
        }
        socket_addr(text, text.strip_prefix("tcp:").unwrap_or(text)).map(Address::Tcp)
    }
}

/// `sun_path` has 108 bytes, and the last is a NUL.
const LONGEST_PATH: usize = 107;

/// The names travel in LISTEN_FDNAMES, separated by colons; these are systemd's rules for them.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("found an empty name for an address; leave it out or write one, as in \"http\"".to_owned());
    }
    if name.len() > 255 {
        return Err(format!("found a name of {} bytes for an address; at most 255 are allowed", name.len()));
    }
    match name.chars().find(|c| *c == ':' || !(' '..='~').contains(c)) {
        Some(bad) => Err(format!(
            "found the name {name:?} for an address, and {bad:?} cannot stand in one; write plain letters, as in \"http\""
        )),
        None => Ok(()),
    }
}

/// What an address is called when nobody named it.
pub(super) fn name_of(index: usize) -> String {
    match index {
        0 => "http".to_owned(),
        _ => format!("listen-{}", index + 1),
    }
}

/// The first address that cannot stand in the list, by its place in it, and why.
pub(super) fn check_all(list: &[Listen]) -> Result<(), (usize, String)> {
    for (index, one) in list.iter().enumerate() {
        for earlier in &list[..index] {
            if one.name == earlier.name {
                return Err((index, format!("found the name {:?} twice; each address needs its own", one.name)));
            }
            if one.address.collides(&earlier.address) {
                return Err((
                    index,
                    format!("found {} under both {:?} and {:?}; name it once", one.address, earlier.name, one.name),
                ));
            }
        }
    }
    Ok(())
}

/// `whole` is what the user wrote, `rest` what is left of it behind the prefix.
fn socket_addr(whole: &str, rest: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = rest.parse() {
        return Ok(address);
    }
    let wrong = |why: String| Err(format!("found {whole:?}, {why}"));
    if rest.contains("://") {
        return wrong(format!("which is a URL; write the address alone, {EXAMPLE}"));
    }
    if rest.parse::<Ipv4Addr>().is_ok() {
        return wrong(format!("which has no port; write \"{rest}:3000\""));
    }
    let (host, port) = rest.rsplit_once(':').unwrap_or(("", rest));
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return wrong(format!("which is not an address; write {EXAMPLE}"));
    }
    let Ok(port) = port.parse::<u16>() else {
        return wrong(format!("and {port} is not a port; they end at 65535"));
    };
    match host {
        "" | "localhost" => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        "*" => wrong(format!("which hotrun reads nothing into; write \"0.0.0.0:{port}\" for all interfaces")),
        _ if host.contains(':') && !host.starts_with('[') => {
            wrong("where the colons can be read in two ways; an IPv6 address is written \"[::1]:3000\"".to_owned())
        }
        _ => wrong(format!("and {host:?} is not an IP address; write {EXAMPLE}")),
    }
}

const EXAMPLE: &str = "as in \"3000\", \"127.0.0.1:3000\", \"[::1]:3000\", \"udp:127.0.0.1:5353\" or \"unix:app.sock\"";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn read_and_shown() {
        for (text, shown) in [
            ("3000", "127.0.0.1:3000"),
            (":3000", "127.0.0.1:3000"),
            ("0", "127.0.0.1:0"),
            ("localhost:3000", "127.0.0.1:3000"),
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:3000", "[::1]:3000"),
            ("tcp:3000", "127.0.0.1:3000"),
            ("tcp:[::]:1", "[::]:1"),
            ("udp:5353", "udp:127.0.0.1:5353"),
            ("udp::5353", "udp:127.0.0.1:5353"),
            ("udp:0.0.0.0:5353", "udp:0.0.0.0:5353"),
            ("unix:target/app.sock", "unix:target/app.sock"),
            ("unix:/run/a=b:c", "unix:/run/a=b:c"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, part) in [
            ("", "not an address"),
            (":", "not an address"),
            ("http", "not an address"),
            ("tcp:", "not an address"),
            ("udp:", "not an address"),
            ("+3000", "not an address"),
            ("-1", "not an address"),
            ("127.0.0.1", "write \"127.0.0.1:3000\""),
            ("::1", "written \"[::1]:3000\""),
            ("::1:3000", "written \"[::1]:3000\""),
            ("2001:db8:0:0:0:0:0:0:3000", "written \"[::1]:3000\""),
            ("65536", "not a port"),
            ("127.0.0.1:99999", "not a port"),
            ("*:3000", "write \"0.0.0.0:3000\""),
            ("example.com:80", "\"example.com\" is not an IP address"),
            ("http://127.0.0.1:3000", "is a URL"),
            ("sctp:1:2", "in two ways"),
            ("unix:", "without a path"),
            ("unix:@abstract", "name a file"),
            ("unix:a\0b", "NUL"),
            (" 3000", "not an address"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn names() {
        for good in ["http", "a", "listen-2", "with space", &"x".repeat(255)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a:b", "tab\t", "line\n", "nul\0", "é", "\u{7f}", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_can_reach_it() {
        for (text, local) in [
            ("3000", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:x", true),
            ("0.0.0.0:1", false),
            ("udp:192.168.1.1:1", false),
            ("[::]:1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn relative_paths_are_meant_from_their_file() {
        let from = |text: &str| text.parse::<Address>().unwrap().resolved(Path::new("/srv/shop"));
        assert_eq!(from("unix:a.sock"), Ok(Address::Unix("/srv/shop/a.sock".into())));
        assert_eq!(from("unix:/run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
        assert!(from(&format!("unix:{}", "x".repeat(97))).is_ok());
        assert!(from(&format!("unix:{}", "x".repeat(98))).unwrap_err().contains("at most 107"));
    }

    #[test]
    fn each_name_and_each_address_once() {
        let all = |list: &[(&str, &str)]| {
            let listen =
                |(name, address): &(&str, &str)| Listen { name: (*name).to_owned(), address: address.parse().unwrap() };
            check_all(&list.iter().map(listen).collect::<Vec<_>>()).map_err(|(index, _)| index)
        };
        assert_eq!(all(&[("a", "1"), ("b", "2"), ("c", "udp:1"), ("d", "0"), ("e", "0")]), Ok(()));
        assert_eq!(all(&[("a", "1"), ("b", "2"), ("a", "3")]), Err(2));
        assert_eq!(all(&[("a", "1"), ("b", "localhost:1")]), Err(1));
        assert_eq!(all(&[("a", "unix:x"), ("b", "unix:x")]), Err(1));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_shown_reads_the_same(text in any::<String>()) {
            if let Ok(address) = text.parse::<Address>() {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn socket_addresses_survive(address in any::<SocketAddr>()) {
            // A scope or flow label is not part of what people write.
            let address = SocketAddr::new(address.ip(), address.port());
            assert_eq!(address.to_string().parse(), Ok(Address::Tcp(address)));
            assert_eq!(format!("udp:{address}").parse(), Ok(Address::Udp(address)));
        }
    }
}
