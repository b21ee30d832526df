//! What a child prints, up to the moment in which it ended: what it has left behind may keep the pipe open for ever, a daemon of a
//! build script for one.
//! Never lives here: what it means.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

/// A pipe into which a child prints.
pub struct Printed<P> {
    pipe: P,
    /// Readable when the child has ended.
    end: OwnedFd,
    /// Of the bytes that were in the pipe when it had ended, those that are not read yet: all that it has printed is among them.
    left: Option<u64>,
}

impl<P: Read + AsFd> Printed<P> {
    pub fn new(pipe: P, end: OwnedFd) -> Printed<P> {
        Printed { pipe, end, left: None }
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut fds = [&self.pipe.as_fd(), &self.end.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        // Whoever reads lines repeats what was interrupted.
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[1].any() == Some(true) {
            self.left = Some(rustix::io::ioctl_fionread(&self.pipe)?);
        }
        Ok(())
    }
}

impl<P: Read + AsFd> Read for Printed<P> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left.is_none() {
            self.wait()?;
        }
        let Some(left) = self.left else { return self.pipe.read(bytes) };
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.pipe.read(&mut bytes[..most])?;
        self.left = Some(left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};

    #[test]
    fn all_that_was_printed_before_the_end_is_read_and_nothing_after_it_is_waited_for() {
        let ((output, mut prints), (end, ends)) = (pipe().unwrap(), pipe().unwrap());
        let mut printed = Printed::new(output, end.into());
        let mut read = |length| {
            let mut bytes = vec![0; length];
            let read = printed.read(&mut bytes).unwrap();
            String::from_utf8(bytes[..read].to_vec()).unwrap()
        };
        prints.write_all(b"first").unwrap();
        assert_eq!(read(3), "fir");
        prints.write_all(b" and last").unwrap();
        drop(ends);
        assert_eq!(read(4), "st a");
        // By what it has left behind.
        prints.write_all(b"later").unwrap();
        assert_eq!((read(40).as_str(), read(40).as_str()), ("nd last", ""));
    }

    #[test]
    fn it_is_over_where_it_is_closed_before_the_end() {
        let ((output, prints), (end, _ends)) = (pipe().unwrap(), pipe().unwrap());
        drop(prints);
        assert_eq!(Printed::new(output, end.into()).read(&mut [0; 9]).unwrap(), 0);
    }
}
