//! Serves the volumes of a pool as files.
fn main() {}
