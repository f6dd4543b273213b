//! Decodes the bytes of a file as kubectl does: a byte order mark determines the encoding, otherwise it is
//! UTF-8.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8};

/// The text of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Decoded<'a> {
    /// The text without its byte order mark.
    pub text: Cow<'a, str>,
    /// The line, from 1, of the first bytes that are invalid in the encoding, and what is wrong there. They
    /// are replaced by U+FFFD, as by kubectl.
    pub flaw: Option<(usize, String)>,
}

/// Decodes a file, or returns why it can't be decoded.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, &'static str> {
    if bytes.starts_with(&[0, 0, 0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe, 0, 0]) {
        return Err("the text is UTF-32, which kubectl doesn't read either: save it as UTF-8");
    }
    let (encoding, mark) = match Encoding::for_bom(bytes) {
        Some((encoding, length)) => (encoding, length),
        // Every manifest begins with an ASCII character. In UTF-16 that is one byte and a zero (YAML 1.2.2,
        // 5.2).
        None if matches!(bytes, [0, first, ..] | [first, 0, ..] if first.is_ascii() && *first != 0) => {
            return Err(
                "the text looks like UTF-16 without a byte order mark, which kubectl doesn't read either: \
                        save it as UTF-8",
            );
        }
        None => (UTF_8, 0),
    };
    let (text, replaced) = encoding.decode_without_bom_handling(bytes.get(mark..).unwrap_or_default());
    let flaw = replaced.then(|| {
        let good = text.split('\u{fffd}').next().unwrap_or_default();
        let line = 1 + good.matches('\n').count();
        (
            line,
            format!(
                "the text is not valid {}: invalid bytes are read as U+FFFD, as by kubectl",
                encoding.name()
            ),
        )
    });
    Ok(Decoded { text, flaw })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        let decoded = decode(bytes).expect("a text");
        assert_eq!(decoded.flaw, None);
        decoded.text.into_owned()
    }

    #[test]
    fn a_byte_order_mark_decides() {
        let utf16 = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
            let units = "größe: 1\n".encode_utf16().flat_map(bytes);
            mark.into_iter().chain(units).collect::<Vec<u8>>()
        };
        for bytes in [
            "größe: 1\n".as_bytes(),
            "\u{feff}größe: 1\n".as_bytes(),
            &utf16([0xff, 0xfe], u16::to_le_bytes),
            &utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(text(bytes), "größe: 1\n", "{bytes:?}");
        }
        assert_eq!(text(b""), "");
    }

    #[test]
    fn what_kubectl_does_not_read_is_named() {
        for (bytes, word) in [
            (&b"a\0:\0"[..], "UTF-16"),
            (&b"\0a\0:"[..], "UTF-16"),
            (&b"\xff\xfe\0\0a\0\0\0"[..], "UTF-32"),
            (&b"\0\0\xfe\xff\0\0\0a"[..], "UTF-32"),
        ] {
            let error = decode(bytes).expect_err("no text");
            assert!(error.contains(word) && error.contains("save it as UTF-8"), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_their_line_is_known() {
        let decoded = decode(b"a: 1\n# gr\xf6\xdfer\nb: 2\n").expect("a text");
        assert_eq!(decoded.text, "a: 1\n# gr\u{fffd}\u{fffd}er\nb: 2\n");
        let (line, what) = decoded.flaw.expect("a flaw");
        assert_eq!(line, 2);
        assert!(what.contains("UTF-8"), "{what}");
    }
}
