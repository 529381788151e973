//! The command line of a pool.
fn main() {}
