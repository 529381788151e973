//! Recognises the content of a disk by its head, so that data is not overwritten without a confirmation. Pure.

/// Bytes of a disk's head that are examined.
pub(super) const HEAD: usize = 68 << 10;

const SIGNATURES: [(usize, &[u8], &str); 18] = [
    (0x438, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (0x400, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32", "a FAT file system"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (0x218, b"LVM2 001", "an LVM physical volume"),
    (4086, b"SWAPSPACE2", "a swap area"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a RAID array"),
    (0x1018, &[0xc6, 0x85, 0x73, 0xf6], "a bcache device"),
    (512, b"EFI PART", "a partition table (GPT)"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (510, &[0x55, 0xaa], "a boot sector or partition table"),
];

/// Returns what this head belongs to, or `None` when it is all zero.
pub(super) fn content(head: &[u8]) -> Option<&'static str> {
    known(head).or_else(|| (!super::is_zero(head)).then_some("data of an unknown kind"))
}

/// Returns what this head belongs to, or `None` when it has no known signature.
pub(super) fn known(head: &[u8]) -> Option<&'static str> {
    let has =
        |(at, magic, _): &&(usize, &[u8], &str)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    SIGNATURES.iter().find(has).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_is_found_where_it_belongs() {
        assert_eq!(content(&[0; HEAD]), None);
        assert_eq!(content(&[]), None);
        assert_eq!(content(&[0, 1]), Some("data of an unknown kind"));
        for (at, magic, name) in SIGNATURES {
            let mut head = vec![0; HEAD];
            head[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(content(&head), Some(name));
            assert_ne!(content(&head[1..]), Some(name));
        }
    }
}
