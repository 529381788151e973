//! The way of a request once it is no longer FUSE: gate, table, disks, fence check, answer.
