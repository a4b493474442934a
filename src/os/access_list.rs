//! POSIX access lists, as Linux keeps them in an extended attribute.
//!
//! Where a file has one, the group bits of its mode are the most that anybody named in the list may do, not what
//! the group may: copied without the list they open the file to its group.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{fgetxattr, lgetxattr};
use rustix::io::Errno;

/// The attribute.
pub(super) const NAME: &str = "system.posix_acl_access";
/// The version that the list begins with, and the length of that and of an entry: tag, rights and number
/// (Linux, `posix_acl_xattr.h`).
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// The tag of the entry of the file's group.
const GROUP: u16 = 4;

/// Returns a file's access list; `None` where it has none, or its file system knows none.
pub(super) fn of(file: &File) -> Result<Option<Vec<u8>>, Errno> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    match whole(|list| fgetxattr(file.as_fd(), NAME, list)) {
        Ok(list) => Ok(Some(list)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads an extended attribute, or the list of their names. Most are short, or not there.
pub(super) fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    /// The longest that there are (Linux, `limits.h`).
    const MOST_BYTES: usize = 64 << 10;
    for size in [512, MOST_BYTES] {
        let mut bytes = vec![0; size];
        match read(&mut bytes) {
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(Errno::RANGE) if size < MOST_BYTES => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}

/// Returns whether a file has an access list, as far as that can be told.
pub fn is_there(path: &Path) -> bool {
    whole(|list| lgetxattr(path, NAME, list)).is_ok()
}

/// Returns the mode that a copy of a file gets which leaves the access list behind: its own where it has none.
pub fn mode_alone(path: &Path, mode: u32) -> u32 {
    if !cfg!(target_os = "linux") {
        return mode;
    }
    match whole(|list| lgetxattr(path, NAME, list)) {
        Ok(list) => mode_without(&list, mode),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOENT) => mode,
        // It cannot be told.
        Err(_) => mode_without(&[], mode),
    }
}

/// Returns what a file's mode is without its access list: no more than the list lets the group do.
fn mode_without(list: &[u8], mode: u32) -> u32 {
    const GROUP_BITS: u32 = 0o070;
    let is_known = list.first_chunk() == Some(&VERSION.to_le_bytes());
    let entries = list.get(HEADER_BYTES..).unwrap_or_default();
    let rights = entries.chunks_exact(ENTRY_BYTES).find_map(|entry| {
        let [tag, tag_high, rights, ..] = *entry else {
            return None;
        };
        (u16::from_le_bytes([tag, tag_high]) == GROUP).then_some(u32::from(rights & 7))
    });
    let rights = rights.filter(|_| is_known).unwrap_or(0);
    (mode & !GROUP_BITS) | (mode & (rights << 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_gets_no_more_than_its_entry_says() {
        let list = |group: u8| {
            let entry =
                |tag: u8, rights: u8, id: [u8; 4]| [vec![tag, 0, rights, 0], id.to_vec()].concat();
            let nobody = [255; 4];
            [
                vec![2, 0, 0, 0],
                entry(1, 6, nobody),
                entry(2, 4, [146, 16, 0, 0]),
                entry(4, group, nobody),
                entry(16, 4, nobody),
                entry(32, 0, nobody),
            ]
            .concat()
        };
        assert_eq!(mode_without(&list(0), 0o640), 0o600);
        assert_eq!(mode_without(&list(4), 0o640), 0o640);
        assert_eq!(mode_without(&list(7), 0o640), 0o640);
        assert_eq!(mode_without(&list(6), 0o4775), 0o4765);
        assert_eq!(mode_without(b"\x01\0\0\0", 0o660), 0o600);
        assert_eq!(mode_without(b"", 0o660), 0o600);
    }
}
