//! A client of sd_notify(3): tells the service manager where this process stands. Does nothing where there is none.

use crate::wire::NOTIFY_SOCKET;
use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The address of the service manager's socket: a path, or an abstract name after `@`.
#[derive(Debug, Clone)]
pub(crate) struct Manager(SocketAddr);

impl Manager {
    /// From the value of `NOTIFY_SOCKET`.
    pub(crate) fn at(value: &OsStr) -> io::Result<Self> {
        let address = match value.as_bytes() {
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(value),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{NOTIFY_SOCKET}={}: {error}", value.to_string_lossy()))
        };
        Ok(Manager(address.map_err(named)?))
    }

    /// Sends assignments such as `READY=1`, one a line.
    pub(crate) fn tell(&self, assignments: &str) -> io::Result<()> {
        UnixDatagram::unbound()?.send_to_addr(assignments.as_bytes(), &self.0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("hotrun-notify-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::at(OsStr::new(&format!("@{name}"))).unwrap().tell("READY=1").unwrap();
        let mut bytes = [0; 16];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn a_value_that_is_no_address_is_named() {
        let error = Manager::at(OsStr::new("nonsense")).unwrap_err();
        assert!(error.to_string().contains("NOTIFY_SOCKET=nonsense"), "{error}");
    }
}
