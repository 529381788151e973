//! The operations behind the command line and the console: what each verb does, without a word about terminals.

pub mod place;
