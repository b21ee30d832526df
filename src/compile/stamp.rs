//! What a file looked like: enough to tell, cheaply and surely, whether it is still the same.
//! Never lives here: which files matter.

use serde::{Deserialize, Serialize};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file as large as this is compared by its stamp only.
pub const MOST_HASHED: u64 = 8 << 20;

/// Times of files are as coarse as the kernel's tick, 10 ms at most: what was written so shortly before it was looked at may be
/// written again with the same time.
pub const RACY: Duration = Duration::from_millis(20);

/// An editor writes a file beside the old one and moves it there in less, with the kernel's tick.
const DATED: Duration = Duration::from_millis(10);

/// What stat(2) says of a path. Two writes leave the same one only within a tick of the kernel's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub size: u64,
    modified: (i64, i64),
    /// Of the inode: not to be set by a program, so a file that is dated back has one that is new.
    changed: (i64, i64),
    inode: u64,
}

/// A file's stamp, and its content where that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    stamp: Stamp,
    content: Option<u64>,
    /// The stamp alone proves nothing.
    racy: bool,
}

impl Stamp {
    /// Of a regular file.
    pub fn of(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| Stamp::from(&metadata))
    }

    /// Of a file or folder.
    pub fn of_any(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().map(|metadata| Stamp::from(&metadata))
    }

    /// Of a regular file that a compiler has made, which is never dated back: without what changes when another name is given to
    /// it, as rustc does with metadata for its incremental cache after others have been told that they can use it.
    pub fn of_output(path: &Path) -> Option<Stamp> {
        Stamp::of(path).map(|stamp| Stamp { changed: (0, 0), ..stamp })
    }

    /// Whether it was written, moved here or dated at that moment or later.
    pub fn is_since(&self, moment: SystemTime) -> bool {
        self.changed() >= moment
    }

    /// When it was last written, moved here or dated.
    pub fn changed(&self) -> SystemTime {
        let (seconds, nanos) = self.changed;
        UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
    }
}

/// Whether a file has a date that is older than what is there now: it was moved here, or dated. No compiler reads a source within this
/// time of its start, so cargo, which compares dates with that, is right about all others.
pub fn is_dated(path: &Path) -> bool {
    let nanos = |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Stamp::of(path).is_some_and(|stamp| nanos(stamp.changed) - nanos(stamp.modified) > DATED.as_nanos().cast_signed())
}

/// Whether a file was written, moved here or dated after another; not, where one is not there.
pub fn is_newer(path: &Path, than: &Path) -> bool {
    matches!((Stamp::of(path), Stamp::of(than)), (Some(one), Some(other)) if one.changed > other.changed)
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Stamp {
        Stamp {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

impl Print {
    /// With its content. `now` is the time of day.
    pub fn of(path: &Path, now: SystemTime) -> Option<Print> {
        let stamp = Stamp::of(path)?;
        let racy = stamp.is_since(now.checked_sub(RACY).unwrap_or(UNIX_EPOCH));
        let content = if stamp.size > MOST_HASHED { None } else { content(path) };
        Some(Print { stamp, content, racy })
    }

    /// Of a file that somebody has read since `began`, at an unknown moment: where it was written since, nobody knows what was
    /// read.
    pub fn after(path: &Path, began: SystemTime) -> Option<Print> {
        let stamp = Stamp::of(path)?;
        if stamp.is_since(began.checked_sub(RACY).unwrap_or(UNIX_EPOCH)) {
            return Some(Print { stamp, content: None, racy: true });
        }
        Print::of(path, began)
    }

    /// Whether nobody has written the file since, as far as times tell (see `RACY`): what was read of it meanwhile is what is known here.
    pub fn is_untouched(&self, path: &Path) -> bool {
        Stamp::of(path).as_ref() == Some(&self.stamp)
    }

    /// Whether the file is as it was.
    pub fn still_holds(&self, path: &Path) -> bool {
        match Stamp::of(path) {
            Some(now) if now == self.stamp && !self.racy => true,
            Some(now) if now.size == self.stamp.size => self.content.is_some_and(|was| content(path) == Some(was)),
            Some(_) | None => false,
        }
    }
}

/// A hash of what is in a file.
pub fn content(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    Some(content_of(&bytes))
}

pub fn content_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day_before(now: SystemTime) -> SystemTime {
        now - Duration::from_secs(86_400)
    }

    #[test]
    fn a_print_holds_until_the_content_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        fs::write(&path, "one").unwrap();
        let now = SystemTime::now();
        let print = Print::of(&path, now).unwrap();
        assert!(print.still_holds(&path));
        // Written again as it was, as by an editor: another inode, another time.
        fs::write(folder.path().join("b.rs"), "one").unwrap();
        fs::rename(folder.path().join("b.rs"), &path).unwrap();
        assert!(print.still_holds(&path));
        fs::write(&path, "two").unwrap();
        assert!(!print.still_holds(&path), "in the same tick, perhaps, and of the same size");
        fs::remove_file(&path).unwrap();
        assert!(!print.still_holds(&path));
    }

    #[test]
    fn a_file_dated_back_is_not_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        fs::write(&path, "one").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // As if it had been looked at long after it was written.
        let print = Print::of(&path, SystemTime::now() + Duration::from_secs(60)).unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(!print.still_holds(&path));
    }

    #[test]
    fn a_file_that_was_just_written_has_the_date_of_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, path) = (folder.path().join("new"), folder.path().join("a.rs"));
        fs::write(&new, "one").unwrap();
        fs::rename(&new, &path).unwrap();
        assert!(!is_dated(&path));
        fs::File::options().append(true).open(&path).unwrap().set_modified(day_before(SystemTime::now())).unwrap();
        assert!(is_dated(&path));
        assert!(!is_dated(&new), "it is not there");
    }

    #[test]
    fn an_output_is_the_same_with_another_name_and_not_when_it_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("liba.rmeta");
        fs::write(&path, "one").unwrap();
        let stamp = Stamp::of_output(&path);
        fs::hard_link(&path, folder.path().join("kept")).unwrap();
        assert_eq!(Stamp::of_output(&path), stamp);
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(Stamp::of_output(&path), stamp);
    }

    #[test]
    fn what_was_written_while_it_was_read_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        fs::write(&path, "one").unwrap();
        let now = SystemTime::now();
        assert!(!Print::after(&path, day_before(now)).unwrap().still_holds(&path));
        assert!(Print::after(&path, now + Duration::from_secs(60)).unwrap().still_holds(&path));
    }
}
