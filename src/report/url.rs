//! Addresses as people use them: what a terminal makes a link of.
//! Never lives here: looking anything up. An address becomes a URL by how it is written.

use super::one_line;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// All of them, in one sentence part. A TCP address is taken for one of HTTP, as nearly all are; others stay as they are.
pub fn urls<A: AsRef<str>>(addresses: &[A]) -> String {
    addresses.iter().map(|address| url(address.as_ref())).collect::<Vec<_>>().join(", ")
}

fn url(address: &str) -> String {
    let Ok(socket) = address.parse::<SocketAddr>() else { return one_line(address) };
    if let SocketAddr::V6(six) = socket
        && six.scope_id() != 0
    {
        // Browsers do not agree on how a zone is written.
        return address.to_owned();
    }
    // Where every address is meant, this machine's own is one that can be asked.
    let ip = match socket.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, socket.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_tcp_is_a_link_that_works_and_others_stay() {
        for (address, expected) in [
            ("127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("0.0.0.0:3000", "http://127.0.0.1:3000"),
            ("[::1]:3000", "http://[::1]:3000"),
            ("[::]:3000", "http://[::1]:3000"),
            ("192.168.1.2:80", "http://192.168.1.2:80"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
            ("unix:target/a.sock", "unix:target/a.sock"),
            ("unix:a\n  serving", "unix:a\\n  serving"),
            ("udp:127.0.0.1:53", "udp:127.0.0.1:53"),
            ("", ""),
        ] {
            assert_eq!(urls(&[address]), expected, "{address}");
        }
        assert_eq!(urls(&["0.0.0.0:1", "unix:a"]), "http://127.0.0.1:1, unix:a");
        assert_eq!(urls::<&str>(&[]), "");
    }
}
