//! What scripts rely on: the contract of the command line, on the built program.
#[test]
fn builds() {}
