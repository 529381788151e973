//! Numbers in sentences.

use std::fmt::Display;

/// Formats a number with its noun: `1 run`, `3 runs`.
#[must_use]
pub fn count<N: Copy + Display + From<u8> + PartialEq>(number: N, noun: &str) -> String {
    let more = match noun {
        _ if number == N::from(1) => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {noun}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_and_plural_differ() {
        let all: Vec<String> = [0, 1, 2].map(|number| count(number, "run")).into();
        assert_eq!(all, ["0 runs", "1 run", "2 runs"]);
        assert_eq!(count(2_usize, "apparatus"), "2 apparatuses");
    }
}
