//! Socket addresses as programs give them to the kernel, in bytes (ip(7), ipv6(7)).
//! Never lives here: which of them are held.

use nix::libc::{AF_INET, AF_INET6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The address of `bind`; `None` for another family, or what the kernel would refuse.
pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    if i32::from(family) == AF_INET && bytes.len() >= 16 {
        let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        return Some(SocketAddr::from((Ipv4Addr::from(ip), port)));
    }
    if i32::from(family) == AF_INET6 && bytes.len() >= 28 {
        let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
        let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
        // The flow is of no meaning to a listener (RFC 3493, 3.3).
        return Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into());
    }
    None
}

/// What `accept` writes for the peer of a connection.
pub fn bytes(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 } as u16;
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(family.to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// Whether connections to the one can be connections to the other, so that the kernel would refuse the second.
pub fn overlap(one: (SocketAddr, bool), other: (SocketAddr, bool)) -> bool {
    // `[::]` takes the connections of IPv4, too, unless it was told not to (ipv6(7), IPV6_V6ONLY).
    let takes_all =
        |(address, v6_only): (SocketAddr, bool)| address.ip().is_unspecified() && address.is_ipv6() && !v6_only;
    let same_family = one.0.is_ipv4() == other.0.is_ipv4();
    let same = one.0.ip() == other.0.ip();
    let wildcard = same_family && (one.0.ip().is_unspecified() || other.0.ip().is_unspecified());
    one.0.port() == other.0.port() && (same || wildcard || takes_all(one) || takes_all(other))
}

/// Where this listener, and none that has a narrower address, can be reached from this machine: all of 127.0.0.0/8 is this machine
/// (RFC 1122, 3.2.1.3), and nobody listens on the last of it.
pub fn door(address: SocketAddr, v6_only: bool) -> SocketAddr {
    let last = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254));
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => last,
        IpAddr::V6(ip) if ip.is_unspecified() && !v6_only => last,
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(v4: [u8; 4], v6: [u8; 16], port: u16, scope: u32) {
            let v4 = SocketAddr::from((v4, port));
            prop_assert_eq!(parse(&bytes(v4)), Some(v4));
            let v6 = SocketAddr::from(SocketAddrV6::new(v6.into(), port, 0, scope));
            prop_assert_eq!(parse(&bytes(v6)), Some(v6));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn addresses_that_cannot_both_be_had() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let table = [
            ("127.0.0.1:80", "127.0.0.1:80", false, true),
            ("127.0.0.1:80", "127.0.0.1:81", false, false),
            ("127.0.0.1:80", "127.0.0.2:80", false, false),
            ("127.0.0.1:80", "0.0.0.0:80", false, true),
            ("127.0.0.1:80", "[::1]:80", false, false),
            ("127.0.0.1:80", "[::]:80", false, true),
            ("127.0.0.1:80", "[::]:80", true, false),
            ("[::1]:80", "[::]:80", true, true),
            ("0.0.0.0:80", "[::1]:80", false, false),
        ];
        for (one, other, v6_only, expected) in table {
            let (one, other) = ((at(one), v6_only), (at(other), v6_only));
            assert_eq!(overlap(one, other), expected, "{one:?} {other:?}");
            assert_eq!(overlap(other, one), expected, "{other:?} {one:?}");
        }
    }
}
