//! The `apparatus` program as a function: arguments, configuration, logging, then serving. A library function, because
//! `vctl` runs itself as an apparatus where no `apparatus` program is beside it (`cargo run -p vctl` builds only `vctl`).

use std::ffi::OsString;

/// Does what the arguments (the program's name first) say, in the foreground, and answers the exit status.
pub fn main(_arguments: impl IntoIterator<Item = OsString>) -> u8 {
    todo!()
}
