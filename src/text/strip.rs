//! Python's `str.strip()`, for answers. Rust's `trim` keeps four control characters that Python
//! removes.

/// Removes leading and trailing white space in Python's sense.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// `str.isspace()`: Unicode white space and the information separators U+001C to U+001F.
pub(super) fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_what_python_calls_so() {
        // [c for c in map(chr, range(0x110000)) if c.isspace()] in Python 3.11.
        let mut expected: Vec<char> =
            ('\t'..='\r').chain('\u{1C}'..=' ').chain(['\u{85}', '\u{A0}', '\u{1680}']).collect();
        expected.extend('\u{2000}'..='\u{200A}');
        expected.extend(['\u{2028}', '\u{2029}', '\u{202F}', '\u{205F}', '\u{3000}']);
        let found: Vec<char> = ('\0'..=char::MAX).filter(|&character| is_python_space(character)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_inside_is_kept() {
        assert_eq!(strip("\u{1C}\n a \u{1F} b\u{85}\n"), "a \u{1F} b");
        assert_eq!(strip(" \n"), "");
        assert_eq!(strip("\u{200B}a"), "\u{200B}a");
    }
}
